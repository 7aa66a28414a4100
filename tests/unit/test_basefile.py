"""The file of a base: whole and exactly what was written, or refused with the place named."""

from __future__ import annotations

import errno
import struct
from contextlib import suppress
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from nt_memory.errors import CorruptionError, FormatVersionError, StorageError, StorageFullError
from nt_memory.testing.faults import FaultyFileSystem
from nt_memory.transport import basefile
from nt_memory.transport.basefile import (
    BaseFile,
    BaseHeader,
    Block,
    base_path,
    list_bases,
    pending_path,
    write_base,
)

HEADER = BaseHeader(sequence=42, revision=40, recorded_at=1_000, now_us=-5, layout=2)
BLOCKS = [
    Block("meta", [(b"revision", b"40")]),
    Block("versions", [(bytes([n]), b"value" * n) for n in range(50)]),
    Block("versions", [(b"\xff" + bytes([n]), bytes(n)) for n in range(50)]),
    Block("vectors/0/8", [(bytes(8), bytes(range(256)) * 20)]),
    Block("empty", []),
]


def read(path):
    with BaseFile(path) as base:
        return base.header, list(base.blocks())


def test_it_reads_back_what_was_written(tmp_path):
    """Header and blocks, in order; the same content gives the same bytes."""
    path = write_base(tmp_path, HEADER, BLOCKS)
    assert read(path) == (HEADER, BLOCKS)
    first = path.read_bytes()
    assert write_base(tmp_path, HEADER, iter(BLOCKS)).read_bytes() == first
    assert list_bases(tmp_path) == [42]
    assert list_bases(tmp_path / "nowhere") == []


def test_every_flipped_byte_is_found(tmp_path):
    """Wherever it is, and the message names the file."""
    path = write_base(tmp_path, HEADER, BLOCKS)
    good = path.read_bytes()
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 0x10
        path.write_bytes(bad)
        with pytest.raises(CorruptionError, match=path.name):
            read(path)


def test_every_truncation_is_found(tmp_path):
    """Also one between two blocks, and bytes added at the end."""
    path = write_base(tmp_path, HEADER, BLOCKS)
    good = path.read_bytes()
    for size in range(len(good)):
        path.write_bytes(good[:size])
        with pytest.raises(CorruptionError, match=path.name):
            read(path)
    path.write_bytes(good + b"\0")
    with pytest.raises(CorruptionError, match=path.name):
        read(path)


def test_blocks_cannot_change_places(tmp_path):
    """A whole and valid block at another place is damage too."""
    path = write_base(tmp_path, HEADER, BLOCKS[1:2] * 2)
    good = path.read_bytes()
    sizes, start = [], 16
    while start < len(good):
        size = 12 + struct.unpack_from("<I", good, start + 4)[0]
        sizes.append((start, size))
        start += size
    parts = [good[at : at + size] for at, size in sizes]
    assert parts[1] != parts[2]  # the same rows, another number
    for order in ([0, 2, 1, 3], [0, 1, 3], [0, 1, 1, 2, 3], [1, 2, 3], [0, 3]):
        path.write_bytes(good[:16] + b"".join(parts[n] for n in order))
        with pytest.raises(CorruptionError):
            read(path)


def test_another_base_under_its_name_is_refused(tmp_path):
    """The header says which sequence it is of."""
    path = write_base(tmp_path, HEADER, BLOCKS)
    other = path.rename(base_path(tmp_path, 41))
    with pytest.raises(CorruptionError, match="sequence 42"):
        read(other)


def test_a_newer_format_is_refused(tmp_path):
    """Without guessing at what follows."""
    path = write_base(tmp_path, HEADER, BLOCKS)
    data = path.read_bytes()
    path.write_bytes(struct.pack("<8sII", data[:8], 2, crc32(data[:8], 2)) + data[16:])
    with pytest.raises(FormatVersionError, match="format 2"):
        read(path)


def test_a_full_disk_leaves_nothing(tmp_path):
    """Neither a base nor a part of one."""
    files = FaultyFileSystem()
    files.space = 500
    with pytest.raises(StorageFullError):
        write_base(tmp_path, HEADER, BLOCKS, files=files)
    assert list(tmp_path.iterdir()) == []


def test_a_base_that_is_not_durable_does_not_appear(tmp_path):
    """An fsync that fails leaves the old base in force."""
    files = FaultyFileSystem()
    files.sync_error = errno.EIO
    with pytest.raises(StorageError):
        write_base(tmp_path, HEADER, BLOCKS, files=files)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_source_leaves_nothing(tmp_path):
    """Such as damage found while the rows are read."""

    def rows():
        yield BLOCKS[0]
        raise CorruptionError("views: damaged")

    with pytest.raises(CorruptionError, match="views"):
        write_base(tmp_path, HEADER, rows())
    assert list(tmp_path.iterdir()) == []


def test_remains_of_an_earlier_try_do_no_harm(tmp_path):
    """A killed process leaves half a base behind, of any length."""
    pending_path(tmp_path, HEADER.sequence).write_bytes(bytes(100_000))
    assert read(write_base(tmp_path, HEADER, BLOCKS)) == (HEADER, BLOCKS)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("is_pending", [False, True])
def test_its_name_lasts_when_it_is_told(tmp_path, monkeypatch, is_pending):
    """A base in its place has its name on disk; one that waits for its place is nobody's base yet."""
    synced = []

    def sync(directory):
        synced.append((directory, list_bases(directory)))

    monkeypatch.setattr(basefile, "sync_directory", sync)
    path = write_base(tmp_path, HEADER, BLOCKS, is_pending=is_pending)
    if is_pending:
        assert path == pending_path(tmp_path, 42)
        assert list_bases(tmp_path) == synced == []
        path = path.rename(base_path(tmp_path, 42))
    else:
        assert synced == [(tmp_path, [42])]
    assert read(path) == (HEADER, BLOCKS)


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="counts open files in /dev/fd")
@pytest.mark.parametrize("space", [None, 500])
def test_its_file_is_closed(tmp_path, space):
    """Whether it could be written or not."""
    files = FaultyFileSystem()
    files.space = space
    before = sorted(Path("/dev/fd").iterdir())
    with suppress(StorageFullError):
        write_base(tmp_path, HEADER, BLOCKS, files=files)
    assert sorted(Path("/dev/fd").iterdir()) == before


def large_blocks(count=14):
    """Some MiB that do not shrink."""
    draw = np.random.default_rng(1)
    return [Block("vectors/0/8", [(bytes([n]), draw.bytes(400_000))]) for n in range(count)]


def test_it_is_written_out_as_it_goes(tmp_path):
    """By stretches that leave nothing out, so that little is left for the sync at the end."""
    files = FaultyFileSystem()
    blocks = large_blocks()

    def one_by_one():
        given = 0
        for block in blocks:
            assert given - sum(size for _, size in files.starts) < (1 << 20) + 400_000
            yield block
            given += 400_000

    path = write_base(tmp_path, HEADER, one_by_one(), files=files)
    assert len(files.starts) > 3
    end = 0
    for start, size in files.starts:
        assert start == end
        assert (1 << 20) <= size < (1 << 20) + 500_000
        end += size
    assert path.stat().st_size - (1 << 20) - 100 < end <= path.stat().st_size
    assert read(path) == (HEADER, blocks)


def test_a_disk_that_cannot_begin_early_gets_the_base_all_the_same(tmp_path):
    """It only saves time."""
    files = FaultyFileSystem()
    files.start_error = errno.EINVAL
    blocks = large_blocks(6)
    assert read(write_base(tmp_path, HEADER, blocks, files=files)) == (HEADER, blocks)
