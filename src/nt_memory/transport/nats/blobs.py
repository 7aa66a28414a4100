"""What is too large for a message: entries and value files, in pieces, in a stream of their own.

A blob is named by who published it and by its digest, and is stored whole before the entry that names
it is published. So a node that meets the name finds all of it; if not, it never will, and nor will
any other. Whoever reads a blob holds it against its digest.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import os
import secrets
from typing import TYPE_CHECKING, Any, Final

from nt_memory.clock import SystemClock
from nt_memory.codec.filed import read_reference
from nt_memory.errors import CorruptionError, DisconnectedError
from nt_memory.transport.files import sync_directory, to_storage_error
from nt_memory.transport.nats.link import ApiError
from nt_memory.transport.value_layout import check_value

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nt_memory.transport.nats.link import Link

PIECE_BYTES: Final = 512 * 1024
"""Measured on loopback with every message made durable: 64 KiB gives 20 MiB/s, 512 KiB 88, and more only
little more, while an answer of the server that holds a piece as text stays below 1 MiB.
"""
_AT_ONCE: Final = 4
_ANSWER_S: Final = 10.0
_RETRY_S: Final = 0.25
_IS_THERE: Final = "maximum messages per subject exceeded"
_NOT_FOUND: Final = 404


class Blobs:
    """The blobs of a swarm. Its calls block; from any thread but the link's.

    Args:
        link: The connection.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._clock = SystemClock()

    def put(self, author: str, digest: str, data: bytes | memoryview) -> None:
        """Store a blob. Repeating it is harmless.

        Raises:
            DisconnectedError: it is not known whether all of it was stored.
            PermissionDeniedError: this node may not.
        """
        self._link.call(self._put(author, digest, data), _patience_s(len(data)))

    async def _put(self, author: str, digest: str, data: bytes | memoryview) -> None:
        if await self._is_there(author, digest, len(data)):
            return
        slots = asyncio.Semaphore(_AT_ONCE)

        async def store(part: int, piece: bytes) -> None:
            async with slots:
                subject = self._link.subjects.value(author, digest, part)
                headers = {"Nats-Msg-Id": secrets.token_hex(12)}
                try:
                    await self._link.store(subject, piece, headers, timeout_s=_ANSWER_S)
                except ApiError as error:
                    if _IS_THERE not in str(error):  # else stored by an attempt before
                        raise DisconnectedError(f"{self._link.name}: {error}") from None

        async with asyncio.TaskGroup() as group:
            for part, start in enumerate(range(0, max(1, len(data)), PIECE_BYTES)):
                group.create_task(store(part, bytes(data[start : start + PIECE_BYTES])))

    async def _is_there(self, author: str, digest: str, size: int) -> bool:
        found = await self._link.ask_api(
            f"STREAM.INFO.{self._link.subjects.values}",
            {"subjects_filter": self._link.subjects.value(author, digest, 0)[:-1] + "*"},
        )
        there: dict[str, Any] = found["state"].get("subjects") or {}
        return len(there) >= max(1, -(-size // PIECE_BYTES))

    def get(
        self, author: str, digest: str, size: int, is_ending: Callable[[], bool]
    ) -> bytes | None:
        """A blob; None if nobody has stored what its name says. Waits for a server that can tell.

        Raises:
            DisconnectedError: `is_ending` while no server answers.
        """
        parts: list[bytes] = []
        for part in range(max(1, -(-size // PIECE_BYTES))):
            piece = self._piece(self._link.subjects.value(author, digest, part), is_ending)
            if piece is None:
                return None
            parts.append(piece)
        return b"".join(parts)

    def _piece(self, subject: str, is_ending: Callable[[], bool]) -> bytes | None:
        while True:
            try:
                found: bytes | None = self._link.call(self._get(subject), _ANSWER_S * 2)
            except DisconnectedError:
                if is_ending():
                    raise
                self._link.call(self._clock.sleep(_RETRY_S), _ANSWER_S)
            else:
                return found

    async def _get(self, subject: str) -> bytes | None:
        try:
            found = await self._link.ask_api(
                f"STREAM.MSG.GET.{self._link.subjects.values}",
                {"last_by_subj": subject},
                timeout_s=_ANSWER_S,
            )
        except ApiError as error:
            if error.code == _NOT_FOUND:
                return None
            raise DisconnectedError(f"{self._link.name}: {error}") from None
        try:
            return base64.b64decode(found["message"].get("data", ""), validate=True)
        except (KeyError, binascii.Error) as error:
            raise DisconnectedError(f"{self._link.name}: an answer without a message") from error

    # --- value files ----------------------------------------------------------------------------

    def put_file(self, author: str, path: Path) -> None:
        """Store a value file, which its name is the digest of.

        Raises:
            As `put`; StorageError: it cannot be read.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise to_storage_error(error, f"reading {path}") from error
        self.put(author, path.name, data)

    def want_file(
        self, author: str, reference: bytes, directory: Path, is_ending: Callable[[], bool]
    ) -> bool:
        """Have the file of a reference in a directory; False if nobody has stored it.

        Raises:
            StorageError: it could not be written. And as `get`.
        """
        wanted = read_reference(reference)
        path = directory / wanted.digest.hex()
        if path.exists():
            return True
        data = self.get(author, wanted.digest.hex(), wanted.size, is_ending)
        if data is None or len(data) != wanted.size:
            return False
        new = directory / (secrets.token_hex(16) + ".new")
        try:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                with os.fdopen(fd, "wb", closefd=False) as file:
                    file.write(data)
                os.fsync(fd)
            finally:
                os.close(fd)
            if not _is_whole(new, reference):
                new.unlink()
                return False
            new.rename(path)
            sync_directory(directory)
        except OSError as error:
            raise to_storage_error(error, f"writing {path}") from error
        return True


def _is_whole(path: Path, reference: bytes) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        check_value(fd, path, read_reference(reference), by_digest=True)
    except CorruptionError:
        return False
    finally:
        os.close(fd)
    return True


def digest_of(payload: bytes) -> bytes:
    """What an entry's blob is named by."""
    return hashlib.sha256(payload).digest()


def _patience_s(size: int) -> float:
    """How long a transfer may take: ten seconds, and one for every MiB."""
    return _ANSWER_S + size / (1 << 20)
