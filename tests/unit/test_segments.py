"""Frames, segments, the writer's end and the reader's view of it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from nt_memory.errors import (
    CorruptionError,
    FormatVersionError,
    StorageError,
    StorageFullError,
    TrimmedError,
)
from nt_memory.testing.faults import FaultyFileSystem
from nt_memory.transport import files as files_module
from nt_memory.transport import segments
from nt_memory.transport.segment_reader import SegmentReader
from nt_memory.transport.segment_writer import SegmentWriter
from nt_memory.transport.segments import (
    FRAME_BYTES,
    HEADER_BYTES,
    SegmentHeader,
    encode_frame_header,
    encode_header,
    list_segments,
    pack_position,
    segment_path,
    unpack_position,
)

if TYPE_CHECKING:
    from pathlib import Path


def _open(directory: Path, **options: object) -> SegmentWriter:
    return SegmentWriter(directory, {}, **options)  # type: ignore[arg-type]


def _write(directory: Path, *batches: list[bytes], **options: object) -> list[int]:
    """Append batches, one sync each; the positions."""
    writer = _open(directory, **options)
    positions: list[int] = []
    for batch in batches:
        frames = writer.append([(payload, None) for payload in batch], 1_000)
        positions += [frame.position for frame in frames]
        writer.sync()
    writer.trim()
    writer.close()
    return positions


def _payloads(directory: Path, after: int = 0, until: int | None = None) -> list[bytes]:
    return [frame.payload for frame in SegmentReader(directory).replay(after, until=until)]


def _flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_position_round_trip() -> None:
    """A position names a segment and an offset, and fits a signed 64-bit integer."""
    greatest = pack_position(137_438_953_471, (64 << 20) - 1)
    assert unpack_position(greatest) == (137_438_953_471, (64 << 20) - 1)
    assert greatest == 2**63 - 1


def test_format_is_pinned() -> None:
    """The bytes on disk are those the format reference describes; changing them takes a version."""
    header = encode_header(SegmentHeader(7, 1_700_000_000_000_000, 0x01020304))
    assert header.hex() == (
        "4e544d4a524e4c000100000004030201070000000000000000401e18240a0600900560b7"
    )
    assert len(header) == HEADER_BYTES == 36
    frame = encode_frame_header(b"abc", 7, 5, synced=36, salt=9)
    assert frame[4:].hex() == "0300000007000000000000000500000000000000" + "2400000000000000"
    assert len(frame) == FRAME_BYTES == 32


def test_reads_back_at_position(tmp_path: Path) -> None:
    """What was written is found again at the position that was handed out."""
    payloads = [b"", b"a", b"b" * 5000, os.urandom(3 << 20)]
    positions = _write(tmp_path, payloads[:2], payloads[2:3], payloads[3:])
    reader = SegmentReader(tmp_path)
    assert [reader.read(position).payload for position in positions] == payloads
    assert [frame.position for frame in reader.replay(0)] == positions
    assert reader.read(positions[1]).sequence == 2
    assert reader.read(positions[1]).recorded_at == 1_000


def test_rotates_and_replays_across_segments(tmp_path: Path) -> None:
    """Segments follow each other without a gap, and replay may begin in any of them."""
    payloads = [b"%03d" % i * 20 for i in range(40)]
    _write(tmp_path, *([p] for p in payloads), segment_bytes=400)
    assert len(list_segments(tmp_path)) > 5
    for after in range(41):
        assert _payloads(tmp_path, after) == payloads[after:]
    assert _payloads(tmp_path, 3, until=17) == payloads[3:17]


def test_replay_starts_near_where_it_is_asked(tmp_path: Path) -> None:
    """Replays that begin at marks or at the cursor of an earlier one yield the same frames."""
    payloads = [b"%d" % i for i in range(2_000)]
    _write(tmp_path, *(payloads[i : i + 64] for i in range(0, 2_000, 64)), segment_bytes=30_000)
    reader = SegmentReader(tmp_path)
    for _ in range(2):
        for after in (0, 510, 511, 512, 513, 1_500, 1_999, 2_000):
            found = [frame.payload for frame in reader.replay(after, until=2_000)]
            assert found == payloads[after:]
    assert reader.marks
    assert len([*reader.replay(100, until=1_000)]) == 900
    assert len([*reader.replay(1_000, until=1_001)]) == 1


def test_entry_time_never_runs_backwards(tmp_path: Path) -> None:
    """`recorded_at` keeps the greatest time seen, across segments and reopens."""
    writer = _open(tmp_path, segment_bytes=100)
    times = [writer.append([(b"x" * 60, None)], now)[0].recorded_at for now in (50, 40, 60)]
    writer.close()
    assert times == [50, 50, 60]
    reopened = _open(tmp_path, segment_bytes=100)
    assert reopened.append([(b"x" * 60, None)], 1)[0].recorded_at == 60
    reopened.close()
    # Even if only the empty newest segment were left, its header would still know.
    fresh = _open(tmp_path, segment_bytes=100)
    assert fresh.recorded_at == 60
    fresh.close()


def test_what_was_reserved_is_no_frame(tmp_path: Path) -> None:
    """A killed process leaves the zeros it had reserved; they hold nothing, whatever befalls them."""
    writer = _open(tmp_path)
    for payload in (b"one", b"two"):
        writer.append([(payload, None)], 1_000)
        writer.sync()
    end = writer._end
    writer.close()
    path = segment_path(tmp_path, 1)
    assert path.stat().st_size > end + 4096
    assert _payloads(tmp_path) == [b"one", b"two"]
    _flip(path, end + 4096)
    reopened = _open(tmp_path, applied_sequence=2)
    assert reopened.next_sequence == 3
    assert path.stat().st_size == reopened.size_bytes == end
    reopened.append([(b"three", None)], 1_000)
    reopened.rotate()
    assert path.stat().st_size == end + FRAME_BYTES + len(b"three")
    reopened.close()
    assert _payloads(tmp_path) == [b"one", b"two", b"three"]


def test_a_tail_that_is_being_written_is_judged_as_written(tmp_path: Path, monkeypatch) -> None:
    """What was not there yet when it was read is no damage, though frames behind it are durable."""
    writer = _open(tmp_path)
    writer.append([(b"one", None)], 1_000)
    writer.sync()
    proves = segments.was_durable

    def write_meanwhile(*args):
        for payload in (b"two", b"three", b"four"):
            writer.append([(payload, None)], 1_000)
            writer.sync()
        monkeypatch.setattr(segments, "was_durable", proves)
        return proves(*args)

    monkeypatch.setattr(segments, "was_durable", write_meanwhile)
    tail = segments.judge_newest(tmp_path, applied_sequence=1)
    assert tail is not None
    assert tail.next_sequence == 5
    writer.close()


def test_a_disk_that_cannot_reserve_is_written_all_the_same(tmp_path: Path) -> None:
    """Reserving is for speed only."""
    files = FaultyFileSystem()
    files.space = 1 << 20
    writer = _open(tmp_path, files=files)
    writer.append([(b"one", None)], 1_000)
    writer.sync()
    assert segment_path(tmp_path, 1).stat().st_size == writer.size_bytes
    writer.close()
    assert _payloads(tmp_path) == [b"one"]


def test_the_system_is_asked_to_write_what_is_not_durable(tmp_path: Path, monkeypatch) -> None:
    """Exactly that, before it is waited for; and nothing where there is nothing."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(
        files_module, "_advise", lambda _fd, start, size, _how: asked.append((start, size))
    )
    writer = _open(tmp_path)
    writer.start_sync()
    assert not asked
    for payload in (b"a" * 100, b"b" * 5000):
        end = writer.size_bytes
        writer.append([(payload, None)], 1)
        writer.start_sync()
        assert asked.pop() == (end, FRAME_BYTES + len(payload))
        writer.sync()
        writer.start_sync()
        assert not asked
    writer.close()


def test_torn_tail_is_cut(tmp_path: Path) -> None:
    """An unfinished last batch disappears at open; what follows takes its sequence."""
    positions = _write(tmp_path, [b"one"], [b"two", b"three"])
    path = segment_path(tmp_path, 1)
    os.truncate(path, path.stat().st_size - 1)
    writer = _open(tmp_path, applied_sequence=2)
    assert writer.cut_bytes == FRAME_BYTES + 4
    assert writer.append([(b"new", None)], 0)[0].position == positions[2]
    writer.close()
    assert _payloads(tmp_path) == [b"one", b"two", b"new"]


def test_torn_batch_with_a_good_end_is_cut(tmp_path: Path) -> None:
    """Pages of one batch may reach the disk in any order: a good frame behind a bad one of the
    same batch proves nothing.
    """
    _write(tmp_path, [b"one"], [b"two", b"three"])
    path = segment_path(tmp_path, 1)
    _flip(path, HEADER_BYTES + FRAME_BYTES + 3 + FRAME_BYTES)
    assert _open(tmp_path, applied_sequence=1).cut_bytes == 2 * FRAME_BYTES + 8
    assert _payloads(tmp_path) == [b"one"]


def test_damage_before_a_later_batch_is_corruption(tmp_path: Path) -> None:
    """A later batch proves that an earlier one was durable, even if no view knows of either."""
    _write(tmp_path, [b"one"], [b"two"])
    path = segment_path(tmp_path, 1)
    before = path.read_bytes()
    for offset in (HEADER_BYTES, HEADER_BYTES + 4, HEADER_BYTES + 8, HEADER_BYTES + FRAME_BYTES):
        _flip(path, offset)
        damaged = path.read_bytes()
        with pytest.raises(CorruptionError, match=r"01\.log: offset 36, sequence 1: .*durable"):
            _open(tmp_path)
        assert path.read_bytes() == damaged, "a refusal must change nothing"
        path.write_bytes(before)


def test_proof_is_found_at_any_distance(tmp_path: Path) -> None:
    """The search for a later frame covers every alignment and the borders of its chunks."""
    for size in range((1 << 20) - FRAME_BYTES - 20, (1 << 20) - FRAME_BYTES + 20):
        directory = tmp_path / str(size)
        directory.mkdir()
        _write(directory, [bytes(size)], [b"proof"])
        _flip(segment_path(directory, 1), HEADER_BYTES + 40)
        with pytest.raises(CorruptionError):
            _open(directory)


def test_a_journal_inside_a_value_proves_nothing(tmp_path: Path) -> None:
    """Bytes of another journal, stored as a value, are not taken for frames of this one."""
    other = tmp_path / "other"
    other.mkdir()
    _write(other, *([b"%d" % i] for i in range(20)))
    mine = tmp_path / "mine"
    mine.mkdir()
    _write(mine, [segment_path(other, 1).read_bytes()])
    _flip(segment_path(mine, 1), HEADER_BYTES)
    writer = _open(mine)
    assert writer.cut_bytes
    assert writer.next_sequence == 1
    writer.close()


def test_zeroed_tail_is_cut(tmp_path: Path) -> None:
    """Some file systems leave zeros where a write was lost; they end the journal like any tear."""
    _write(tmp_path, [b"one"])
    with segment_path(tmp_path, 1).open("ab") as file:
        file.write(bytes(100_000))
    writer = _open(tmp_path, applied_sequence=1)
    assert (writer.cut_bytes, writer.next_sequence) == (100_000, 2)
    writer.close()


@pytest.mark.parametrize("applied", [1, 2, 5])
def test_views_ahead_of_the_journal_are_corruption(tmp_path: Path, applied: int) -> None:
    """A frame that some view has applied may neither be damaged nor missing."""
    _write(tmp_path, [b"only"])
    path = segment_path(tmp_path, 1)
    os.truncate(path, path.stat().st_size - (1 if applied == 1 else 0))
    with pytest.raises(CorruptionError, match=f"the views hold {applied}"):
        _open(tmp_path, applied_sequence=applied)


def test_lost_journal_is_corruption(tmp_path: Path) -> None:
    """Views without a journal are not quietly given an empty one."""
    with pytest.raises(CorruptionError, match="no journal"):
        _open(tmp_path, applied_sequence=3)
    assert not list_segments(tmp_path)


def test_damage_in_an_older_segment_is_found_by_replay(tmp_path: Path) -> None:
    """Replay and read verify; a missing or shortened segment is an error, not an end."""
    positions = _write(tmp_path, *([b"x" * 60] for _ in range(6)), segment_bytes=100)
    first, second = (segment_path(tmp_path, n) for n in list_segments(tmp_path)[:2])
    before = second.read_bytes()
    _flip(second, len(before) - 1)
    with pytest.raises(CorruptionError, match=rf"{second.name}: offset 36, sequence 2"):
        _payloads(tmp_path)
    with pytest.raises(CorruptionError, match=rf"{second.name}: offset 36"):
        SegmentReader(tmp_path).read(positions[1])
    second.write_bytes(before[:HEADER_BYTES])
    with pytest.raises(CorruptionError, match="sequence 2: the segment ends here"):
        _payloads(tmp_path)
    second.unlink()
    with pytest.raises(CorruptionError, match="sequence 2"):
        _payloads(tmp_path)
    with pytest.raises(CorruptionError, match="missing"):
        SegmentReader(tmp_path).read(positions[1])
    first.unlink()
    with pytest.raises(TrimmedError) as caught:
        _payloads(tmp_path)
    assert caught.value.oldest == 3
    with pytest.raises(TrimmedError):
        SegmentReader(tmp_path).read(positions[0])
    assert len(_payloads(tmp_path, 2)) == 4


def test_headers_are_verified(tmp_path: Path) -> None:
    """Every byte of a segment header counts, and so does its name."""
    _write(tmp_path, [b"one"])
    path = segment_path(tmp_path, 1)
    before = path.read_bytes()
    for offset in range(HEADER_BYTES):
        _flip(path, offset)
        with pytest.raises(CorruptionError, match="offset 0"):
            _open(tmp_path)
        path.write_bytes(before)
    path.rename(segment_path(tmp_path, 2))
    with pytest.raises(CorruptionError, match="the header says sequence 1"):
        _open(tmp_path)


def test_newer_format_is_refused(tmp_path: Path) -> None:
    """A journal of a later format is not read as if it were corrupt, nor cut."""
    from zlib import crc32

    _write(tmp_path, [b"one"])
    path = segment_path(tmp_path, 1)
    data = bytearray(path.read_bytes())
    data[8] = 2
    data[32:36] = crc32(data[:32]).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(FormatVersionError, match="journal format 2"):
        _open(tmp_path)


def test_full_disk_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    """A batch that does not fit leaves no trace, and the next one that fits is written."""
    files = FaultyFileSystem()
    writer = _open(tmp_path, files=files)
    writer.append([(b"one", None)], 0)
    size = HEADER_BYTES + FRAME_BYTES + len(b"one")
    files.space = 50
    with pytest.raises(StorageFullError):
        writer.append([(b"two", None), (b"three", None)], 0)
    assert segment_path(tmp_path, 1).stat().st_size == size
    files.space = None
    assert writer.append([(b"two", None)], 0)[0].sequence == 2
    writer.close()
    assert _payloads(tmp_path) == [b"one", b"two"]


@pytest.mark.parametrize("space", [0, 10])
def test_full_disk_while_rotating(tmp_path: Path, space: int) -> None:
    """A segment that cannot be made does not appear, and is made once there is space."""
    files = FaultyFileSystem()
    writer = _open(tmp_path, files=files, segment_bytes=100)
    writer.append([(b"x" * 60, None)], 0)
    files.space = space
    with pytest.raises(StorageFullError):
        writer.append([(b"y" * 60, None)], 0)
    assert [path.name for path in tmp_path.iterdir()] == [segment_path(tmp_path, 1).name]
    files.space = None
    writer.append([(b"y" * 60, None)], 0)
    writer.close()
    assert _payloads(tmp_path) == [b"x" * 60, b"y" * 60]


def test_failing_file_operations_stop_the_writer(tmp_path: Path) -> None:
    """An fsync, or taking back a partial write, that fails is never taken for a full disk."""
    files = FaultyFileSystem()
    writer = _open(tmp_path, files=files)
    files.space, files.truncate_error = 10, errno.EIO
    with pytest.raises(StorageError, match="truncating") as caught:
        writer.append([(b"two", None)], 0)
    assert not isinstance(caught.value, StorageFullError)
    files.space, files.truncate_error, files.sync_error = None, None, errno.ENOSPC
    writer.append([(b"two", None)], 0)
    with pytest.raises(StorageError, match="fsync") as caught:
        writer.sync()
    assert not isinstance(caught.value, StorageFullError)
    writer.close()


def test_open_makes_the_tail_durable(tmp_path: Path) -> None:
    """What a killed process left in the page cache is synced before anyone builds on it."""
    writer = _open(tmp_path)
    writer.append([(b"unsynced", None)], 0)
    writer.close()
    files = FaultyFileSystem()
    _open(tmp_path, files=files).close()
    assert files.syncs == 1
    files.sync_error = errno.EIO
    with pytest.raises(StorageError):
        _open(tmp_path, files=files)


def test_follower_stops_at_an_unfinished_frame(tmp_path: Path) -> None:
    """A reader without an end goes as far as frames are whole, and later goes on from there."""
    _write(tmp_path, [b"one"], [b"two"])
    path = segment_path(tmp_path, 1)
    whole = path.read_bytes()
    reader = SegmentReader(tmp_path)
    two = HEADER_BYTES + FRAME_BYTES + 3
    for size in range(two, len(whole)):
        path.write_bytes(whole[:size])
        assert [frame.payload for frame in reader.replay(0)] == [b"one"]
        assert list(reader.replay(1)) == []
    path.write_bytes(whole)
    assert [frame.payload for frame in reader.replay(1)] == [b"two"]
    with pytest.raises(CorruptionError, match="sequence 3: the segment ends here"):
        list(reader.replay(0, until=3))


def test_follower_of_a_frame_that_was_taken_back(tmp_path: Path) -> None:
    """A follower that saw a frame before it was durable still reads what replaced it."""
    files = FaultyFileSystem()
    writer = _open(tmp_path, files=files)
    writer.append([(b"one", None)], 0)
    writer.sync()
    writer.append([(b"gone", None)], 0)
    reader = SegmentReader(tmp_path)
    assert [frame.payload for frame in reader.replay(0)] == [b"one", b"gone"]
    writer.drop_unsynced()
    writer.close()
    _write(tmp_path, [b"a longer one"], [b"next"])
    assert [frame.payload for frame in reader.replay(1)] == [b"a longer one", b"next"]
    assert [frame.payload for frame in reader.replay(2)] == [b"next"]


def test_follower_of_an_empty_directory(tmp_path: Path) -> None:
    """Nothing written yet is nothing to read."""
    reader = SegmentReader(tmp_path)
    assert list(reader.replay(0)) == []
    assert (reader.oldest_sequence, reader.size_bytes) == (1, 0)


def test_big_frames_take_bounded_memory(tmp_path: Path) -> None:
    """Replay holds about two of the biggest frame at once, never the segment."""
    import tracemalloc

    _write(tmp_path, *([bytes(8 << 20)] for _ in range(6)))
    tracemalloc.start()
    try:
        count = sum(1 for _ in SegmentReader(tmp_path).replay(0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 6
    assert peak < 36 << 20


def test_a_frame_bigger_than_a_segment(tmp_path: Path) -> None:
    """An entry beyond 64 MiB has a segment to itself, and replays can go on right behind it."""
    payloads = [b"small", bytes(65 << 20), b"next"]
    positions = _write(tmp_path, *([payload] for payload in payloads))
    assert list_segments(tmp_path) == [1, 2, 3]
    reader = SegmentReader(tmp_path)
    assert [len(frame.payload) for frame in reader.replay(0, until=2)] == [5, 65 << 20]
    assert [frame.payload for frame in reader.replay(2, until=3)] == [b"next"]
    assert reader.read(positions[1]).payload == payloads[1]


def test_following_while_segments_change(tmp_path: Path) -> None:
    """A follower that looks again and again misses nothing and sees nothing twice."""
    reader = SegmentReader(tmp_path)
    writer = _open(tmp_path, segment_bytes=300)
    seen: list[int] = []
    for i in range(100):
        writer.append([(b"x" * (i % 50), None) for _ in range(i % 4 + 1)], 0)
        if i % 3 == 0:
            seen += [frame.sequence for frame in reader.replay(len(seen))]
        if i % 5 == 0:
            last = writer.next_sequence - 1
            seen += [frame.sequence for frame in reader.replay(len(seen), until=last)]
    writer.close()
    seen += [frame.sequence for frame in reader.replay(len(seen))]
    assert seen == list(range(1, writer.next_sequence))
