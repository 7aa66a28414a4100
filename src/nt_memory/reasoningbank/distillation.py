"""Patterns: what a cluster of similar situations led to. A pattern is a statistic, not a story.

Situations are clustered on their frozen embeddings alone; clusters never see outcomes, so that an
outcome cannot choose the company it is judged in. One stored version holds all patterns of an agent
and action type, so a distillation replaces the one before as a whole.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nt_memory import codec
from nt_memory.entries import PATTERN, Stored, WriteOp
from nt_memory.reasoningbank.dependence import Z95, Mean, daily_mean
from nt_memory.reasoningbank.judging import judge_entries
from nt_memory.reasoningbank.recall import distances
from nt_memory.reasoningbank.wire import pack_rows, split_key, unpack_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nt_memory.reasoningbank.advice import MemoryRef
    from nt_memory.reasoningbank.backing import Backing, KMeans
    from nt_memory.reasoningbank.judging import History
    from nt_memory.reasoningbank.memories import Memories
    from nt_memory.reasoningbank.question import Question
    from nt_memory.timeline import Moment

MIN_SITUATIONS = 50
PER_PATTERN = 50
MAX_PATTERNS = 64
NEAREST = 3
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True, slots=True, eq=False)
class Pattern:
    """What one cluster of an agent's situations led to.

    Attributes:
        id: Its name: action type, distillation and number.
        agent: Whose situations.
        action_type: Of which actions.
        unit: Of the outcomes.
        centroid: Middle of the cluster, a unit vector, shape (dim,).
        radius: Chord distance from it that holds nine tenths of the situations.
        n: Situations.
        n_effective: Independent outcomes they are worth.
        outcome_mean: Mean outcome.
        outcome_error: Its standard error, counting dependence.
        outcome_quantiles: Outcomes at probabilities 0.1, 0.25, 0.5, 0.75 and 0.9.
        success_rate: Share of forecasts whose loss was below their baseline's; None without any.
        success_low: Lower end of its 95 % interval.
        success_high: Upper end.
        failures: Forecasts that lost to their baseline.
        failure_error: Their mean error (predicted minus actual); None without any.
        failed: The worst of them, worst first: trajectory ids.
        as_of_us: Known by when, microseconds.
        p_value: None until patterns are tested for promotion, which nothing does yet.
        is_promoted: False until then.
    """

    id: str
    agent: str
    action_type: str
    unit: str
    centroid: NDArray[np.float32]
    radius: float
    n: int
    n_effective: float
    outcome_mean: float
    outcome_error: float
    outcome_quantiles: tuple[float, ...]
    success_rate: float | None
    success_low: float | None
    success_high: float | None
    failures: int
    failure_error: float | None
    failed: tuple[str, ...]
    as_of_us: int
    sources_packed: tuple[tuple[int, int, bytes], ...]
    resolve: Callable[[NDArray[np.int64], NDArray[np.int64]], list[MemoryRef]]
    p_value: float | None = None
    is_promoted: bool = False

    @property
    def sources(self) -> list[MemoryRef]:
        """The actions it was drawn from. Cost: about a microsecond each."""
        return self.resolve(*unpack_rows(self.sources_packed))

    def describe(self) -> str:
        """The pattern in words, made from its numbers."""
        low, high = self.outcome_quantiles[0], self.outcome_quantiles[-1]
        text = (
            f"{self.n} such situations of {self.agent} (worth {self.n_effective:.0f}) came to "
            f"{self.outcome_mean:.4g} {self.unit}".rstrip()
            + f" on average, mostly {low:.4g} to {high:.4g}"
        )
        if self.success_rate is not None:
            text += f"; {self.success_rate:.0%} of the forecasts beat their baseline"
        return text + "."


def wilson(share: float, n: float) -> tuple[float, float]:
    """95 % interval of a share of `n` independent trials. Source: Wilson 1927."""
    square = Z95 * Z95
    middle = (share + square / (2.0 * n)) / (1.0 + square / n)
    half = Z95 * math.sqrt(share * (1.0 - share) / n + square / (4.0 * n * n)) / (1.0 + square / n)
    # Rounding may push an end that is exactly 0 or 1 just past it.
    return max(middle - half, 0.0), min(middle + half, 1.0)


class PatternBook:
    """Distils, stores and finds patterns.

    Args:
        backing: Vectors.
        memories: The columns, and the stored patterns.
        resolve: Names rows.
        kmeans: Clusters vectors.
        seed: Of the clustering.
    """

    def __init__(
        self,
        backing: Backing,
        memories: Memories,
        resolve: Callable[[NDArray[np.int64], NDArray[np.int64]], list[MemoryRef]],
        *,
        kmeans: KMeans,
        seed: int,
    ) -> None:
        self._backing = backing
        self._kmeans = kmeans
        self._memories = memories
        self._resolve = resolve
        self._seed = seed
        self._decoded: dict[tuple[str, str, int], tuple[Pattern, ...]] = {}

    async def distil(self, agent: str, moment: Moment) -> list[WriteOp]:
        """Cluster an agent's situations whose outcome counts at a moment; what to write."""
        ops: list[WriteOp] = []
        for name in sorted(self._memories.tables):
            table = self._memories.tables[name]
            lane = table.lanes.get(agent)
            definition = self._memories.definition(name, moment)
            if lane is None or lane.partition < 0:
                continue
            view = table.view(moment)
            mask = view.mask(lane, self._memories.family(definition)).lend()
            rows = np.flatnonzero(mask)
            if len(rows) < MIN_SITUATIONS:
                continue
            entries = lane.entry_of_row.array[rows]
            found = judge_entries(
                table, lane, definition, entries, view.value[entries], view.known[entries]
            )
            vectors = self._backing.vectors(lane.partition, rows)
            k = min(MAX_PATTERNS, max(1, len(rows) // PER_PATTERN))
            _, cluster = await asyncio.to_thread(self._kmeans, vectors, k, self._seed)
            patterns = await asyncio.to_thread(_describe_all, found, rows, vectors, cluster, moment)
            known = moment.time_us
            ops.append(WriteOp(PATTERN, agent, name, codec.encode(patterns), known))
        return ops

    def at(self, agent: str, moment: Moment) -> list[Pattern]:
        """An agent's patterns that a moment shows, by action type and number."""
        found: list[Pattern] = []
        for owner, name in sorted(self._memories.patterns):
            if owner == agent:
                found.extend(self._set_at(agent, name, moment))
        return found

    def nearest(self, question: Question) -> tuple[Pattern, ...]:
        """The patterns of the agents asked that lie nearest to a question, nearest first."""
        if not self._memories.patterns:
            return ()
        found = [
            pattern
            for agent in dict.fromkeys(question.agents)
            for pattern in self._set_at(agent, question.action_type, question.moment)
            if len(pattern.centroid) == len(question.query)
        ]
        if not found:
            return ()
        centroids = np.stack([pattern.centroid for pattern in found]).astype(np.float64)
        scores = np.sum(centroids * question.query, axis=1)
        return tuple(found[place] for place in np.argsort(-scores, kind="stable")[:NEAREST])

    def _set_at(self, agent: str, action_type: str, moment: Moment) -> tuple[Pattern, ...]:
        versions = self._memories.patterns.get((agent, action_type))
        stored = None if versions is None else versions.at(moment)
        if stored is None:
            return ()
        key = (agent, action_type, stored.revision)
        found = self._decoded.get(key)
        if found is None:
            if len(self._decoded) >= 1024:
                self._decoded.clear()
            found = self._decoded[key] = self._decode(stored)
        return found

    def _decode(self, stored: Stored) -> tuple[Pattern, ...]:
        return tuple(
            Pattern(
                agent=stored.agent,
                action_type=stored.key,
                resolve=self._resolve,
                **{name: _plain(value) for name, value in one.items()},
            )
            for one in codec.decode(stored.value or b"")
        )


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _describe_all(
    found: History,
    rows: NDArray[np.int64],
    vectors: NDArray[np.float32],
    cluster: NDArray[np.int64],
    moment: Moment,
) -> list[dict[str, Any]]:
    return [
        _describe(found, rows, vectors, np.flatnonzero(cluster == number), number, moment)
        for number in np.unique(cluster).tolist()
    ]


def _describe(
    found: History,
    rows: NDArray[np.int64],
    vectors: NDArray[np.float32],
    members: NDArray[np.int64],
    number: int,
    moment: Moment,
) -> dict[str, Any]:
    middle = np.sum(vectors[members], axis=0, dtype=np.float64)
    length = math.sqrt(float(np.sum(middle * middle)))
    centroid = (middle / length if length > 0.0 else vectors[members[0]]).astype(np.float32)
    apart = distances(np.sum(vectors[members].astype(np.float64) * centroid, axis=1))
    outcome = found.forecasts.actual[members]
    mean = daily_mean(outcome, found.at[members], found.horizon_days)
    partition = np.full(len(members), found.lane.partition, np.int64)
    return {
        "id": f"{found.table.action_type}/{moment.time_us}-{moment.revision}/{number}",
        "unit": "" if found.definition is None else found.definition.unit,
        "centroid": centroid,
        "radius": float(np.quantile(apart, 0.9)),
        "n": len(members),
        "n_effective": mean.n_effective,
        "outcome_mean": mean.value,
        "outcome_error": mean.standard_error,
        "outcome_quantiles": tuple(np.quantile(outcome, QUANTILES).tolist()),
        **_contrast(found, members),
        "as_of_us": moment.time_us,
        "sources_packed": pack_rows(partition, rows[members]),
    }


def _contrast(found: History, members: NDArray[np.int64]) -> dict[str, Any]:
    """How often forecasts of the cluster worked, and what failed."""
    skill = found.judged.skill[members]
    members = members[np.isfinite(skill)]
    skill = skill[np.isfinite(skill)]
    rate, low, high = None, None, None
    if len(skill):
        won: Mean = daily_mean(
            (skill > 0.0).astype(np.float64), found.at[members], found.horizon_days
        )
        rate, (low, high) = won.value, wilson(won.value, max(won.n_effective, 1.0))
        # At 0 and 1 rounding could leave the rate outside its own interval.
        low, high = min(low, rate), max(high, rate)
    lost = members[skill < 0.0]
    worst = lost[np.argsort(found.judged.skill[lost], kind="stable")][:10]
    names = [split_key(found.table.key(int(found.entries[one])))[0] for one in worst]
    return {
        "success_rate": rate,
        "success_low": low,
        "success_high": high,
        "failures": len(lost),
        "failure_error": float(np.mean(found.judged.error[lost])) if len(lost) else None,
        "failed": tuple(dict.fromkeys(names)),
    }
