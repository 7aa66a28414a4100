"""Tools over what decisions taught: advice and patterns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from mcp_types import ToolAnnotations
from pydantic import Field
from typing_extensions import override

from nt_memory.apps.mcp.paging import page_of, place_of
from nt_memory.apps.mcp.tool import (
    ADDS,
    READS,
    Agents,
    Answer,
    AsOf,
    Cursor,
    Text,
    Tool,
    Vector,
    Whose,
)
from nt_memory.clock import to_datetime

if TYPE_CHECKING:
    from nt_memory import Advice, Pattern
    from nt_memory.apps.mcp.desk import Turn

NEAREST = 5


class Similar(Answer):
    """A past decision that the advice rests on."""

    agent: str
    trajectory_id: str
    action: int
    at: str
    score: float
    weight: float
    outcome: float


class Advised(Answer):
    """What similar past situations say."""

    advice_id: Annotated[str, Field(description="For record_decision, if you act on it.")]
    said: Annotated[str, Field(description="The advice in words.")]
    action_type: str
    target: str
    unit: str
    functional: Annotated[str, Field(description="Which centre `expected` is.")]
    expected: float | None
    low: float | None
    high: float | None
    level: float
    baseline: float | None
    success_probability: Annotated[
        float | None, Field(description="How often similar forecasts beat their baseline.")
    ]
    is_abstaining: Annotated[bool, Field(description="Nothing similar enough is known.")]
    is_withheld: Annotated[bool, Field(description="Withheld by the coin; see `withhold`.")]
    warnings: list[str]
    known: int
    effective: float
    memories: int
    patterns: list[str]
    nearest: list[Similar]
    as_of: str


def _advised(advice: Advice, advice_id: str) -> Advised:
    plain: dict[str, Any] = advice.to_dict()
    shown = {name: plain[name] for name in Advised.model_fields if name in plain}
    return Advised(
        **shown,
        advice_id=advice_id,
        said=advice.as_text(),
        nearest=[
            Similar(
                agent=one.ref.agent,
                trajectory_id=one.ref.trajectory_id,
                action=one.ref.action,
                at=one.at.isoformat(),
                score=one.score,
                weight=one.weight,
                outcome=one.outcome,
            )
            for one in advice.memories(NEAREST)
        ],
    )


class Advise(Tool):
    """Ask what the most similar past decisions say about this situation: an expected outcome, an
    interval that has covered what it claims, how often such forecasts were good, or that nothing
    similar is known. Ask before you decide; give record_decision the advice_id."""  # noqa: D205, D209

    called: ClassVar[str] = "advise"
    title: ClassVar[str] = "Ask for advice"
    effect: ClassVar[ToolAnnotations] = READS
    answers: ClassVar[type[Answer]] = Advised

    text: Text = None
    embedding: Vector = None
    agents: Agents = None
    action_type: Annotated[
        str | None, Field(description="About which; may be left out if only one is known.")
    ] = None
    as_of: AsOf = None
    level: Annotated[float, Field(description="Coverage wanted of the interval.")] = 0.8
    baseline: Annotated[
        float | None, Field(description="What the naive forecast says; advice corrects it.")
    ] = None
    withhold: Annotated[
        float,
        Field(description="Probability of withholding it, to measure what advice is worth."),
    ] = 0.0
    trajectory_id: Annotated[
        str | None, Field(description="Of the decision to come; needed to withhold.")
    ] = None

    @override
    async def run(self, turn: Turn) -> Advised:
        advice = await turn.memory.bank.advise(
            [turn.whose(None)] if self.agents is None else self.agents,
            await turn.vector(self, self.text, self.embedding),
            action_type=self.action_type,
            as_of=self.as_of,
            level=self.level,
            baseline=self.baseline,
            withhold=self.withhold,
            trajectory=self.trajectory_id or "",
        )
        return _advised(advice, turn.desk.keep_advice(advice))


class PatternShown(Answer):
    """What one kind of situation led to."""

    id: str
    agent: str
    action_type: str
    said: Annotated[str, Field(description="The pattern in words.")]
    unit: str
    n: int
    n_effective: Annotated[float, Field(description="Independent outcomes they are worth.")]
    outcome_mean: float
    outcome_error: float | None
    outcome_quantiles: Annotated[list[float], Field(description="At 0.1, 0.25, 0.5, 0.75 and 0.9.")]
    success_rate: float | None
    success_low: float | None
    success_high: float | None
    failures: int
    failed: Annotated[list[str], Field(description="The worst: their trajectory ids.")]
    is_promoted: Annotated[bool, Field(description="Differs from elsewhere by more than chance.")]
    trust: Annotated[float, Field(description="In its least trusted source, in [0, 1].")]
    as_of: str


def to_shown(pattern: Pattern) -> PatternShown:
    """A pattern as agents are shown it: without its vectors."""
    names = (name for name in PatternShown.model_fields if hasattr(pattern, name))
    shown = {name: getattr(pattern, name) for name in names if name not in {"failed", "as_of"}}
    shown["outcome_quantiles"] = list(pattern.outcome_quantiles)
    return PatternShown(
        **shown,
        said=pattern.describe(),
        failed=list(pattern.failed),
        as_of=to_datetime(pattern.as_of_us).isoformat(),
    )


class Patterns(Answer):
    """Patterns, by id."""

    patterns: list[PatternShown]
    next_cursor: str | None = None


class ListPatterns(Tool):
    """List what an agent's decisions have in common: kinds of situations, what they led to, how
    often its forecasts were good there and where they failed. distill finds new ones."""  # noqa: D205, D209

    called: ClassVar[str] = "list_patterns"
    title: ClassVar[str] = "List patterns"
    effect: ClassVar[ToolAnnotations] = READS
    answers: ClassVar[type[Answer]] = Patterns

    agent: Whose = None
    action_type: Annotated[str | None, Field(description="Only of this type.")] = None
    as_of: AsOf = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    cursor: Cursor = None

    @override
    async def run(self, turn: Turn) -> Patterns:
        place = place_of(self.cursor, turn.memory.revision, self.as_of)
        found = await turn.memory.bank.patterns(
            turn.whose(self.agent), as_of=place.as_of(self.as_of)
        )
        wanted = sorted(
            (one for one in found if self.action_type in {None, one.action_type}),
            key=lambda one: one.id,
        )
        page, following = page_of(wanted, place, self.limit, lambda one: one.id)
        return Patterns(patterns=[to_shown(one) for one in page], next_cursor=following)


class Distill(Tool):
    """Find patterns in an agent's decisions anew: needs 50 with known outcomes of an action type.
    Takes seconds for ten thousands of them."""  # noqa: D205, D209

    called: ClassVar[str] = "distill"
    title: ClassVar[str] = "Distil patterns"
    effect: ClassVar[ToolAnnotations] = ADDS
    answers: ClassVar[type[Answer]] = Patterns

    agent: Whose = None
    look: Annotated[
        bool, Field(description="Test for promotion: takes one of the looks that were declared.")
    ] = False

    @override
    async def run(self, turn: Turn) -> Patterns:
        agent = turn.whose(self.agent)
        await turn.report(0.0, 1.0, f"clustering the decisions of {agent}")
        found = await turn.memory.bank.distill(agent, look=self.look)
        await turn.report(1.0, 1.0, f"{len(found)} patterns")
        return Patterns(patterns=[to_shown(one) for one in found])


TOOLS: tuple[type[Tool], ...] = (Advise, ListPatterns, Distill)
