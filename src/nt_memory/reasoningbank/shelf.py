"""Patterns laid out for questions: their middles as one array, so that no call goes through all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.reasoningbank.describing import WITH_BASELINE, WITHOUT_BASELINE
from nt_memory.reasoningbank.recall import distances

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nt_memory.reasoningbank.pattern import Pattern
    from nt_memory.reasoningbank.question import Question

NEAREST = 3


class Shelf(NamedTuple):
    """Some agents' patterns of one action type and dimension.

    Attributes:
        revisions: Of each agent's set, by which it is told whether the shelf is that of a moment.
        in_force: Those that were not retired.
        centroids: Theirs, shape (n, dim).
        promoted: Those that are promoted.
        middles: Their centroids, shape (p, dim).
    """

    revisions: list[int]
    in_force: list[Pattern]
    centroids: NDArray[np.float64]
    promoted: list[Pattern]
    middles: NDArray[np.float64]

    def nearest(self, question: Question) -> tuple[Pattern, ...]:
        """Those in force that lie nearest, nearest first."""
        if not self.in_force:
            return ()
        scores = np.sum(self.centroids * question.query, axis=1)
        return tuple(self.in_force[place] for place in _highest(scores, NEAREST))

    def covering(self, question: Question) -> Pattern | None:
        """The nearest promoted one that a question lies within, if it speaks of what is asked."""
        wanted = WITH_BASELINE if question.baseline is not None else WITHOUT_BASELINE
        if not self.promoted:
            return None
        definition = question.definition
        unit = "" if definition is None else definition.unit
        apart = distances(np.sum(self.middles * question.query, axis=1))
        for place in map(int, np.argsort(apart, kind="stable")):
            one = self.promoted[place]
            if one.surprise == wanted and one.unit == unit and apart[place] <= one.radius:
                return one
        return None


def shelve(revisions: list[int], found: Sequence[Pattern]) -> Shelf:
    """A shelf of these patterns, all of one dimension."""
    in_force = [one for one in found if one.is_in_force]
    promoted = [one for one in found if one.is_promoted]
    return Shelf(revisions, in_force, _middles(in_force), promoted, _middles(promoted))


def _highest(scores: NDArray[np.float64], n: int) -> list[int]:
    """Places of the `n` highest scores, highest first; of equal ones the first."""
    places = np.arange(len(scores))
    if len(scores) > n:
        # Of a thousand patterns three are wanted: sorting all of them took longer than their scores.
        places = np.flatnonzero(scores >= np.partition(scores, len(scores) - n)[-n])
    order = np.argsort(-scores[places], kind="stable")[:n]
    found: list[int] = places[order].tolist()
    return found


def _middles(patterns: Sequence[Pattern]) -> NDArray[np.float64]:
    return np.array([one.centroid for one in patterns], np.float64)
