"""What the filters of one search let pass, as far as the tables know."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.system.filtering.masks import mask_of
from nt_memory.system.filtering.tags import to_mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from pyroaring import BitMap

    from nt_memory.filters import Field, Filter
    from nt_memory.system.filtering.columns import ColumnView


class Part(NamedTuple):
    """One partition of a search.

    Attributes:
        partition: Its id.
        rows: Rows it has.
        tagged: Rows that carry the wanted tags or of which that is not known; None: of none it is.
        tagged_rows: How many rows that speaks of; later ones may carry anything.
        columns: What there is of the fields that are compared.
        by: How the filters are evaluated: of "tags", "columns" and "reading" those that apply.
        is_whole: Whether nothing has to be read to know what passes.
    """

    partition: int
    rows: int
    tagged: BitMap | None
    tagged_rows: int
    columns: dict[Field, ColumnView]
    by: tuple[str, ...]
    is_whole: bool


class Sieve:
    """The rows that may pass, by partition: never too few, and no others where tables are whole.

    Made on the loop, in microseconds; the masks may be made on any thread.

    Args:
        parts: The partitions.
        where: What their data must pass; None: anything.
    """

    def __init__(self, parts: Sequence[Part], where: Filter | None) -> None:
        self.parts = parts
        self._where = where
        self._masks: dict[int, NDArray[np.bool_]] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether nothing has to be read to know what passes."""
        return all(part.is_whole for part in self.parts)

    @property
    def rows(self) -> int:
        """Rows of all partitions."""
        return sum(part.rows for part in self.parts)

    def masks(self) -> dict[int, NDArray[np.bool_]] | None:
        """Rows that may pass, by partition; None: all. Made once.

        Cost: for a million rows 0.1 ms for tags, 0.1 to 2 ms a comparison; see `mask_of`.
        """
        if self._masks is None:
            found = {part.partition: self._mask(part) for part in self.parts}
            if all(mask is None for mask in found.values()):
                return None
            self._masks = {
                part.partition: np.ones(part.rows, np.bool_) if mask is None else mask
                for part, mask in zip(self.parts, found.values(), strict=True)
            }
        return self._masks

    def _mask(self, part: Part) -> NDArray[np.bool_] | None:
        passing = None if self._where is None else mask_of(self._where, part.columns, part.rows)
        if part.tagged is None:
            return passing
        tagged = to_mask(part.tagged, part.rows)
        tagged[part.tagged_rows :] = True
        return tagged if passing is None else np.logical_and(tagged, passing, out=tagged)
