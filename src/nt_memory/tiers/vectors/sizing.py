"""How much memory a graph takes, and how large one may get."""

from __future__ import annotations

import math

from nt_memory.tiers.vectors.codes import code_width
from nt_memory.tiers.vectors.growth import Tuning

# Links and bookkeeping of a row, beside its codes: 2 x 16 links of level 0, some above, level, offset, place.
_LINK_BYTES = 160
# Of the memory of all graphs, what the largest may take.
_MEMORY_SHARE = 7 / 8


def row_bytes(dim: int) -> int:
    """Bytes of a row in a graph."""
    return code_width(dim) + _LINK_BYTES


def graph_bytes(dim: int, rows: int) -> int:
    """Of memory for all graphs, the least that lets one hold so many rows."""
    return math.ceil(rows * row_bytes(dim) / _MEMORY_SHARE)


def most_rows(dim: int, max_bytes: int, seal: int = Tuning().seal) -> int:
    """Rows that one graph may hold; more of an agent are in several, each of which is searched.

    Args:
        dim: Values in a row.
        max_bytes: Of memory for all graphs; see `Shares.vectors`.
        seal: Rows of the smallest graph that is kept; two of those may be merged whatever the memory.
    """
    return max(int(_MEMORY_SHARE * max_bytes) // row_bytes(dim), 2 * seal)
