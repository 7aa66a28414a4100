"""What can be read and written of the views in one transaction: every read is of one revision."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from nt_memory.clock import to_datetime
from nt_memory.errors import TrimmedError
from nt_memory.tiers.layout import (
    BIAS,
    FLOOR,
    U64,
    LogRow,
    Version,
    decode_floor,
    decode_version,
    encode_row,
    parse_name,
    parse_tail,
    version_key,
)
from nt_memory.tiers.sealing import seal, seal_rows, unseal, unseal_rows
from nt_memory.tiers.tables import Tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from nt_memory.timeline import Moment

_VERSIONS = b"versions"
_AFTER_ALL = b"\xff" * 16
_STEPS_BEFORE_SEEK = 4
_TRACED = frozenset((b"locks", b"electorate", b"proposals"))
_REMOVED = b"-"


def after_name(name: bytes) -> bytes:
    """Greater than all versions of a name, and less than every greater name."""
    return name + _AFTER_ALL


class Snapshot(Tables):
    """Reads of one LMDB transaction. Not thread-safe; one owner at a time.

    A snapshot is one revision: all that it returns belongs together.
    """

    def __init__(self, tables: dict[bytes, Any], txn: Any) -> None:
        super().__init__(tables, txn)
        self._versions = txn.cursor(tables[b"versions"])

    def close(self) -> None:
        """End the transaction, so that its pages can be reused. Idempotent."""
        self._versions.close()
        self.txn.abort()

    def current(self, name: bytes) -> tuple[int, int, Version] | None:
        """The greatest `(known_at, revision, version)` of a name, deletes and expired included.

        Cost: one seek, about 0.4 us, and a decode.
        """
        cursor = self._versions
        found = cursor.prev() if cursor.set_range(name + _AFTER_ALL) else cursor.last()
        if not found:
            return None
        key = cursor.key()
        if len(key) != len(name) + 16 or not key.startswith(name):
            self._check_beside(key)
            return None
        known_at, revision = parse_tail(key)
        return known_at, revision, self._decode(key)

    def at(self, name: bytes, moment: Moment) -> tuple[int, int, Version] | None:
        """The version in force at a moment, deletes and expired included.

        Cost: one seek, plus a step back per version that was known by then and recorded after
            `moment.revision`; past the first few, one more seek leaves out those that came later.

        Raises:
            TrimmedError: it was dropped by `history`.
        """
        cursor = self._versions
        bound = version_key(name, moment.time_us, BIAS * 2 - 1)
        found = cursor.prev() if cursor.set_range(bound) else cursor.last()
        steps = 0
        while found:
            key = cursor.key()
            if not key.startswith(name):
                self._check_beside(key)
                break
            known_at, revision = parse_tail(key)
            version = self._decode(key)  # also of those that do not count: a damaged one might
            if revision <= moment.revision:
                return known_at, revision, version
            steps += 1
            skipped = None
            if steps == _STEPS_BEFORE_SEEK:
                skipped = self._seek_recorded(name, known_at, moment)
            found = cursor.prev() if skipped is None else skipped
        self._check_not_trimmed(name, moment)
        return None

    def _seek_recorded(self, name: bytes, known_at: int, moment: Moment) -> bool | None:
        """Go to the last version that can have been recorded by then: whether there is a row.

        None if that skips nothing, and the cursor has not moved.

        Nothing is known before it is recorded, so it was known by the now of that revision.
        """
        times = self.log_times(moment.revision)
        if times is None or times.now_us >= known_at:
            return None
        bound = version_key(name, max(times.now_us, -BIAS), BIAS * 2 - 1)
        cursor = self._versions
        return bool(cursor.prev() if cursor.set_range(bound) else cursor.last())

    def check_floor(self, name: bytes, time_us: int) -> None:
        """Refuse to say what there was of an agent's keys when whole keys of then were dropped.

        Args:
            name: One of the agent's names, or the part of them that says whose they are.
            time_us: As of when.

        Raises:
            TrimmedError: what was known then may have been dropped.
        """
        agent = name[: name.index(b"\0")]
        data = self.get(b"policies", FLOOR + agent)
        if data is None:
            return
        floor = decode_floor(data)
        if time_us < floor.time_us:
            raise TrimmedError(
                f"{agent[1:].decode()}: of what was known before {to_datetime(floor.time_us)} some "
                "was dropped (retention)",
                oldest=floor.revision,
            )

    def _check_not_trimmed(self, name: bytes, moment: Moment) -> None:
        """Nothing was found: was there once something? The oldest version left knows."""
        cursor = self._versions
        if not cursor.set_range(name) or not cursor.key().startswith(name):
            self.check_floor(name, moment.time_us)
            return
        first = cursor.key()
        if self._decode(first).is_trimmed_before:
            _, revision = parse_tail(first)
            _, agent, key = parse_name(name)
            raise TrimmedError(
                f"{agent}/{key}: versions before revision {revision} were dropped",
                oldest=revision,
            )

    def neighbours(
        self, name: bytes, known_at: int, revision: int
    ) -> tuple[tuple[int, int, Version] | None, tuple[int, int] | None]:
        """The version before and the place of the version after `(known_at, revision)`."""
        cursor = self._versions
        after: tuple[int, int] | None = None
        if cursor.set_range(version_key(name, known_at, revision)):
            key = cursor.key()
            self._check_beside(key)
            if key.startswith(name):
                after = parse_tail(key)
            found = cursor.prev()
        else:
            found = cursor.last()
        if not found:
            return None, after
        key = cursor.key()
        if not key.startswith(name):
            self._check_beside(key)
            return None, after
        return (*parse_tail(key), self._decode(key)), after

    def _decode(self, key: bytes) -> Version:
        """The version the cursor is at."""
        return decode_version(unseal(_VERSIONS, key, self._versions.value()))

    def _check_beside(self, key: bytes) -> None:
        """A row that lies where the wanted one would: it could be that one, with a damaged key."""
        unseal(_VERSIONS, key, self._versions.value())

    def are_absent(self, names: Sequence[bytes]) -> bool:
        """Whether there is no version of any of these names, which are in order.

        Cost: a seek, and one more for every stretch of other names' versions that lies between.
        """
        cursor = self._versions
        at = 0
        while at < len(names):
            if not cursor.set_range(names[at]):
                if cursor.last():
                    self._check_beside(cursor.key())
                return True
            beyond = cursor.key()
            self._check_beside(beyond)
            if cursor.prev():
                self._check_beside(cursor.key())
            at = bisect_right(names, beyond, at)
            # No name is a prefix of another, so only the last one that is not greater can be one.
            if beyond.startswith(names[at - 1]):
                return False
        return True

    def version(self, key: bytes) -> Version | None:
        """The version under an exact key."""
        data = self.get(_VERSIONS, key)
        return None if data is None else decode_version(data)

    def versions(self, name: bytes) -> Iterator[tuple[int, int, Version]]:
        """All versions of a name, newest first. Do not use across an await."""
        cursor = self._versions
        found = cursor.prev() if cursor.set_range(name + _AFTER_ALL) else cursor.last()
        while found:
            key = cursor.key()
            if not key.startswith(name):
                return
            yield (*parse_tail(key), self._decode(key))
            found = cursor.prev()

    def version_keys(self, name: bytes) -> list[bytes]:
        """Keys of all versions of a name, oldest first; their values are not read."""
        cursor = self._versions
        keys: list[bytes] = []
        is_there = cursor.set_range(name)
        while is_there and cursor.key().startswith(name):
            keys.append(cursor.key())
            is_there = cursor.next()
        return keys

    def oldest_keys(self, name: bytes, limit: int) -> list[bytes]:
        """Keys of up to `limit` versions of a name, oldest first; their values are not read."""
        cursor = self._versions
        if not cursor.set_range(name):
            return []
        some = itertools.islice(cursor.iternext(keys=True, values=False), limit)
        return list(itertools.takewhile(lambda key: key.startswith(name), some))

    def newest_key(self, name: bytes, number: int) -> bytes | None:
        """Key of the version with `number` newer ones; None if there are not that many."""
        cursor = self._versions
        found = cursor.prev() if cursor.set_range(name + _AFTER_ALL) else cursor.last()
        for _ in range(number):
            if not found or not cursor.key().startswith(name):
                return None
            found = cursor.prev()
        key: bytes = cursor.key()
        return key if found and key.startswith(name) else None

    def next_name(self, after: bytes, prefix: bytes) -> bytes | None:
        """The first name greater than all versions of `after` that starts with `prefix`."""
        return self.first_name(after_name(after) if after else prefix, prefix)

    def first_name(self, start: bytes, prefix: bytes) -> bytes | None:
        """The name of the first version whose key is not less than `start`, and has the prefix."""
        cursor = self._versions
        if not cursor.set_range(max(prefix, start)):
            return None
        key = cursor.key()
        return key[:-16] if key.startswith(prefix) else None

    def versions_after(self, key: bytes, prefix: bytes, limit: int) -> list[tuple[bytes, Version]]:
        """Up to `limit` versions whose key starts with `prefix` and lies after `key`, in order."""
        cursor = self._versions
        if not cursor.set_range(max(prefix, key + b"\0" if key else prefix)):
            return []
        rows = itertools.islice(cursor.iternext(keys=True, values=True), limit)
        mine = itertools.takewhile(lambda row: row[0].startswith(prefix), rows)
        return [(key, decode_version(value)) for key, value in unseal_rows(_VERSIONS, mine)]


class WriteBatch(Snapshot):
    """One write transaction: reads see what it has written so far.

    Attributes:
        trace: Takes what is written that all replicas must write alike; None: nobody asks.

    Args:
        tables: See `Tables`.
        txn: The transaction.
        on_end: Called once, when it has ended one way or the other.
    """

    def __init__(self, tables: dict[bytes, Any], txn: Any, on_end: Callable[[], None]) -> None:
        super().__init__(tables, txn)
        self._on_end: Callable[[], None] | None = on_end
        self.trace: list[bytes] | None = None

    def commit(self) -> None:
        """Make it visible. If that fails it is dropped. For `ColdTier`, which explains the errors."""
        try:
            self.txn.commit()
        finally:
            self._end()

    def close(self) -> None:  # type: ignore[explicit-override]
        """Drop it, unless it was committed. Idempotent."""
        try:
            super().close()
        finally:
            self._end()

    def _end(self) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end()

    def put(self, table: bytes, key: bytes, value: bytes) -> None:
        """Set a value."""
        if self.trace is not None and table in _TRACED:
            self.trace += (table, key, value)
        self.txn.put(key, seal(table, key, value), db=self._tables[table])

    def append(self, table: bytes, key: bytes, value: bytes) -> None:
        """Set a value whose key is greater than all others of its table."""
        self.txn.put(key, seal(table, key, value), db=self._tables[table], append=True)

    def delete(self, table: bytes, key: bytes) -> bool:
        """Remove a value; whether it was there."""
        if self.trace is not None and (table in _TRACED or table == _VERSIONS):
            self.trace += (_REMOVED, table, key)
        return bool(self.txn.delete(key, db=self._tables[table]))

    def put_rows(self, table: bytes, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Set many values, of keys in order.

        Appended where they lie behind all others: LMDB then leaves no room in their pages.
        """
        if not rows:
            return
        with self.txn.cursor(self._tables[table]) as cursor:
            is_behind = not cursor.last() or cursor.key() < rows[0][0]
            cursor.putmulti(seal_rows(table, rows), append=is_behind)

    def load_rows(self, table: bytes, rows: list[tuple[bytes, bytes]]) -> None:
        """Append rows as `stored_rows` gave them, all greater than those that are there."""
        with self.txn.cursor(self._tables[table]) as cursor:
            cursor.putmulti(rows, append=True)

    def put_version(self, name: bytes, known_at: int, revision: int, version: Version) -> None:
        """Set one version."""
        if self.trace is not None:
            # Without the number of its vector row, which is this replica's own.
            self.trace += (name, encode_row(version.unplaced(known_at, revision)))
        self.put(b"versions", version_key(name, known_at, revision), encode_row(version))

    def append_log(self, revision: int, row: LogRow) -> None:
        """Record an accepted entry."""
        self.append(b"log", U64.pack(revision), encode_row(row))

    def put_number(self, key: bytes, number: int) -> None:
        """Set a number of the table `meta`."""
        self.put(b"meta", key, str(number).encode())
