"""Entries that write, and the version that a write leaves."""

from __future__ import annotations

from typing import NamedTuple

from nt_memory.entries.wire import Wire
from nt_memory.errors import InvalidInputError

# Spaces keep what agents store apart from what the ReasoningBank stores about them.
STATE = "s"
ACTION = "a"
DEFINITION = "d"
OUTCOME = "o"
PATTERN = "p"
TRAJECTORY = "t"


class Fence(Wire, frozen=True):
    """A claim to hold a lock. An empty `resource` means: whichever lock has this fence."""

    resource: str
    number: int


class WriteOp(Wire, frozen=True):
    """One versioned put or delete.

    Attributes:
        space: Which keyspace; `STATE` for agents' own keys.
        agent: Whose key.
        key: The key.
        value: Encoded value (`codec.encode`), or None for a delete.
        known_at: Since when it counts as known; None: when it is recorded.
        ttl_us: Life after `known_at`; None: for ever.
        expect: Revision the current version must have, 0 for none; None: any.
        vector: Little-endian float16 unit vector, or None.
        partition: Which of the agent's vector partitions; "" holds its observations.
        tags: Labels for filtering.
    """

    space: str
    agent: str
    key: str
    value: bytes | None
    known_at: int | None = None
    ttl_us: int | None = None
    expect: int | None = None
    vector: bytes | None = None
    partition: str = ""
    tags: tuple[str, ...] = ()


class Write(Wire, frozen=True, tag="write"):
    """All of `ops` or none, under one revision."""

    ops: tuple[WriteOp, ...]
    fence: Fence | None = None


class ObserveMany(Wire, frozen=True, tag="observe"):
    """Observations of one agent, by columns: in effect the `Write` that `operations` spells.

    Columns, because a batch of thousands is then encoded, decoded and folded without an object a
    field and row.

    Attributes:
        agent: Whose.
        keys: The key of each row.
        values: The encoded value of each row.
        vectors: Little-endian float16 unit vectors of one dimension, one after another.
        known_at: Since when they count as known: all, or each; None: when it is recorded.
        labels: The sets of tags that occur.
        tagged: For each row which of `labels` it has; empty: the first, or none if there is none.
    """

    agent: str
    keys: tuple[str, ...]
    values: tuple[bytes, ...]
    vectors: bytes
    known_at: int | tuple[int | None, ...] | None = None
    labels: tuple[tuple[str, ...], ...] = ()
    tagged: tuple[int, ...] = ()

    @property
    def row_bytes(self) -> int:
        """Bytes of one vector; 0 without rows."""
        return len(self.vectors) // max(1, len(self.keys))

    def check(self) -> None:
        """Refuse columns that do not fit together.

        Raises:
            InvalidInputError: they do not.
        """
        count = len(self.keys)
        size, rest = divmod(len(self.vectors), max(1, count))
        one_each: list[tuple[object, ...]] = [self.values]
        if isinstance(self.known_at, tuple):
            one_each.append(self.known_at)
        if self.tagged:
            one_each.append(self.tagged)
        if not size or rest or size % 2 or any(len(column) != count for column in one_each):
            raise InvalidInputError("the columns of observations differ in length")
        if self.tagged and not 0 <= min(self.tagged) <= max(self.tagged) < len(self.labels):
            raise InvalidInputError("an observation has tags that are not there")

    @property
    def tags(self) -> tuple[tuple[str, ...], ...]:
        """The tags of each row."""
        if self.tagged:
            return tuple(map(self.labels.__getitem__, self.tagged))
        return (self.labels[0] if self.labels else (),) * len(self.keys)

    def tags_of(self, number: int) -> tuple[str, ...]:
        """The tags of one row."""
        if self.tagged:
            return self.labels[self.tagged[number]]
        return self.labels[0] if self.labels else ()

    @property
    def operations(self) -> tuple[WriteOp, ...]:
        """What it does, row by row.

        Raises:
            InvalidInputError: the columns do not fit together.
        """
        self.check()
        size, known = self.row_bytes, self.known_at
        times = known if isinstance(known, tuple) else (known,) * len(self.keys)
        rows = zip(self.keys, self.values, times, self.tags, strict=True)
        return tuple(
            WriteOp(
                STATE,
                self.agent,
                key,
                value,
                known_at,
                vector=self.vectors[number * size : (number + 1) * size],
                tags=tags,
            )
            for number, (key, value, known_at, tags) in enumerate(rows)
        )


class Stored(NamedTuple):
    """One version as the views hold it.

    Attributes:
        space: Keyspace.
        agent: Whose key.
        key: The key.
        value: Encoded value; None for a delete.
        known_at: Since when it counts as known.
        revision: The entry that wrote it.
        recorded_at: When the journal took it.
        expires_at: When its ttl runs out; None: never.
        actor: Who wrote it.
        partition: Id of the vector partition it has a row in; -1: none.
        row: Its row there.
        tags: Labels.
    """

    space: str
    agent: str
    key: str
    value: bytes | None
    known_at: int
    revision: int
    recorded_at: int
    expires_at: int | None = None
    actor: str = ""
    partition: int = -1
    row: int = -1
    tags: tuple[str, ...] = ()
