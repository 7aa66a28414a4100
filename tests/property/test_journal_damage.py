"""Damage to a journal is either harmless, or an unfinished end, or named: never a wrong entry."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from nt_memory.errors import CorruptionError, FormatVersionError
from nt_memory.testing.faults import FaultyFileSystem
from nt_memory.transport.segment_reader import SegmentReader
from nt_memory.transport.segment_writer import SegmentWriter

PLACE = re.compile(r"/\d{20}\.log: offset \d+|: no journal, but")

batches = st.lists(st.lists(st.binary(max_size=60), min_size=1, max_size=4), min_size=1, max_size=8)


class _QuickFileSystem(FaultyFileSystem):
    """Nothing here depends on the disk, so nothing waits for it."""

    def sync(self, fd: int) -> None:
        self.syncs += 1

    def reserve(self, fd: int, size: int) -> None:
        """Not for these tests: it would be most of what they damage."""


def _build(directory: Path, contents: list[list[bytes]], segment_bytes: int) -> list[bytes]:
    writer = SegmentWriter(directory, {}, files=_QuickFileSystem(), segment_bytes=segment_bytes)
    for batch in contents:
        writer.append([(payload, None) for payload in batch], 0)
        writer.sync()
    writer.close()
    return [payload for batch in contents for payload in batch]


def _reopen(directory: Path, applied: int) -> list[bytes] | None:
    """What a journal holds, or None if it says that it is corrupt, and where."""
    try:
        writer = SegmentWriter(
            directory, {}, applied_sequence=applied, files=_QuickFileSystem(), segment_bytes=300
        )
        writer.close()
        frames = list(SegmentReader(directory).replay(0, until=writer.next_sequence - 1))
    except CorruptionError as error:
        complaint = str(error)
    else:
        assert [frame.sequence for frame in frames] == list(range(1, len(frames) + 1))
        return [frame.payload for frame in frames]
    assert PLACE.search(complaint), complaint
    return None


@settings(max_examples=150, deadline=None)
@given(data=st.data(), contents=batches, segment_bytes=st.sampled_from([200, 100_000]))
def test_flipped_bits(data: st.DataObject, contents: list[list[bytes]], segment_bytes: int) -> None:
    """After any flip within a byte the journal is whole, lacks a last batch that no view had
    applied, or is corrupt.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        payloads = _build(directory, contents, segment_bytes)
        applied = data.draw(st.integers(0, len(payloads)), "applied")
        path = data.draw(st.sampled_from(sorted(directory.glob("*.log"))), "file")
        damaged = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(damaged) - 1), "offset")
        damaged[at] ^= data.draw(st.integers(1, 255), "mask")
        path.write_bytes(damaged)
        found = _reopen(directory, applied)
        if found is not None:
            assert found == payloads[: len(found)]
            assert len(found) >= max(applied, len(payloads) - len(contents[-1]))
            assert len(found) < len(payloads), "every byte is checked"


@settings(max_examples=150, deadline=None)
@given(data=st.data(), contents=batches, segment_bytes=st.sampled_from([200, 100_000]))
def test_truncation(data: st.DataObject, contents: list[list[bytes]], segment_bytes: int) -> None:
    """After any truncation the journal is a prefix with all that was applied, or corrupt; in an
    older segment always corrupt.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        payloads = _build(directory, contents, segment_bytes)
        applied = data.draw(st.integers(0, len(payloads)), "applied")
        files = sorted(directory.glob("*.log"))
        path = data.draw(st.sampled_from(files), "file")
        whole = path.read_bytes()
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1), "size")])
        found = _reopen(directory, applied)
        if found is not None:
            assert path == files[-1]
            assert found == payloads[: len(found)]
            assert applied <= len(found) < len(payloads)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), contents=batches)
def test_garbage(data: st.DataObject, contents: list[list[bytes]]) -> None:
    """Overwriting, inserting or removing a stretch anywhere never yields a wrong entry."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        payloads = _build(directory, contents, 300)
        applied = data.draw(st.integers(0, len(payloads)), "applied")
        path = data.draw(st.sampled_from(sorted(directory.glob("*.log"))), "file")
        whole = path.read_bytes()
        start = data.draw(st.integers(0, len(whole)), "start")
        end = data.draw(st.integers(start, len(whole)), "end")
        path.write_bytes(whole[:start] + data.draw(st.binary(max_size=80), "new") + whole[end:])
        try:
            found = _reopen(directory, applied)
        except FormatVersionError:
            return
        if found is not None:
            assert found == payloads[: len(found)]
            assert len(found) >= applied
