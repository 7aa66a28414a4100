"""One field of the data of all rows of a partition, as arrays that a filter is evaluated on.

Rows are numbered and never change, so a column is only ever appended to. A row has a code: that its
field is missing, that its value is not known here, that it is a number, or which of the distinct values
it is. Numbers lie in an array of their own, as float64, which holds every float and every int up to 2**53
exactly; greater ints, bools and all other values are distinct values, told apart by how the codec spells
them, so that two with one code cannot differ for any comparison.

What takes long to compare or to keep is not kept: its row is unknown, and whoever filters has to read it.

One thread at a time appends. Readers take `view`, which never changes: what is appended lies behind its
rows, or in arrays of its own.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nt_memory.codec import encode
from nt_memory.filters import MISSING
from nt_memory.frozen import resident_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

ABSENT, UNKNOWN, INT, FLOAT, FIRST = range(5)
"""Codes; from `FIRST` on they are distinct values, in the order they were met."""

MAX_EXACT = 1 << 53
MAX_VALUE_BYTES = 1024
_ENTRY_BYTES = 160
"""What a distinct value takes besides itself: its key, its place in a dict and in a list."""
_SMALLEST = 64


class ColumnView(NamedTuple):
    """A column as of one moment of its writer's thread.

    Attributes:
        rows: Rows there are; the arrays may be longer.
        codes: Each row's code.
        numbers: Each row's number, NaN where it has none; None if no row has one.
        values: The distinct values; the list may be longer.
        distinct: How many of them there are.
        texts: The code of each distinct value that is a str; others may be in it that came later.
        others: Codes of the distinct values that are not; the list may be longer.
        other_distinct: How many of them there are.
    """

    rows: int
    codes: NDArray[Any]
    numbers: NDArray[np.float64] | None
    values: list[Any]
    distinct: int
    texts: dict[str, int]
    others: list[int]
    other_distinct: int


class FieldColumn:
    """One field of one partition.

    Args:
        rows: So many rows come first, all of them unknown until they are `set_at`.
    """

    def __init__(self, rows: int = 0) -> None:
        self.rows: int = rows
        self._codes: NDArray[Any] = np.full(max(rows, _SMALLEST), UNKNOWN, np.uint8)
        self._last_code = 255
        self._numbers: NDArray[np.float64] | None = None
        self._values: list[Any] = []
        self._texts: dict[str, int] = {}
        self._spelled: dict[bytes, int] = {}
        self._others: list[int] = []
        self._value_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of arrays and distinct values."""
        numbers = 0 if self._numbers is None else self._numbers.nbytes
        return self._codes.nbytes + numbers + self._value_bytes

    @property
    def view(self) -> ColumnView:
        """The column now. O(1)."""
        return ColumnView(
            self.rows,
            self._codes,
            self._numbers,
            self._values,
            len(self._values),
            self._texts,
            self._others,
            len(self._others),
        )

    def append(self, found: Any) -> None:
        """Add the next row, with what `lookup` found in its data. O(1) amortised."""
        row = self.rows
        if row == len(self._codes):
            self._grow()
        self.set_at(row, found)
        self.rows = row + 1

    def append_unknown(self) -> None:
        """Add the next row, of which nothing is known."""
        if self.rows == len(self._codes):
            self._grow()
        self._codes[self.rows] = UNKNOWN
        self.rows += 1

    def set_at(self, row: int, found: Any) -> None:
        """Say what a row holds of which nothing was known; no reader has it yet.

        Cost: under a microsecond for numbers and strings, a few for what has to be spelled.
        """
        kind = type(found)
        if kind is float:
            self._set_number(row, FLOAT, found)
        elif kind is int and -MAX_EXACT <= found <= MAX_EXACT:
            self._set_number(row, INT, found)
        else:
            code = self._code_of(found)
            if code > self._last_code:
                self._widen(code)
            self._codes[row] = code

    def _set_number(self, row: int, code: int, number: float) -> None:
        numbers = self._numbers
        if numbers is None or row >= len(numbers):
            numbers = self._numbers = self._longer_numbers()
        numbers[row] = number
        self._codes[row] = code

    def _code_of(self, found: Any) -> int:
        if found is MISSING:
            return ABSENT
        if type(found) is str:
            code = self._texts.get(found)
            return self._add_text(found) if code is None else code
        if resident_bytes(found) > MAX_VALUE_BYTES:
            return UNKNOWN
        spelled = encode(found, compress=False)
        code = self._spelled.get(spelled)
        if code is None:
            code = self._spelled[spelled] = self._add(found, len(spelled) + resident_bytes(found))
            self._others.append(code)
        return code

    def _add_text(self, text: str) -> int:
        size = sys.getsizeof(text)
        if size > MAX_VALUE_BYTES:
            return UNKNOWN
        code = self._texts[text] = self._add(text, size)
        return code

    def _add(self, value: Any, size: int) -> int:
        self._values.append(value)
        self._value_bytes += size + _ENTRY_BYTES
        return FIRST + len(self._values) - 1

    def _grow(self) -> None:
        grown = np.full(2 * len(self._codes), UNKNOWN, self._codes.dtype)
        grown[: self.rows] = self._codes[: self.rows]
        self._codes = grown

    def _longer_numbers(self) -> NDArray[np.float64]:
        grown = np.full(len(self._codes), np.nan)
        if self._numbers is not None:
            grown[: len(self._numbers)] = self._numbers
        return grown

    def _widen(self, code: int) -> None:
        # A copy: readers keep the narrow one, which holds all of their rows.
        kind = np.uint16 if code < 1 << 16 else np.int32
        self._codes = self._codes.astype(kind)
        self._last_code = int(np.iinfo(kind).max)
