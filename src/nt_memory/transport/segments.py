"""Journal segments: their format, how they are verified, and reading at a position.

A segment is a header and then frames without gaps (`docs/reference/format.md`). Three things make
damage tell itself apart from the torn tail that a crash leaves behind:

- every checksum is seeded with the segment's random salt, so bytes that merely look like a frame,
  such as a journal stored as a value in a journal, never pass as one;
- every frame says up to which offset its segment was durable when the frame was written
  (`synced`), so a valid frame whose `synced` lies beyond a bad place proves that the bad place was
  once good;
- a segment gets its name only when its header is durable, and only after the segment before it is
  durable to its end.

Hence a bad frame is a torn tail only in the newest segment, only if nothing after it proves that it
was durable, and only if no view has applied it. Everything else is corruption. What cannot be told
apart: a last batch that was durable, then damaged, and whose views were lost too.
"""

from __future__ import annotations

import os
import re
import struct
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

import numpy as np

from nt_memory.errors import CorruptionError, FormatVersionError
from nt_memory.transport.ports import Frame

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

FORMAT_VERSION = 1
SEGMENT_BYTES = 64 << 20
MAX_PAYLOAD_BYTES = 1 << 30

_MAGIC = b"NTMJRNL\0"
_HEADER = struct.Struct("<8sIIQqI")
_FRAME = struct.Struct("<IIQqQ")
_REST = struct.Struct("<IQqQ")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size
FRAME_BYTES = _FRAME.size

_NAME = re.compile(r"(\d{20})\.log", re.ASCII)
_OFFSET_BITS = 26
_OFFSET_MASK = (1 << _OFFSET_BITS) - 1
_CHUNK = 1 << 18
MARK_EVERY = 512
"""Replays can start at frames whose sequence is a multiple of this."""


def pack_position(first_sequence: int, offset: int) -> int:
    """Where a frame is, as one int: its segment's first sequence and its offset there.

    No frame starts at or beyond 64 MiB (`SEGMENT_BYTES`), so the offset takes 26 bits; the whole
    fits a signed 64-bit integer up to sequence 137,438,953,471.
    """
    return first_sequence << _OFFSET_BITS | offset


def unpack_position(position: int) -> tuple[int, int]:
    """First sequence of the segment, and offset in it, of a position."""
    return position >> _OFFSET_BITS, position & _OFFSET_MASK


def segment_path(directory: Path, first_sequence: int) -> Path:
    """The file of the segment that starts with `first_sequence`."""
    return directory / f"{first_sequence:020d}.log"


def list_segments(directory: Path) -> list[int]:
    """First sequences of the segments in a directory, ascending; other files are not looked at."""
    names = (_NAME.fullmatch(path.name) for path in directory.iterdir())
    return sorted(int(name[1]) for name in names if name)


class SegmentHeader(NamedTuple):
    """What the start of a segment says.

    Attributes:
        first_sequence: Sequence of its first frame, whether written yet or not.
        recorded_at: Entry time of the last frame before it; no frame in it is older.
        salt: Seed of every checksum in the segment.
    """

    first_sequence: int
    recorded_at: int
    salt: int


def encode_header(header: SegmentHeader) -> bytes:
    """Bytes of a segment header."""
    first_sequence, recorded_at, salt = header
    body = _HEADER.pack(_MAGIC, FORMAT_VERSION, salt, first_sequence, recorded_at, 0)[:-4]
    return body + _CRC.pack(crc32(body))


def encode_frame_header(
    payload: bytes, sequence: int, recorded_at: int, *, synced: int, salt: int
) -> bytes:
    """The bytes that stand before `payload` in a segment."""
    rest = _REST.pack(len(payload), sequence, recorded_at, synced)
    return _CRC.pack(crc32(payload, crc32(rest, salt))) + rest


def read_header(fd: int, path: Path) -> SegmentHeader:
    """Read and verify the header of the segment open as `fd`.

    Raises:
        CorruptionError: it is incomplete, fails its checksum or belongs to another segment.
        FormatVersionError: a newer version wrote it.
    """
    header = read_any_header(fd, path)
    if path.name != f"{header.first_sequence:020d}.log":
        raise CorruptionError(f"{path}: offset 0: the header says sequence {header.first_sequence}")
    return header


def read_any_header(fd: int, path: Path) -> SegmentHeader:
    """As `read_header`, of a segment under whatever name."""
    data = os.pread(fd, HEADER_BYTES, 0)
    if len(data) < HEADER_BYTES:
        raise CorruptionError(f"{path}: offset 0: the segment header is incomplete")
    magic, version, salt, first_sequence, recorded_at, checksum = _HEADER.unpack(data)
    if magic != _MAGIC or checksum != crc32(data[:-4]):
        raise CorruptionError(f"{path}: offset 0: the segment header fails its checksum")
    if version > FORMAT_VERSION:
        raise FormatVersionError(
            f"{path}: journal format {version}; this version reads {FORMAT_VERSION}"
        )
    return SegmentHeader(first_sequence, recorded_at, salt)


def check_follows(path: Path, header: SegmentHeader, recorded_at: int | None) -> None:
    """Refuse a segment that does not go on from the entry before it, such as another store's.

    Args:
        path: Its file, for the message.
        header: Its header.
        recorded_at: Time of the entry before it; None, or 0 in the header: it is not known.

    Raises:
        CorruptionError: the header says another time.
    """
    if recorded_at is not None and header.recorded_at not in {0, recorded_at}:
        raise CorruptionError(
            f"{path}: offset 0, sequence {header.first_sequence}: the header says that the entry "
            f"before is of {header.recorded_at} us, but it is of {recorded_at} us: one is another "
            "store's"
        )


class SegmentWalk:
    """Iterates the valid frames of a segment from a given place, and remembers where it stopped.

    Memory is bounded by 256 KiB plus twice the frame at hand.

    Attributes:
        offset: Where the next frame starts or should start.
        sequence: The sequence it has or should have.
        recorded_at: Entry time of the frame before it; None if that was not seen.
        damage: Why the walk ended before the end of the file; None if it did not.
    """

    def __init__(self, fd: int, header: SegmentHeader, offset: int, sequence: int) -> None:
        self._fd = fd
        self._header = header
        self.offset: int = offset
        self.sequence: int = sequence
        self.recorded_at: int | None = header.recorded_at if offset == HEADER_BYTES else None
        self.damage: str | None = None

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames until the end of the file or the first bad frame."""
        wanted = FRAME_BYTES
        while True:
            data = os.pread(self._fd, max(wanted, _CHUNK), self.offset)
            if len(data) < wanted:
                self.damage = "the frame is incomplete" if data else None
                return
            wanted = yield from self._frames_in(data)
            if self.damage is not None:
                return
            if wanted > os.fstat(self._fd).st_size - self.offset and wanted > FRAME_BYTES:
                self.damage = "the frame is incomplete"
                return

    def _frames_in(self, data: bytes) -> Generator[Frame, None, int]:
        """Yield the frames that lie whole in `data`; return the bytes the next one needs."""
        salt, view, size = self._header.salt, memoryview(data), len(data)
        place = pack_position(self._header.first_sequence, self.offset)
        sequence, start = self.sequence, 0
        while (body := start + FRAME_BYTES) <= size:
            checksum, length, found, recorded_at, _ = _FRAME.unpack_from(data, start)
            end: int = body + length
            if end > size:
                return end - start
            if found != sequence or crc32(view[start + 4 : end], salt) != checksum:
                self.damage = "the frame fails its checksum"
                return FRAME_BYTES
            sequence += 1
            self.sequence = sequence
            self.recorded_at = recorded_at
            self.offset += end - start
            yield Frame(found, recorded_at, data[body:end], place + start)
            start = end
        return FRAME_BYTES


def read_frame(fd: int, header: SegmentHeader, offset: int) -> tuple[Frame, int] | None:
    """The frame at an offset and its `synced`, or None if there is no valid one."""
    start = os.pread(fd, FRAME_BYTES, offset)
    if len(start) < FRAME_BYTES:
        return None
    checksum, length, sequence, recorded_at, synced = _FRAME.unpack(start)
    if length > os.fstat(fd).st_size - offset - FRAME_BYTES:
        return None
    payload = os.pread(fd, length, offset + FRAME_BYTES)
    if len(payload) < length or crc32(payload, crc32(start[4:], header.salt)) != checksum:
        return None
    position = pack_position(header.first_sequence, offset)
    return Frame(sequence, recorded_at, payload, position), synced


def was_durable(fd: int, header: SegmentHeader, offset: int, sequence: int) -> bool:
    """Whether a later valid frame proves that the bad frame at `offset` was durable once.

    Looks at every byte offset, since the bad frame's length cannot be trusted.

    Args:
        fd: The open segment.
        header: Its header.
        offset: Where the bad frame starts.
        sequence: The sequence it should have.

    Cost: about 2 ms per MiB behind the bad frame; once, after a crash.
    """
    size = os.fstat(fd).st_size
    limit = sequence + (size - offset) // FRAME_BYTES
    for start in range(offset + FRAME_BYTES, size, _CHUNK):
        data = os.pread(fd, _CHUNK + FRAME_BYTES - 1, start)
        # A frame at start + i has its sequence at i + 8; eight shifted views cover every i.
        for shift in range(8, min(16, len(data) - 7)):
            words = np.frombuffer(data, "<u8", (len(data) - shift) // 8, shift)
            for hit in np.flatnonzero((words > sequence) & (words <= limit)).tolist():
                frame_at = start + shift - 8 + 8 * hit
                synced = int.from_bytes(os.pread(fd, 8, frame_at + 24), "little")
                if offset < synced <= frame_at and read_frame(fd, header, frame_at):
                    return True
    return False


class Tail(NamedTuple):
    """How the newest segment ends.

    Attributes:
        header: Its header.
        end: Offset behind its last valid frame.
        next_sequence: Sequence of the next frame to write.
        recorded_at: Entry time of the last frame written, in this segment or before it.
        torn_bytes: Bytes behind `end` that a crash left and nobody was ever told about.
    """

    header: SegmentHeader
    end: int
    next_sequence: int
    recorded_at: int
    torn_bytes: int


def judge_tail(fd: int, path: Path, marks: dict[int, int], *, applied_sequence: int) -> Tail:
    """Verify the newest segment and tell a torn tail from corruption. Changes nothing.

    Args:
        fd: The open segment.
        path: Its file, for messages.
        marks: Filled with positions of some of its frames, by sequence.
        applied_sequence: Greatest sequence that some view has applied.

    Raises:
        CorruptionError: a frame that was durable or applied is damaged or missing.
        FormatVersionError: a newer version wrote it.
    """
    header = read_header(fd, path)
    walk = SegmentWalk(fd, header, HEADER_BYTES, header.first_sequence)
    recorded_at = header.recorded_at
    for frame in walk:
        recorded_at = frame.recorded_at
        if not frame.sequence % MARK_EVERY:
            marks[frame.sequence] = frame.position
    place = f"{path}: offset {walk.offset}, sequence {walk.sequence}"
    if walk.sequence <= applied_sequence:
        why = walk.damage or "the journal ends here"
        raise CorruptionError(f"{place}: {why}, but the views hold {applied_sequence}")
    if walk.damage and was_durable(fd, header, walk.offset, walk.sequence):
        if read_frame(fd, header, walk.offset) is None:
            raise CorruptionError(f"{place}: {walk.damage}, but it was durable once")
        # Another process was just writing it: look again, from what it has written since.
        return judge_tail(fd, path, marks, applied_sequence=applied_sequence)
    torn_bytes = os.fstat(fd).st_size - walk.offset
    return Tail(header, walk.offset, walk.sequence, recorded_at, torn_bytes)


def judge_newest(directory: Path, *, applied_sequence: int) -> Tail | None:
    """`judge_tail` for the newest segment of a journal; None if it has none.

    Raises:
        CorruptionError: as `judge_tail`.
        FormatVersionError: as `judge_tail`.
    """
    segments = list_segments(directory)
    if not segments:
        return None
    path = segment_path(directory, segments[-1])
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return judge_tail(fd, path, {}, applied_sequence=applied_sequence)
    finally:
        os.close(fd)
