"""How widely rows are linked as they are added to a graph (efConstruction): widely at first, then as it needs.

Building costs about in proportion to it. What is missed for want of links is whole neighbourhoods: rows
that came early were put in without finding each other, and later ones find no way between them, however widely
those are linked. So the first 262,144 rows are linked widely, which is cheap while a graph is small, and the others
narrowly, unless searches show that too much is missed. That is looked at whenever the rows have doubled.

A million rows of 384 values (`subspace`), two threads; what 1,000 new vectors find of their ten nearest with a breadth of 64, and
the time until all were in the graph: 112, then 50: 0.990, 80 s; 80, then 60: 0.973, 77 s; 40, and 80 from 65,536 on:
0.972, 89 s; 112 up to 65,536 and then 50: 0.973; 40, 64 from 262,144 and 80 from 524,288 on: 0.928, 87 s; 40, and 60 from 524,288 on: 0.909, 69 s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nt_memory.tiers.vectors.tuning import examination

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from nt_memory.tiers.vectors.index import Graph

WIDE = 112
"""For the first rows of a graph, and wherever too much is missed."""
NARROW = 50
"""For the others, and for graphs whose rows will be added to a larger one."""
FIRST_LOOK = 1 << 18
"""So many rows are linked widely before it is asked what they need."""
_QUERIES = 128
_EFFORT = 96
_ENOUGH = 0.985
"""What is missed by searches so wide, beyond this, is missed for want of links."""


def is_due(before: int, after: int) -> bool:
    """Whether a graph that grew from so many rows to so many should be looked at: it has doubled."""
    return after >= FIRST_LOOK and before.bit_length() != after.bit_length()


def begun(graph: Graph, *, is_lasting: bool) -> int:
    """The breadth for the next rows of a graph, as far as that is known without a look at it.

    Args:
        graph: Which.
        is_lasting: Its rows will not be added to a larger one.
    """
    if graph.rows >= FIRST_LOOK:
        return graph.breadth or WIDE
    return WIDE if is_lasting else NARROW


def chosen(
    graph: Graph,
    read: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    go_on: Callable[[], bool],
    threads: int = 1,
) -> int:
    """The breadth that the next rows should be added with: `WIDE` or `NARROW`.

    Args:
        graph: Nothing may be added to it meanwhile.
        read: The vectors of given rows, shape (n, dim).
        go_on: Asked now and then; False: leave it as it is.
        threads: To look with.

    Cost: a scan of all codes for each of 128 queries: 0.7 s at 262,144 rows of 384 values, 2.4 s at a
        million, on one thread.
    """
    exam = examination(graph, read, _QUERIES, go_on, threads)
    if exam is None:
        return graph.breadth
    return NARROW if exam.share(graph, _EFFORT) >= _ENOUGH else WIDE
