"""The catalogue of a swarm's snapshots: which there are, and what each consists of."""

from __future__ import annotations

import secrets
from typing import Final

import msgspec

from nt_memory.entries.wire import Wire
from nt_memory.errors import FormatVersionError
from nt_memory.transport.nats.blobs import PIECE_BYTES

CATALOGUE_VERSION: Final = 1
_MAGIC: Final = b"\xb3"  # as no answer of a server begins


class Part(Wire, frozen=True):
    """A file of a snapshot.

    Attributes:
        name: What it is called.
        size: Bytes.
        digest: SHA-256 of them.
    """

    name: str
    size: int
    digest: bytes

    @property
    def pieces(self) -> int:
        """How many it is in."""
        return max(1, -(-self.size // PIECE_BYTES))


class Manifest(Wire, frozen=True):
    """A snapshot.

    Attributes:
        id: Names it; begins with when it was made.
        stream: Identity of the stream that it is of.
        message: Newest message of the stream that is in it, or a part of it; 0: it was imported,
            and the stream goes on from it.
        needs: The first message that whoever begins with it has to follow.
        sequence: Of the last frame in it.
        revision: After that.
        recorded_at: Time of that frame, microseconds since the epoch.
        created_at: When it was made, likewise.
        parts: Its files; the base comes first.
    """

    id: str
    stream: str
    message: int
    needs: int
    sequence: int
    revision: int
    recorded_at: int
    created_at: int
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(part.size for part in self.parts)


class Catalogue(Wire, frozen=True):
    """The snapshots that are kept.

    Attributes:
        snapshots: Newest first.
        floor: The stream may be trimmed before this message, now and for good; nothing is entered any more
            that needs an earlier one. It never goes back. 0: nothing may be trimmed.
    """

    snapshots: tuple[Manifest, ...] = ()
    floor: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Catalogue)


def encode_catalogue(catalogue: Catalogue) -> bytes:
    """Bytes of a catalogue."""
    return _MAGIC + bytes([CATALOGUE_VERSION]) + _encode(catalogue)


def decode_catalogue(data: bytes) -> Catalogue | None:
    """The catalogue in a message; None if it is none.

    Raises:
        FormatVersionError: a newer version wrote it.
    """
    if not data.startswith(_MAGIC) or len(data) < len(_MAGIC) + 1:
        return None
    if data[1] > CATALOGUE_VERSION:
        raise FormatVersionError(
            f"a catalogue of snapshots of format {data[1]}; this version reads "
            f"{CATALOGUE_VERSION}: upgrade this node"
        )
    try:
        return _decoder.decode(memoryview(data)[2:])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def new_id(created_at: int) -> str:
    """A snapshot's id. Nobody can guess it, and so not use up its subjects."""
    return f"{created_at:016x}-{secrets.token_hex(12)}"
