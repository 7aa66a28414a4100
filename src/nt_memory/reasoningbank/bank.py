"""The ReasoningBank: what agents decided, how it turned out, and what that says about now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from nt_memory.errors import InvalidInputError
from nt_memory.namespace import check_agent
from nt_memory.reasoningbank import calibration, uplift, votes
from nt_memory.reasoningbank.advice import Advice
from nt_memory.reasoningbank.distillation import Pattern, PatternBook
from nt_memory.reasoningbank.feedback import Advisor
from nt_memory.reasoningbank.question import ask
from nt_memory.reasoningbank.recent import RecentAction, find_recent
from nt_memory.reasoningbank.recording import Recording
from nt_memory.reasoningbank.repeating import Request
from nt_memory.reasoningbank.reporting import report
from nt_memory.reasoningbank.situations import Situations, find_situations
from nt_memory.reasoningbank.trajectory import Trajectory
from nt_memory.reasoningbank.wire import action_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike

    from nt_memory.reasoningbank.backing import Backing, KMeans
    from nt_memory.reasoningbank.frame import Frame
    from nt_memory.reasoningbank.verdict import Verdict
    from nt_memory.timeline import AsOfLike, Moment


class ReasoningBank(Recording):
    """`memory.bank`. Belongs to the event loop of its memory.

    Args:
        backing: Storage and search.
        kmeans: Clusters vectors, in a worker thread.
        seed: Key of the coin that withholds advice, and seed of the clustering.
    """

    def __init__(self, backing: Backing, *, kmeans: KMeans, seed: int = 0) -> None:
        super().__init__(backing)
        resolve = self._rows.resolve
        self._patterns = PatternBook(backing, self._memories, resolve, kmeans=kmeans, seed=seed)
        self._advisor = Advisor(backing, self._memories, self._patterns, self._rows, seed=seed)

    # --- judging ----------------------------------------------------------------------------

    async def judge(self, trajectory: Trajectory | str) -> list[Verdict]:
        """Verdicts on a tracked trajectory's actions, in order, from what is known now.

        Raises:
            UnknownTrajectoryError: it was not tracked.
        """
        return (await self.judge_batch((trajectory,)))[0]

    async def judge_batch(self, trajectories: Iterable[Trajectory | str]) -> list[list[Verdict]]:
        """Verdicts on the actions of many tracked trajectories; see `judge`."""
        moment = await self._at()
        found: list[list[Verdict]] = []
        for one in trajectories:
            trajectory_id = one if isinstance(one, str) else one.id
            agent = self._tracker.known_owner(trajectory_id, moment)
            count = self._tracker.count_actions(agent, trajectory_id, moment)
            keys = [(agent, action_key(trajectory_id, index)) for index in range(count)]
            found.append(self._verdicts(dict.fromkeys(keys), moment))
        return found

    async def calibration(
        self,
        agent: str,
        *,
        action_type: str | None = None,
        level: float = 0.8,
        as_of: AsOfLike | None = None,
    ) -> list[calibration.Calibration]:
        """How far an agent's forecasts can be trusted, one record an action type, by name."""
        check_agent(agent)
        moment = await self._at(as_of)
        return calibration.calibrate(self._memories, agent, moment, action_type, level)

    async def uplift(
        self, agent: str, *, action_type: str | None = None, as_of: AsOfLike | None = None
    ) -> uplift.Uplift:
        """What showing advice was worth to an agent; needs advice withheld at random."""
        check_agent(agent)
        moment = await self._at(as_of)
        trials = uplift.trials_of(self._memories, agent, moment, action_type)
        return uplift.estimate(agent, trials)

    async def vote_weights(
        self, agents: Sequence[str], *, as_of: AsOfLike | None = None
    ) -> dict[str, float]:
        """How much each agent's vote should weigh, from its skill and whom it errs with."""
        moment = await self._at(as_of)
        names = list(dict.fromkeys(check_agent(agent) for agent in agents))
        voters = [votes.voter(self._memories, agent, moment) for agent in names]
        return dict(zip(names, votes.weigh(voters), strict=True))

    async def recent(
        self,
        agent: str,
        limit: int = 20,
        *,
        skip: int = 0,
        action_type: str | None = None,
        as_of: AsOfLike | None = None,
    ) -> list[RecentAction]:
        """An agent's actions, newest first by when they were taken.

        Args:
            agent: Whose.
            limit: How many at most, >= 1.
            skip: How many of the newest to leave out, >= 0; pages belong together if all are asked
                for as of one revision.
            action_type: Only actions of this type.
            as_of: Only what was known then.

        Raises:
            InvalidInputError: `limit` or `skip` is out of range.

        Cost: about 20 ns an action of the agent, and 2 us a result.
        """
        check_agent(agent)
        if limit < 1 or skip < 0:
            raise InvalidInputError(f"limit must be >= 1 and skip >= 0, not {limit} and {skip}")
        moment = await self._at(as_of)
        return find_recent(
            self._memories, agent, moment, action_type=action_type, limit=limit, skip=skip
        )

    # --- learning ---------------------------------------------------------------------------

    async def distill(
        self, agent: str, *, as_of: AsOfLike | None = None, request_id: str | None = None
    ) -> list[Pattern]:
        """Cluster an agent's situations and store what each cluster led to.

        Patterns are descriptions: `p_value` is None and `is_promoted` False, because nothing tests
        them for promotion yet. An action type needs 50 situations with known outcomes.

        Args:
            agent: Whose.
            as_of: From what was known then.
            request_id: A repeated id acts once, and returns what was stored.

        Returns:
            The agent's patterns as of then, old ones of other action types included.

        Cost: k-means over the agent's situations, in a worker thread.
        """
        check_agent(agent)
        request = Request(self._backing, request_id)
        moment = await self._at(as_of)
        made = request.made()
        if made is None:
            ops = await self._patterns.distil(agent, moment)
            revision = await self._write(ops, moment.revision, request.part())
        else:
            revision = made.revision or moment.revision
        return self._patterns.at(agent, moment._replace(revision=revision))

    async def patterns(self, agent: str, *, as_of: AsOfLike | None = None) -> list[Pattern]:
        """An agent's patterns, by action type and number."""
        check_agent(agent)
        return self._patterns.at(agent, await self._at(as_of))

    async def advise(
        self,
        agents: str | Sequence[str],
        embedding: ArrayLike,
        *,
        action_type: str | None = None,
        as_of: AsOfLike | None = None,
        level: float = 0.8,
        withhold: float = 0.0,
        baseline: float | None = None,
        trajectory: str = "",
        k: int | None = None,
        functional: Literal["mean", "median"] | None = None,
        gamma: float | None = None,
        gain: float | None = None,
        exact: bool = False,
    ) -> Advice:
        """What the most similar past situations of some agents say about this one.

        Args:
            agents: Whose memories to consult; nobody else's are.
            embedding: The situation, shape (dim,), any scale.
            action_type: About which actions; may be left out if these agents know only one.
            as_of: Use only what was known then.
            level: Coverage wanted of the interval, in (0, 1).
            withhold: Probability of withholding the advice, to measure what it is worth.
            baseline: What the naive forecast says; the outcomes' differences to the memories' own
                frozen baselines are then recalled, and added to it.
            trajectory: Whose coin is thrown; needed to withhold.
            k: Memories to recall; by default a twentieth of those known, between 10 and 300.
            functional: Centre of the recalled outcomes; by default what the loss rewards.
            gamma: Step of the adaptive interval; 0: the plain quantiles of what is recalled. Interval
                and bias learn from actions that carry the receipt of advice they were shown.
            gain: Step of the bias correction; 0: none.
            exact: Search by scanning.

        Returns:
            The advice; abstaining if fewer than 10 outcomes are known or all of them belong to
            situations much farther away than memories usually are from each other.

        Raises:
            InvalidInputError: a number is out of range, or the action type is ambiguous.
            EmbeddingError: not a finite, non-zero vector; DimensionError: of another dimension.
            LookAheadError: `as_of` lies past a backtest's now.

        Cost: one search and about 0.2 ms; the first call after memory doubled searches 64 more.
        Source: kernel-weighted nearest neighbours with adaptive conformal intervals (Gibbs & Candès
            2021), stepped when outcomes become known.
        """
        if not self._memories.is_loaded:
            await self._memories.ready()
        question = ask(
            self._backing,
            self._memories,
            agents,
            embedding,
            action_type=action_type,
            as_of=as_of,
            level=level,
            withhold=withhold,
            baseline=baseline,
            trajectory=trajectory,
            k=k,
            functional=functional,
            gamma=gamma,
            gain=gain,
            exact=exact,
        )
        return await self._advisor.answer(question)

    async def frame(
        self,
        kind: Literal["trajectories", "verdicts", "patterns"],
        *,
        as_of: AsOfLike | None = None,
    ) -> Frame:
        """A table of everything known, for pandas or polars.

        Raises:
            InvalidInputError: there is no such table.
        """
        moment = await self._at(as_of)
        return report(kind, self._backing, self._memories, self._patterns, moment)

    async def situations(
        self, agent: str, action_type: str | None, moment: Moment
    ) -> Situations | None:
        """What `MemorySystem.map` shows; see `find_situations`."""
        await self._memories.ready()
        return await find_situations(self._memories, self._patterns, agent, action_type, moment)
