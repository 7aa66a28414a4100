"""The file of a base: whole and exactly what was written, or refused with the place named."""

from __future__ import annotations

import errno
import struct
from zlib import crc32

import pytest

from nt_memory.errors import CorruptionError, FormatVersionError, StorageError, StorageFullError
from nt_memory.testing.faults import FaultyFileSystem
from nt_memory.transport.basefile import (
    BaseFile,
    BaseHeader,
    Block,
    base_path,
    list_bases,
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
