"""What the vector tier counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nt_memory.tiers.vectors.partition import Partition


class VectorStats(NamedTuple):
    """Counters of the tier since open.

    Attributes:
        partitions: Partitions attached.
        rows: Rows of all of them, ended ones included.
        graph_rows: Rows that graphs cover.
        graphs: Graphs at hand; a search of a partition asks all of its own.
        pending: Rows searched by scan until the indexer reaches them.
        bytes: Anonymous memory held: columns, float32 copies, graphs.
        mapped_bytes: Bytes of files that graphs are served from; page cache, not this process's.
        written_bytes: Bytes of graphs written to files.
        hits: Searches of a partition that found it loaded.
        misses: Searches that had to load it first.
        loads: Partitions whose graphs were loaded, mapped or begun.
        unloads: Partitions unloaded.
        merges: Graphs made of others, or anew without what had ended.
        failures: Steps in the background that failed; each costs time, none results.
        is_idle: Nothing is being built, measured, saved or merged, or about to be.
    """

    partitions: int
    rows: int
    graph_rows: int
    graphs: int
    pending: int
    bytes: int
    mapped_bytes: int
    written_bytes: int
    hits: int
    misses: int
    loads: int
    unloads: int
    merges: int
    failures: int
    is_idle: bool


def count(
    held: Sequence[Partition],
    growing: Sequence[Partition],
    *,
    hits: int,
    misses: int,
    unloads: int,
    failures: int,
    is_idle: bool,
) -> VectorStats:
    """Counters of partitions, of those that nobody searches yet, and of what goes on around them.

    Cost: O(partitions).
    """
    return VectorStats(
        partitions=len(held),
        rows=sum(partition.columns.view.rows for partition in held),
        graph_rows=sum(partition.graph_rows for partition in held),
        graphs=sum(partition.index.graphs for partition in held),
        pending=sum(partition.pending for partition in held),
        bytes=sum(partition.held_bytes for partition in (*held, *growing)),
        mapped_bytes=sum(partition.index.mapped_bytes for partition in held),
        written_bytes=sum(partition.index.written_bytes for partition in held),
        hits=hits,
        misses=misses,
        loads=sum(partition.index.loads for partition in held),
        unloads=unloads,
        merges=sum(partition.index.merges for partition in held),
        failures=failures,
        is_idle=is_idle,
    )
