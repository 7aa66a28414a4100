"""What is too large for a message: entries and value files, in pieces, in a stream of their own.

A blob is named by who published it and by its digest, and a copy of it is stored whole before the entry
that names it is published. So a node that meets the name finds all of it; if not, it never will, and
nor will any other. Whoever reads a blob holds it against its digest.

*That one is missing* decides whether an entry counts, on every node alike, so it has to be true. A server
that leads the stream, or still believes it, may not yet have what a majority has stored. So whoever misses
something stores a mark behind it, and believes no answer of a server that has not come to the mark.

*Copies* are what makes removing safe (`leftovers`). A copy bears a name of its own, and is counted on
for `REUSE_S` by the node that made it, and by nobody else: who publishes the same value later stores
another. So all messages that count on a copy are stored within a day of it, and a copy that is older
than all messages that are left is needed by snapshots alone, which say what they need.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import functools
import hashlib
import os
import secrets
from typing import TYPE_CHECKING, Any, Final, TypeVar

from nt_memory.clock import SystemClock
from nt_memory.codec.filed import read_reference
from nt_memory.errors import CorruptionError, DisconnectedError, TrimmedError
from nt_memory.transport.files import sync_directory, to_storage_error
from nt_memory.transport.nats.client import ApiError, RefusedError
from nt_memory.transport.value_layout import check_value

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from nt_memory.transport.nats.link import Link

PIECE_BYTES: Final = 512 * 1024
"""Measured on loopback with every message made durable: 64 KiB gives 20 MiB/s, 512 KiB 88, and more only
little more, while an answer of the server that holds a piece as text stays below 1 MiB.
"""
REUSE_S: Final = 3600
"""For so long a node takes a copy that it has stored for there."""
_AT_ONCE: Final = 4
_MANY_MADE: Final = 4096
_MANY_TRIED: Final = 64
_MANY_MISSES: Final = 40  # 10 s: a stream that lists what it cannot give is damaged
_ANSWER_S: Final = 10.0
_RETRY_S: Final = 0.25
_IS_THERE: Final = "maximum messages per subject exceeded"
_NOT_FOUND: Final = 404
_MARK: Final = "mark"

T = TypeVar("T")


class _Copy:
    """A copy that this node has made, or is making."""

    __slots__ = ("is_whole", "name", "since_ns")

    def __init__(self, since_ns: int) -> None:
        self.name = secrets.token_hex(8)
        self.since_ns = since_ns
        self.is_whole = False


class Blobs:
    """The blobs of a swarm. Its calls block; from any thread but the link's.

    Args:
        link: The connection.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._clock = SystemClock()
        self._made: dict[tuple[str, str], _Copy] = {}

    def put(self, author: str, digest: str, data: bytes | memoryview) -> None:
        """Store a blob. Repeating it is harmless. By one thread.

        Raises:
            DisconnectedError: it is not known whether all of it was stored.
            PermissionDeniedError: this node may not.
        """
        copy = self._copy(author, digest)
        if not copy.is_whole:
            self._link.call(self._put(author, digest, copy.name, data), _patience_s(len(data)))
            copy.is_whole = True

    def _copy(self, author: str, digest: str) -> _Copy:
        now_ns = self._clock.monotonic_ns()
        before_ns = now_ns - REUSE_S * 1_000_000_000
        found = self._made.get((author, digest))
        if found is not None and found.since_ns > before_ns:
            return found
        if len(self._made) >= _MANY_MADE:
            self._made = {
                name: copy for name, copy in self._made.items() if copy.since_ns > before_ns
            }
        made = self._made[author, digest] = _Copy(now_ns)
        return made

    async def _put(self, author: str, digest: str, copy: str, data: bytes | memoryview) -> None:
        slots = asyncio.Semaphore(_AT_ONCE)
        is_certain = True

        async def store(part: int, start: int) -> None:
            nonlocal is_certain
            async with slots:
                subject = self._link.subjects.value(author, digest, copy, part)
                headers = {"Nats-Msg-Id": secrets.token_hex(12)}
                piece = bytes(data[start : start + PIECE_BYTES])
                try:
                    await self._link.store(subject, piece, headers, timeout_s=_ANSWER_S)
                except ApiError as error:
                    if _IS_THERE not in str(error):
                        raise DisconnectedError(f"{self._link.name}: {error}") from None
                    # By an attempt before. A leader says so of what no majority has stored yet, too.
                    is_certain = False

        starts = range(0, max(1, len(data)), PIECE_BYTES)
        storing = [asyncio.ensure_future(store(*one)) for one in enumerate(starts)]
        try:
            await asyncio.gather(*storing)  # raises as one of them does, and not a group
        finally:
            for one in storing:
                one.cancel()
        if not is_certain:
            there = await self._whole(author, digest, len(starts), await self._mark())
            if copy not in there:
                raise DisconnectedError(f"{self._link.name}: a part of a large value was lost")

    def found(
        self, author: str, digest: str, size: int, is_ending: Callable[[], bool]
    ) -> Iterator[tuple[str, bytes]]:
        """Copies of a blob that are there in all their parts, by name; what they hold is not checked.

        Waits for a server that can tell. What is missing costs a message more.

        Raises:
            DisconnectedError, PermissionDeniedError: `is_ending` while no server answers, or lets this
                node in.
        """
        tried = set[str]()
        count, mark, misses = max(1, -(-size // PIECE_BYTES)), 0, 0
        while len(tried) < _MANY_TRIED:
            there = self._insist(
                functools.partial(self._whole, author, digest, count, mark), is_ending
            )
            copy = next((name for name in there if name not in tried), None)
            if copy is not None:
                data = self._read(author, digest, copy, count, is_ending)
                if data is not None:
                    tried.add(copy)
                    yield copy, data
                    continue
                if mark:
                    # Removed in this moment, or this server does not have it yet: the next list tells.
                    misses += 1
                    if misses >= _MANY_MISSES:
                        tried.add(copy)
                    self._link.call(self._clock.sleep(_RETRY_S), _ANSWER_S)
            elif mark:
                return
            mark = mark or self._insist(self._mark, is_ending)

    def _read(
        self, author: str, digest: str, copy: str, count: int, is_ending: Callable[[], bool]
    ) -> bytes | None:
        """What a copy holds; None if a server says that a part of it is missing."""
        parts: list[bytes] = []
        for part in range(count):
            subject = self._link.subjects.value(author, digest, copy, part)
            piece = self._insist(functools.partial(self._get, subject), is_ending)
            if piece is None:
                return None
            parts.append(piece)
        return b"".join(parts)

    async def _mark(self) -> int:
        """Store a message behind all that is stored; its place in the stream.

        A leader that a majority has left cannot. It goes with what nobody needs (`leftovers`).
        """
        subject = self._link.subjects.value(self._link.agent, _MARK, secrets.token_hex(8), 0)
        headers = {"Nats-Msg-Id": secrets.token_hex(12)}
        try:
            return await self._link.store(subject, b"", headers, timeout_s=_ANSWER_S)
        except ApiError as error:
            raise DisconnectedError(f"{self._link.name}: {error}") from None

    async def _whole(self, author: str, digest: str, count: int, mark: int) -> list[str]:
        """Names of the copies of which all parts are there, said by a server that has come to a mark."""
        try:
            found = await self._link.ask_api(
                f"STREAM.INFO.{self._link.subjects.values}",
                {"subjects_filter": self._link.subjects.copies(author, digest)},
                timeout_s=_ANSWER_S,
            )
        except ApiError as error:
            raise DisconnectedError(f"{self._link.name}: {error}") from None
        if found["state"]["last_seq"] < mark:
            raise DisconnectedError(
                f"{self._link.name}: the server that leads the large values is behind"
            )
        parts: dict[str, set[str]] = {}
        for subject in found["state"].get("subjects") or ():
            *_, copy, part = subject.split(".")
            parts.setdefault(copy, set()).add(part)
        wanted = {str(part) for part in range(count)}
        return sorted(copy for copy, there in parts.items() if there >= wanted)

    def _insist(
        self, make: Callable[[], Coroutine[Any, Any, T]], is_ending: Callable[[], bool]
    ) -> T:
        while True:
            try:
                found: T = self._link.call(make(), _ANSWER_S * 2)
            except (DisconnectedError, RefusedError):
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

    def check_not_trimmed(self, message: int, is_ending: Callable[[], bool]) -> None:
        """Refuse to take for missing what was removed because its message is behind all snapshots.

        Raises:
            TrimmedError: the stream no longer has that message, of which this node has only now come to
                read what it names.
            DisconnectedError, PermissionDeniedError: as `found`.
        """

        async def ask() -> int:
            try:
                stream = self._link.subjects.stream
                found = await self._link.ask_api(f"STREAM.INFO.{stream}", {}, timeout_s=_ANSWER_S)
            except ApiError as error:
                raise DisconnectedError(f"{self._link.name}: {error}") from None
            return int(found["state"]["first_seq"])

        first = self._insist(ask, is_ending)
        if first > message:
            raise TrimmedError(
                f"the swarm's stream was trimmed past message {message}, and what that names is gone, "
                "before this node had read it: reopen it, and it begins with a snapshot",
                oldest=first,
            )

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
        for _, data in self.found(author, wanted.name, wanted.size, is_ending):
            if len(data) == wanted.size and _write_whole(path, reference, data):
                return True
        return False

    def first_whole(
        self, author: str, reference: bytes, scratch: Path, is_ending: Callable[[], bool]
    ) -> str | None:
        """Name of the first copy of a value file that is as its reference says; None: there is none.

        Raises:
            As `want_file`.
        """
        wanted = read_reference(reference)
        for copy, data in self.found(author, wanted.name, wanted.size, is_ending):
            path = scratch / wanted.name
            if len(data) == wanted.size and _write_whole(path, reference, data):
                path.unlink()
                return copy
        return None


def _write_whole(path: Path, reference: bytes, data: bytes) -> bool:
    """Have a file of these bytes, durably; False, and none, if they are not the reference's."""
    new = path.parent / (secrets.token_hex(16) + ".new")
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
        sync_directory(path.parent)
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
