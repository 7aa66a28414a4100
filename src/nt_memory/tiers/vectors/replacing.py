"""Partitions made beside those that are searched, to take their place: re-embedding, and numbering anew.

Whatever takes long happens before: rows are written to a file of their own, a graph is built of them.
The exchange itself is a change of one dictionary, on the thread of the owner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nt_memory.tiers.vectors.partition import Partition
from nt_memory.tiers.vectors.visibility import NEVER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nt_memory.tiers.vectors.partition import Placement
    from nt_memory.tiers.vectors.upkeep import Upkeep


class ReplacingCalls:
    """What the owner's thread does to put partitions in the place of others; `VectorTier` inherits it."""

    _placement: Placement
    _partitions: dict[int, Partition]
    _growing: dict[int, Partition]
    _upkeep: Upkeep

    def prepare(self, file: int, dim: int) -> Partition:
        """A partition that no search sees before `exchange`; its columns are the caller's to fill.

        Its rows are in the file of that number. Callable from any thread; the columns have one writer at a time.
        """
        return Partition(file, dim, self._placement)

    def grow(self, file: int, dim: int, rows: int) -> None:
        """Have a graph built of the first `rows` vectors of a file, for `reembed` to come.

        Nobody searches it, and it counts as held memory. O(new rows), 10 ns each.
        """
        growing = self._growing.get(file)
        if growing is None:
            growing = self._growing[file] = Partition(file, dim, self._placement)
        more = rows - growing.columns.view.rows
        if more > 0:
            nothing = np.zeros(more, np.int64)
            growing.columns.append(nothing, nothing + NEVER, None, nothing)
            self._upkeep.grew(growing)

    def is_grown(self, file: int) -> bool:
        """Whether the graph that `grow` asked for is there, if one is needed. Any thread."""
        growing = self._growing.get(file)
        return growing is None or not growing.waiting

    def give_up(self, file: int) -> None:
        """The graph that `grow` asked for is not wanted any more."""
        growing = self._growing.pop(file, None)
        if growing is not None:
            growing.detach()

    def reembed(self, partition: int, dim: int, file: int) -> None:
        """The rows of a partition have other vectors, those in a file; its columns go on as they are.

        Searches that run go on with the vectors they have. The graph is what `grow` has come to; the
        rest is built in the background. O(1).
        """
        old = self._partitions.get(partition)
        if old is not None and old.number == file:
            return
        new = self._growing.pop(file, None) or Partition(file, dim, self._placement)
        if old is not None:
            new.adopt(old.columns)
            self._detach(old)
        self._partitions[partition] = new
        self._upkeep.grew(new)

    def exchange(self, gone: Iterable[int], come: Mapping[int, Partition]) -> None:
        """Put prepared partitions in the place of others; both at once, for whoever is on this thread.

        Searches that run go on with what they have; one that has not looked up its partitions yet
        finds those that are gone empty, so its caller must ask again. Graphs of the new ones are
        built in the background. O(partitions).
        """
        for number, partition in come.items():
            self._partitions[number] = partition
            self._upkeep.grew(partition)
        for number in gone:
            old = self._partitions.pop(number, None)
            if old is not None:
                self._detach(old)

    def _detach(self, old: Partition) -> None:
        old.detach()
        self._upkeep.backlog.forget(old.number)
        if self._placement.read_only:
            self._placement.files.forget(old.number)
