"""The lines of an export, and the files they are kept in as JSON Lines.

An export is a header, one line a row, and a trailer with their number and digest. In a file every
line ends with a checksum that is seeded with its number, so that no line can be changed, lost,
repeated or moved unnoticed, and whoever reads it can say which one. `parquetfiles` keeps the same
lines in columns.
"""

from __future__ import annotations

import functools
import io
import os
import re
import sys
from contextlib import suppress
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol, cast
from zlib import crc32

import msgspec
import numpy as np
import zstandard

from nt_memory.errors import CorruptionError, FormatVersionError, InvalidInputError
from nt_memory.system.spelling import Row, spell_time, unspell_time
from nt_memory.transport.files import sync_directory, to_storage_error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

EXPORT_FORMAT = "nt-memory-export"
EXPORT_VERSION = 1
END = "end"
STDIO = "-"
MAX_LINE_BYTES = 1 << 30
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_BUFFER = 1 << 20
_SEAL = re.compile(rb',"crc":"([0-9a-f]{8})"\}\n\Z')
_SEAL_BYTES = 19
END_START = b'{"table":"end",'
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.decode


class Header(NamedTuple):
    """What an export is an export of.

    Attributes:
        sequence: The journal's last entry in it.
        revision: The revision after that entry.
        recorded_at: That entry's time, microseconds since the epoch.
        now_us: The agents' now right after it.
        agents: Only these agents' versions are in it; empty: everything is.
        rows: How many rows of each table it has; empty if that is not known in advance.
    """

    sequence: int
    revision: int
    recorded_at: int
    now_us: int
    agents: tuple[str, ...]
    rows: dict[str, int]


def header_line(header: Header) -> bytes:
    """The first line."""
    return _encode(
        {
            "format": EXPORT_FORMAT,
            "version": EXPORT_VERSION,
            "sequence": header.sequence,
            "revision": header.revision,
            "recorded_at": spell_time(header.recorded_at),
            "now": spell_time(header.now_us),
            "agents": header.agents or None,
            "rows": header.rows,
        }
    )


def parse_header(line: bytes, where: str) -> Header:
    """The header in the first line.

    Raises:
        InvalidInputError: it is no export.
        FormatVersionError: a newer version wrote it.
    """
    try:
        found = _decode(line)
        is_export = found["format"] == EXPORT_FORMAT
        version = found["version"]
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError, LookupError):
        raise InvalidInputError(f"{where}: not an export of nt-memory") from None
    if not is_export:
        raise InvalidInputError(f"{where}: not an export of nt-memory")
    if version != EXPORT_VERSION:
        raise FormatVersionError(
            f"{where}: export format {version}; this version reads {EXPORT_VERSION}"
        )
    try:
        return Header(
            int(found["sequence"]),
            int(found["revision"]),
            unspell_time(found["recorded_at"]),
            unspell_time(found["now"]),
            tuple(found["agents"] or ()),
            {str(table): int(count) for table, count in found["rows"].items()},
        )
    except (TypeError, LookupError, ValueError, AttributeError) as error:
        raise InvalidInputError(f"{where}: the header is malformed: {error}") from None


def row_line(row: Row, embedding: NDArray[np.float16] | None = None) -> bytes:
    """The line of a row, and of its embedding if it has one.

    Raises:
        CorruptionError: the embedding is not finite.
    """
    if embedding is None:
        return _encode(row)
    return _encode({**row, "embedding": msgspec.Raw(_halves_text(embedding))})


def parse_row(line: bytes) -> tuple[Row, NDArray[np.float16] | None]:
    """The row in a line and its embedding.

    Raises:
        ValueError, TypeError, LookupError: it is malformed.
    """
    row: Row = _decode(line, type=dict[str, Any])
    embedding = row.pop("embedding", None)
    if embedding is None:
        return row, None
    halves = np.array(embedding, np.float64).astype("<f2")
    if halves.ndim != 1 or not np.isfinite(halves).all():
        raise ValueError("the embedding is not a list of finite numbers")
    return row, halves


@functools.cache
def _half_texts() -> list[str]:
    """The shortest decimal of every float16, by its bits; 0.2 s, once."""
    every = np.arange(1 << 16, dtype="<u2").view("<f2")
    return [str(half) for half in every]


def _halves_text(halves: NDArray[np.float16]) -> bytes:
    if not np.isfinite(halves).all():
        raise CorruptionError("a stored embedding is not finite")
    texts = _half_texts()
    return f"[{','.join([texts[bits] for bits in halves.view('<u2').tolist()])}]".encode()


class Digest:
    """What a run of lines comes to; its state can be kept and gone on from.

    Attributes:
        rows: Lines so far.
        state: 32 bytes that stand for all of them.
    """

    def __init__(self, rows: int = 0, state: bytes = b"") -> None:
        self.rows: int = rows
        self.state: bytes = state

    def add(self, line: bytes) -> None:
        """One more line."""
        self.state = blake2b(line, digest_size=32, key=self.state).digest()
        self.rows += 1

    def trailer(self) -> bytes:
        """The last line, after these."""
        return _encode({"table": END, "lines": self.rows, "digest": self.state.hex()})


class LineSink(Protocol):
    """Where an export goes. Whole when `finish` returns; gone after `discard`."""

    def write(self, line: bytes, row: Row | None, embedding: NDArray[np.float16] | None) -> None:
        """The next line; `row` is None for the header and the trailer."""
        ...

    def finish(self) -> None:
        """All of it was written: make it durable and let it appear."""
        ...

    def discard(self) -> None:
        """It will not be finished."""
        ...


class Place(NamedTuple):
    """How far an export was read: lines, and for a file of lines bytes, so that it can go on."""

    lines: int
    offset: int


class LineSource(Protocol):
    """What an import reads."""

    name: str

    def lines(self) -> Iterator[tuple[bytes, Place]]:
        """The lines, each with the place behind it; once.

        Raises:
            CorruptionError: a line is damaged, or the export ends too early.
            StorageError: it cannot be read.
        """
        ...

    def skip_to(self, place: Place) -> None:
        """Of the lines still to come, leave out those before `place`."""
        ...

    def close(self) -> None:
        """Done with it."""
        ...


class JsonLinesSink:
    """A file of lines, compressed if its name ends with `.zst`; or stdout.

    Args:
        path: Which file; None for stdout.

    Raises:
        InvalidInputError: something is there already.
        StorageError: it cannot be made.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._number = 0
        if path is None:
            self._new = None
            self._file: BinaryIO = sys.stdout.buffer
            self._out: Any = self._file
            return
        if path.exists():
            raise InvalidInputError(f"{path}: exists; delete it, or choose another name")
        self._new = path.with_name(path.name + ".new")
        try:
            self._file = self._new.open("wb", _BUFFER)
        except OSError as error:
            raise to_storage_error(error, f"writing {self._new}") from error
        self._out = self._file
        if path.suffix == ".zst":
            self._out = zstandard.ZstdCompressor(level=3).stream_writer(self._file, closefd=False)

    def write(self, line: bytes, row: Row | None, embedding: NDArray[np.float16] | None) -> None:
        """See `LineSink.write`."""
        del row, embedding  # they are in the line
        self._number += 1
        seal = b',"crc":"%08x"}\n' % crc32(line, self._number)
        try:
            self._out.write(line[:-1] + seal)
        except BrokenPipeError:
            raise  # whoever read our output has gone
        except OSError as error:
            raise to_storage_error(error, f"writing {self._path}") from error

    def finish(self) -> None:
        """See `LineSink.finish`."""
        try:
            if self._out is not self._file:
                self._out.close()
            self._file.flush()
            if self._path is not None and self._new is not None:
                os.fsync(self._file.fileno())
                self._file.close()
                self._new.rename(self._path)
                sync_directory(self._path.absolute().parent)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise to_storage_error(error, f"writing {self._path}") from error

    def discard(self) -> None:
        """See `LineSink.discard`."""
        if self._new is not None:
            with suppress(OSError):
                self._file.close()
            with suppress(OSError):
                self._new.unlink()


class JsonLinesSource:
    """A file of lines, compressed or not; or stdin.

    Args:
        path: Which file; None for stdin.

    Raises:
        StorageError: it cannot be opened.
    """

    def __init__(self, path: Path | None) -> None:
        self.name: str = "stdin" if path is None else str(path)
        try:
            raw: Any = sys.stdin.buffer if path is None else path.open("rb", _BUFFER)
        except OSError as error:
            raise to_storage_error(error, f"reading {path}") from error
        # A test's stdin, or one that was replaced, may be of another kind.
        is_buffered = isinstance(raw, io.BufferedReader)
        self._raw: Any = raw if is_buffered else io.BufferedReader(cast("io.RawIOBase", raw))
        self._is_zstd = self._raw.peek(4)[:4] == _ZSTD_MAGIC
        self._file: Any = self._raw
        if self._is_zstd:
            reader = zstandard.ZstdDecompressor().stream_reader(
                self._raw, read_across_frames=True, closefd=False
            )
            self._file = io.BufferedReader(cast("io.RawIOBase", reader), _BUFFER)
        self._number = self._offset = self._skipped = 0
        self._can_seek = path is not None and not self._is_zstd and self._raw.seekable()

    def lines(self) -> Iterator[tuple[bytes, Place]]:
        """See `LineSource.lines`."""
        is_end = False
        while line := self._read():
            self._number += 1
            self._offset += len(line)
            if is_end:
                raise self._damage("something follows the end of the export")
            checked = self._check(line)
            is_end = checked.startswith(END_START)
            if self._number > self._skipped:
                yield checked, Place(self._number, self._offset)
        if not is_end:
            raise self._damage("the export is cut off after it" if self._number else "it is empty")

    def skip_to(self, place: Place) -> None:
        """See `LineSource.skip_to`. A compressed export, and stdin, have to be read all the same."""
        if self._can_seek:
            self._raw.seek(place.offset)
            self._number, self._offset = place
        self._skipped = place.lines

    def close(self) -> None:
        """See `LineSource.close`."""
        if self._raw is not sys.stdin.buffer:
            self._raw.close()

    def _read(self) -> bytes:
        try:
            line: bytes = self._file.readline(MAX_LINE_BYTES)
        except zstandard.ZstdError as error:
            raise self._damage(f"what follows it cannot be decompressed: {error}") from None
        except OSError as error:
            raise to_storage_error(error, f"reading {self.name}") from error
        return line

    def _check(self, line: bytes) -> bytes:
        seal = _SEAL.search(line, max(0, len(line) - _SEAL_BYTES))
        if seal is None:
            if self._number == 1:
                raise InvalidInputError(f"{self.name}: not an export of nt-memory")
            raise self._damage("it is cut off, or no line of an export")
        plain = line[: seal.start()] + b"}"
        if crc32(plain, self._number) != int(seal[1], 16):
            raise self._damage("it was changed, or lines before it were lost, moved or added")
        return plain

    def _damage(self, why: str) -> CorruptionError:
        return CorruptionError(f"{self.name}: line {self._number}: {why}")
