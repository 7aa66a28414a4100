"""Observations on their way in, by the thousand: checked, read and cut into entries by columns.

What a call is given is checked as a whole before the first entry is submitted. Then the matrix is read
once more, an entry's share at a time, as fast as the journal takes entries; so neither a copy of the
matrix nor all entries are ever in memory. In between the event loop gets its turn: no step takes it
longer than about a millisecond.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from nt_memory.clock import turn
from nt_memory.codec import Draft, compress, draft
from nt_memory.entries import ObserveMany
from nt_memory.errors import EmbeddingError
from nt_memory.namespace import check_tags
from nt_memory.system.guarding import Guard
from nt_memory.system.units import check_shape, lengths_of, scaled, to_half, to_wide

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray


_T = TypeVar("_T")
_R = TypeVar("_R")

CHUNK_BYTES = 256 * 1024
_ROW_BYTES = 64
"""What a row takes in an entry beside its value and vector, about."""
_BLOCK_VALUES = 1 << 16
_STEP_VALUES = 12_288
_ENCODED_A_TURN = 256
_BYTES_A_TURN = 1 << 18
_ITEMS_A_TURN = 4_096
_ENTRIES_AHEAD = 32
_UNIT_ERROR = 1e-3
_PLAIN = frozenset({str})


class Tags:
    """The tags of many rows: few different sets, by number."""

    def __init__(self) -> None:
        self._sets: dict[tuple[str, ...], int] = {}
        self._given: dict[tuple[str, ...], int] = {}
        self._of_row: list[int] = []
        self._labels: list[tuple[str, ...]] = []

    def add(self, rows: Iterable[Iterable[str]]) -> None:
        """The labels of more rows.

        Raises:
            InvalidInputError, InvalidNameError: as `check_tags`.
        """
        for labels in rows:
            if isinstance(labels, str):
                check_tags(labels)  # which refuses it
            given = tuple(labels)
            # By value only where that is what they are: a str subclass may equal anything.
            is_plain = _PLAIN.issuperset(map(type, given))
            number = self._given.get(given) if is_plain else None
            if number is None:
                number = self._number(check_tags(given))
                if is_plain:
                    self._given[given] = number
            self._of_row.append(number)

    def _number(self, checked: tuple[str, ...]) -> int:
        number = self._sets.setdefault(checked, len(self._sets))
        if number == len(self._labels):
            self._labels.append(checked)
        return number

    def __len__(self) -> int:
        return len(self._of_row)

    def columns(self, first: int, stop: int) -> tuple[tuple[tuple[str, ...], ...], tuple[int, ...]]:
        """`labels` and `tagged` of an `ObserveMany` with these rows."""
        numbers = self._of_row[first:stop]
        local = {number: place for place, number in enumerate(dict.fromkeys(numbers))}
        labels = tuple([self._labels[number] for number in local])
        if labels == ((),):
            return (), ()
        return labels, () if len(labels) == 1 else tuple(map(local.__getitem__, numbers))


class Embeddings:
    """A matrix that was checked, and is read a stretch of rows at a time.

    Args:
        rows: Shape (n, dim).
        lengths: Of its rows.
    """

    def __init__(self, rows: NDArray[Any], lengths: NDArray[np.float64]) -> None:
        self._rows = rows
        self._lengths = lengths
        self.row_bytes: int = 2 * rows.shape[1]

    def halves(self, first: int, stop: int) -> bytes:
        """Rows as they are stored.

        Raises:
            EmbeddingError: one is not what it was when it was checked.
        """
        return b"".join([self._halves(*some) for some in _steps(first, stop, self.row_bytes // 2)])

    def _halves(self, first: int, stop: int) -> bytes:
        units = scaled(to_wide(self._rows[first:stop]), self._lengths[first:stop])
        # What changed in between, past the guard, could be anything.
        if not (np.abs(np.vecdot(units, units) - 1) < _UNIT_ERROR).all():
            raise EmbeddingError("an embedding was changed while it was being stored")
        return to_half(units).tobytes()


def _steps(first: int, stop: int, dim: int) -> Iterator[tuple[int, int]]:
    """Rows as many at a time as numpy's temporaries of them stay in the processor's cache.

    Larger ones are also given back to the system and taken anew each time, which costs 3 us a row of
    384 in page faults.
    """
    step = max(1, _STEP_VALUES // dim)
    return ((start, min(start + step, stop)) for start in range(first, stop, step))


async def in_steps(items: Sequence[_T], make: Callable[[Sequence[_T]], list[_R]]) -> list[_R]:
    """What is made of many items, some thousands a turn of the loop."""
    found: list[_R] = []
    for first in range(0, len(items), _ITEMS_A_TURN):
        if first:
            await turn()
        found += make(items[first : first + _ITEMS_A_TURN])
    return found


async def to_tags(rows: Sequence[Iterable[str]]) -> Tags:
    """The tags of many rows.

    Raises:
        InvalidInputError, InvalidNameError: as `check_tags`.
    """
    tags = Tags()
    for first in range(0, len(rows), _ITEMS_A_TURN):
        if first:
            await turn()
        tags.add(rows[first : first + _ITEMS_A_TURN])
    return tags


async def to_matrix(embeddings: ArrayLike) -> NDArray[Any]:
    """What was given as one array of two dimensions, or of none of its values.

    Lists of rows are read some at a time.

    Raises:
        EmbeddingError: it is no matrix of numbers.
    """
    if isinstance(embeddings, np.ndarray):
        return embeddings
    if not isinstance(embeddings, list | tuple):
        return to_wide(embeddings)
    rows: list[Any] = list(embeddings)
    if not rows:
        return np.empty((0, 0))
    step = max(1, _BLOCK_VALUES // 4 // max(1, to_wide(rows[0]).size))
    blocks = [to_wide(rows[:step])]
    for first in range(step, len(rows), step):
        await turn()
        blocks.append(to_wide(rows[first : first + step]))
        if blocks[-1].shape[1:] != blocks[0].shape[1:]:
            raise EmbeddingError(
                f"an embedding must be an array of numbers: rows {first} and on have another shape"
            )
    return np.concatenate(blocks) if len(blocks) > 1 else blocks[0]


async def check_rows(rows: NDArray[Any]) -> Embeddings:
    """Look at every row.

    Raises:
        EmbeddingError: wrong shape, not finite numbers, or a zero row.
    """
    check_shape(rows.shape, 2)
    count, dim = rows.shape
    lengths = np.empty(count)
    looked_at = 0
    for first, stop in _steps(0, count, dim):
        if (first - looked_at) * dim >= _BLOCK_VALUES:
            looked_at = first
            await turn()
        lengths[first:stop] = lengths_of(to_wide(rows[first:stop]))
    return Embeddings(rows, lengths)


@contextmanager
def guarded(rows: NDArray[Any]) -> Generator[None]:
    """Keep a matrix that is not read at once from being changed meanwhile."""
    guard = Guard([rows] if rows.size > _BLOCK_VALUES else [])
    try:
        yield
    finally:
        guard.release()


class Values:
    """The data of many rows, encoded; large ones are drafts, to be filed.

    Attributes:
        encoded: Of each row; empty where there is a draft.
        drafts: By row.
    """

    def __init__(self) -> None:
        self.encoded: list[bytes] = []
        self.drafts: dict[int, Draft] = {}
        self._guards: list[Guard] = []

    async def add_all(self, values: Sequence[Any], *, compresses: bool) -> None:
        """Encode values; the arrays of large ones are read-only from now until `release`.

        Raises:
            CodecError: one cannot be stored.
        """
        encoded, size = self.encoded, 0
        for count, value in enumerate(values):
            if size > _BYTES_A_TURN or not (count + 1) % _ENCODED_A_TURN:
                await turn()
                size = 0
            data = draft(value)
            if isinstance(data, Draft):
                self.drafts[count] = data
                self._guards.append(Guard(data.arrays))
                data = b""
            elif compresses:
                data = compress(data)
            size += len(data)
            encoded.append(data)

    def release(self) -> None:
        """Let go of the arrays. Idempotent."""
        for guard in self._guards:
            guard.release()


class Part(NamedTuple):
    """One entry of a call, and the number of its first row."""

    first: int
    entry: ObserveMany


class Columns(NamedTuple):
    """What `observe_many` was given, checked; all of one length."""

    agent: str
    keys: list[str]
    values: list[bytes]
    embeddings: Embeddings
    known_at: int | list[int | None] | None
    tags: Tags | None

    def parts(self, stored: Callable[[int], int] | None = None) -> Iterator[Part]:
        """Cut into entries of about `CHUNK_BYTES`, each made when it is asked for.

        Args:
            stored: Says how many rows from a given one on need no entry any more.

        Raises:
            EmbeddingError: as `Embeddings.halves`.
        """
        row_bytes = self.embeddings.row_bytes + _ROW_BYTES
        most = CHUNK_BYTES // row_bytes + 1
        first, count = 0, len(self.keys)
        while first < count:
            if stored is not None and (done := stored(first)):
                first += done
                continue
            sizes = accumulate(
                len(value) + row_bytes for value in self.values[first : first + most]
            )
            stop = first + 1 + sum(takewhile(bool, (size < CHUNK_BYTES for size in sizes)))
            yield Part(first, self._entry(first, min(stop, count)))
            first = stop

    def whole(self) -> ObserveMany:
        """All of it as one entry, however large."""
        return self._entry(0, len(self.keys))

    def _entry(self, first: int, stop: int) -> ObserveMany:
        known = self.known_at
        labels, tagged = ((), ()) if self.tags is None else self.tags.columns(first, stop)
        return ObserveMany(
            self.agent,
            tuple(self.keys[first:stop]),
            tuple(self.values[first:stop]),
            self.embeddings.halves(first, stop),
            tuple(known[first:stop]) if isinstance(known, list) else known,
            labels,
            tagged,
        )


async def submit_all(submit: Callable[[_T], Awaitable[Any]], entries: Iterator[_T]) -> None:
    """Have entries written in order, some submitted ahead; returns when all are visible.

    After one was refused no more are made, and those that are under way are waited for.

    Raises:
        NtMemoryError: the first refusal, or failure.
    """
    ahead: deque[asyncio.Future[Any]] = deque()
    try:
        for entry in entries:
            ahead.append(asyncio.ensure_future(submit(entry)))
            await turn()
            while ahead and (ahead[0].done() or len(ahead) == _ENTRIES_AHEAD):
                await ahead.popleft()
        while ahead:
            await ahead.popleft()
    except asyncio.CancelledError:
        for task in ahead:
            task.cancel()
        raise
    finally:
        await asyncio.gather(*ahead, return_exceptions=True)
