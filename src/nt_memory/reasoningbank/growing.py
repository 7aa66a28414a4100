"""Arrays that grow: a column of values, and a mask of rows that may be handed to other threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Growing:
    """A numpy array that grows by doubling."""

    __slots__ = ("_data", "size")

    def __init__(self, dtype: Any, fill: Any = 0) -> None:
        self._data = np.full(16, fill, dtype=dtype)
        self.size: int = 0

    def append(self, value: Any) -> int:
        """Add one element; its index."""
        if self.size == len(self._data):
            self._data = np.concatenate((self._data, np.empty_like(self._data)))
        self._data[self.size] = value
        self.size += 1
        return self.size - 1

    def extend(self, values: Any) -> None:
        """Add many."""
        wanted = self.size + len(values)
        if wanted > len(self._data):
            grown = np.empty(max(wanted, 2 * len(self._data)), self._data.dtype)
            grown[: self.size] = self._data[: self.size]
            self._data = grown
        self._data[self.size : wanted] = values
        self.size = wanted

    @property
    def array(self) -> NDArray[Any]:
        """The elements; valid until the next `append` or `extend`."""
        return self._data[: self.size]


class Mask:
    """Rows of one lane that may be recalled; copied before it changes once handed out."""

    __slots__ = ("_data", "_is_lent", "_size", "count")

    def __init__(self, data: NDArray[np.bool_] | None = None) -> None:
        self._data = np.zeros(64, np.bool_) if data is None else data
        self._size = 0 if data is None else len(data)
        self._is_lent = False
        self.count: int = 0 if data is None else int(np.count_nonzero(data))

    def set(self, row: int, *, is_allowed: bool) -> None:
        """Allow a row, or stop allowing it."""
        if row >= len(self._data):
            grown = np.zeros(max(row + 1, 2 * len(self._data)), np.bool_)
            grown[: self._size] = self._data[: self._size]
            self._data, self._is_lent = grown, False
        elif self._is_lent:
            self._data, self._is_lent = self._data.copy(), False
        self._size = max(self._size, row + 1)
        self.count += int(is_allowed) - int(self._data[row])
        self._data[row] = is_allowed

    def lend(self) -> NDArray[np.bool_]:
        """The mask as it is now, for others to keep."""
        self._is_lent = True
        return self._data[: self._size]
