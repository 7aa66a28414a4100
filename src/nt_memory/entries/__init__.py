"""What a journal entry says, and how it is spelled in bytes.

An entry is one atomic change: `actor`, `request_id` and a body, which is one of the commands below.
Its place in the order and its time are the journal's (`transport.ports.Frame`), not the entry's, so
that nobody can write into the past. Encoded it is a version byte and a msgpack array; every journal
frame adds a checksum.

Times are whole microseconds; `None` for `known_at` means "when it is recorded".
"""

from __future__ import annotations

from typing import Any, get_args

import msgspec

from nt_memory.entries.coordinating import (
    Acquire,
    CastVote,
    CleanUp,
    ForceRelease,
    Propose,
    Register,
    Release,
    Renew,
    Withdraw,
)
from nt_memory.entries.embedding import (
    AbandonEmbedding,
    Embed,
    Reembed,
    SwitchEmbedding,
)
from nt_memory.entries.rules import (
    Advance,
    Configure,
    Mark,
    Retain,
    SetPolicy,
    SetQuota,
    StartSession,
    Sweep,
    Tick,
)
from nt_memory.entries.wire import Wire
from nt_memory.entries.writes import (
    ACTION,
    DEFINITION,
    OUTCOME,
    PATTERN,
    STATE,
    TRAJECTORY,
    Fence,
    ObserveMany,
    Stored,
    Write,
    WriteOp,
)
from nt_memory.errors import CodecError, FormatVersionError, InvalidInputError

__all__ = [
    "ACTION",
    "DEFINITION",
    "ENTRY_VERSION",
    "OUTCOME",
    "PATTERN",
    "STATE",
    "TRAJECTORY",
    "AbandonEmbedding",
    "Acquire",
    "Advance",
    "BallotCommand",
    "Body",
    "CastVote",
    "CleanUp",
    "Configure",
    "Embed",
    "EmbeddingCommand",
    "Entry",
    "Fence",
    "ForceRelease",
    "LockCommand",
    "Mark",
    "ObserveMany",
    "Propose",
    "Reembed",
    "Register",
    "Release",
    "Renew",
    "Retain",
    "SetPolicy",
    "SetQuota",
    "StartSession",
    "Stored",
    "Sweep",
    "SwitchEmbedding",
    "Tick",
    "Withdraw",
    "Write",
    "WriteOp",
    "decode_entry",
    "encode_entry",
    "operations_of",
]

ENTRY_VERSION = 1

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
    | Mark
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


class Entry(Wire, frozen=True):
    """One atomic change."""

    body: Body
    actor: str = ""
    request_id: str | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Entry)
_PREFIX = bytes([ENTRY_VERSION])
_loosely = msgspec.msgpack.Decoder(tuple[list[Any], Any, Any])
_KINDS = frozenset(str(kind.__struct_config__.tag) for kind in get_args(Body))


def encode_entry(entry: Entry) -> bytes:
    """Bytes of an entry."""
    return _PREFIX + _encoder.encode(entry)


def decode_entry(payload: bytes) -> Entry:
    """The entry in `payload`.

    Raises:
        FormatVersionError: a newer version wrote it, which would apply it and not refuse it.
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
        kind = _kind_of(payload)
        if kind is not None and kind not in _KINDS:
            raise FormatVersionError(
                f"an entry of kind {kind[:40]!r}: a newer version wrote it, this one does not know it"
            ) from None
        raise CodecError(f"not an entry: {error}") from None


def _kind_of(payload: bytes) -> str | None:
    """What an entry says that it is; None if it is spelled as no version would."""
    try:
        (kind, *_), actor, _ = _loosely.decode(memoryview(payload)[1:])
    except (ValueError, TypeError, msgspec.DecodeError):
        return None
    return kind if isinstance(kind, str) and kind and isinstance(actor, str) else None


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
