"""Files of partitions that are gone: their vectors and saved graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nt_memory.tiers.vectors import partition_of
from nt_memory.transport.files import to_storage_error

if TYPE_CHECKING:
    from nt_memory.tiers.cold import ColdTier
    from nt_memory.tiers.vectors import VectorFiles
    from nt_memory.transport.directory import StoreDirectory

_SUFFIXES = frozenset((".f16", ".sums"))


def drop_strays(directory: StoreDirectory, cold: ColdTier, files: VectorFiles) -> None:
    """Remove vector files and graphs of partitions that there are not, as a crash may leave them.

    For a store that nobody writes to yet: a partition that is being made has a file first.

    Raises:
        StorageError: one could not be removed.
    """
    snapshot = cold.snapshot()
    try:
        numbers = {row.file for _, row in snapshot.partitions()}
    finally:
        snapshot.close()
    for path in directory.vectors.iterdir():
        partition = partition_of(path)
        if partition is None and path.suffix in _SUFFIXES and path.stem.isdecimal():
            partition = int(path.stem)
        if partition is not None and partition not in numbers:
            drop_partition(files, partition)


def drop_partition(files: VectorFiles, partition: int) -> None:
    """Remove the vectors and the saved graphs of a partition that is gone, or has others now.

    Raises:
        StorageError: one of them could not be removed.
    """
    files.remove(partition)
    for graph in files.path(partition).parent.glob(f"{partition}*.hnsw"):
        if partition_of(graph) != partition:
            continue
        try:
            graph.unlink(missing_ok=True)
        except OSError as error:
            raise to_storage_error(error, f"deleting {graph}") from error
