"""Rows of an AgentDB file as values, and back."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nt_memory.errors import CorruptionError, InvalidInputError, StorageError
from nt_memory.integrations.agentdb.tables import BY_NAME, TABLES, Table

if TYPE_CHECKING:
    import os
    from collections.abc import Generator, Iterator

    from numpy.typing import NDArray

PREFIX = "agentdb/"
_HEADER = b"SQLite format 3\0"


class Row(NamedTuple):
    """One row.

    Attributes:
        table: Of which table.
        id: Its id there.
        values: Its other columns that are not NULL, with JSON read; `embedding_model` beside them.
        embedding: As it lies there, shape (dim,); None: it has none, or none that has a direction.
    """

    table: Table
    id: int
    values: dict[str, Any]
    embedding: NDArray[np.float32] | None

    @property
    def key(self) -> str:
        """Where it is kept in a memory."""
        return f"{PREFIX}{self.table.name}/{self.id}"

    @property
    def known_at_s(self) -> float | None:
        """Since when it is known, seconds since the epoch; None: it does not say."""
        found = (self.values.get(name) for name in self.table.known_at)
        return next((float(one) for one in found if isinstance(one, int | float)), None)


def parse_key(key: str) -> tuple[Table, int] | None:
    """Table and id of a row that was kept in a memory; None for other keys."""
    table, _, number = key.removeprefix(PREFIX).partition("/")
    if not key.startswith(PREFIX) or table not in BY_NAME or not number.isdecimal():
        return None
    return BY_NAME[table], int(number)


@contextmanager
def reading(path: str | os.PathLike[str]) -> Generator[sqlite3.Connection]:
    """An AgentDB file, to be read as of one moment.

    Raises:
        InvalidInputError: there is no such file, or it is no SQLite database, or none of AgentDB's.
        CorruptionError: it is damaged.
    """
    file = Path(path)
    if not file.is_file():
        raise InvalidInputError(f"{file}: no such file")
    with file.open("rb") as opened:
        if opened.read(len(_HEADER)) != _HEADER:
            raise InvalidInputError(f"{file}: not a SQLite database")
    uri = f"{file.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as db:
            db.execute("BEGIN")
            if not _tables(db) & BY_NAME.keys():
                raise InvalidInputError(f"{file}: has none of AgentDB's tables")
            yield db
    except sqlite3.DatabaseError as error:
        raise CorruptionError(f"{file}: {error}") from error


def rows_of(db: sqlite3.Connection) -> Iterator[Row]:
    """All rows of the tables that are exchanged, by table and id."""
    there = _tables(db)
    for table in TABLES:
        if table.name in there:
            yield from _rows(db, table, has_embeddings=table.embeddings in there)


def count_rows(db: sqlite3.Connection) -> int:
    """How many rows `rows_of` finds."""
    there = _tables(db)
    names = [table.name for table in TABLES if table.name in there]
    return sum(int(db.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0]) for name in names)  # noqa: S608 - our own names


def _tables(db: sqlite3.Connection) -> set[str]:
    return {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _rows(db: sqlite3.Connection, table: Table, *, has_embeddings: bool) -> Iterator[Row]:
    asked = f"SELECT t.* FROM {table.name} AS t ORDER BY t.id"  # noqa: S608 - our own names
    if has_embeddings:
        model = ", e.embedding_model" if table.has_model else ""
        asked = (
            f"SELECT t.*, e.embedding{model} FROM {table.name} AS t "  # noqa: S608 - our own names
            f"LEFT JOIN {table.embeddings} AS e ON e.{table.owner} = t.id ORDER BY t.id"
        )
    cursor = db.execute(asked)
    names = [column[0] for column in cursor.description]
    for found in cursor:
        values = {n: v for n, v in zip(names, found, strict=True) if v is not None}
        blob = values.pop("embedding", None)
        number = values.pop("id")
        read = {name: _read(table, name, value) for name, value in values.items()}
        yield Row(table, number, read, _vector(blob))


def _read(table: Table, name: str, value: Any) -> Any:
    if name not in table.structured or not isinstance(value, str):
        return value
    try:
        parsed = json.loads(value)
    except ValueError:
        return value
    # Only what cannot be mistaken for text, so that it can be written as it was.
    return parsed if isinstance(parsed, list | dict) else value


def _vector(blob: Any) -> NDArray[np.float32] | None:
    if not isinstance(blob, bytes) or not blob or len(blob) % 4:
        return None
    vector = np.frombuffer(blob, "<f4")
    is_direction = bool(np.isfinite(vector).all() and vector.any())
    return vector.astype(np.float32) if is_direction else None


class Writer:
    """A new AgentDB file.

    Args:
        path: Where; must not exist.

    Raises:
        InvalidInputError: it exists.
        StorageError: it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        if self._path.exists():
            raise InvalidInputError(f"{self._path}: exists already")
        # Under its name only once it is whole.
        self._part = self._path.with_name(f".{self._path.name}.part")
        self._part.unlink(missing_ok=True)
        try:
            self._db = sqlite3.connect(self._part, isolation_level=None)
            self._db.execute("BEGIN")
            for table in TABLES:
                for statement in table.definition().splitlines():
                    self._db.execute(statement)
        except sqlite3.Error as error:
            raise StorageError(f"{self._path}: {error}") from error

    def add(
        self,
        table: Table,
        values: dict[str, Any],
        embedding: NDArray[np.float32] | None,
        *,
        number: int | None = None,
    ) -> int:
        """Add a row; its id.

        Raises:
            InvalidInputError: its id is taken, or a column is missing that has to be there.
            StorageError: it cannot be written.
        """
        known = {one.split(" ", 1)[0] for one in table.columns}
        given = {name: _write(value) for name, value in values.items() if name in known}
        if number is not None:
            given["id"] = number
        names, marks = ", ".join(given), ", ".join("?" * len(given))
        try:
            made = self._db.execute(
                f"INSERT INTO {table.name} ({names}) VALUES ({marks})",  # noqa: S608 - our own names
                tuple(given.values()),
            ).lastrowid
            row = int(made or 0)
            if embedding is not None and table.embeddings:
                self._embed(table, row, embedding, values.get("embedding_model"))
        except sqlite3.IntegrityError as error:
            raise InvalidInputError(f"{table.name}, row {number}: {error}") from error
        except sqlite3.Error as error:
            raise StorageError(f"{self._path}: {error}") from error
        return row

    def _embed(
        self, table: Table, row: int, embedding: NDArray[np.float32], model: str | None
    ) -> None:
        given: dict[str, Any] = {table.owner: row, "embedding": embedding.astype("<f4").tobytes()}
        if table.has_model:
            given["embedding_model"] = model or "nt-memory"
        names, marks = ", ".join(given), ", ".join("?" * len(given))
        self._db.execute(
            f"INSERT INTO {table.embeddings} ({names}) VALUES ({marks})",  # noqa: S608
            tuple(given.values()),
        )

    def finish(self) -> None:
        """Make the file appear, whole."""
        try:
            self._db.execute("COMMIT")
            self._db.close()
            self._part.rename(self._path)
        except (sqlite3.Error, OSError) as error:
            self.discard()
            raise StorageError(f"{self._path}: {error}") from error

    def discard(self) -> None:
        """Leave nothing behind."""
        self._db.close()
        self._part.unlink(missing_ok=True)


def _write(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if value is None or isinstance(value, int | float | str | bytes):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))  # as JavaScript does
