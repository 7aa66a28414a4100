"""A call of the bank that may be a repetition: what of it was done before, under its request id.

The bank reads before it writes: what is there already is not tracked twice, and an outcome that is
there is not recorded over. A repeated call must not be judged by what it did itself the first time, so
it asks first. If its first attempt is not visible here, it plans the same as that did, since neither
has seen the other, and the entry is recognised when it is ordered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nt_memory.entries.requests import part_id
from nt_memory.errors import InvalidInputError
from nt_memory.namespace import check_label

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nt_memory.reasoningbank.backing import Backing, Made
    from nt_memory.reasoningbank.trajectory import Trajectory

BATCH_OPS = 1024
"""So many operations go into one entry, about."""


class Request:
    """Under which id a call is made, if under any.

    Args:
        backing: Knows what was done before.
        name: The id that the caller gave.

    Raises:
        InvalidNameError: it is malformed.
    """

    def __init__(self, backing: Backing, name: str | None) -> None:
        self._backing = backing
        self._name = None if name is None else check_label(name, "request_id")

    def part(self, first: int = 0) -> str | None:
        """The id of the entry that begins with item `first`; None: it has none."""
        return None if self._name is None else part_id(self._name, first)

    def made(self, first: int = 0) -> Made | None:
        """What that entry did, if it is visible here. What follows must not wait before it is used.

        Raises:
            InvalidInputError: the id was used for another kind of call.
        """
        part = self.part(first)
        return None if part is None else self._backing.made(part)

    def refuse(self) -> InvalidInputError:
        """What it did has nothing to do with what is asked now: the error to raise."""
        return InvalidInputError(f"request_id {self._name!r} was used before, for something else")


def batches(trajectories: Iterable[Trajectory]) -> Iterator[tuple[int, list[Trajectory]]]:
    """Cut into what goes into one entry, each with the number of its first.

    By what the trajectories hold and nothing else, so that a repeated call cuts in the same places.
    """
    some: list[Trajectory] = []
    ids: set[str] = set()
    first = size = 0
    for trajectory in trajectories:
        if trajectory.id in ids or size >= BATCH_OPS:
            yield first, some
            first, some, ids, size = first + len(some), [], set(), 0
        some.append(trajectory)
        ids.add(trajectory.id)
        size += 2 + len(trajectory.actions) + len(trajectory.outcomes)
    yield first, some
