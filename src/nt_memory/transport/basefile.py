"""The base: what the journal said up to one sequence, in one checksummed file.

`base/<sequence>.base` holds the rows of the views as they were right after that entry, and the
vectors they refer to; the store is the newest base and the journal after it. A base is written once,
appears by rename when it is durable, and never changes.

The file is a short preamble and then blocks. Each block is a list of rows of one section, and its
checksum is seeded with its number, so that a block cannot be lost, repeated or moved unnoticed. The
first block is the header, the last one says how many there are. Everything in it follows from the
entries, and from the compactions by which rows were numbered anew.

This module knows the form only. What a row means is the business of those who write and read it.
"""

from __future__ import annotations

import os
import re
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

import msgspec
import zstandard

from nt_memory.errors import CorruptionError, FormatVersionError
from nt_memory.transport.files import OsFileSystem, sync_directory, to_storage_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from nt_memory.transport.files import FileSystem

BASE_VERSION = 1
BLOCK_BYTES = 1 << 20
"""Writers begin a new block once this many bytes of rows are in one."""

_STRETCH_BYTES = 1 << 20
_MAGIC = b"NTMBASE\0"
_PREAMBLE = struct.Struct("<8sII")
_BLOCK = struct.Struct("<III")
_LENGTHS = struct.Struct("<II")
_NAME = re.compile(r"(\d{20})\.base", re.ASCII)
_HEADER, _END = "header", "end"

Rows = list[tuple[bytes, bytes]]


class BaseHeader(msgspec.Struct, frozen=True):
    """What a base is a base of.

    Attributes:
        sequence: The last entry it covers.
        revision: The revision after that entry.
        recorded_at: That entry's time, microseconds since the epoch.
        now_us: The agents' now right after it.
        layout: Version of the views' layout its rows are spelled in.
    """

    sequence: int
    revision: int
    recorded_at: int
    now_us: int
    layout: int


class Block(NamedTuple):
    """Some rows of one section, in key order.

    Attributes:
        section: The table, or `vectors/<partition id>`.
        rows: Keys and values; for vectors, the first row's number (8 bytes, big-endian) and rows.
    """

    section: str
    rows: Rows


def base_path(directory: Path, sequence: int) -> Path:
    """The file of the base at `sequence`."""
    return directory / f"{sequence:020d}.base"


def list_bases(directory: Path) -> list[int]:
    """Sequences of the bases in a directory, ascending; none if there is no directory."""
    if not directory.is_dir():
        return []
    names = (_NAME.fullmatch(path.name) for path in directory.iterdir())
    return sorted(int(name[1]) for name in names if name)


def pending_path(directory: Path, sequence: int) -> Path:
    """Where the base at `sequence` is before it is put in its place; no base to anybody else."""
    return base_path(directory, sequence).with_suffix(".new")


def write_base(
    directory: Path,
    header: BaseHeader,
    blocks: Iterable[Block],
    *,
    files: FileSystem | None = None,
    is_pending: bool = False,
) -> Path:
    """Write a base; it appears whole and durable, or not at all.

    Args:
        directory: Where bases are; must exist.
        header: What it covers.
        blocks: Its rows; a section's blocks follow each other, in key order.
        files: How files are changed; for tests.
        is_pending: Leave it at `pending_path`, durable, to be renamed by the caller.

    Raises:
        StorageFullError: no space is left.
        StorageError: the file could not be written.

    Cost: streams; memory is a few times the largest block.
    """
    files = OsFileSystem() if files is None else files
    path = base_path(directory, header.sequence)
    new = pending_path(directory, header.sequence)
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        try:
            _write(files, fd, header, blocks)
            files.sync(fd)
        finally:
            os.close(fd)
        if is_pending:
            return new
        new.rename(path)
        sync_directory(directory)
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        raise to_storage_error(error, f"writing {path}") from error
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise
    return path


def _write(files: FileSystem, fd: int, header: BaseHeader, blocks: Iterable[Block]) -> None:
    checksum = crc32(_MAGIC, BASE_VERSION)
    files.append(fd, _PREAMBLE.pack(_MAGIC, BASE_VERSION, checksum))
    compressor = zstandard.ZstdCompressor(level=1)
    number, started, written = 0, 0, _PREAMBLE.size
    plain = msgspec.msgpack.encode((_HEADER, header))
    for section in _spelled(plain, blocks):
        block = _block(section, number, compressor)
        files.append(fd, block)
        number += 1
        written += len(block)
        if written - started >= _STRETCH_BYTES:
            # All at once at the end it would hold up the journal, which syncs to the same disk.
            with suppress(OSError):  # it saves time, and nothing else depends on it
                files.start_sync(fd, started, written - started)
            started = written
    files.append(fd, _block(msgspec.msgpack.encode((_END, number)), number, compressor))


def _spelled(header: bytes, blocks: Iterable[Block]) -> Iterator[bytes]:
    yield header
    encoder = msgspec.msgpack.Encoder()
    for block in blocks:
        yield encoder.encode(block)


def _block(plain: bytes, number: int, compressor: zstandard.ZstdCompressor) -> bytes:
    packed = compressor.compress(plain)
    # Vectors and compressed values do not shrink; such a block is stored as it is.
    body = packed if len(packed) < len(plain) else plain
    lengths = _LENGTHS.pack(len(body), len(plain))
    return _BLOCK.pack(crc32(body, crc32(lengths, number)), len(body), len(plain)) + body


class BaseFile:
    """A base that is being read. Use with `with`; the header is read when it is opened.

    Attributes:
        path: Its file.
        header: What it covers.

    Raises:
        CorruptionError: the file is damaged; the message names the block and its offset.
        FormatVersionError: a newer version wrote it.
        StorageError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._number = self._offset = 0
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise to_storage_error(error, f"reading {path}") from error
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self._check_preamble()
            self.header: BaseHeader = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> BaseFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()

    def blocks(self) -> Iterator[Block]:
        """Its blocks in order, once, verified; it is whole if the iteration ends without an error.

        Raises:
            CorruptionError: a block is damaged or missing.
        """
        while True:
            section, rows = self._next()
            if section == _END:
                if rows != self._number - 1 or self._file.tell() != self._size:
                    raise self._damage("blocks are missing, or something follows the end")
                return
            yield Block(section, [(key, value) for key, value in rows])

    def _check_preamble(self) -> None:
        data = self._file.read(_PREAMBLE.size)
        if len(data) < _PREAMBLE.size:
            raise self._damage("the base ends here")
        magic, version, checksum = _PREAMBLE.unpack(data)
        if magic != _MAGIC or checksum != crc32(magic, version):
            raise self._damage("not a base, or its start is damaged")
        if version != BASE_VERSION:
            raise FormatVersionError(
                f"{self.path}: base format {version}; this version reads {BASE_VERSION}"
            )

    def _read_header(self) -> BaseHeader:
        section, fields = self._next()
        try:
            header = msgspec.convert(fields, BaseHeader)
        except msgspec.ValidationError as error:
            raise self._damage(f"not a header: {error}") from None
        if section != _HEADER or self.path.stem != base_path(self.path, header.sequence).stem:
            raise self._damage(f"the header says {section}, sequence {header.sequence}")
        return header

    def _next(self) -> tuple[str, Any]:
        self._offset = self._file.tell()
        start = self._file.read(_BLOCK.size)
        if len(start) < _BLOCK.size:
            raise self._damage("the base ends here")
        checksum, length, plain_length = _BLOCK.unpack(start)
        if length > self._size - self._file.tell():
            raise self._damage("the block is incomplete")
        body = self._file.read(length)
        if crc32(body, crc32(start[4:], self._number)) != checksum:
            raise self._damage("the block fails its checksum")
        if length != plain_length:
            body = zstandard.ZstdDecompressor().decompress(body, max_output_size=plain_length)
        self._number += 1
        found: tuple[str, Any] = msgspec.msgpack.decode(body)
        return found

    def _damage(self, why: str) -> CorruptionError:
        return CorruptionError(f"{self.path}: offset {self._offset}, block {self._number}: {why}")
