"""What is done to sealed graphs in the background: arranged, measured, saved, mapped, merged.

Nothing of it holds a lock that a search or the indexer could wait for; what comes out takes the place
of what it was made of in one step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nt_memory.errors import StorageError
from nt_memory.tiers.vectors.growth import Outcome
from nt_memory.tiers.vectors.locality import is_scattered
from nt_memory.tiers.vectors.merging import Build, Shape, plan
from nt_memory.tiers.vectors.saved import EFFORT_KEY
from nt_memory.tiers.vectors.scanners import widen
from nt_memory.tiers.vectors.sealed import Sealed
from nt_memory.tiers.vectors.together import TOGETHER_KEY, tune_together
from nt_memory.tiers.vectors.tuning import tune

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nt_memory.tiers.vectors.chain import Chain
    from nt_memory.tiers.vectors.growth import Pace
    from nt_memory.tiers.vectors.index import Graph
    from nt_memory.tiers.vectors.state import State

# Measuring together scans all graphs for 256 queries, which a small one beside large ones does not pay back;
# what was measured of those holds when it comes.
_SMALL_SHARE = 4


class Tidying:
    """Works on one chain, on one thread at a time.

    Args:
        chain: Whose graphs.
    """

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._build: Build | None = None
        self._arranged_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Anonymous bytes of graphs in the making."""
        build = self._build
        return self._arranged_bytes + (0 if build is None else build.held_bytes)

    def step(self, pace: Pace) -> Outcome:
        """Do something for the chain, or some of it.

        Raises:
            StorageError: rows cannot be read, or what was written cannot.
            OSError: a snapshot could not be written. What was being built is lost.
        """
        chain = self._chain
        if chain.is_detached:
            self._build = None
            return Outcome.DONE
        if self._build is not None:
            self._go_on(self._build, pace)
            return Outcome.MORE
        state = chain.state
        if state is None:
            return Outcome.DONE
        if not chain.saved.read_only:
            for part in state.sealed:
                if not part.graph.mapped_bytes or self._is_unfinished(part):
                    self._map(part, pace)
                    return Outcome.MORE
        return Outcome.MORE if self._begin(state) else Outcome.DONE

    def _go_on(self, build: Build, pace: Pace) -> None:
        try:
            if build.step(pace.hold, pace.threads):
                return
            finished = build.finish()
            finished = self._kept(finished, pace) or finished
        except BaseException:
            self._build = None
            raise
        self._chain.replace(finished)
        self._chain.merges += 1
        self._build = None

    def _begin(self, state: State) -> bool:
        view = self._chain.columns.view
        # Nothing can be known later than now, so what had ended by then has ended now.
        horizon_us = view.max_from
        shapes = [
            Shape(part.first, part.stop, part.graph.rows, part.ended_share(view, horizon_us))
            for part in state.sealed
        ]
        if state.growing is not None:
            # An empty one, to have the gap before the growing graph filled.
            shapes.append(Shape(state.growing.first, state.growing.first, 0, 0.0))
        chosen = plan(shapes, self._chain.most_rows)
        if chosen is None:
            return False
        base: tuple[Graph, Sealed] | None = None
        if chosen.is_extended:
            part = next(part for part in state.sealed if part.first == chosen.first)
            graph = self._copy(part)
            if graph is None:
                return False
            base = graph, part
        self._build = Build(
            self._chain.source,
            self._chain.tuning,
            chosen,
            base,
            view,
            horizon_us=horizon_us,
            most_rows=self._chain.most_rows,
        )
        return True

    def _copy(self, part: Sealed) -> Graph | None:
        if not part.graph.mapped_bytes:
            return part.graph.clone()
        path = self._chain.saved.path(part.first, part.stop)
        return self._chain.saved.load(path, self._chain.columns.view.rows)

    def _is_unmeasured(self, part: Sealed) -> bool:
        return part.graph.rows >= self._chain.tuning.seal and EFFORT_KEY not in part.content.extra

    def _is_unfinished(self, part: Sealed) -> bool:
        return self._is_unmeasured(part) or self._can_be_arranged(part)

    def _can_be_arranged(self, part: Sealed) -> bool:
        """Whether searches of it would be quicker, and there is room for a copy.

        What is held in memory and too large for two of it is written as it is, and arranged from its file.
        """
        graph = part.graph
        room = self._chain.most_rows if graph.mapped_bytes else self._chain.most_rows // 2
        return (
            is_scattered(graph.rows, graph.arranged, self._chain.tuning.arrange)
            and graph.rows <= room
        )

    def _map(self, part: Sealed, pace: Pace) -> None:
        """Serve a sealed graph from its file."""
        if part.is_saved and not self._is_unfinished(part):
            path = self._chain.saved.path(part.first, part.stop)
            mapped = self._chain.saved.map(path, self._chain.columns.view.rows)
        else:
            mapped = self._kept(part, pace)
        if mapped is None:
            part.is_saved = False
            raise StorageError(f"the index of rows {part.first} to {part.stop} was not saved")
        self._chain.replace(mapped)

    def _kept(self, part: Sealed, pace: Pace) -> Sealed | None:
        """A sealed graph arranged, measured, saved and mapped; None if that cannot be."""
        if self._chain.saved.read_only or self._chain.is_detached:
            return None
        try:
            if self._can_be_arranged(part):
                self._arranged_bytes = part.graph.rows * self._chain.row_bytes
                part = Sealed(
                    part.first, part.stop, part.graph.arrange(), part.content, is_saved=False
                )
            return self._written(part, pace)
        finally:
            self._arranged_bytes = 0

    def _written(self, part: Sealed, pace: Pace) -> Sealed | None:
        if self._is_unmeasured(part):
            effort = tune(
                part.graph,
                lambda at: self._vectors(part, at),
                go_on=pace.go_on,
                threads=pace.threads,
            )
            if effort is not None:  # else the tier is being closed, and the next one measures it
                extra = part.content.extra | {EFFORT_KEY: effort}
                part.content = part.content._replace(extra=extra)
                part.graph.effort = effort
        self._measure_together(part, pace)
        path = self._chain.saved.path(part.first, part.stop)
        self._chain.saved.write(path, part.first, part.stop, part.graph, part.content)
        return self._chain.saved.map(path, self._chain.columns.view.rows)

    def _measure_together(self, part: Sealed, pace: Pace) -> None:
        """See how narrowly a new graph and those that stay beside it can be searched."""
        state = self._chain.state
        if state is None or EFFORT_KEY not in part.content.extra:
            return
        others = [
            other
            for other in state.sealed
            if (other.stop <= part.first or other.first >= part.stop)
            and EFFORT_KEY in other.content.extra
        ]
        rows = part.graph.rows + sum(other.graph.rows for other in others)
        if not others or part.graph.rows * _SMALL_SHARE < rows:
            return
        parts = sorted([*others, part], key=lambda one: one.first)
        stop = parts[-1].stop
        found = tune_together(
            parts, lambda rows: widen(self._chain.source.mapped(stop)[rows]), go_on=pace.go_on
        )
        if found is not None:
            kept = [[one.first, one.stop, effort] for one, effort in zip(parts, found, strict=True)]
            extra = part.content.extra | {TOGETHER_KEY: kept}
            part.content = part.content._replace(extra=extra)

    def _vectors(self, part: Sealed, at: NDArray[np.int64]) -> NDArray[np.float32]:
        return widen(self._chain.source.mapped(part.stop)[part.numbers(at)])
