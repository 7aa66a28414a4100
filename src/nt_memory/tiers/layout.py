"""How the views spell what they hold: keys and rows of the LMDB tables.

Keys of the table of versions are `space agent NUL key NUL known_at revision`, the two numbers as
8 bytes big-endian with the sign bit flipped, so that byte order is (name, known_at, revision)
order. Names cannot contain NUL (see `namespace`), so no name is a prefix of another.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from nt_memory.codec import is_filed
from nt_memory.codec.filed import REFERENCE_BYTES, read_reference
from nt_memory.entries import Stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

LAYOUT_VERSION = 3
"""Of all that this module spells. A base of another version has to be translated."""

NEVER_STARTED = -(1 << 62)
"""`now_us` of a backtest that was not advanced yet."""

BIAS = 1 << 63
_TAIL = struct.Struct(">QQ")
U64 = struct.Struct(">Q")
ROW_KEY = struct.Struct(">II")
_ROW = struct.Struct("<qqqq")
ROW_TIMES = _ROW.size
"""A vector row starts with its four times, as little-endian int64; its name follows."""


class Version(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the table of versions holds under a key.

    Attributes:
        value: Encoded value; None for a delete.
        recorded_at: When the journal took it.
        expires_at: When its ttl runs out; None: never.
        actor: Who wrote it.
        partition: Vector partition, or -1.
        row: Row there.
        tags: Labels.
        is_trimmed_before: Older versions of the key were dropped by `history`.
    """

    value: bytes | None
    recorded_at: int
    expires_at: int | None = None
    actor: str = ""
    partition: int = -1
    row: int = -1
    tags: tuple[str, ...] = ()
    is_trimmed_before: bool = False

    def unplaced(self, known_at: int, revision: int) -> Version:
        """The same, with its place in time instead of its vector's row."""
        return Version(
            self.value,
            self.recorded_at,
            self.expires_at,
            self.actor,
            known_at,
            revision,
            self.tags,
            self.is_trimmed_before,
        )


class ChangeRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One key changed by a logged entry. `ended`: vector rows that stopped being current."""

    kind: str
    space: str
    agent: str
    key: str
    known_at: int
    partition: int = -1
    row: int = -1
    ended: tuple[tuple[int, int], ...] = ()


class LogRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An accepted entry: where the journal keeps it, when it was taken, and what it changed.

    `position` is 0 in the row that stands for a base: of its entry only the times are known.
    """

    position: int
    recorded_at: int
    now_us: int
    changes: tuple[ChangeRow, ...] = ()


class LogTimes(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The start of a `LogRow`: what an as-of read needs, without the keys, often thousands."""

    position: int
    recorded_at: int
    now_us: int


class VectorRow(NamedTuple):
    """A row of a vector partition: the version it belongs to and the time it is in force."""

    from_us: int
    until_us: int
    until_revision: int
    revision: int
    name: bytes


class Staged(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is known of a re-embedding under way; see `replica.reembedding`.

    Attributes:
        ticket: Names it.
        label: Under which it can be gone on with after an interruption; empty: it cannot.
        floor_us: All rows that had no version left had ended by this time,
        floor_revision: by entries up to this revision.
    """

    ticket: str
    label: str
    floor_us: int
    floor_revision: int


class PartitionRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A vector partition: its id, dimension and number of rows.

    Attributes:
        id: What versions and rows name it by.
        dim: Values in a vector.
        rows: How many.
        moved_to: Number of the file its vectors are in since it was embedded anew; -1: its id.
        staged: This is no partition but the vectors made so far for another, by a re-embedding under
            way. It has no rows of its own: number n is that of row n there.
    """

    id: int
    dim: int
    rows: int
    moved_to: int = -1
    staged: Staged | None = None

    @property
    def file(self) -> int:
        """Number of the file its vectors are in. Never given twice, and never another's id."""
        return self.id if self.moved_to < 0 else self.moved_to


FLOOR = b"floor/"
"""Under it and space and agent the table of policies says what was dropped of that agent."""


class Floor(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Whole keys that were known before `time_us` are gone, since `revision`."""

    time_us: int
    revision: int


ROWS_FLOOR = b"rows/"
"""Under it and agent the table of policies has a `Floor`: which vector rows were given back.

All of those had ended by its time, and by entries up to its revision; a search as of an earlier moment
may have needed them.
"""

NUMBERING = b"numbering"
"""In `meta`: the sequence at which rows were numbered anew last. Not there: never."""

MOVED = b"moved"
"""In `meta`: how many partition ids were taken from the top, by partitions whose rows were numbered
anew. The others are taken from the bottom, so the two never meet."""

LAST_PARTITION = (1 << 32) - 1
"""The greatest partition id."""

QUOTA = b"quota/"
"""Under it and agent the table of policies has the agent's quota; without an agent, all others'."""

POLICY = b"policy/"
"""Under it and agent the table of policies has what the agent may do; without an agent, all others."""


class UsageRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is stored under an agent's name; see `records.Usage`. No row: nothing."""

    keys: int = 0
    bytes: int = 0
    vectors: int = 0


_encoder = msgspec.msgpack.Encoder()
decode_usage: Callable[[bytes | memoryview], UsageRow] = msgspec.msgpack.Decoder(UsageRow).decode
decode_version: Callable[[bytes | memoryview], Version] = msgspec.msgpack.Decoder(Version).decode
decode_log: Callable[[bytes | memoryview], LogRow] = msgspec.msgpack.Decoder(LogRow).decode
decode_log_times: Callable[[bytes | memoryview], LogTimes] = msgspec.msgpack.Decoder(
    LogTimes
).decode
decode_floor: Callable[[bytes | memoryview], Floor] = msgspec.msgpack.Decoder(Floor).decode
decode_partition: Callable[[bytes | memoryview], PartitionRow] = msgspec.msgpack.Decoder(
    PartitionRow
).decode
encode_row: Callable[[msgspec.Struct], bytes] = _encoder.encode


def encode_partition(row: PartitionRow) -> bytes:
    """Value of a partition; what it does not have is left out, so that most have three numbers."""
    fields: list[object] = [row.id, row.dim, row.rows]
    if row.moved_to >= 0 or row.staged is not None:
        fields.append(row.moved_to)
    if row.staged is not None:
        fields.append(row.staged)
    return _encoder.encode(fields)


def name_of(space: str, agent: str, key: str) -> bytes:
    """The part of a version's key that names what it is a version of."""
    return f"{space}{agent}\0{key}\0".encode()


def parse_name(name: bytes) -> tuple[str, str, str]:
    """Space, agent and key of a name."""
    text = name.decode()
    agent, key, _ = text.split("\0")
    return agent[0], agent[1:], key


def version_key(name: bytes, known_at: int, revision: int) -> bytes:
    """Key of one version."""
    return name + _TAIL.pack(known_at + BIAS, revision)


def parse_tail(version: bytes) -> tuple[int, int]:
    """`known_at` and revision of a version's key."""
    known_at, revision = _TAIL.unpack_from(version, len(version) - 16)
    return known_at - BIAS, revision


def parse_revisions(versions: Iterable[bytes]) -> NDArray[np.int64]:
    """The revision in each of many versions' keys."""
    joined = b"".join([key[-U64.size :] for key in versions])
    return np.frombuffer(joined, ">u8").astype(np.int64)


def row_key(partition: int, row: int) -> bytes:
    """Key of a vector row."""
    return ROW_KEY.pack(partition, row)


def pack_row(row: VectorRow) -> bytes:
    """Value of a vector row."""
    return _ROW.pack(row.from_us, row.until_us, row.until_revision, row.revision) + row.name


def unpack_row(data: bytes) -> VectorRow:
    """The vector row in `data`."""
    from_us, until_us, until_revision, revision = _ROW.unpack_from(data)
    return VectorRow(from_us, until_us, until_revision, revision, data[_ROW.size :])


def expiry_key(expires_at: int, name: bytes, known_at: int, revision: int) -> bytes:
    """Key of the queue of expiries, ordered by time. Fits LMDB's 511 bytes."""
    return U64.pack(expires_at + BIAS) + version_key(name, known_at, revision)


def parse_expiry(key: bytes) -> tuple[int, bytes]:
    """When, and the version's key."""
    return U64.unpack_from(key)[0] - BIAS, key[8:]


def version_bytes(name: bytes, value: bytes | None, tags: tuple[str, ...]) -> int:
    """What a version counts against its agent's quota: its value, key and tags; a delete nothing.

    A value in a file counts as long as the file, also if other versions name the same one: whoever
    else stores the same bytes must not make room for anybody.

    Args:
        name: The name, as `name_of` spells it.
        value: The encoded value; None for a delete.
        tags: Labels.
    """
    if value is None:
        return 0
    size = len(value) + len(name) - name.index(b"\0") - 2
    if len(value) == REFERENCE_BYTES and is_filed(value):
        size += read_reference(value).size
    return size + sum(len(tag.encode()) for tag in tags) if tags else size


def to_stored(name: bytes, known_at: int, revision: int, version: Version) -> Stored:
    """A version with its names, as the layers above see it."""
    space, agent, key = parse_name(name)
    return Stored(
        space,
        agent,
        key,
        version.value,
        known_at,
        revision,
        version.recorded_at,
        version.expires_at,
        version.actor,
        version.partition,
        version.row,
        version.tags,
    )
