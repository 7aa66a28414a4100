"""What a message of a swarm's stream holds: entries of one author, packed by the node that sent them.

A server that makes every message durable takes as long for one entry as for a thousand, so a node
packs what it has waiting. Entries too large for a message lie elsewhere, and the message names them
by their digest (`blobs`).

Whatever else is stored in the stream, no node takes for more than it is: a message that is no parcel
holds no entry, and an entry that its author may not make is left out, by all nodes alike.
"""

from __future__ import annotations

from typing import Final

import msgspec

from nt_memory.codec import is_filed
from nt_memory.entries import Configure, Entry, Mark, ObserveMany, StartSession, Write, decode_entry
from nt_memory.entries.wire import Wire
from nt_memory.errors import CodecError, FormatVersionError

PARCEL_VERSION: Final = 1
PARCEL_BYTES: Final = 256 * 1024
"""No further entry is packed into a message that would then be larger."""
BLOB_FROM_BYTES: Final = 512 * 1024
"""Larger entries are sent as blobs: a server takes no message of more than 1 MiB by default."""
_SESSION_CHARS: Final = 64
_MANY: Final = 1 << 62
_MAGIC = b"\xb2"  # servers can be made to answer on any author's subject: no answer begins so
_PREFIX = _MAGIC + bytes([PARCEL_VERSION])


class Blob(Wire, frozen=True):
    """An entry that lies elsewhere.

    Attributes:
        digest: SHA-256 of its bytes.
        size: How many those are.
    """

    digest: bytes
    size: int


class Parcel(Wire, frozen=True):
    """The content of one message.

    Attributes:
        session: Who published it: one run of one node.
        number: How many that has published before, and this.
        entries: Encoded, or where they lie; may be none.
    """

    session: str
    number: int
    entries: tuple[bytes | Blob, ...]


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Parcel)
_NOBODY = Parcel("", 0, ())


def encode_parcel(parcel: Parcel) -> bytes:
    """Bytes of a parcel."""
    return _PREFIX + _encode(parcel)


def decode_parcel(data: bytes, author: str) -> Parcel:
    """The parcel in a message; an empty one of nobody's, if it is none.

    Raises:
        FormatVersionError: the operator's nodes run a newer version, and this one could not follow
            without going another way than they do. From others it counts for nothing: or any
            agent could stop all nodes with one byte.
    """
    if not data.startswith(_MAGIC) or len(data) <= len(_PREFIX):
        return _NOBODY
    if data[1] > PARCEL_VERSION and not author:
        raise FormatVersionError(
            f"a message of format {data[1]}; this version reads {PARCEL_VERSION}: upgrade this node"
        )
    if data[1] != PARCEL_VERSION:
        return _NOBODY
    try:
        parcel = _decoder.decode(memoryview(data)[len(_PREFIX) :])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _NOBODY
    is_named = 0 < len(parcel.session) <= _SESSION_CHARS and parcel.session.isascii()
    return parcel if is_named and 0 <= parcel.number < _MANY else _NOBODY


def admit(payload: bytes, author: str) -> Entry | None:
    """An entry, if it counts: its author may speak for its actor, and it is of a kind that nodes send.

    Args:
        payload: The encoded entry.
        author: Whose subject it came under; "" is the operator, who speaks for everybody.

    Raises:
        FormatVersionError: as `decode_parcel`.
    """
    try:
        entry = decode_entry(payload)
    except FormatVersionError:
        if author:
            return None
        raise
    except CodecError:
        return None
    if isinstance(entry.body, Mark | StartSession):
        return None  # what a node writes into its own journal, and what ends everybody's sessions
    if isinstance(entry.body, Configure) and author:
        return None  # what belongs to the swarm
    return entry if not author or entry.actor == author else None


def filed_values(entry: Entry) -> list[bytes]:
    """References to the value files that an entry names."""
    body = entry.body
    if isinstance(body, Write):
        values = [op.value for op in body.ops]
    elif isinstance(body, ObserveMany):
        values = list(body.values)
    else:
        return []
    return [value for value in values if value and is_filed(value)]
