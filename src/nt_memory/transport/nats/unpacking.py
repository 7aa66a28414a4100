"""From a message of the stream to the entries in it that count: the same ones on every node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nt_memory.codec.filed import REFERENCE_START
from nt_memory.errors import PermissionDeniedError, StorageError
from nt_memory.transport.nats.blobs import digest_of
from nt_memory.transport.nats.catalogue import decode_catalogue
from nt_memory.transport.nats.parcels import Blob, admit, filed_values

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nt_memory.transport.nats.parcels import Parcel
    from nt_memory.transport.nats.publishing import Publishing, UnderWay


class Unpacking:
    """Takes messages apart. The journal's thread.

    Args:
        publishing: What this node has under way; tells those whose entry does not count.
        values: Where this node's value files are.
        is_ending: Asked while something is fetched: give up?
    """

    def __init__(self, publishing: Publishing, values: Path, is_ending: Callable[[], bool]) -> None:
        self._publishing = publishing
        self._blobs = publishing.blobs
        self._values = values
        self._is_ending = is_ending

    def admitted(
        self, parcel: Parcel, author: str, sending: UnderWay | None, message: int
    ) -> list[tuple[bytes, Any]]:
        """The entries that count, each with the ticket of whom to tell.

        Args:
            parcel: The message.
            author: Who published it, as the servers know them.
            sending: What this node has under way, if it is its own.
            message: Its place in the stream.

        Raises:
            TrimmedError: what it names was removed, and it was trimmed, before this node had read it.

        Cost: fetches the entries and value files that were too big for a message.
        """
        entries: list[tuple[bytes, Any]] = []
        tickets = [] if sending is None else sending.tickets
        for number, packed in enumerate(parcel.entries):
            ticket = tickets[number] if number < len(tickets) else None
            payload = (
                self._unpacked(packed, author, message) if isinstance(packed, Blob) else packed
            )
            entry = None if payload is None else admit(payload, author)
            if payload is not None and entry is not None:
                if REFERENCE_START in payload:
                    for value in filed_values(entry):
                        # Whether it is there or not, the entry counts: every node must do the same.
                        if not self._blobs.want_file(author, value, self._values, self._is_ending):
                            self._blobs.check_not_trimmed(message, self._is_ending)
                entries.append((payload, ticket))
            elif ticket is not None:
                self._publishing.fail_all(
                    [ticket], PermissionDeniedError("this node may not make such an entry")
                )
        return entries

    def _unpacked(self, blob: Blob, author: str, message: int) -> bytes | None:
        """The bytes of an entry that lies elsewhere.

        None if its author has stored nothing that its digest names: it then counts on no node.
        """
        for _, data in self._blobs.found(author, blob.digest.hex(), blob.size, self._is_ending):
            if digest_of(data) == blob.digest:
                return data
        self._blobs.check_not_trimmed(message, self._is_ending)
        return None


def check_not_founded(data: bytes) -> None:
    """Refuse to begin with nothing where the swarm began with an import.

    Raises:
        StorageError: it did.
    """
    found = decode_catalogue(data)
    if found is not None and any(not snapshot.message for snapshot in found.snapshots):
        raise StorageError(
            "the swarm began with an import, which this node has not: reopen it; if that does "
            "not help, the snapshot that the import made is damaged"
        )
