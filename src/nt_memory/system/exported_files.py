"""Value files as rows of an export, a piece at a time: `files` comes behind all tables."""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING, Final, NamedTuple

from nt_memory.codec.filed import DIGEST_BYTES, Reference
from nt_memory.errors import CorruptionError, InvalidInputError
from nt_memory.transport.files import to_storage_error
from nt_memory.transport.value_layout import check_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from nt_memory.system.spelling import Row

FILES: Final = "files"
PIECE_BYTES: Final = 768 << 10
"""A multiple of 3, so that base64 needs no padding in between."""


class Piece(NamedTuple):
    """A part of a value file."""

    reference: Reference
    offset: int
    data: bytes


def count_pieces(references: Iterable[Reference]) -> int:
    """How many rows some files come to."""
    return sum(-(-one.size // PIECE_BYTES) for one in references)


def spell_files(directory: Path, references: Iterable[Reference]) -> Iterator[Row]:
    """The rows of some files, each verified before.

    Raises:
        CorruptionError: one is missing or damaged.
        StorageError: one cannot be read.
    """
    for reference in references:
        path = directory / reference.name
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise CorruptionError(f"{path}: the value file is missing") from None
        except OSError as error:
            raise to_storage_error(error, f"reading {path}") from error
        try:
            check_value(fd, path, reference)
            for offset in range(0, reference.size, PIECE_BYTES):
                yield _spell_piece(Piece(reference, offset, os.pread(fd, PIECE_BYTES, offset)))
        except OSError as error:
            raise to_storage_error(error, f"reading {path}") from error
        finally:
            os.close(fd)


def _spell_piece(piece: Piece) -> Row:
    return {
        "table": FILES,
        "file": piece.reference.name,
        "bytes": piece.reference.size,
        "offset": piece.offset,
        "data": base64.b64encode(piece.data).decode(),
    }


def unspell_piece(row: Row) -> Piece:
    """The piece in a row.

    Raises:
        ValueError, TypeError, LookupError: it is malformed.
        InvalidInputError: it lies outside its file.
    """
    digest = bytes.fromhex(row["file"])
    reference = Reference(digest, int(row["bytes"]))
    piece = Piece(reference, int(row["offset"]), base64.b64decode(row["data"], validate=True))
    if len(digest) != DIGEST_BYTES or not piece.data:
        raise InvalidInputError("a piece of a file that has no name, or an empty one")
    if piece.offset < 0 or piece.offset + len(piece.data) > reference.size:
        raise InvalidInputError(f"a piece of {reference.name} that lies outside of it")
    return piece
