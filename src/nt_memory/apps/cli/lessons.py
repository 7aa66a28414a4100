"""Trajectories and patterns as documents, and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nt_memory.apps.cli import documents
from nt_memory.apps.cli.rendering import moment, number, to_plain, value_line
from nt_memory.clock import to_datetime

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from nt_memory import Pattern, Trajectory, Verdict

TRAJECTORY_HEAD = ("trajectory", "state", "seen", "actions", "outcomes", "score", "last action")
PATTERN_HEAD = ("pattern", "situations", "worth", "outcome", "10 % to 90 %", "unit", "success")


def trajectory_document(one: Trajectory, verdicts: Sequence[Verdict] = ()) -> documents.Trajectory:
    """A trajectory, all of it."""
    return documents.Trajectory(
        id=one.id,
        agent=one.agent_id,
        is_complete=one.is_complete,
        score=one.score(),
        observations=[
            documents.Observation(
                data=to_plain(seen.data),
                dim=0 if seen.embedding is None else len(seen.embedding),
                at=_time(seen.at),
            )
            for seen in one.observations
        ],
        actions=[
            documents.Action(
                action_type=done.doc.action_type,
                parameters=to_plain(done.parameters),
                at=_time(done.doc.at),
                predicted=done.doc.predicted,
                low=done.doc.low,
                high=done.doc.high,
                level=done.doc.level,
                probability=done.doc.probability,
                baseline=done.doc.baseline,
            )
            for done in one.actions
        ],
        outcomes=[
            documents.Outcome(action=came.action, value=came.value, at=_time(came.at))
            for came in one.outcomes
        ],
        verdicts=[
            documents.Verdict(
                action=said.action,
                kind=said.kind,
                predicted=said.predicted,
                actual=said.actual,
                error=said.error,
                skill=said.skill,
                is_covered=said.is_covered,
                feedback=said.feedback,
            )
            for said in verdicts
        ],
    )


def trajectory_cells(doc: documents.Trajectory) -> tuple[object, ...]:
    """A row of the list."""
    return (
        doc.id,
        "complete" if doc.is_complete else "open",
        len(doc.observations),
        len(doc.actions),
        len(doc.outcomes),
        number(doc.score),
        doc.actions[-1].action_type if doc.actions else "",
    )


def trajectory_lines(doc: documents.Trajectory) -> Iterator[str]:
    """One trajectory, step by step, actions with what became of them."""
    state = "complete" if doc.is_complete else "open"
    yield f"{doc.id} of {doc.agent}: {state}, score {number(doc.score) or 'not known yet'}"
    for seen in doc.observations:
        yield f"saw    {moment(seen.at)}  {value_line(seen.data)}"
    outcomes = {came.action: came for came in doc.outcomes}
    verdicts = {said.action: said for said in doc.verdicts}
    for place, done in enumerate(doc.actions):
        yield f"did    {moment(done.at)}  {done.action_type} {value_line(done.parameters)}{_claims(done)}"
        if place in outcomes:
            came = outcomes[place]
            yield f"came   {moment(came.at)}  {number(came.value, 6)}"
        if place in verdicts:
            said = verdicts[place]
            yield f"judged {said.kind}{': ' if said.feedback else ''}{said.feedback}"


def _claims(done: documents.Action) -> str:
    claims: list[str] = []
    if done.predicted is not None:
        claims.append(f"predicted {number(done.predicted, 6)}")
    if done.low is not None and done.high is not None:
        claims.append(f"{done.level:.0%} in {number(done.low, 6)} to {number(done.high, 6)}")
    if done.probability is not None:
        claims.append(f"probability {number(done.probability)}")
    if done.baseline is not None:
        claims.append(f"baseline {number(done.baseline, 6)}")
    return f"; {', '.join(claims)}" if claims else ""


def pattern_document(one: Pattern) -> documents.Pattern:
    """A pattern, without its centroid and sources."""
    return documents.Pattern(
        id=one.id,
        agent=one.agent,
        action_type=one.action_type,
        unit=one.unit,
        radius=float(one.radius),
        n=one.n,
        n_effective=float(one.n_effective),
        outcome_mean=float(one.outcome_mean),
        outcome_error=float(one.outcome_error),
        outcome_quantiles=[float(value) for value in one.outcome_quantiles],
        success_rate=one.success_rate,
        success_low=one.success_low,
        success_high=one.success_high,
        failures=one.failures,
        failure_error=one.failure_error,
        failed=list(one.failed),
        as_of=to_datetime(one.as_of_us),
        is_promoted=one.is_promoted,
    )


def pattern_cells(doc: documents.Pattern) -> tuple[object, ...]:
    """A row of the list."""
    low, high = doc.outcome_quantiles[0], doc.outcome_quantiles[-1]
    return (
        doc.id,
        doc.n,
        f"{doc.n_effective:.0f}",
        number(doc.outcome_mean),
        f"{number(low)} to {number(high)}",
        doc.unit,
        "" if doc.success_rate is None else f"{doc.success_rate:.0%}",
    )


def _time(at_us: int | None) -> datetime | None:
    return None if at_us is None else to_datetime(at_us)
