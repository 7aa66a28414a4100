"""What a journal entry says, and how it is spelled in bytes.

An entry is one atomic change: `actor`, `request_id` and a body, which is one of the commands below.
Its place in the order and its time are the journal's (`transport.ports.Frame`), not the entry's, so
that nobody can write into the past. Encoded it is a version byte and a msgpack array; every journal
frame adds a checksum.

Times are whole microseconds; `None` for `known_at` means "when it is recorded".
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from nt_memory.errors import CodecError, FormatVersionError, InvalidInputError

ENTRY_VERSION = 1

# Spaces keep what agents store apart from what the ReasoningBank stores about them.
STATE = "s"
ACTION = "a"
DEFINITION = "d"
OUTCOME = "o"
PATTERN = "p"
TRAJECTORY = "t"


class _Wire(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of everything that is spelled as a msgpack array."""


class Fence(_Wire, frozen=True):
    """A claim to hold a lock. An empty `resource` means: whichever lock has this fence."""

    resource: str
    number: int


class WriteOp(_Wire, frozen=True):
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


class Write(_Wire, frozen=True, tag="write"):
    """All of `ops` or none, under one revision."""

    ops: tuple[WriteOp, ...]
    fence: Fence | None = None


class ObserveMany(_Wire, frozen=True, tag="observe"):
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


class Configure(_Wire, frozen=True, tag="configure"):
    """First entry of every store: the settings that belong to the swarm."""

    swarm: str
    timeline: str
    history: int | None


class StartSession(_Wire, frozen=True, tag="session"):
    """An embedded store was opened for writing: earlier sessions have ended, and their locks."""

    session: str


class Advance(_Wire, frozen=True, tag="advance"):
    """A backtest timeline moves to `now`."""

    now: int


class Retain(_Wire, frozen=True, tag="retain"):
    """How long superseded versions are kept; `agent` "" is the rule for those without their own.

    Attributes:
        agent: Whose keys.
        max_age_us: Versions that were not in force since then may go; None: no limit.
        max_versions: So many superseded versions a key are kept; None: no limit.
    """

    agent: str
    max_age_us: int | None = None
    max_versions: int | None = None


class SetQuota(_Wire, frozen=True, tag="quota"):
    """How much an agent may store; `agent` "" is the rule for those without their own.

    Attributes:
        agent: Whose quota.
        max_keys: Keys that show a value; None: no limit.
        max_bytes: Bytes of all versions that are kept; None: no limit.
        max_vectors: Versions with an embedding that are kept; None: no limit.
    """

    agent: str
    max_keys: int | None = None
    max_bytes: int | None = None
    max_vectors: int | None = None


class SetPolicy(_Wire, frozen=True, tag="policy"):
    """What an agent may do; `agent` "" is the rule for those without their own.

    Attributes:
        agent: Whose policy.
        rights: Patterns by right; what is not named is not allowed. None: take the policy back.
    """

    agent: str
    rights: tuple[tuple[str, tuple[str, ...]], ...] | None = None


class Sweep(_Wire, frozen=True, tag="sweep"):
    """Drop what retention does not keep, up to `limit` versions looked at, and go on next time.

    Attributes:
        hold_us: What is in force at this time or later is kept.
        hold_revision: What is in force at this revision or later is kept.
        limit: Most versions to look at.
    """

    hold_us: int
    hold_revision: int
    limit: int


class Tick(_Wire, frozen=True, tag="tick"):
    """Nothing but the passing of time: what is due by then expires, lapses or is decided."""


class Acquire(_Wire, frozen=True, tag="acquire"):
    """Ask for a lock. `ticket` names this attempt; `wait_us` 0 tries once."""

    resource: str
    ticket: str
    holder: str
    session: str
    lease_us: int
    wait_us: int


class Renew(_Wire, frozen=True, tag="renew"):
    """Extend a lease that still runs, to `lease_us` from entry time."""

    resource: str
    fence: int
    lease_us: int


class Release(_Wire, frozen=True, tag="release"):
    """Give a lock back."""

    resource: str
    fence: int


class Withdraw(_Wire, frozen=True, tag="withdraw"):
    """Leave the queue, or give back the grant that won the race."""

    resource: str
    ticket: str


class ForceRelease(_Wire, frozen=True, tag="force_release"):
    """An operator takes a lock from whoever holds it.

    Attributes:
        resource: Which.
        fence: Only from the grant with this fence; None: from any.
        reason: For whoever reads the journal.
    """

    resource: str
    fence: int | None = None
    reason: str = ""


class Register(_Wire, frozen=True, tag="register"):
    """Make an agent a voter of later proposals. `weight` is an exact fraction, "n/d"."""

    agent: str
    weight: str


class Propose(_Wire, frozen=True, tag="propose"):
    """Put a proposal to the electorate as it is now, or to `weights` where given."""

    id: str
    proposer: str
    data: bytes
    quorum: str
    deadline: int | None = None
    weights: tuple[tuple[str, str], ...] | None = None


class CastVote(_Wire, frozen=True, tag="vote"):
    """One vote. `weight`, where given, must be the registered one."""

    proposal_id: str
    voter: str
    approve: bool
    weight: str | None = None


class CleanUp(_Wire, frozen=True, tag="cleanup"):
    """Forget proposals decided at least `max_age_us` ago."""

    max_age_us: int


class Reembed(_Wire, frozen=True, tag="reembed"):
    """Begin to embed an agent's observations anew.

    Attributes:
        agent: Whose.
        ticket: Names this re-embedding.
        dim: Values in a new vector.
        label: Under which it can be gone on with after an interruption; empty: it cannot.
        instead: Ticket of an unfinished one that is given up for it; empty: there is none.
    """

    agent: str
    ticket: str
    dim: int
    label: str = ""
    instead: str = ""


class Embed(_Wire, frozen=True, tag="embed"):
    """New vectors of an agent's next rows.

    Attributes:
        agent: Whose.
        ticket: Of the re-embedding.
        first: Number of the first row; those before have theirs.
        vectors: Little-endian float16 unit vectors, one a row.
        lost: Numbers of those rows, ascending, of which no version is left: their vectors are made up.
    """

    agent: str
    ticket: str
    first: int
    vectors: bytes
    lost: tuple[int, ...] = ()


class SwitchEmbedding(_Wire, frozen=True, tag="switch"):
    """From here on the new vectors count. Does nothing unless every row has one."""

    agent: str
    ticket: str


class AbandonEmbedding(_Wire, frozen=True, tag="abandon"):
    """Give a re-embedding up; nothing but its own vectors changes."""

    agent: str
    ticket: str


EmbeddingCommand = Reembed | Embed | SwitchEmbedding | AbandonEmbedding
LockCommand = Acquire | Renew | Release | Withdraw | ForceRelease
BallotCommand = Register | Propose | CastVote | CleanUp
Body = (
    Write
    | ObserveMany
    | Configure
    | StartSession
    | Advance
    | Retain
    | SetQuota
    | SetPolicy
    | Sweep
    | Tick
    | Acquire
    | Renew
    | Release
    | Withdraw
    | ForceRelease
    | Register
    | Propose
    | CastVote
    | CleanUp
    | Reembed
    | Embed
    | SwitchEmbedding
    | AbandonEmbedding
)


class Entry(_Wire, frozen=True):
    """One atomic change."""

    body: Body
    actor: str = ""
    request_id: str | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Entry)
_PREFIX = bytes([ENTRY_VERSION])


def encode_entry(entry: Entry) -> bytes:
    """Bytes of an entry."""
    return _PREFIX + _encoder.encode(entry)


def decode_entry(payload: bytes) -> Entry:
    """The entry in `payload`.

    Raises:
        FormatVersionError: a newer version wrote it.
        CodecError: it is not an entry.
    """
    if not payload or payload[0] != ENTRY_VERSION:
        found = payload[0] if payload else None
        if found is not None and found > ENTRY_VERSION:
            raise FormatVersionError(f"entry of format {found}; this version reads {ENTRY_VERSION}")
        raise CodecError(f"not an entry: version byte {found}")
    try:
        return _decoder.decode(memoryview(payload)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CodecError(f"not an entry: {error}") from None


def operations_of(body: Body) -> tuple[WriteOp, ...]:
    """The writes an entry asks for, in order; none if it is of another kind, or malformed."""
    if isinstance(body, Write):
        return body.ops
    if not isinstance(body, ObserveMany):
        return ()
    try:
        return body.operations
    except InvalidInputError:
        return ()  # it was refused


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
