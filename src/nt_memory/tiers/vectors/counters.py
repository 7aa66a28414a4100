"""What the vector tier counts."""

from __future__ import annotations

from typing import NamedTuple


class VectorStats(NamedTuple):
    """Counters of the tier since open.

    Attributes:
        partitions: Partitions attached.
        rows: Rows of all of them, ended ones included.
        graph_rows: Rows in graphs that are in memory.
        pending: Rows searched by scan until the indexer reaches them.
        bytes: Anonymous memory held: columns, float32 copies, graphs.
        hits: Searches of a partition that found it loaded.
        misses: Searches that had to load it first.
        loads: Graphs loaded from a snapshot or begun.
        unloads: Partitions unloaded.
        failures: Steps of the indexer that failed; each costs time, none results.
    """

    partitions: int
    rows: int
    graph_rows: int
    pending: int
    bytes: int
    hits: int
    misses: int
    loads: int
    unloads: int
    failures: int
