"""What searches of a live partition see: an immutable value, exchanged as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from nt_memory.tiers.vectors.growth import Found, Gap

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nt_memory.tiers.vectors.probe import Probed
    from nt_memory.tiers.vectors.sealed import Growing, Sealed
    from nt_memory.tiers.vectors.visibility import Visible


class State(NamedTuple):
    """The graphs of a partition.

    Attributes:
        sealed: In order of their rows, not overlapping; gaps only after damage.
        growing: Past all of them; None: not begun.
    """

    sealed: tuple[Sealed, ...] = ()
    growing: Growing | None = None

    @property
    def stop(self) -> int:
        """Number of the first row past all graphs."""
        if self.growing is not None:
            return self.growing.stop
        return self.sealed[-1].stop if self.sealed else 0

    @property
    def rows(self) -> int:
        """Rows that need not be scanned now."""
        sealed = sum(part.stop - part.first for part in self.sealed)
        return sealed + (0 if self.growing is None else self.growing.graph.rows)

    def find(self, reach: Visible, queries: NDArray[np.float32], k: int) -> Found:
        """As `Chain.find`."""
        found = Found([[] for _ in queries], [], [])
        at = 0
        for part in self.sealed:
            if part.first >= reach.prefix:
                break
            if at < part.first:
                found.gaps.append(Gap(at, part.first))
            _collect(found, part.find(reach, queries, k))
            left_out = part.left_out(reach)
            if len(left_out):
                found.gaps.append(Gap(part.first, part.stop, left_out))
            at = part.stop
        if self.growing is not None and self.growing.first < reach.prefix:
            if at < self.growing.first:
                found.gaps.append(Gap(at, self.growing.first))
            probed, at = self.growing.find(reach, queries, k)
            _collect(found, probed)
        if at < reach.prefix:
            found.gaps.append(Gap(at, reach.prefix))
        return found


def _collect(found: Found, probed: Probed | None) -> None:
    if probed is None:
        return
    found.notes.append((probed.how, probed.width))
    for mine, more in zip(found.rows, probed.rows, strict=True):
        if len(more):
            mine.append(more)
