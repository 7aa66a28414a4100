"""Appending to a journal: one owner, one thread at a time."""

from __future__ import annotations

import contextlib
import itertools
import os
from typing import TYPE_CHECKING

from nt_memory.errors import CorruptionError, StorageError, StorageFullError
from nt_memory.transport.files import OsFileSystem, sync_directory, to_storage_error
from nt_memory.transport.ports import Frame
from nt_memory.transport.segments import (
    FRAME_BYTES,
    HEADER_BYTES,
    MARK_EVERY,
    SEGMENT_BYTES,
    SegmentHeader,
    Tail,
    encode_frame_header,
    encode_header,
    judge_tail,
    list_segments,
    pack_position,
    segment_path,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from nt_memory.transport.files import FileSystem

_JOIN_BYTES = 1 << 20
RESERVE_BYTES = 16 << 20
"""Nothing is written while less is free."""
_VIEWS_FACTOR = 4
_AHEAD_BYTES = 1 << 20


class SegmentWriter:
    """The growing end of a journal. Not thread-safe.

    Opening it verifies the newest segment, cuts a torn tail and makes what is left durable, since
    what a killed process wrote may still be only in the page cache.

    Args:
        directory: Where the segments are; must exist.
        marks: Filled with positions of frames, by sequence, where replays can start.
        applied_sequence: Greatest sequence that some view has applied.
        files: How files are changed.
        segment_bytes: Start a new segment rather than outgrow this; at most `SEGMENT_BYTES`.

    Attributes:
        next_sequence: Sequence of the next frame.
        recorded_at: Entry time of the last frame.
        cut_bytes: Bytes of torn tail cut at open.

    Raises:
        CorruptionError: a frame that was durable or applied is damaged or missing.
        FormatVersionError: a newer version wrote the newest segment.
        StorageError: a file operation failed; `StorageFullError`, `StorePermissionError` likewise.
    """

    def __init__(
        self,
        directory: Path,
        marks: dict[int, int],
        *,
        applied_sequence: int = 0,
        files: FileSystem | None = None,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self._directory = directory
        self._marks = marks
        self._files: FileSystem = OsFileSystem() if files is None else files
        self._segment_bytes = min(segment_bytes, SEGMENT_BYTES)
        self._older_bytes = 0
        self._can_reserve = True
        self._fd = -1
        try:
            tail = self._open(applied_sequence)
        except OSError as error:
            self.close()
            raise to_storage_error(error, f"opening the journal in {directory}") from error
        except BaseException:
            self.close()
            raise
        self._header = tail.header
        self._end = self._synced = self._reserved = tail.end
        self.next_sequence: int = tail.next_sequence
        self.recorded_at: int = tail.recorded_at
        self.cut_bytes: int = tail.torn_bytes

    @property
    def has_unsynced(self) -> bool:
        """Whether `sync` has something to do."""
        return self._synced < self._end

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments, without what is reserved ahead (1 MiB at most)."""
        return self._older_bytes + self._end

    def append(self, batch: Sequence[tuple[bytes, object]], now_us: int) -> list[Frame]:
        """Write a batch of payloads with their tickets; durable only after `sync`.

        Args:
            batch: At least one pair; together below 1 MiB of payload if more than one.
            now_us: Entry time of all of them, unless the last frame's is later: then that.

        Raises:
            StorageFullError: no space is left, or so little that the views might not have room for
                what the batch does to them; the journal is as it was before the call.
            StorageError: writing failed; the journal must not be written any more.
        """
        size = sum(FRAME_BYTES + len(payload) for payload, _ in batch)
        self._check_space(size)
        if self._end + size > self._segment_bytes and self._end > HEADER_BYTES:
            self.rotate()
        if self._can_reserve and self._end + size > self._reserved:
            self._reserve(self._end + size + _AHEAD_BYTES)
        recorded_at = max(now_us, self.recorded_at)
        frames, parts = self._encode(batch, recorded_at)
        try:
            for part in [b"".join(parts)] if size <= _JOIN_BYTES else parts:
                self._files.append(self._fd, part)
        except OSError as error:
            self._truncate(self._end)
            raise to_storage_error(error, f"writing {self._path}") from error
        self._end += size
        self.next_sequence += len(frames)
        self.recorded_at = recorded_at
        return frames

    def start_sync(self) -> None:
        """Begin to write out what is not durable, so that `sync` has less to wait for. Best effort."""
        if self.has_unsynced:
            with contextlib.suppress(OSError):
                self._files.start_sync(self._fd, self._synced, self._end - self._synced)

    def sync(self) -> None:
        """Make everything appended durable.

        Raises:
            StorageError: the operating system failed to. What it had not written it may have
                dropped, and a second attempt may wrongly succeed (PostgreSQL, 2018), so the
                journal must not be written any more.
        """
        if self.has_unsynced:
            self._sync()

    def _sync(self) -> None:
        try:
            self._files.sync(self._fd)
        except OSError as error:
            raise StorageError(f"fsync of {self._path}: {error.strerror or error}") from error
        self._synced = self._end

    def drop_unsynced(self) -> None:
        """Take back what is not durable, so that it is not there after a reopen. Best effort."""
        with contextlib.suppress(StorageError):
            self._truncate(self._synced)

    def drop_before(self, sequence: int) -> int:
        """Delete the segments that hold nothing from `sequence` on; the newest one stays.

        Returns:
            Bytes given back.

        Raises:
            StorageError: a file could not be deleted; those before it are.
        """
        segments = list_segments(self._directory)
        dropped = 0
        # Oldest first, so that whatever happens the sequences left have no gap.
        for first, following in itertools.pairwise(segments):
            if following > sequence:
                break
            path = segment_path(self._directory, first)
            try:
                size = path.stat().st_size
                path.unlink()
            except OSError as error:
                raise to_storage_error(error, f"deleting {path}") from error
            dropped += size
            self._older_bytes -= size
        return dropped

    def trim(self) -> None:
        """Give back what was reserved and not written. Best effort: a reader stops there anyway."""
        if self._fd >= 0 and self._reserved > self._end:
            with contextlib.suppress(StorageError):
                self._truncate(self._end)

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _check_space(self, size: int) -> None:
        # What is journalled has to be applied, so the views must not be the first to run out.
        wanted = RESERVE_BYTES + size * _VIEWS_FACTOR
        try:
            free = self._files.free_bytes(self._fd)
        except OSError as error:
            raise to_storage_error(error, f"asking for free space of {self._path}") from error
        if free < wanted:
            raise StorageFullError(
                f"{self._directory}: {free >> 20} MiB are free, and {wanted >> 20} MiB are kept free"
            )

    @property
    def _path(self) -> Path:
        return segment_path(self._directory, self._header.first_sequence)

    def _encode(
        self, batch: Sequence[tuple[bytes, object]], recorded_at: int
    ) -> tuple[list[Frame], list[bytes]]:
        first, _, salt = self._header
        frames: list[Frame] = []
        parts: list[bytes] = []
        place = pack_position(first, self._end)
        for sequence, (payload, ticket) in enumerate(batch, self.next_sequence):
            start = encode_frame_header(
                payload, sequence, recorded_at, synced=self._synced, salt=salt
            )
            parts += (start, payload)
            frames.append(Frame(sequence, recorded_at, payload, place, ticket))
            if not sequence % MARK_EVERY:
                self._marks[sequence] = place
            place += FRAME_BYTES + len(payload)
        return frames, parts

    def _reserve(self, size: int) -> None:
        try:
            self._files.reserve(self._fd, size)
        except OSError:
            # Appending makes the file longer, or says why it cannot; not asked again every time.
            self._can_reserve = False
        else:
            self._reserved = size

    def _truncate(self, size: int) -> None:
        self._reserved = size
        try:
            self._files.truncate(self._fd, size)
        except OSError as error:
            raise StorageError(f"truncating {self._path}: {error.strerror or error}") from error

    def _open(self, applied_sequence: int) -> Tail:
        for leftover in self._directory.glob("*.new"):
            leftover.unlink()
        segments = list_segments(self._directory)
        if not segments:
            if applied_sequence:
                raise CorruptionError(
                    f"{self._directory}: no journal, but the views hold {applied_sequence}"
                )
            header = SegmentHeader(1, 0, _new_salt())
            self._fd = self._create(header)
            return Tail(header, HEADER_BYTES, 1, 0, 0)
        path = segment_path(self._directory, segments[-1])
        self._fd = os.open(path, os.O_RDWR)
        tail = judge_tail(self._fd, path, self._marks, applied_sequence=applied_sequence)
        self._files.truncate(self._fd, tail.end)
        self._files.sync(self._fd)
        sync_directory(self._directory)
        self._older_bytes = sum(
            segment_path(self._directory, first).stat().st_size for first in segments[:-1]
        )
        return tail

    def rotate(self) -> None:
        """Begin a new segment, unless the newest one is still empty.

        Raises:
            StorageFullError: no space is left; the journal is as it was before the call.
            StorageError: syncing failed; the journal must not be written any more.
        """
        if self._end == HEADER_BYTES:
            return
        # The segment before the newest must be durable, and end with its last frame: damage in it is
        # then corruption for sure.
        if self._reserved > self._end:
            self._truncate(self._end)
        self._sync()
        header = SegmentHeader(self.next_sequence, self.recorded_at, _new_salt())
        try:
            fd = self._create(header)
        except OSError as error:
            path = segment_path(self._directory, self.next_sequence)
            raise to_storage_error(error, f"creating {path}") from error
        os.close(self._fd)
        self._older_bytes += self._end
        self._fd, self._header = fd, header
        self._end = self._synced = self._reserved = HEADER_BYTES
        self._can_reserve = True

    def _create(self, header: SegmentHeader) -> int:
        """Make a segment appear with its header durable, or not at all."""
        path = segment_path(self._directory, header.first_sequence)
        new = path.with_suffix(".new")
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            self._files.append(fd, encode_header(header))
            self._files.sync(fd)
            new.rename(path)
        except OSError:
            os.close(fd)
            with contextlib.suppress(OSError):
                new.unlink()
            raise
        try:
            sync_directory(self._directory)
        except OSError as error:
            # The name is there and may or may not last: nobody may write the old segment now.
            os.close(fd)
            raise StorageError(f"fsync of {self._directory}: {error.strerror}") from error
        return fd


def _new_salt() -> int:
    return int.from_bytes(os.urandom(4), "little")
