"""Tools over decisions: what was decided, how it turned out, and what that says about now."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from mcp_types import ToolAnnotations
from pydantic import Field
from typing_extensions import override

from nt_memory import Trajectory
from nt_memory.apps.cli.rendering import to_plain
from nt_memory.apps.mcp.paging import cursor_of, number_after, place_of
from nt_memory.apps.mcp.tool import (
    ADDS,
    READS,
    SETTLES,
    Answer,
    AsOf,
    Cursor,
    JsonObject,
    Text,
    Time,
    Tool,
    Vector,
    Whose,
)
from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from nt_memory import Verdict
    from nt_memory.apps.mcp.desk import Turn
    from nt_memory.reasoningbank.recent import RecentAction
    from nt_memory.records import AsOf as BothClocks

ActionType = Annotated[str, Field(description="Such as volatility/5d; see define_action_type.")]
TrajectoryId = Annotated[str, Field(description="As record_decision returned it.")]


class Defined(Answer):
    """What an action type predicts."""

    action_type: str
    target: str
    unit: str
    horizon: str
    loss: str
    tolerance: str
    baseline: str
    revision: int


class DefineActionType(Tool):
    """Say what an action type predicts, once, before decisions of it are recorded with a
    prediction: so that verdicts are computed and not a matter of opinion. Defining it again as it
    is changes nothing; otherwise later decisions are judged by the new definition."""  # noqa: D205, D209

    called: ClassVar[str] = "define_action_type"
    title: ClassVar[str] = "Define an action type"
    effect: ClassVar[ToolAnnotations] = SETTLES
    answers: ClassVar[type[Answer]] = Defined

    action_type: ActionType
    target: Annotated[str, Field(description="What is predicted, in words.")]
    unit: Annotated[str, Field(description="Of predictions and outcomes, such as %/day.")]
    horizon_sessions: Annotated[
        int | None, Field(description="Trading sessions until the outcome is complete.")
    ] = None
    horizon_s: Annotated[
        float | None, Field(description="Or seconds; no outcome is taken before they passed.")
    ] = None
    loss: Annotated[
        Literal["absolute", "squared"], Field(description="What a forecast pays for its error.")
    ] = "absolute"
    tolerance: Annotated[
        Literal["scale", "relative"],
        Field(description="Errors are judged by earlier errors, or by the outcome's size."),
    ] = "scale"
    baseline: Annotated[str | None, Field(description="Name of the naive forecast.")] = None

    @override
    async def run(self, turn: Turn) -> Defined:
        self.check_one(horizon_sessions=self.horizon_sessions, horizon_s=self.horizon_s)
        horizon: int | timedelta = self.horizon_sessions or 0
        if self.horizon_s is not None:
            try:
                horizon = timedelta(seconds=self.horizon_s)
            except (OverflowError, ValueError):
                raise InvalidInputError("horizon_s must be seconds, at most a century") from None
        found = await turn.memory.bank.define(
            self.action_type,
            target=self.target,
            unit=self.unit,
            horizon=horizon,
            loss=self.loss,
            tolerance=self.tolerance,
            baseline=self.baseline,
        )
        return Defined(
            action_type=found.action_type,
            target=found.target,
            unit=found.unit,
            horizon=f"{found.horizon} sessions"
            if isinstance(found.horizon, int)
            else str(found.horizon),
            loss=found.loss,
            tolerance=found.tolerance.kind,
            baseline=found.baseline,
            revision=found.revision,
        )


class Recorded(Answer):
    """A decision that was recorded."""

    trajectory_id: str
    agent: str
    revision: int


class RecordDecision(Tool):
    """Record what you decided, in which situation, and what you expect of it, before it turns
    out. What was recorded never changes. Record the outcome under the same trajectory_id later."""  # noqa: D205, D209

    called: ClassVar[str] = "record_decision"
    title: ClassVar[str] = "Record a decision"
    effect: ClassVar[ToolAnnotations] = ADDS
    answers: ClassVar[type[Answer]] = Recorded

    action_type: ActionType
    text: Text = None
    embedding: Vector = None
    seen: Annotated[
        Any, Field(description="What you saw: any JSON value; by default the text.")
    ] = None
    parameters: Annotated[Any, Field(description="What you did: any JSON value.")] = None
    predicted_outcome: Annotated[float | None, Field(description="In the type's unit.")] = None
    predicted_low: Annotated[float | None, Field(description="Low end of an interval.")] = None
    predicted_high: Annotated[float | None, Field(description="High end of it.")] = None
    level: Annotated[float, Field(description="Coverage that the interval claims.")] = 0.8
    predicted_quantiles: Annotated[
        JsonObject | None, Field(description='Values by probability: {"0.1": -1.2, "0.9": 2}.')
    ] = None
    probability: Annotated[float | None, Field(description="Of an outcome above zero, 0 to 1.")] = (
        None
    )
    baseline: Annotated[
        float | None, Field(description="What the naive forecast says, to be compared with.")
    ] = None
    advice_id: Annotated[str | None, Field(description="The advice you acted on.")] = None
    trajectory_id: Annotated[
        str | None,
        Field(description="Made up by default. With your own, repeating the call is harmless."),
    ] = None
    at: Annotated[Time | None, Field(description="When; by default now.")] = None
    agent: Whose = None

    @override
    async def run(self, turn: Turn) -> Recorded:
        agent = turn.whose(self.agent)
        trajectory = Trajectory(agent, id=self.trajectory_id)
        situation = None
        if self.text is not None or self.embedding is not None:
            situation = await turn.vector(self, self.text, self.embedding)
        seen = self.text if self.seen is None else self.seen
        if seen is not None or situation is not None:
            trajectory.add_observation(seen, situation, at=self.at)
        trajectory.add_action(
            self.action_type,
            self.parameters,
            self.predicted_outcome,
            predicted_interval=self._interval(),
            level=self.level,
            predicted_quantiles=_quantiles(self.predicted_quantiles),
            probability=self.probability,
            baseline=self.baseline,
            advice=None if self.advice_id is None else turn.desk.advice(self.advice_id),
            at=self.at,
        ).complete()
        revision = await turn.memory.track_trajectory(trajectory)
        return Recorded(trajectory_id=trajectory.id, agent=agent, revision=revision)

    def _interval(self) -> tuple[float, float] | None:
        if self.predicted_low is None and self.predicted_high is None:
            return None
        if self.predicted_low is None or self.predicted_high is None:
            raise InvalidInputError("an interval needs predicted_low and predicted_high")
        return self.predicted_low, self.predicted_high


def _quantiles(given: dict[str, Any] | None) -> dict[float, float] | None:
    if given is None:
        return None
    try:
        return {float(probability): float(value) for probability, value in given.items()}
    except (TypeError, ValueError):
        raise InvalidInputError("predicted_quantiles must be numbers by probability") from None


class Judged(Answer):
    """A verdict: predicted against actual, computed."""

    trajectory_id: str
    action: int
    agent: str
    action_type: str
    kind: str
    feedback: str
    predicted: float | None = None
    actual: float | None = None
    error: float | None = None
    scale: float | None = None
    loss: float | None = None
    baseline_loss: float | None = None
    skill: Annotated[float | None, Field(description="Above 0: better than the baseline.")] = None
    interval_score: float | None = None
    is_covered: bool | None = None
    crps: float | None = None
    brier: float | None = None
    revision: int = 0


def to_judged(verdict: Verdict) -> Judged:
    """A verdict as agents are shown it."""
    return Judged(**dataclasses.asdict(verdict))


class RecordOutcome(Tool):
    """Record how a decision turned out, and get its verdict. Recording the same value again changes
    nothing; another value needs revision_of."""  # noqa: D205, D209

    called: ClassVar[str] = "record_outcome"
    title: ClassVar[str] = "Record an outcome"
    effect: ClassVar[ToolAnnotations] = SETTLES
    answers: ClassVar[type[Answer]] = Judged

    trajectory_id: TrajectoryId
    value: Annotated[float, Field(description="In the action type's unit; yes and no as 1 and 0.")]
    action: Annotated[int | None, Field(ge=0, description="Which; by default the last.")] = None
    known_at: Annotated[
        Time | None, Field(description="Since when it is known; by default now.")
    ] = None
    revision_of: Annotated[
        int | None, Field(description="`revision` of the outcome that this one replaces.")
    ] = None

    @override
    async def run(self, turn: Turn) -> Judged:
        verdict = await turn.memory.record_outcome(
            self.trajectory_id,
            self.value,
            action=self.action,
            known_at=self.known_at,
            revision_of=self.revision_of,
        )
        return to_judged(verdict)


class Decision(Answer):
    """One decision, and its verdict as far as it has one."""

    trajectory_id: str
    action: int
    agent: str
    action_type: str
    at: str
    seen: Any = None
    parameters: Any = None
    predicted: float | None = None
    interval: list[float] | None = None
    probability: float | None = None
    baseline: float | None = None
    outcome: float | None = None
    verdict: Judged | None = None


class Decisions(Answer):
    """Decisions, newest first."""

    decisions: list[Decision]
    next_cursor: str | None = None


async def decisions_of(
    turn: Turn, found: list[RecentAction], as_of: BothClocks | int | None
) -> list[Decision]:
    """Actions with what was recorded of them; their verdicts are those of now."""
    bank = turn.memory.bank
    told: list[Decision] = []
    for one in found:
        trajectory = await bank.trajectory(one.ref.trajectory_id, as_of=as_of)
        if trajectory is None or one.ref.action >= len(trajectory.actions):
            continue  # forgotten meanwhile
        action = trajectory.actions[one.ref.action]
        outcome = next((o.value for o in trajectory.outcomes if o.action == one.ref.action), None)
        seen = [to_plain(observation.data) for observation in trajectory.observations]
        verdict = None
        if outcome is not None:
            verdicts = await bank.judge(trajectory.id)
            verdict = to_judged(verdicts[one.ref.action])
        told.append(
            Decision(
                trajectory_id=one.ref.trajectory_id,
                action=one.ref.action,
                agent=one.ref.agent,
                action_type=one.action_type,
                at=one.at.isoformat(),
                seen=seen[0] if len(seen) == 1 else seen,
                parameters=to_plain(action.parameters),
                predicted=action.doc.predicted,
                interval=None
                if action.doc.low is None or action.doc.high is None
                else [action.doc.low, action.doc.high],
                probability=action.doc.probability,
                baseline=action.doc.baseline,
                outcome=outcome,
                verdict=verdict,
            )
        )
    return told


class ListTrajectories(Tool):
    """List an agent's decisions, newest first, each with what was predicted, how it turned out
    and the verdict."""  # noqa: D205, D209

    called: ClassVar[str] = "list_trajectories"
    title: ClassVar[str] = "List decisions"
    effect: ClassVar[ToolAnnotations] = READS
    answers: ClassVar[type[Answer]] = Decisions

    agent: Whose = None
    action_type: Annotated[str | None, Field(description="Only of this type.")] = None
    since: Annotated[Time | None, Field(description="Only those taken then or later.")] = None
    until: Annotated[Time | None, Field(description="Only those taken before.")] = None
    verdict: Annotated[
        Literal["correct", "incorrect", "very_wrong", "insufficient", "pending"] | None,
        Field(description="Only those judged so; pending: whose outcome is not known."),
    ] = None
    tag: Annotated[str | None, Field(description="Only of trajectories with this tag.")] = None
    as_of: AsOf = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    cursor: Cursor = None

    @override
    async def run(self, turn: Turn) -> Decisions:
        place = place_of(self.cursor, turn.memory.revision, self.as_of)
        skip = number_after(place, 0)
        moment = place.as_of(self.as_of)
        found = await turn.memory.bank.recent(
            turn.whose(self.agent),
            self.limit + 1,
            skip=skip,
            action_type=self.action_type,
            since=self.since,
            until=self.until,
            verdict=self.verdict,
            tag=self.tag,
            as_of=moment,
        )
        following = None
        if len(found) > self.limit:
            following = cursor_of(place, str(skip + self.limit))
        told = await decisions_of(turn, found[: self.limit], moment)
        return Decisions(decisions=told, next_cursor=following)


TOOLS: tuple[type[Tool], ...] = (
    DefineActionType,
    RecordDecision,
    RecordOutcome,
    ListTrajectories,
)
