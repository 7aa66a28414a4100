"""What a search did in one partition, for whoever asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from nt_memory.tiers.vectors.columns import Visible


class Step(NamedTuple):
    """How one partition was searched.

    Attributes:
        partition: Its id.
        how: "scan": its vectors, exactly; "graph": what does not pass was dropped afterwards; "graph,
            filtered": only what passes was collected; "codes": the 8-bit codes of what passes;
            "all": no more pass than are wanted.
        rows: Rows it has.
        passing: How many of them are visible and pass.
        effort: Breadth of the graph search; 0 without one.
    """

    partition: int
    how: str
    rows: int
    passing: int
    effort: int


def step_of(partition: int, reach: Visible, how: str, effort: int) -> Step:
    """What is said of a search of the rows in `reach`. Counts them."""
    return Step(partition, how, reach.view.rows, reach.passing(), effort)
