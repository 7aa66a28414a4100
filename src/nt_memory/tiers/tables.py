"""The tables of the views, and reads of those that are no more than rows under keys."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from nt_memory import codec
from nt_memory.errors import TrimmedError
from nt_memory.tiers.layout import (
    ROW_KEY,
    U64,
    LogRow,
    LogTimes,
    PartitionRow,
    VectorRow,
    Version,
    decode_log,
    decode_log_times,
    decode_partition,
    decode_version,
    parse_expiry,
    row_key,
    unpack_row,
)
from nt_memory.tiers.sealing import is_covered, unseal, unseal_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


LOG = b"log"
PARTITIONS = b"partitions"
_VERSIONS = b"versions"
TABLES = (
    b"meta",
    b"versions",
    b"expiries",
    b"log",
    b"requests",
    b"request_times",
    b"partitions",
    b"rows",
    b"locks",
    b"electorate",
    b"proposals",
    b"policies",
    b"usage",
)
_ROWS_AT_ONCE = 64


def _check_value(version: Version) -> None:
    if version.value is not None:
        codec.check(version.value)


class Tables:
    """Reads of one LMDB transaction, but for those of versions: see `views.Snapshot`.

    Args:
        tables: LMDB's handles, by name.
        txn: The transaction; ended by its owner.
    """

    def __init__(self, tables: dict[bytes, Any], txn: Any) -> None:
        self._tables = tables
        self.txn = txn

    def get(self, table: bytes, key: bytes) -> bytes | None:
        """A value of any table."""
        found: bytes | None = self.txn.get(key, db=self._tables[table])
        return None if found is None else unseal(table, key, found)

    def values(self, table: bytes, keys: Sequence[bytes]) -> list[bytes] | None:
        """The values under several keys of a table, in their order; None if one is not there.

        Args:
            table: Which.
            keys: No key twice.

        Cost: three quarters of as many `get`.
        """
        with self.txn.cursor(self._tables[table]) as cursor:
            found = cursor.getmulti(keys)
        if len(found) != len(keys):
            return None
        return [value for _, value in unseal_rows(table, found)]

    def number(self, key: bytes) -> int | None:
        """A number of the table `meta`."""
        data = self.get(b"meta", key)
        return None if data is None else int(data)

    def items(self, table: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Items of a table from `start` on, in key order. Do not use across an await."""
        with self.txn.cursor(self._tables[table]) as cursor:
            if cursor.set_range(start):
                for key, data in cursor.iternext():
                    yield key, unseal(table, key, data)

    def stored_rows(
        self, table: bytes, start: bytes = b"", *, max_bytes: int = 1 << 20
    ) -> Iterator[list[tuple[bytes, bytes]]]:
        """All rows of a table, verified, as they lie in it and some at a time: for a base.

        Args:
            table: Which.
            start: Where to begin.
            max_bytes: A list ends once it holds more than this.

        Cost: holds the interpreter for tens of microseconds at a time, so that it may run on a
            thread beside the event loop.
        """
        with self.txn.cursor(self._tables[table]) as cursor:
            if not cursor.set_range(start):
                return
            rows: list[tuple[bytes, bytes]] = []
            size = 0
            items = cursor.iternext()
            while some := list(itertools.islice(items, _ROWS_AT_ONCE)):
                for key, data in some:
                    row = unseal(table, key, data)
                    if not is_covered(data) and table == _VERSIONS:
                        # A base that took a damaged value would outlive the entry that has it whole.
                        _check_value(decode_version(row))
                    size += len(key) + len(data)
                rows += some
                if size > max_bytes:
                    yield rows
                    rows, size = [], 0
            if rows:
                yield rows

    def find_rows(self, table: bytes, keys: list[bytes]) -> list[tuple[bytes, bytes]]:
        """Those rows of a table that a search finds under `keys`, as they lie in it."""
        with self.txn.cursor(self._tables[table]) as cursor:
            return list(cursor.getmulti(keys))

    def count(self, table: bytes) -> int:
        """How many rows a table says it has."""
        return int(self.txn.stat(self._tables[table])["entries"])

    def log(self, revision: int) -> LogRow | None:
        """What the entry of a revision did; None if there is no such revision."""
        data = self.get(b"log", U64.pack(revision))
        return None if data is None else decode_log(data)

    def log_times(self, revision: int) -> LogTimes | None:
        """When the entry of a revision was taken; None if there is no such revision."""
        data = self.get(b"log", U64.pack(revision))
        return None if data is None else decode_log_times(data)

    def logs(self, after: int, limit: int | None) -> list[tuple[int, LogRow]]:
        """Up to `limit` log rows with revision > `after`, in order; None: all.

        Raises:
            TrimmedError: the row after `after` was dropped, when the base moved past it.
        """
        rows: list[tuple[int, LogRow]] = []
        for key, data in self.items(b"log", U64.pack(after + 1)):
            rows.append((U64.unpack(key)[0], decode_log(data)))
            if len(rows) == limit:
                break
        if rows and (rows[0][0] != after + 1 or not rows[0][1].position):
            oldest = self.log_floor + 1
            raise TrimmedError(
                f"revision {after + 1} lies before the base; the oldest is {oldest}", oldest=oldest
            )
        return rows

    @property
    def log_floor(self) -> int:
        """The log holds every revision after this one."""
        for key, data in self.items(LOG):
            revision = int(U64.unpack(key)[0])
            return revision - 1 if decode_log_times(data).position else revision
        return 0

    def partition(self, name: bytes) -> PartitionRow | None:
        """A vector partition by name."""
        data = self.get(b"partitions", name)
        return None if data is None else decode_partition(data)

    def partitions(self) -> Iterator[tuple[bytes, PartitionRow]]:
        """All vector partitions."""
        for name, data in self.items(b"partitions"):
            yield name, decode_partition(data)

    def vector_row(self, partition: int, row: int) -> VectorRow | None:
        """A row of a vector partition."""
        data = self.get(b"rows", row_key(partition, row))
        return None if data is None else unpack_row(data)

    def vector_rows(self, partition: int, first: int = 0) -> Iterator[bytes]:
        """Packed rows of a partition from `first` on, in row order: `unpack_row` reads one."""
        prefix = ROW_KEY.pack(partition, 0)[:4]
        for key, data in self.items(b"rows", row_key(partition, first)):
            if not key.startswith(prefix):
                return
            yield data

    def due_expiries(self, now_us: int, limit: int | None) -> list[tuple[bytes, bytes]]:
        """Up to `limit` `(expiry key, version key)` whose time has come, in order."""
        due: list[tuple[bytes, bytes]] = []
        for key, _ in self.items(b"expiries"):
            expires_at, version = parse_expiry(key)
            if expires_at > now_us or (limit is not None and len(due) >= limit):
                break
            due.append((key, version))
        return due

    def next_expiry(self) -> int | None:
        """When the next ttl runs out."""
        for key, _ in self.items(b"expiries"):
            return parse_expiry(key)[0]
        return None
