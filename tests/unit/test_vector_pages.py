"""Huge pages: asked for where the system has them, and never in the way."""

from __future__ import annotations

import mmap
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from nt_memory.tiers.vectors.files import VectorFiles
from nt_memory.tiers.vectors.pages import Blocks, Roomy, enter_cached, want_huge_pages
from nt_memory.tiers.vectors.snapshots import Description, write_snapshot

_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_SIZE = 64 << 20
_BLOCK = 2 << 20


def _huge_bytes(address: int) -> int:
    """Bytes in huge pages of the mapping that holds an address."""
    return _bytes_of(address, "AnonHugePages:")


def _bytes_of(address: int, kind: str) -> int:
    """What is said of the mapping that holds an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first and not first.endswith(":"):
            low, high = (int(part, 16) for part in first.split("-"))
            inside = low <= address < high
        elif inside and first == kind:
            return int(rest.split()[0]) << 10
    return 0


@pytest.mark.skipif(
    not _ENABLED.exists() or "[never]" in _ENABLED.read_text(), reason="no huge pages here"
)
def test_what_is_in_small_pages_is_moved_into_huge_ones() -> None:
    """A block that was filled before it was asked for lies in huge pages afterwards, unchanged."""
    block = mmap.mmap(-1, _SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block.madvise(mmap.MADV_NOHUGEPAGE)
    view = np.frombuffer(block, np.uint8)
    view[:: mmap.PAGESIZE] = 7
    address = view.ctypes.data
    assert _huge_bytes(address) == 0
    assert want_huge_pages(address, _SIZE, _SIZE)
    assert _huge_bytes(address) > _SIZE // 2
    assert np.all(view[:: mmap.PAGESIZE] == 7)


def test_small_blocks_and_wrong_addresses_are_left_alone() -> None:
    """Nothing is asked for a block that is not worth it, and nothing raised where nothing lies."""
    assert not want_huge_pages(1 << 21, 1 << 20, 1 << 20)
    assert not want_huge_pages(1 << 21, _SIZE, _SIZE)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's own")
def test_a_block_is_asked_for_again_only_when_it_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each add looks; only one after which the block lies elsewhere costs anything."""
    asked: list[tuple[int, int, int]] = []
    monkeypatch.setattr(
        "nt_memory.tiers.vectors.pages.want_huge_pages", lambda *block: asked.append(block)
    )
    block = Roomy()
    for address, size in ((1, 10), (1, 15), (2, 30), (2, 60), (3, 70)):
        block.seen(address, size)
    assert asked == [(1, 10, 10), (2, 30, 30), (3, 70, 120)]


def test_files_are_written_in_whole_blocks() -> None:
    """Whatever the sizes of what comes: nothing is lost or moved, and only the last block is smaller."""
    random = np.random.default_rng(4)
    data = random.bytes(5 * _BLOCK + 12_345)
    written: list[bytes] = []
    blocks = Blocks(lambda block: written.append(bytes(block)))
    at = 0
    for size in [0, 1, _BLOCK - 1, *[700_001] * 3]:
        blocks.write(data[at : at + size])
        at += size
    blocks.write(data[at:])
    blocks.finish()
    blocks.finish()
    assert [len(block) for block in written] == [_BLOCK] * 5 + [12_345]
    assert b"".join(written) == data


def test_a_graph_lies_in_its_file_as_huge_pages_do(tmp_path: Path) -> None:
    """Its header included, it is written in blocks that begin where huge pages do."""
    sizes: list[int] = []

    def dump(write) -> None:
        for _ in range(9):
            write(bytes(1 << 20))
            (partial,) = tmp_path.iterdir()
            sizes.append(partial.stat().st_size)

    write_snapshot(tmp_path / "1-0-9.hnsw", Description(4, 0, 9, 7, "", 0), dump)
    assert sizes[-1] == 4 * _BLOCK
    assert not [size for size in sizes if size % _BLOCK]


def _mapped(path: Path, data: bytes) -> np.ndarray:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return np.memmap(path, np.uint8, "r").view(np.ndarray)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's own")
def test_what_is_cached_of_a_mapped_file_is_entered_before_it_is_met(tmp_path: Path) -> None:
    data = np.random.default_rng(5).bytes((20 << 20) + 12_345)
    rows = _mapped(tmp_path / "rows", data)[64:]  # as behind a header
    assert _bytes_of(rows.ctypes.data, "Rss:") == 0
    assert enter_cached(rows) >= rows.nbytes
    assert _bytes_of(rows.ctypes.data, "Rss:") >= rows.nbytes
    assert rows.tobytes() == data[64:]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's own")
def test_what_is_not_cached_is_not_read(tmp_path: Path) -> None:
    """Of three pieces the middle one has left the page cache."""
    rows = _mapped(tmp_path / "rows", bytes(24 << 20))
    with (tmp_path / "rows").open("rb") as file:
        os.posix_fadvise(file.fileno(), 10 << 20, 4 << 20, os.POSIX_FADV_DONTNEED)
    entered = enter_cached(rows)
    if entered == rows.nbytes:
        pytest.skip("this file system keeps what it is told to drop")
    assert entered == 16 << 20
    assert _bytes_of(rows.ctypes.data, "Rss:") <= 20 << 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's own")
@pytest.mark.parametrize(("count", "is_worth_it"), [(90_000, True), (10_000, False)])
def test_a_large_partition_is_entered_in_the_background(
    tmp_path: Path, count: int, is_worth_it: bool
) -> None:
    """Once for each mapping, by a thread that ends."""
    files = VectorFiles(tmp_path)
    files.write(1, 256, 0, bytes(count * 512))
    rows = files.rows(1, 256, count)
    for thread in threading.enumerate():
        if thread.name == "nt-memory-pages":
            thread.join()
    assert (_bytes_of(rows.ctypes.data, "Rss:") >= rows.nbytes) is is_worth_it
    assert not [one for one in threading.enumerate() if one.name == "nt-memory-pages"]
    files.close()


def test_of_a_file_that_cannot_be_read_nothing_is_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor where the system has no such call."""
    rows = np.zeros(1 << 20, np.uint8)
    monkeypatch.setattr("nt_memory.tiers.vectors.pages._in_core", lambda *_: -1)
    assert enter_cached(rows) == 0
    monkeypatch.setattr("nt_memory.tiers.vectors.pages._in_core", None)
    assert enter_cached(rows) == 0


def test_where_no_thread_can_be_begun_rows_are_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    files = VectorFiles(tmp_path)
    files.write(1, 256, 0, bytes(90_000 * 512))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert files.rows(1, 256, 90_000).shape == (90_000, 256)
    files.close()
