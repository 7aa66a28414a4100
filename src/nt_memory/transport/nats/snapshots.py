"""Snapshots of a swarm: what a new node begins with, instead of the stream's first message.

A snapshot is some files in pieces, in a stream of their own, and a line in the *catalogue*. That is a
message in the swarm's journal, under a subject that only the operator may publish to: it names the
snapshots that are kept, with size and digest of every file. It is written last, when all that it
names was read back. So a snapshot is there whole or not at all, and whoever joins from it has to
trust nobody but the operator and SHA-256.

The newest catalogue counts. What else gets under its subject is no catalogue: servers can be made to
answer to any subject, but what they answer is JSON, which begins otherwise.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from nt_memory.errors import (
    CorruptionError,
    PermissionDeniedError,
)
from nt_memory.transport.files import to_storage_error
from nt_memory.transport.nats.asking import Asking, Found
from nt_memory.transport.nats.blobs import PIECE_BYTES
from nt_memory.transport.nats.catalogue import (
    Catalogue,
    Manifest,
    Part,
    decode_catalogue,
    encode_catalogue,
)
from nt_memory.transport.nats.client import ApiError
from nt_memory.transport.nats.publishing import PATIENCE_S, meaning
from nt_memory.transport.nats.streams import ONCE, have_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from nt_memory.transport.nats.link import Link

_AT_ONCE: Final = 4
_ANSWER_S: Final = 10.0
_RETRY_S: Final = 0.25
_IS_THERE: Final = "maximum messages per subject exceeded"
_NOT_FOUND: Final = 404
_WRONG_LAST: Final = (10070, 10071)
_ABANDONED_US: Final = 24 * 3600 * 1_000_000
"""Pieces that no catalogue names are removed once they are this old: before, somebody may be at work."""

T = TypeVar("T")


class Listed(msgspec.Struct, frozen=True):
    """What the catalogue says now.

    Attributes:
        snapshots: Newest first.
        last: Sequence of the newest message under its subject, catalogue or not; 0: none.
        floor: As of `Catalogue`.
    """

    snapshots: tuple[Manifest, ...] = ()
    last: int = 0
    floor: int = 0


class Shelf:
    """The snapshots of a swarm. Its calls block; from any thread but the link's.

    Args:
        link: The connection.
        patience_s: How long to try while no server answers.
    """

    def __init__(self, link: Link, patience_s: float = PATIENCE_S) -> None:
        self._link = link
        self._ask = Asking(link, patience_s)

    # --- the catalogue --------------------------------------------------------------------------

    def listed(self) -> Listed:
        """The snapshots that are kept.

        Raises:
            DisconnectedError: no server answers.
            PermissionDeniedError: this node may not ask.
            FormatVersionError: as `decode_catalogue`.
        """
        subject = self._link.subjects.catalogue
        stream = self._link.subjects.stream
        newest = self._ask.message(stream, {"last_by_subj": subject})
        if newest is None:
            return Listed()
        last = newest.sequence
        found = decode_catalogue(newest.data) or self._last_good(last) or Catalogue()
        return Listed(found.snapshots, last, found.floor)

    def is_kept(self, snapshot: Manifest) -> bool:
        """Whether the catalogue still names a snapshot: who shares may drop one that is being read.

        Raises:
            As `listed`.
        """
        return any(one.id == snapshot.id for one in self.listed().snapshots)

    def _last_good(self, last: int) -> Catalogue | None:
        """The newest catalogue, where something else is the newest message."""
        subject = self._link.subjects.catalogue
        found: Catalogue | None = None
        at = 0
        while at < last:
            message = self._ask.message(
                self._link.subjects.stream, {"seq": at + 1, "next_by_subj": subject}
            )
            if message is None:
                break
            at = message.sequence
            found = decode_catalogue(message.data) or found
        return found

    def publish(self, snapshots: tuple[Manifest, ...], last: int, floor: int = 0) -> bool:
        """Make a catalogue the newest one; False if somebody else was faster, and nothing was done.

        Args:
            snapshots: Newest first.
            last: What `listed` said; the stream must be empty if the only snapshot was imported.
            floor: As of `Catalogue`; not below what `listed` said.

        Raises:
            As `put`.
        """
        data = encode_catalogue(Catalogue(snapshots, floor))
        is_first = bool(snapshots) and snapshots[0].message == 0
        expected = "Nats-Expected-Last-Sequence" if is_first else _LAST_OF_SUBJECT
        headers = {"Nats-Msg-Id": secrets.token_hex(12), expected: str(0 if is_first else last)}
        try:
            self._ask.persist(lambda: self._ask.store(self._link.subjects.catalogue, data, headers))
        except ApiError as error:
            if error.number in _WRONG_LAST:
                return False
            raise meaning(self._link.name, error) from None
        return True

    # --- files ----------------------------------------------------------------------------------

    def put(self, id_: str, files: dict[str, Path]) -> list[Part]:
        """Store files in pieces, and read all of them back.

        Args:
            id_: The snapshot's.
            files: By name, in order.

        Raises:
            PermissionDeniedError: this node is not the operator's.
            DisconnectedError: no server answers.
            StorageFullError: the servers have no space left.
            CorruptionError: what the servers have is not what was sent.
            StorageError: a file cannot be read, or the servers refuse.
        """
        subjects = self._link.subjects
        have_stream(self._link, subjects.snapshots, [subjects.all_snapshots], ONCE)
        first, parts = 0, list[Part]()
        for name, path in files.items():
            part = self._put_file(id_, first, name, path)
            self._check(id_, first, part)
            first += part.pieces
            parts.append(part)
        return parts

    def _put_file(self, id_: str, first: int, name: str, path: Path) -> Part:
        digest, size, number = hashlib.sha256(), 0, first
        try:
            with path.open("rb") as file:
                while pieces := _some(file.read):
                    self._put_pieces(id_, number, pieces)
                    number += len(pieces)
                    for piece in pieces:
                        digest.update(piece)
                        size += len(piece)
        except PermissionDeniedError:  # which is an OSError, too
            raise
        except OSError as error:
            raise to_storage_error(error, f"reading {path}") from error
        if not size:
            self._put_pieces(id_, number, [b""])
        return Part(name, size, digest.digest())

    def _put_pieces(self, id_: str, first: int, pieces: list[bytes]) -> None:
        ids = [secrets.token_hex(12) for _ in pieces]

        async def put_all() -> None:
            async with asyncio.TaskGroup() as group:
                for number, piece in enumerate(pieces):
                    subject = self._link.subjects.snapshot(id_, first + number)
                    group.create_task(
                        self._store_once(subject, piece, {"Nats-Msg-Id": ids[number]})
                    )

        self._ask.persist(put_all)

    async def _store_once(self, subject: str, data: bytes, headers: dict[str, str]) -> None:
        try:
            await self._ask.store(subject, data, headers)
        except ApiError as error:
            if _IS_THERE not in str(error):  # else by an attempt before; what it is, is read back
                raise meaning(self._link.name, error) from None

    def _check(self, id_: str, first: int, part: Part) -> None:
        digest, size = hashlib.sha256(), 0
        for piece in self._pieces(id_, first, part):
            digest.update(piece)
            size += len(piece)
        if (size, digest.digest()) != (part.size, part.digest):
            raise CorruptionError(
                f"snapshot {id_}: {part.name}: its {part.size} bytes are not what was stored"
            )

    def verify(self, snapshot: Manifest) -> None:
        """Read a snapshot, all of it.

        Raises:
            CorruptionError: it is damaged or incomplete; the message names file and piece.
            DisconnectedError: no server answers.
        """
        first = 0
        for part in snapshot.parts:
            self._check(snapshot.id, first, part)
            first += part.pieces

    def fetch(self, snapshot: Manifest, part: Part, path: Path) -> None:
        """Write a file of a snapshot to `path`, durably. If it fails the file may be incomplete.

        Raises:
            CorruptionError: as `verify`.
            DisconnectedError: no server answers.
            StorageError: the file cannot be written; `StorageFullError` likewise.
        """
        first = sum(before.pieces for before in snapshot.parts[: snapshot.parts.index(part)])
        digest, size = hashlib.sha256(), 0
        try:
            with path.open("wb") as file:
                for piece in self._pieces(snapshot.id, first, part):
                    digest.update(piece)
                    size += len(piece)
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
        except PermissionDeniedError:  # which is an OSError, too
            raise
        except OSError as error:
            raise to_storage_error(error, f"writing {path}") from error
        if (size, digest.digest()) != (part.size, part.digest):
            raise CorruptionError(f"snapshot {snapshot.id}: {part.name}: it fails its checksum")

    def _pieces(self, id_: str, first: int, part: Part) -> Iterator[bytes]:
        for start in range(0, part.pieces, _AT_ONCE):
            numbers = range(start, min(start + _AT_ONCE, part.pieces))
            subjects = [self._link.subjects.snapshot(id_, first + number) for number in numbers]

            async def get_all(subjects: list[str] = subjects) -> list[Found | None]:
                return await asyncio.gather(
                    *(
                        self._ask.found(self._link.subjects.snapshots, {"last_by_subj": subject})
                        for subject in subjects
                    )
                )

            for number, found in zip(numbers, self._ask.persist(get_all), strict=True):
                if found is None:
                    raise CorruptionError(
                        f"snapshot {id_}: {part.name}: piece {number} of {part.pieces} is missing"
                    )
                yield found.data

    # --- removing -------------------------------------------------------------------------------

    def sweep(self, dropped: tuple[Manifest, ...], kept: tuple[Manifest, ...], now_us: int) -> None:
        """Remove the pieces of snapshots that were taken from the catalogue, and those of long ago that
        never came into it.

        Raises:
            DisconnectedError, PermissionDeniedError, StorageError: as `put`.
        """  # noqa: D205
        names = {snapshot.id for snapshot in dropped}
        old = {id_ for id_ in self._ids() if _made_us(id_) < now_us - _ABANDONED_US}
        for id_ in sorted(names | old - {snapshot.id for snapshot in kept}):
            subject = self._link.subjects.pieces(id_)
            self._ask.api(f"STREAM.PURGE.{self._link.subjects.snapshots}", {"filter": subject})

    def _ids(self) -> list[str]:
        stream, found, offset = self._link.subjects.snapshots, set[str](), 0
        while True:
            body = {"subjects_filter": self._link.subjects.all_snapshots, "offset": offset}
            answer = self._ask.api(f"STREAM.INFO.{stream}", body)
            names = answer["state"].get("subjects") or {}
            found |= {name.split(".")[-2] for name in names}
            offset += len(names)
            if not names or offset >= int(answer.get("total", 0)):
                return sorted(found)

    def trim(self) -> int:
        """Remove the messages before the catalogue's floor from the swarm's journal; how many there were.

        Raises:
            As `sweep`.
        """
        before = self.listed().floor
        if before <= 1:  # a purge without a sequence would be one of everything
            return 0
        stream = self._link.subjects.stream
        return int(self._ask.api(f"STREAM.PURGE.{stream}", {"seq": before}).get("purged", 0))

    def bounds(self) -> tuple[int, int]:
        """Sequences of the first and last message of the swarm's journal; last is 0 if it never had one.

        Raises:
            As `sweep`.
        """
        state = self._ask.api(f"STREAM.INFO.{self._link.subjects.stream}", {})["state"]
        return int(state["first_seq"]), int(state["last_seq"])


_LAST_OF_SUBJECT: Final = "Nats-Expected-Last-Subject-Sequence"


def _some(read: Callable[[int], bytes]) -> list[bytes]:
    """The next few pieces of a file; none at its end."""
    pieces: list[bytes] = []
    while len(pieces) < _AT_ONCE and (piece := read(PIECE_BYTES)):
        pieces.append(piece)
    return pieces


def _made_us(id_: str) -> int:
    """When a snapshot was made; of what is none, long ago."""
    try:
        return int(id_.partition("-")[0], 16)
    except ValueError:
        return 0
