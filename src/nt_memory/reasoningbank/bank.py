"""The ReasoningBank: what agents decided, how it turned out, and what that says about now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from nt_memory.clock import to_us
from nt_memory.errors import ConflictError, InvalidInputError
from nt_memory.namespace import check_agent
from nt_memory.reasoningbank import calibration, uplift, votes
from nt_memory.reasoningbank.advice import Advice
from nt_memory.reasoningbank.distillation import PatternBook
from nt_memory.reasoningbank.drafting import Drafting
from nt_memory.reasoningbank.feedback import Advisor
from nt_memory.reasoningbank.question import ask, choose_type
from nt_memory.reasoningbank.recent import PENDING, RecentAction, Wanted, find_recent
from nt_memory.reasoningbank.recording import Recording
from nt_memory.reasoningbank.regimes import Ranked, name_regimes, rank
from nt_memory.reasoningbank.repeating import Request
from nt_memory.reasoningbank.reporting import report
from nt_memory.reasoningbank.situations import Situations, find_situations
from nt_memory.reasoningbank.trajectory import Trajectory, unit_vector
from nt_memory.reasoningbank.verdict import KINDS
from nt_memory.reasoningbank.wire import action_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from datetime import datetime

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from nt_memory.reasoningbank.backing import Backing, KMeans
    from nt_memory.reasoningbank.frame import Frame
    from nt_memory.reasoningbank.judging import History
    from nt_memory.reasoningbank.pattern import Pattern
    from nt_memory.reasoningbank.savings import Savings
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
        by_regime: bool = False,
        as_of: AsOfLike | None = None,
    ) -> list[calibration.Calibration]:
        """How far an agent's forecasts can be trusted, one record an action type, by name.

        Args:
            agent: Whose.
            action_type: Only of this type.
            level: Of the intervals counted.
            by_regime: One record for each of its patterns: of the forecasts made in situations
                nearest to that one.
            as_of: From what was known then.
        """
        check_agent(agent)
        moment = await self._at(as_of)
        regimes = self._regimes(agent, moment) if by_regime else None
        return await calibration.calibrate(
            self._memories, agent, moment, action_type, level, regimes
        )

    def _regimes(
        self, agent: str, moment: Moment
    ) -> Callable[[History], Awaitable[NDArray[np.str_]]]:
        patterns = self._patterns.at(agent, moment)

        async def name(history: History) -> NDArray[np.str_]:
            kind = history.table.action_type
            some = [one for one in patterns if one.action_type == kind and one.is_in_force]
            return await name_regimes(self._backing, history, some)

        return name

    async def rank(
        self,
        agents: Sequence[str],
        embedding: ArrayLike,
        *,
        action_type: str | None = None,
        as_of: AsOfLike | None = None,
    ) -> list[Ranked]:
        """Agents by how good their forecasts were in situations like this one, best first.

        Args:
            agents: Whom to compare.
            embedding: The situation, shape (dim,), any scale.
            action_type: In which actions; may be left out if these agents know only one.
            as_of: From what was known then.

        Raises:
            InvalidInputError: the action type is ambiguous.
            EmbeddingError: not a finite, non-zero vector.
        """
        names = list(dict.fromkeys(check_agent(agent) for agent in agents))
        moment = await self._at(as_of)
        query = unit_vector(embedding)
        kind = choose_type(self._memories, tuple(names)) if action_type is None else action_type
        return await rank(self._backing, self._memories, names, query, kind, moment)

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
        since: datetime | None = None,
        until: datetime | None = None,
        verdict: Literal["correct", "incorrect", "very_wrong", "insufficient", "pending"]
        | None = None,
        tag: str | None = None,
        as_of: AsOfLike | None = None,
    ) -> list[RecentAction]:
        """An agent's actions, newest first by when they were taken.

        Args:
            agent: Whose.
            limit: How many at most, >= 1.
            skip: How many of the newest to leave out, >= 0; pages belong together if all are asked
                for as of one revision.
            action_type: Only actions of this type.
            since: Only those taken then or later.
            until: Only those taken before.
            verdict: Only those that were judged so; "pending": whose outcome is not known.
            tag: Only those of trajectories with this tag.
            as_of: Only what was known then.

        Raises:
            InvalidInputError: `limit` or `skip` is out of range, or there is no such verdict.

        Cost: about 20 ns an action of the agent, a microsecond if a verdict is asked for, and 2 us a
            result.
        """
        check_agent(agent)
        if limit < 1 or skip < 0:
            raise InvalidInputError(f"limit must be >= 1 and skip >= 0, not {limit} and {skip}")
        if verdict not in {None, PENDING, *KINDS}:
            raise InvalidInputError(f"there is no verdict {verdict!r}")
        moment = await self._at(as_of)
        since_us, until_us = (None if one is None else to_us(one) for one in (since, until))
        wanted = Wanted(action_type, since_us, until_us, verdict, tag)
        return find_recent(self._memories, agent, moment, wanted, limit=limit, skip=skip)

    # --- learning ---------------------------------------------------------------------------

    async def distill(
        self,
        agent: str | Sequence[str],
        *,
        as_of: AsOfLike | None = None,
        action_type: str | None = None,
        look: bool = False,
        progress: Callable[[int, int], None] | None = None,
        request_id: str | None = None,
    ) -> list[Pattern]:
        """Cluster agents' situations and store what each cluster led to.

        Describing is free, and also tests patterns that were promoted before against what has come
        since: those that stopped holding are retired. A look tests which patterns differ from what
        comes elsewhere by more than chance, and promotes those. It takes one of the looks that the
        definition declared, whatever agents it takes in, so let it take in all of interest at once.
        An action type needs 50 situations with known outcomes.

        Args:
            agent: Whose; or of several agents.
            as_of: From what was known then.
            action_type: Only of this type; by default of each.
            look: Test for promotion.
            progress: Called with how many sets of patterns are done, and how many there are.
            request_id: A repeated id acts once, and returns what was stored. What a call under an id had
                worked out when it was killed is not worked out again by the next one under it on
                this machine, which distils as of the moment of the first: the result is the same.

        Returns:
            The agents' patterns as of then, old ones of other action types included.

        Raises:
            InvalidInputError: it is a look, and all those declared are taken.
            ConflictError: another look at the same action type was stored meanwhile. Retryable.

        Cost: k-means over each agent's situations, in a worker thread; the event loop goes on. Cut
            short, nothing of it is stored but what a repeated request goes on with.
        Source: Benjamini & Hochberg 1995 over all patterns of the look, at 0.1 divided by the number
            of looks; p-values as in `promotion`, retirement as in `drift`.
        """
        agents = [agent] if isinstance(agent, str) else list(dict.fromkeys(agent))
        for one in agents:
            check_agent(one)
        request = Request(self._backing, request_id)
        moment = await self._at(as_of)
        made = request.made()
        drafting = Drafting(
            None if request_id is None else self._backing.drafts(request_id),
            (agents, action_type, look),
            is_of_now=as_of is None,
        )
        if made is None:
            moment = await drafting.begin(moment)
            ops = await self._patterns.distil(
                agents, moment, drafting, action_type=action_type, is_look=look, progress=progress
            )
            try:
                revision = await self._write(ops, moment.revision, request.part())
            except ConflictError:
                # Whoever tries again has to begin after the look that was taken meanwhile.
                await drafting.end()
                raise
        else:
            revision = made.revision or moment.revision
        await drafting.end()
        then = moment._replace(revision=revision)
        return [pattern for one in agents for pattern in self._patterns.at(one, then)]

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
        from_patterns: bool = False,
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
            from_patterns: Where a promoted pattern of these agents covers the situation, advise from that
                alone, without a search. Its `Pattern.replaced` says what memory that saves, `savings` what
                time.

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
            from_patterns=from_patterns,
        )
        return await self._advisor.answer(question)

    async def savings(self) -> Savings:
        """What answering from patterns has saved in this process since the memory was opened.

        Cost: reads counters.
        """
        return self._advisor.meter.read()

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
