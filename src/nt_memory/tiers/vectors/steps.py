"""What a search did in one partition, for whoever asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from nt_memory.tiers.vectors.visibility import Visible


class Step(NamedTuple):
    """How one partition was searched.

    Attributes:
        partition: Its id.
        how: "scan": its vectors, exactly; else how its graph was asked, see `Probed`.
        rows: Rows it has.
        passing: How many of them are visible and pass.
        width: Most rows its graph was asked for; 0 if it was not searched.
    """

    partition: int
    how: str
    rows: int
    passing: int
    width: int


def step_of(partition: int, reach: Visible, how: str, width: int) -> Step:
    """What is said of a search of the rows in `reach`. Counts them."""
    return Step(partition, how, reach.view.rows, reach.passing(), width)
