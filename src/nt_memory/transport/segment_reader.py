"""Reading a journal: at a position, or replayed in order, while it may be growing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from nt_memory.errors import CorruptionError, TrimmedError
from nt_memory.transport.segments import (
    HEADER_BYTES,
    MARK_EVERY,
    SegmentHeader,
    SegmentWalk,
    check_follows,
    list_segments,
    read_frame,
    read_header,
    segment_path,
    unpack_position,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nt_memory.transport.ports import Frame


def entry_time(directory: Path, sequence: int) -> int | None:
    """Entry time of a sequence as the journal has it; None if that cannot be told from it.

    Cost: reads the segment up to it, unless the next segment begins right behind it.
    """
    segments = list_segments(directory)
    first = max((first for first in segments if first <= sequence + 1), default=0)
    if not first:
        return None
    path = segment_path(directory, first)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        header = read_header(fd, path)
        if first == sequence + 1:
            return header.recorded_at or None
        walk = SegmentWalk(fd, header, HEADER_BYTES, first)
        return next((frame.recorded_at for frame in walk if frame.sequence == sequence), None)
    except CorruptionError:
        return None
    finally:
        os.close(fd)


class SegmentReader:
    """Reads a journal that this or another process may be writing. Thread-safe; writes nothing.

    What lies behind the last durable frame is visible to it too, so a follower of another process
    stops (`until`) at what the views of that process have applied.

    Args:
        directory: Where the segments are.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = Path(directory)
        self._headers: dict[int, SegmentHeader] = {}
        # Starting points of replays, as sequence -> position; dict operations are atomic.
        self.marks: dict[int, int] = {}
        # Where the last bounded replay ended: sequence, segment, offset. Not a position, since an
        # offset that no frame starts at may lie beyond 64 MiB.
        self._cursor = (0, 0, 0)

    @property
    def oldest_sequence(self) -> int:
        """Smallest sequence still kept, or the next one to be written if none is; 1 if empty."""
        return next(iter(list_segments(self._directory)), 1)

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments."""
        paths = (segment_path(self._directory, first) for first in list_segments(self._directory))
        return sum(path.stat().st_size for path in paths)

    def read(self, position: int) -> Frame:
        """The frame at a position once handed out.

        Raises:
            CorruptionError: there is no valid frame.
            TrimmedError: its segment is no longer kept.
        """
        first, offset = unpack_position(position)
        fd = self._open(first)
        try:
            found = read_frame(fd, self._header(fd, first), offset)
        finally:
            os.close(fd)
        if found is None:
            path = segment_path(self._directory, first)
            raise CorruptionError(f"{path}: offset {offset}: the frame fails its checksum")
        return found[0]

    def replay(
        self, after: int, *, until: int | None = None, after_recorded_at: int | None = None
    ) -> Iterator[Frame]:
        """Frames with sequence > `after`, in order, verified, streamed.

        Args:
            after: The last sequence not wanted.
            until: The last one wanted, which must be there; None: as far as valid frames go, and
                an unfinished frame at the end of the newest segment is where they end.
            after_recorded_at: Entry time of `after` as whoever asks knows it; None: it is not
                compared.

        Raises:
            CorruptionError: the entry `after` has another time, or a segment does not go on from
                the one before: one of them is another store's.
            CorruptionError: a frame is damaged or missing; the message names file, offset and
                sequence. Raised when the iteration gets there.
            TrimmedError: `after + 1` lies before the oldest frame kept.
        """
        oldest = self.oldest_sequence
        if after + 1 < oldest:
            raise TrimmedError(
                f"journal: sequence {after + 1} is no longer kept; the oldest is {oldest}",
                oldest=oldest,
            )
        return self._replay(after, until, after_recorded_at)

    def _replay(
        self, after: int, until: int | None, after_recorded_at: int | None
    ) -> Iterator[Frame]:
        sequence, first, offset = self._start(after)
        is_final = False
        recorded_at: int | None = after_recorded_at if sequence == after + 1 else None
        while until is None or sequence <= until:
            walk = None
            if first:
                fd = self._open(first)
                try:
                    header = self._header(fd, first)
                    if offset == HEADER_BYTES:
                        check_follows(segment_path(self._directory, first), header, recorded_at)
                    walk = SegmentWalk(fd, header, offset, sequence)
                    yield from self._wanted(walk, after, until, after_recorded_at)
                finally:
                    os.close(fd)
                sequence, offset, recorded_at = walk.sequence, walk.offset, walk.recorded_at
                if until is not None and sequence > until:
                    self._cursor = (sequence, first, offset)
                    return
            newer = [other for other in list_segments(self._directory) if other > first]
            if not newer and until is None:
                return
            if newer and sequence == newer[0] and not (walk and walk.damage):
                first, offset, is_final = newer[0], HEADER_BYTES, False
            elif newer and not is_final:
                # Another process may have finished this segment since; now it cannot change.
                is_final = True
            else:
                path = segment_path(self._directory, first)
                why = (walk and walk.damage) or "the segment ends here"
                raise CorruptionError(f"{path}: offset {offset}, sequence {sequence}: {why}")

    def _wanted(
        self, walk: SegmentWalk, after: int, until: int | None, after_recorded_at: int | None
    ) -> Iterator[Frame]:
        for frame in walk:
            sequence = frame.sequence
            if sequence == after and after_recorded_at not in {None, frame.recorded_at}:
                raise CorruptionError(
                    f"{self._directory}: entry {after} is of {frame.recorded_at} us, but of "
                    f"{after_recorded_at} us in what goes before it: one is another store's"
                )
            # Without `until` the frame may yet be taken back, and its place with it.
            if until is not None and not sequence % MARK_EVERY:
                self.marks[sequence] = frame.position
            if sequence > after:
                yield frame
            if sequence == until:
                return

    def _start(self, after: int) -> tuple[int, int, int]:
        """A known place at or before `after + 1`: sequence, segment, offset."""
        wanted = after + 1
        if (cursor := self._cursor)[0] == wanted:
            return cursor
        first = max((s for s in list_segments(self._directory) if s <= wanted), default=0)
        for sequence in range(wanted - wanted % MARK_EVERY, first, -MARK_EVERY):
            if (mark := self.marks.get(sequence)) is not None:
                return (sequence, *unpack_position(mark))
        return first or 1, first, HEADER_BYTES

    def _open(self, first: int) -> int:
        path = segment_path(self._directory, first)
        try:
            return os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            oldest = self.oldest_sequence
            if first < oldest:
                raise TrimmedError(
                    f"journal: {path.name} is no longer kept", oldest=oldest
                ) from None
            raise CorruptionError(f"{path}: the segment is missing") from None

    def _header(self, fd: int, first: int) -> SegmentHeader:
        header = self._headers.get(first)
        if header is None:
            path = segment_path(self._directory, first)
            header = self._headers[first] = read_header(fd, path)
        return header
