"""Huge pages: asked for where the system has them, and never in the way."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from nt_memory.tiers.vectors.pages import Blocks, Roomy, want_huge_pages
from nt_memory.tiers.vectors.snapshots import Description, write_snapshot

_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_SIZE = 64 << 20
_BLOCK = 2 << 20


def _huge_bytes(address: int) -> int:
    """Bytes in huge pages of the mapping that holds an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first and not first.endswith(":"):
            low, high = (int(part, 16) for part in first.split("-"))
            inside = low <= address < high
        elif inside and first == "AnonHugePages:":
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
