"""Where the graphs of one partition get their rows from, and by what they know them again."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.tiers.vectors.scanners import widen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nt_memory.tiers.vectors.files import VectorFiles

_DIGEST_ROWS = 64


class Source(NamedTuple):
    """The stored rows of a partition.

    Attributes:
        files: All partitions' rows.
        number: Which partition.
        dim: Values in a row.
    """

    files: VectorFiles
    number: int
    dim: int

    def read(self, first: int, stop: int) -> NDArray[np.float16]:
        """A copy of rows [first, stop); see `VectorFiles.read` for the errors."""
        return self.files.read(self.number, self.dim, first, stop)

    def newest(self, first: int, stop: int) -> NDArray[np.float16]:
        """The same; cheap for a few rows that were just written."""
        return self.files.newest(self.number, self.dim, first, stop)

    def wide(self, first: int, stop: int) -> NDArray[np.float32]:
        """The same as float32, which is what graphs take."""
        return widen(self.read(first, stop))

    def mapped(self, count: int) -> NDArray[np.float16]:
        """The first `count` rows, mapped."""
        return self.files.rows(self.number, self.dim, count)

    def take(self, numbers: NDArray[np.int64]) -> NDArray[np.float16]:
        """Copies of single rows, which may just have been written."""
        return self.files.take(self.number, self.dim, numbers)

    def digest(self, first: int, stop: int) -> int:
        """A checksum of some of rows [first, stop), at least one: other vectors give another.

        Raises:
            StorageError: they cannot be read.
        """
        sample = np.unique(np.linspace(first, stop - 1, _DIGEST_ROWS).astype(np.int64))
        return zlib.crc32(self.mapped(stop)[sample].tobytes())
