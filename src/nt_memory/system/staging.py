"""An import under way: what was read so far, kept so that it can go on after a crash.

All of it lies in one directory inside the store to be. That directory makes the place no store for
anybody else; it goes when the store is complete. Rows are appended in the blocks that a base will
have, vectors are written where their rows belong, and every so often both are made durable and
`progress.json` says how far the export was read by then.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from nt_memory.errors import CorruptionError
from nt_memory.system.exported_files import FILES
from nt_memory.system.exportlines import Place
from nt_memory.tiers.layout import U64, PartitionRow, decode_partition
from nt_memory.tiers.sealing import unseal
from nt_memory.tiers.vectors import VectorFiles
from nt_memory.transport.basefile import BLOCK_BYTES, Block
from nt_memory.transport.files import sync_directory, sync_file
from nt_memory.transport.value_layout import check_value

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from nt_memory.system.exported_files import Piece

UNFINISHED = "unfinished-import"
CHECKPOINT_BLOCKS = 32
_LENGTH = struct.Struct("<I")
_ROWS_AT_ONCE = 64  # as `Snapshot.stored_rows`, so that the blocks are those of the source's base
_HEADER_BYTES = 64  # of a file of vectors
_FLOAT16_BYTES = 2
_PARTITIONS = "partitions"
_VECTORS = "vectors"  # as in a base
_VALUES = "values"  # as in a store


class Checkpoint(msgspec.Struct):
    """How far it is.

    Attributes:
        header: The export's first line.
        lines: Lines read.
        offset: Bytes read.
        digest: State of the digest over them, in hex.
        table: The table the last row belonged to.
        last_key: That row's key, in hex.
        counts: Rows so far, by table.
        bytes: Size of the file of blocks.
        file: The value file of the last piece.
        file_bytes: How much of it there is.
        vectors: Vectors written.
    """

    header: str
    lines: int = 0
    offset: int = 0
    digest: str = ""
    table: str = ""
    last_key: str = ""
    counts: dict[str, int] = {}
    bytes: int = 0
    file: str = ""
    file_bytes: int = 0
    vectors: int = 0

    @property
    def place(self) -> Place:
        """Where to read on."""
        return Place(self.lines, self.offset)


class Staging:
    """The directory of an import under way. One owner, who holds the lock of the store to be.

    Args:
        store: Directory of the store to be; must exist.
        header: The export's first line.

    Attributes:
        made: Where the parts of the store are made, before they are moved to their places.
        checkpoint: Where the last run had come to; what is read from now on counts from there.

    Raises:
        ValueError: it holds another import.
        OSError: the directory cannot be used.
    """

    def __init__(self, store: Path, header: bytes) -> None:
        self._path = store / UNFINISHED
        self._state = self._path / "progress.json"
        self.made: Path = self._path / "made"
        self.checkpoint: Checkpoint = Checkpoint(header=header.decode())
        if self._state.exists():
            found = msgspec.json.decode(self._state.read_bytes(), type=Checkpoint)
            if found.header != self.checkpoint.header:
                raise ValueError("another export was being imported")
            self.checkpoint = found
        else:
            self._path.mkdir(exist_ok=True)
        self._blocks: BinaryIO = (self._path / "blocks").open("ab")
        self._blocks.truncate(self.checkpoint.bytes)
        self._vectors = VectorFiles(self._path / _VECTORS)
        self._values = self._path / _VALUES
        self._value_fd = -1
        self._rows: list[tuple[bytes, bytes]] = []
        self._bytes = self._since_checkpoint = 0
        if not self._state.exists():
            self.save()

    def add_row(self, table: str, key: bytes, value: bytes) -> bool:
        """The next row; whether this is a place where `save` may be called.

        Raises:
            ValueError: it is out of order.
        """
        progress = self.checkpoint
        if table != progress.table:
            self.end_block()
            progress.table, progress.last_key = table, ""
        elif key.hex() <= progress.last_key:
            raise ValueError("the row is out of order, or there twice")
        progress.last_key = key.hex()
        progress.counts[table] = progress.counts.get(table, 0) + 1
        self._rows.append((key, value))
        self._bytes += len(key) + len(value)
        if len(self._rows) % _ROWS_AT_ONCE == 0 and self._bytes > BLOCK_BYTES:
            self.end_block()
            return True
        return False

    def add_vector(self, partition: int, row: int, halves: NDArray[np.float16]) -> None:
        """The vector of a row of a partition."""
        self._vectors.write(partition, len(halves), row, halves.tobytes())
        self.checkpoint.vectors += 1

    def add_piece(self, piece: Piece) -> None:
        """The next piece of a value file; a file that is complete is verified.

        Raises:
            ValueError: it is out of order.
            CorruptionError: the file is not what it is named after.
        """
        progress, reference = self.checkpoint, piece.reference
        if progress.table != FILES:
            self.end_block()
            progress.table, progress.last_key = FILES, ""
        if piece.offset == 0 and self._value_fd < 0 and reference.name > progress.file:
            progress.file, progress.file_bytes = reference.name, 0
        if (reference.name, piece.offset) != (progress.file, progress.file_bytes):
            raise ValueError("the piece is out of order, or there twice")
        path = self._values / reference.name
        if self._value_fd < 0:
            self._values.mkdir(exist_ok=True)
            self._value_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        written = os.pwrite(self._value_fd, piece.data, piece.offset)
        if written != len(piece.data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        progress.file_bytes += written
        progress.counts[FILES] = progress.counts.get(FILES, 0) + 1
        self._since_checkpoint += 1
        if progress.file_bytes == reference.size:
            os.fsync(self._value_fd)
            check_value(self._value_fd, path, reference, by_digest=True)
            self._close_value()

    def link_values(self) -> list[Path]:
        """The value files once more at `made`, in a directory to be taken from there, if any.

        Raises:
            CorruptionError: one is not complete.
        """
        if self._value_fd >= 0:
            raise CorruptionError(f"the export ends within the file {self.checkpoint.file}")
        if not self._values.is_dir():
            return []
        target = self.made / _VALUES
        target.mkdir()
        for path in self._values.iterdir():
            try:
                os.link(path, target / path.name)
            except OSError:
                shutil.copyfile(path, target / path.name)
                sync_file(target / path.name)
        sync_directory(target)
        return [target]

    def _close_value(self) -> None:
        if self._value_fd >= 0:
            fd, self._value_fd = self._value_fd, -1
            os.close(fd)

    def end_block(self) -> None:
        """Append the rows of this block, if there are any."""
        if not self._rows:
            return
        block = msgspec.msgpack.encode((self.checkpoint.table, self._rows))
        self._blocks.write(_LENGTH.pack(len(block)) + block)
        self._rows, self._bytes = [], 0
        self._since_checkpoint += 1

    @property
    def is_due(self) -> bool:
        """Whether much has come since `save`."""
        return self._since_checkpoint >= CHECKPOINT_BLOCKS

    def save(self) -> None:
        """Make durable what came so far, and remember how far that is. Between blocks only."""
        self._blocks.flush()
        os.fsync(self._blocks.fileno())
        self._vectors.sync()
        if self._value_fd >= 0:
            os.fsync(self._value_fd)
        if self._values.is_dir():
            sync_directory(self._values)
        self.checkpoint.bytes = self._blocks.tell()
        new = self._state.with_suffix(".new")
        with new.open("wb") as file:
            file.write(msgspec.json.encode(self.checkpoint))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._state)
        sync_directory(self._path)
        self._since_checkpoint = 0

    def blocks(self) -> Iterator[Block]:
        """All of it, as the blocks of a base.

        Raises:
            CorruptionError: embeddings are missing, or there are more than rows for them.
        """
        partitions: list[PartitionRow] = []
        self.end_block()
        self._blocks.flush()
        with (self._path / "blocks").open("rb") as file:
            while start := file.read(_LENGTH.size):
                section, rows = msgspec.msgpack.decode(file.read(_LENGTH.unpack(start)[0]))
                if section == _PARTITIONS:
                    partitions += [
                        decode_partition(unseal(section.encode(), key, value))
                        for key, value in rows
                    ]
                yield Block(section, [(key, value) for key, value in rows])
        if len({partition.file for partition in partitions}) != len(partitions):
            raise CorruptionError("the export has two partitions whose vectors are in one file")
        if self.checkpoint.vectors != sum(partition.rows for partition in partitions):
            raise CorruptionError("the export does not have one embedding for every row of vectors")
        for partition in sorted(partitions, key=lambda row: row.file):
            yield from self._vector_blocks(partition)

    def _vector_blocks(self, partition: PartitionRow) -> Iterator[Block]:
        path, row_bytes = self._vectors.path(partition.id), partition.dim * _FLOAT16_BYTES
        if partition.rows and path.stat().st_size != _HEADER_BYTES + partition.rows * row_bytes:
            raise CorruptionError(f"partition {partition.id}: embeddings for other rows")
        section = f"{_VECTORS}/{partition.file}/{partition.dim}"
        step = max(1, BLOCK_BYTES // row_bytes)
        for first in range(0, partition.rows, step):
            stop = min(first + step, partition.rows)
            halves = self._vectors.read(partition.id, partition.dim, first, stop)
            # What was not written reads as zeros, which no embedding of unit length is.
            if not halves.any(axis=1).all():
                raise CorruptionError(f"partition {partition.id}: an embedding is missing")
            yield Block(section, [(U64.pack(first), halves.tobytes())])

    def close(self) -> None:
        """Leave it for a later run."""
        self._close_value()
        self._blocks.close()
        self._vectors.close()

    def remove(self) -> None:
        """It is not needed any more."""
        self.close()
        shutil.rmtree(self._path, ignore_errors=True)
