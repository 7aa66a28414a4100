"""`MemoryMap`: what an agent remembers, in two dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nt_memory.reasoningbank import Pattern
    from nt_memory.records import AsOf

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class MemoryMap:
    """A sample of an agent's memories in two dimensions, with the patterns distilled from them.

    Points are in the order in which they were recorded. Near on the map does not mean near: two axes show the share `explained` of what sets memories
    apart. Far on the map does mean far. Arrays are read-only.

    Attributes:
        agent: Whose memories.
        action_type: Situations of which actions; empty: observations.
        as_of: The moment shown, as both clocks.
        total: Memories the sample was drawn from. Of observations as of an earlier revision, at most.
        keys: Of each point: of an observation its key, of a situation its trajectory's id.
        points: Coordinates, shape (n, 2), float32.
        known_at: Since when each is known, UTC, shape (n,), datetime64[us].
        outcomes: What came of each situation, shape (n,); NaN where not known, and of observations.
        scores: How far each forecast's loss lay below its baseline's, shape (n,), NaN likewise.
        tags: Labels of each observation; of situations none.
        patterns: As distilled by then.
        centroids: Coordinates of the patterns, shape (m, 2), float32.
        nearest: Which pattern each point is most similar to, in all dimensions, shape (n,); -1 without.
        explained: Share of the sample's variance along the two axes.
        method: How it was projected.
    """

    agent: str
    action_type: str
    as_of: AsOf
    total: int
    keys: tuple[str, ...]
    points: NDArray[np.float32]
    known_at: NDArray[np.datetime64]
    outcomes: Floats
    scores: Floats
    tags: tuple[tuple[str, ...], ...]
    patterns: tuple[Pattern, ...]
    centroids: NDArray[np.float32]
    nearest: NDArray[np.int64]
    explained: tuple[float, float]
    method: str = "pca"

    def __post_init__(self) -> None:
        """Make the arrays read-only."""
        for array in (
            self.points,
            self.known_at,
            self.outcomes,
            self.scores,
            self.centroids,
            self.nearest,
        ):
            array.flags.writeable = False

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def pattern_ids(self) -> tuple[str, ...]:
        """Name of each pattern."""
        return tuple(pattern.id for pattern in self.patterns)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: columns as lists, None where not known, times as ISO 8601 in UTC."""
        as_of = self.as_of
        return {
            "agent": self.agent,
            "action_type": self.action_type,
            "as_of": {
                "time": as_of.time.isoformat(),
                "revision": as_of.revision,
            },
            "method": self.method,
            "explained": list(self.explained),
            "total": self.total,
            "keys": list(self.keys),
            "points": self.points.tolist(),
            "known_at": [f"{one}Z" for one in np.datetime_as_string(self.known_at).tolist()],
            "outcomes": _plain(self.outcomes),
            "scores": _plain(self.scores),
            "tags": [list(some) for some in self.tags],
            "nearest": self.nearest.tolist(),
            "patterns": [
                {
                    "id": pattern.id,
                    "point": point,
                    "n": pattern.n,
                    "radius": pattern.radius,
                    "outcome_mean": pattern.outcome_mean,
                    "unit": pattern.unit,
                    "success_rate": pattern.success_rate,
                    "said": pattern.describe(),
                }
                for pattern, point in zip(self.patterns, self.centroids.tolist(), strict=True)
            ],
        }


def _plain(values: Floats) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]
