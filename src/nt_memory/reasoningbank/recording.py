"""The recording half of the ReasoningBank: definitions, trajectories, outcomes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nt_memory.clock import to_us
from nt_memory.entries import DEFINITION, OUTCOME, WriteOp
from nt_memory.errors import InvalidInputError, UnknownTrajectoryError
from nt_memory.namespace import check_key
from nt_memory.reasoningbank.backing import SWARM
from nt_memory.reasoningbank.definition import (
    Definition,
    Loss,
    Tolerance,
    check_definition,
    check_tolerance,
    encode_definition,
)
from nt_memory.reasoningbank.reading import Reading
from nt_memory.reasoningbank.repeating import BATCH_OPS, Request, batches
from nt_memory.reasoningbank.trajectory import Trajectory

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime, timedelta

    from nt_memory.reasoningbank.backing import Made
    from nt_memory.reasoningbank.memories import Place
    from nt_memory.reasoningbank.tracking import PlannedOutcome
    from nt_memory.reasoningbank.verdict import Verdict
    from nt_memory.timeline import AsOfLike, Moment

    OutcomeRow = tuple[str, float, datetime | None, int | None, int | None]


class Recording(Reading):
    """What is written; `ReasoningBank` inherits it."""

    # --- definitions ------------------------------------------------------------------------

    async def define(
        self,
        action_type: str,
        *,
        target: str,
        unit: str,
        horizon: int | timedelta,
        loss: Loss = "absolute",
        tolerance: Tolerance | str | tuple[str, float, float] | None = None,
        baseline: str | None = None,
        looks: int = 4,
        features: Sequence[str] = (),
        request_id: str | None = None,
    ) -> Definition:
        """Say what an action type predicts. Defining it again as it is changes nothing.

        A different definition is a new version, which judges later actions only.

        Args:
            action_type: Its name, a key.
            target: What is predicted, in words.
            unit: Of predictions and outcomes.
            horizon: When the outcome is complete: sessions, or a timedelta, which is then enforced.
            loss: What forecasts pay: the "absolute" or the "squared" error.
            tolerance: What makes a verdict; by default the predictor's own earlier errors. See
                `Tolerance`; "relative" is 5 % and 25 % of the outcome.
            baseline: Name of the naive forecast that actions freeze with them.
            looks: How many times patterns may ever be tested for promotion, of whatever agents; declared
                before the first. See `distill`.
            features: Names of the first components of the situations' embeddings, to put patterns in
                words: "very high volatility, low drawdown".
            request_id: A repeated id acts once, and returns the definition as it is by then.

        Raises:
            InvalidNameError: the action type is malformed.
            TrajectoryError: another part is.
        """
        request = Request(self._backing, request_id)
        definition = check_definition(
            Definition(
                check_key(action_type),
                target,
                unit,
                horizon,
                loss,
                check_tolerance(tolerance),
                baseline or "",
                looks=looks,
                features=tuple(features),
            )
        )
        moment = await self._at()
        value = encode_definition(definition)
        current = self._memories.definition(action_type, moment)
        if request.made() is not None:
            if current is None:
                raise request.refuse()
            return current
        is_new = current is None or encode_definition(current) != value
        ops = [WriteOp(DEFINITION, SWARM, action_type, value)] if is_new else []
        await self._write(ops, moment.revision, request.part())
        current = self._memories.definition(action_type, self._backing.resolve(None))
        return definition if current is None else current

    async def definition(
        self, action_type: str, *, as_of: AsOfLike | None = None
    ) -> Definition | None:
        """What an action type predicts, or None if it is not defined."""
        return self._memories.definition(action_type, await self._at(as_of))

    # --- tracking ---------------------------------------------------------------------------

    async def track_trajectory(
        self, trajectory: Trajectory, *, request_id: str | None = None
    ) -> int:
        """Store a trajectory, or what was added to it since it was tracked.

        Args:
            trajectory: The trajectory.
            request_id: A repeated id acts once and returns the first revision, whatever has been
                added to the trajectory since.

        Returns:
            The revision; the current one if there was nothing new.

        Raises:
            TrajectoryError: the id is another agent's or was forgotten; something that was tracked
                was changed; or a prediction's action type is not defined.
            DimensionError: the agent's situations of this action type have another dimension.
            LookAheadError: a step is dated past a backtest's now (live: InvalidTimeError).
        """
        return await self.track_many((trajectory,), request_id=request_id)

    async def track_many(
        self, trajectories: Iterable[Trajectory], *, request_id: str | None = None
    ) -> int:
        """Store many trajectories, in order; each is stored as a whole, their batches are not.

        Args:
            trajectories: The trajectories.
            request_id: Repeated with the same trajectories, it stores those batches that were not
                stored before.

        Returns:
            The last revision.

        Raises:
            InvalidInputError: the id was used for something else.

        And the errors of `track_trajectory`.
        """
        request = Request(self._backing, request_id)
        revision = (await self._at()).revision
        for first, some in batches(trajectories):
            moment = self._backing.resolve(None)
            made = request.made(first)
            if made is None:
                ops = [op for one in some for op in self._tracker.plan(one, moment)]
                revision = await self._write(ops, revision, request.part(first))
                continue
            if any(self._tracker.owner(one.id, moment) is None for one in some):
                raise request.refuse()
            revision = made.revision or revision
        return revision

    async def _write(
        self, ops: Sequence[WriteOp], revision: int, request_id: str | None = None
    ) -> int:
        # That there was nothing to do is something to remember too.
        if not ops and request_id is None:
            return revision
        return await self._backing.write(ops, request_id=request_id)

    async def record_outcome(
        self,
        trajectory_id: str,
        value: float,
        *,
        action: int | None = None,
        known_at: datetime | None = None,
        revision_of: int | None = None,
        request_id: str | None = None,
    ) -> Verdict:
        """Record how an action turned out, and judge it.

        Recording the same value again changes nothing and returns the verdict.

        Args:
            trajectory_id: Which trajectory.
            value: In the definition's unit; True and False count as 1 and 0.
            action: Which action, from 0; by default the last.
            known_at: Since when it is known; by default now. It may lie in the past.
            revision_of: Revision of the outcome that this one replaces.
            request_id: A repeated id acts once, and returns the verdict on that action by then.

        Raises:
            UnknownTrajectoryError: no such trajectory.
            TrajectoryError: no such action; the outcome would be known before the action, before a
                horizon in time has passed or before what it revises; or there is another outcome
                already and no `revision_of`.
            ConflictError: `revision_of` is not the current outcome.
            InvalidInputError: the request id was used for something else.
        """
        verdicts = await self.record_outcomes(
            (trajectory_id,),
            (value,),
            actions=None if action is None else (action,),
            known_at=known_at,
            revisions_of=(revision_of,),
            request_id=request_id,
        )
        return verdicts[0]

    async def record_outcomes(
        self,
        trajectory_ids: Sequence[str],
        values: Sequence[float],
        *,
        actions: Sequence[int] | None = None,
        known_at: datetime | Sequence[datetime] | None = None,
        revisions_of: Sequence[int | None] | None = None,
        request_id: str | None = None,
    ) -> list[Verdict]:
        """Record many outcomes; see `record_outcome`. They are written in batches of 1,024.

        Args:
            trajectory_ids: Which trajectories, n of them.
            values: Their outcomes, n.
            actions: Which action of each, n; by default the last.
            known_at: Since when they are known: one time, or n.
            revisions_of: What each replaces, n.
            request_id: Repeated with the same arguments, it records those batches that were not
                recorded before.

        Raises:
            InvalidInputError: the lengths differ, or the request id was used for something else.
        """
        request = Request(self._backing, request_id)
        n = len(trajectory_ids)
        times: Sequence[datetime | None]
        times = [known_at] * n if known_at is None or not _is_many(known_at) else known_at  # type: ignore[assignment,list-item]
        indexes = [None] * n if actions is None else actions
        replaced = [None] * n if revisions_of is None else revisions_of
        if not n == len(values) == len(times) == len(indexes) == len(replaced):
            raise InvalidInputError(
                "trajectory_ids, values and what goes with them differ in length"
            )
        moment = await self._at()
        rows = list(zip(trajectory_ids, values, times, indexes, replaced, strict=True))
        places, to_write = self._plan_outcomes(rows, request, moment)
        with self._memories.expecting(places):
            for first, ops in to_write.items():
                await self._write(ops, moment.revision, request.part(first))
        return self._verdicts(places, self._backing.resolve(None))

    def _plan_outcomes(
        self, rows: Sequence[OutcomeRow], request: Request, moment: Moment
    ) -> tuple[dict[tuple[str, str], Place | None], dict[int, list[WriteOp]]]:
        """Where the actions are, by agent and key; what to write, by the number of its first row."""
        planned: dict[tuple[str, str], PlannedOutcome] = {}
        to_write: dict[int, list[WriteOp]] = {}
        for first in range(0, len(rows), BATCH_OPS):
            made = request.made(first)
            some = [
                self._plan_outcome(row, moment, made) for row in rows[first : first + BATCH_OPS]
            ]
            for one in some:
                if one is None:
                    raise request.refuse()
                if planned.setdefault((one.agent, one.key), one) is not one:
                    raise InvalidInputError(f"{one.key} is given two outcomes")
            if made is None:
                to_write[first] = [one.op for one in some if one is not None and one.op is not None]
        return {name: one.place for name, one in planned.items()}, to_write

    def _plan_outcome(
        self, row: OutcomeRow, moment: Moment, made: Made | None
    ) -> PlannedOutcome | None:
        """What recording one outcome writes; None if an earlier request did not, though it should."""
        trajectory_id, value, time, index, before = row
        if made is not None:
            return self._tracker.recorded(trajectory_id, index, made.revision, moment)
        return self._tracker.plan_outcome(
            trajectory_id,
            value,
            action=index,
            known_at=None if time is None else to_us(time),
            revision_of=before,
            moment=moment,
        )

    def _verdicts(
        self, actions: Mapping[tuple[str, str], Place | None], moment: Moment
    ) -> list[Verdict]:
        """Verdicts on actions, by agent and key; each with its place, if that is known."""
        places: list[Place] = []
        revisions: list[int] = []
        for (agent, key), known in actions.items():
            place = known
            if place is None or place.is_ended(moment):
                place = self._memories.find(agent, key, moment)
            if place is None:
                raise UnknownTrajectoryError(f"no action {key!r} is known")
            outcome = self._backing.read(OUTCOME, agent, key, moment)
            places.append(place)
            revisions.append(0 if outcome is None else outcome.revision)
        return self._judge.verdicts(places, revisions, moment)

    async def forget(self, trajectory_ids: Iterable[str], *, request_id: str | None = None) -> int:
        """Stop recalling trajectories: they are deleted from now on, and their ids are spent.

        Advice as of an earlier time still uses them.

        Args:
            trajectory_ids: Which.
            request_id: A repeated id acts once and returns the first revision.

        Raises:
            UnknownTrajectoryError: one of them is not known; nothing is forgotten then.
            InvalidInputError: the request id was used for something else.
        """
        request = Request(self._backing, request_id)
        moment = await self._at()
        wanted = list(dict.fromkeys(trajectory_ids))
        made = request.made()
        if made is not None:
            if any(self._tracker.owner(one, moment) != "" for one in wanted):
                raise request.refuse()
            return made.revision or moment.revision
        ops = [op for one in wanted for op in self._tracker.plan_forget(one, moment)]
        return await self._write(ops, moment.revision, request.part())


def _is_many(value: object) -> bool:
    return isinstance(value, list | tuple)
