"""An export as Parquet, for pandas, polars and whatever else reads columns.

A directory of three files: `versions.parquet` has one row a version, with its value as JSON text and
its embedding as a list of numbers; `tables.parquet` has the lines of everything else; and
`manifest.jsonl` the header and the trailer. Together they are the lines of the same export as JSON
Lines: from every row of `versions.parquet` its line is made again, so that one digest covers both
forms, and whatever checks and imports lines need not know of columns.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from nt_memory.errors import (
    CorruptionError,
    InvalidInputError,
    NtMemoryError,
    StorageError,
    UnsupportedError,
)
from nt_memory.system.exportlines import JsonLinesSink, JsonLinesSource, Place, row_line
from nt_memory.system.spelling import VERSIONS, spell_time, unspell_time
from nt_memory.tiers.tables import TABLES
from nt_memory.transport.files import sync_directory, to_storage_error

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as _error:
    raise UnsupportedError("Parquet needs pyarrow: pip install 'nt-memory[parquet]'") from _error

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from nt_memory.system.spelling import Row

_TIME = pa.timestamp("us", tz="UTC")
_VERSIONS_SCHEMA: Final = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("agent", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("known_at", _TIME, nullable=False),
        pa.field("revision", pa.int64(), nullable=False),
        pa.field("deleted", pa.bool_(), nullable=False),
        pa.field("value", pa.string()),
        pa.field("encoding", pa.string()),
        pa.field("recorded_at", _TIME, nullable=False),
        pa.field("expires_at", _TIME),
        pa.field("actor", pa.string(), nullable=False),
        pa.field("partition", pa.int64()),
        pa.field("row", pa.int64()),
        pa.field("tags", pa.list_(pa.string()), nullable=False),
        pa.field("is_trimmed_before", pa.bool_(), nullable=False),
        pa.field("more", pa.string()),
        pa.field("embedding", pa.list_(pa.float32())),
    ]
)
_TABLES_SCHEMA: Final = pa.schema([("table", pa.string()), ("line", pa.string())])
_TIMES: Final = frozenset({"known_at", "recorded_at", "expires_at"})
_DEFAULTS: Final[dict[str, Any]] = {
    "deleted": False,
    "actor": "",
    "tags": [],
    "is_trimmed_before": False,
}
_WRITTEN: Final[dict[str, Any]] = {
    "compression": "zstd",
    "use_dictionary": ["kind", "agent", "actor", "encoding"],
    # float32 that came from float16 is half zeros: split by bytes they cost nothing.
    "use_byte_stream_split": ["embedding.list.element"],
    "write_page_checksum": True,
}
_ORDER: Final = {table.decode(): number for number, table in enumerate(TABLES)}
_BATCH_ROWS = 8192
_BATCH_BYTES = 8 << 20
_READ_ROWS = 1024
_encode = msgspec.json.Encoder().encode


class _Columns:
    """A Parquet file that rows are collected for."""

    def __init__(self, path: Path, schema: Any, **options: Any) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, **options)
        self._clear()

    def add(self, values: Sequence[Any], size: int) -> None:
        """One row; `size` is about its bytes."""
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)
        self._bytes += size
        if len(self._columns[0]) >= _BATCH_ROWS or self._bytes >= _BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was collected, as a row group."""
        if self._columns[0]:
            fields = zip(self._columns, self._schema, strict=True)
            arrays = [_array(column, field) for column, field in fields]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self._clear()

    def close(self) -> None:
        """End the file."""
        self._writer.close()

    def _clear(self) -> None:
        self._columns: list[list[Any]] = [[] for _ in self._schema]
        self._bytes = 0


def _array(column: list[Any], field: Any) -> Any:
    if field.type == _TIME:
        return pa.array(column, pa.int64()).cast(_TIME)
    if field.name != "embedding":
        return pa.array(column, field.type)
    offsets: list[int | None] = []
    end = 0
    for halves in column:
        offsets.append(None if halves is None else end)
        end += 0 if halves is None else len(halves)
    parts = [halves for halves in column if halves is not None]
    values = np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)
    return pa.ListArray.from_arrays(pa.array([*offsets, end], pa.int32()), pa.array(values))


class ParquetSink:
    """A directory of Parquet files; see `exportlines.LineSink`.

    Raises:
        InvalidInputError: something is there already.
        StorageError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        if path.exists():
            raise InvalidInputError(f"{path}: exists; delete it, or choose another name")
        self._path = path
        self._new = path.with_name(path.name + ".new")
        try:
            shutil.rmtree(self._new, ignore_errors=True)
            self._new.mkdir()
            self._versions = _Columns(self._new / "versions.parquet", _VERSIONS_SCHEMA, **_WRITTEN)
            self._tables = _Columns(
                self._new / "tables.parquet", _TABLES_SCHEMA, compression="zstd"
            )
        except OSError as error:
            raise to_storage_error(error, f"writing {self._new}") from error
        self._manifest = JsonLinesSink(self._new / "manifest.jsonl")

    def write(self, line: bytes, row: Row | None, embedding: NDArray[np.float16] | None) -> None:
        """See `LineSink.write`."""
        try:
            if row is None:
                self._manifest.write(line, None, None)
            elif row["table"] == VERSIONS:
                self._versions.add(_to_columns(row, embedding), len(line))
            else:
                self._tables.add((row["table"], line.decode()), len(line))
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise to_storage_error(error, f"writing {self._new}") from error

    def finish(self) -> None:
        """See `LineSink.finish`."""
        try:
            for columns in (self._versions, self._tables):
                columns.flush()
                columns.close()
            self._manifest.finish()
            for path in self._new.iterdir():
                _sync(path)
            sync_directory(self._new)
            self._new.rename(self._path)
            sync_directory(self._path.absolute().parent)
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise to_storage_error(error, f"writing {self._path}") from error

    def discard(self) -> None:
        """See `LineSink.discard`."""
        for columns in (self._versions, self._tables):
            with suppress(OSError, pa.ArrowException):
                columns.close()
        self._manifest.discard()
        shutil.rmtree(self._new, ignore_errors=True)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _to_columns(row: Row, embedding: NDArray[np.float16] | None) -> list[Any]:
    """A row's fields in the order of the schema."""
    rest = dict(row)
    del rest["table"]
    columns: list[Any] = []
    for name in _VERSIONS_SCHEMA.names[:-2]:
        value = rest.pop(name, _DEFAULTS.get(name))
        if name in _TIMES and value is not None:
            value = unspell_time(value)
        elif name == "value" and "value" in row:
            value = _encode(value).decode()
        columns.append(value)
    return [*columns, _encode(rest).decode() if rest else None, embedding]


def _to_line(fields: Row, halves: NDArray[np.float16] | None) -> bytes:
    """The line that `_to_columns` was given the row of."""
    row: Row = {"table": VERSIONS}
    for name in _VERSIONS_SCHEMA.names[:-2]:
        value = fields[name]
        if value is None or (name in _DEFAULTS and value == _DEFAULTS[name]):
            continue
        if name == "value":
            row[name] = msgspec.Raw(value.encode())
        else:
            row[name] = spell_time(value) if name in _TIMES else value
    if fields["more"] is not None:
        row |= msgspec.json.decode(fields["more"])
    return row_line(row, halves)


class ParquetSource:
    """The lines of an export in Parquet files; see `exportlines.LineSource`.

    Raises:
        InvalidInputError: it is no export.
    """

    def __init__(self, path: Path) -> None:
        self.name: str = str(path)
        self._path = path
        if not (path / "manifest.jsonl").is_file():
            raise InvalidInputError(f"{path}: not an export of nt-memory")
        self._number = self._skipped = 0

    def skip_to(self, place: Place) -> None:
        """See `LineSource.skip_to`."""
        self._skipped = place.lines

    def lines(self) -> Iterator[tuple[bytes, Place]]:
        """See `LineSource.lines`."""
        manifest = JsonLinesSource(self._path / "manifest.jsonl")
        try:
            for number, (line, _) in enumerate(manifest.lines()):
                if number == 1:
                    yield from self._checked_rows()
                self._number += 1
                yield line, Place(self._number, 0)
        finally:
            manifest.close()

    def close(self) -> None:
        """See `LineSource.close`. Nothing is held open."""

    def _checked_rows(self) -> Iterator[tuple[bytes, Place]]:
        try:
            yield from self._rows()
        except NtMemoryError:
            raise
        except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
            raise CorruptionError(
                f"{self._path}: row {self._number} or one after it cannot be read: {error}"
            ) from error

    def _rows(self) -> Iterator[tuple[bytes, Place]]:
        is_told = False
        for batch in self._batches("tables.parquet", _TABLES_SCHEMA):
            columns = batch.to_pydict()
            for table, line in zip(columns["table"], columns["line"], strict=True):
                if not is_told and _ORDER.get(table, len(_ORDER)) > _ORDER[VERSIONS]:
                    is_told = True
                    yield from self._versions()
                self._number += 1
                if self._number > self._skipped:
                    yield line.encode(), Place(self._number, 0)
        if not is_told:
            yield from self._versions()

    def _versions(self) -> Iterator[tuple[bytes, Place]]:
        for batch in self._batches("versions.parquet", _VERSIONS_SCHEMA):
            embeddings = batch.column("embedding")
            values = embeddings.values.to_numpy(zero_copy_only=False).astype("<f2")
            offsets = embeddings.offsets.to_pylist()
            is_there = embeddings.is_valid().to_pylist()
            columns = {
                field.name: (
                    batch.column(field.name).cast(pa.int64())
                    if field.type == _TIME
                    else batch.column(field.name)
                ).to_pylist()
                for field in _VERSIONS_SCHEMA
                if field.name != "embedding"
            }
            for number in range(len(batch)):
                self._number += 1
                if self._number <= self._skipped:
                    continue
                fields = {name: column[number] for name, column in columns.items()}
                halves = values[offsets[number] : offsets[number + 1]]
                line = _to_line(fields, halves if is_there[number] else None)
                yield line, Place(self._number, 0)

    def _batches(self, name: str, schema: Any) -> Iterator[Any]:
        path = self._path / name
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if file.schema_arrow.names != schema.names:
                raise InvalidInputError(f"{path}: not a file of an export")
            # A row group at a time: those are bounded in bytes, and a batch of several is not.
            for group in range(file.num_row_groups):
                yield from file.iter_batches(_READ_ROWS, row_groups=[group])
