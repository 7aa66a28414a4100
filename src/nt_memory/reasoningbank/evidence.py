"""The memories an advice rests on: which of them are kept, and how far they can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nt_memory.reasoningbank.columns import Lane, Table
    from nt_memory.reasoningbank.pattern import Pattern
    from nt_memory.reasoningbank.recall import Recalled

    Ints = NDArray[np.int64]

MIN_MEMORIES = 10
MAX_NEIGHBOURS = 300
PRIOR_MEMORIES = 10.0
FEW = 10.0


class Group(NamedTuple):
    """Some agents' lanes in one table."""

    table: Table
    lanes: tuple[Lane, ...]
    numbers: tuple[int, ...]
    by_partition: dict[int, Lane]


class Found(NamedTuple):
    """Memories that were recalled, best first."""

    partition: Ints
    row: Ints
    score: NDArray[np.float64]
    entry: Ints
    outcome: NDArray[np.float64]
    baseline: NDArray[np.float64]


def default_neighbours(known: int) -> int:
    """How many memories to recall: a twentieth of them, at least 10, at most 300.

    On 33 years of 20 stocks 300 neighbours forecast a little better than 100.
    """
    return min(MAX_NEIGHBOURS, max(MIN_MEMORIES, known // 20))


def keep(found: Found, which: NDArray[np.bool_]) -> Found:
    """The memories that `which` marks."""
    if which.all():
        return found
    return Found(
        found.partition[which],
        found.row[which],
        found.score[which],
        found.entry[which],
        found.outcome[which],
        found.baseline[which],
    )


def with_baseline(found: Found) -> Found:
    """The memories that froze a baseline."""
    return keep(found, np.isfinite(found.baseline))


def recallable_rows(group: Group, allow: dict[int, NDArray[np.bool_]]) -> tuple[Ints, Ints, Ints]:
    """Partition, row and first outcome's revision of every memory that may be recalled."""
    partitions: list[Ints] = []
    rows: list[Ints] = []
    firsts: list[Ints] = []
    for lane in group.lanes:
        mask = allow.get(lane.partition)
        if mask is None:
            continue
        row = np.flatnonzero(mask)
        rows.append(row)
        partitions.append(np.full(len(row), lane.partition, np.int64))
        firsts.append(group.table.first_revision[lane.entry_of_row.array[row]])
    return np.concatenate(partitions), np.concatenate(rows), np.concatenate(firsts)


def success_probability(table: Table, found: Found, said: Recalled) -> float | None:
    """Share of similar forecasts that beat their baseline, shrunk towards one half; None of none."""
    predicted = table.entry["predicted"][found.entry]
    is_there = np.isfinite(predicted) & np.isfinite(found.baseline)
    share = float(np.count_nonzero(is_there)) / len(is_there)
    if share == 0.0:
        return None
    # Which of two is nearer does not depend on the loss.
    ours = np.abs(predicted[is_there] - found.outcome[is_there])
    naive = np.abs(found.baseline[is_there] - found.outcome[is_there])
    won = (ours < naive) + 0.5 * (ours == naive)
    weight = said.weights[is_there]
    rate = float(np.sum(weight * won) / np.sum(weight))
    n = float(said.effective) * share
    return (rate * n + 0.5 * PRIOR_MEMORIES) / (n + PRIOR_MEMORIES)


def doubts(
    said: Recalled,
    alpha: float,
    level: float,
    success: float | None,
    distance: float,
    typical: float,
) -> tuple[str, ...]:
    """What speaks against relying on what was recalled."""
    found: list[str] = []
    if float(said.effective) < FEW:
        found.append(f"it rests on {float(said.effective):.1f} memories")
    if typical > 0.0 and distance > typical:
        found.append("such situations are rare in memory")
    if alpha < 0.5 * (1.0 - level):
        found.append("recent intervals missed too often, so this one is widened")
    if success is not None and success < 0.4:
        found.append("forecasts lost to their baseline in similar situations")
    return tuple(found)


def pattern_doubts(pattern: Pattern) -> tuple[str, ...]:
    """What speaks against relying on a pattern alone."""
    found: list[str] = []
    if pattern.against > 0.5:
        found.append(f"what came since is {pattern.against:.0%} of what would retire the pattern")
    if pattern.trust < 0.9:
        found.append(
            f"a source of the pattern forecasts worse than its baseline: {pattern.trust:.2f}"
        )
    return tuple(found)
