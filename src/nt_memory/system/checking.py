"""Are views that nobody closed whole? Every row is read, and looked up once more.

Problem: LMDB has no checksums. A row has one (`tiers.sealing`), but damage to the pages above the rows
makes a lookup miss a row that is there, and a miss looks like "there is none". So before views that
a killed process left are believed, every row is read in order and verified, and every key is sought
as a reader would seek it. The vectors are compared with the checksums that were written with them.

Damage to a mapped file may also stop the process that reads it. Whoever must survive that asks
`check_apart`; opening a store instead leaves a mark in `views/STATE` while it checks, so that the
next open does not try again.

Cost: 3.5 us a row and 1.2 us a vector of 64 values, measured on two cores that others were using too;
100,000 observations have 200,000 rows.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nt_memory.errors import CorruptionError, NtMemoryError
from nt_memory.tiers.cold import ColdTier
from nt_memory.tiers.tables import TABLES
from nt_memory.tiers.vectors import VectorFiles

if TYPE_CHECKING:
    from nt_memory.tiers.views import Snapshot
    from nt_memory.transport.directory import StoreDirectory

_MAP_BYTES = 1 << 40


class Reached(NamedTuple):
    """How far views go: the last entry they have applied, and that entry's time."""

    sequence: int
    recorded_at: int


def check_views(cold: ColdTier, files: VectorFiles) -> Reached:
    """Read everything there is in views.

    Returns:
        How far they go.

    Raises:
        CorruptionError: something is damaged; the message says what.
        StorageError: something could not be read.
    """
    snapshot = cold.snapshot()
    try:
        for table in TABLES:
            _check_table(snapshot, table)
        for _, partition in snapshot.partitions():
            files.check(partition.file, partition.dim, partition.rows)
        return Reached(snapshot.number(b"sequence") or 0, snapshot.number(b"recorded_at") or 0)
    except Exception as error:
        explained = cold.explain(error)
        if explained is error:
            raise
        raise explained from error
    finally:
        snapshot.close()


def _check_table(snapshot: Snapshot, table: bytes) -> None:
    """Its rows are in order, found where a reader looks, and as many as it says."""
    count, last = 0, b""
    name = f"views: {table.decode()}"
    for rows in snapshot.stored_rows(table):
        keys = [key for key, _ in rows]
        if keys != sorted(keys) or (count and keys[0] <= last):
            raise CorruptionError(f"{name}: rows are out of order before {keys[-1]!r}")
        if snapshot.find_rows(table, keys) != rows:
            raise CorruptionError(f"{name}: a row up to {keys[-1]!r} cannot be found")
        count, last = count + len(rows), keys[-1]
    if count != (said := snapshot.count(table)):
        raise CorruptionError(f"{name}: {count} of {said} rows found")


def check_apart(directory: StoreDirectory) -> Reached | None:
    """Have another process check the views; None if they are damaged, or it did not survive them."""
    done = subprocess.run(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-m", __spec__.name, str(directory.path.absolute())],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        return None
    return Reached(*json.loads(done.stdout))


def main(path: str) -> int:
    """Check the views of the store at `path`, print how far they go; 1 if they are damaged."""
    store = Path(path)
    try:
        files = VectorFiles(store / "vectors", read_only=True)
        cold = ColdTier(store / "views", max_map_bytes=_MAP_BYTES, read_only=True)
        reached = check_views(cold, files)
    except (NtMemoryError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(reached))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
