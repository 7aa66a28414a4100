"""Decide and apply: fold journal entries, in order, into the views."""

from nt_memory.replica.follow import (
    Change,
    Follow,
    Moved,
    NewRows,
    Observed,
    Outcome,
    Reembedded,
)
from nt_memory.replica.origins import found, load_origin, load_publishers
from nt_memory.replica.reembedding import is_staged, staged_name
from nt_memory.replica.replica import Replica
from nt_memory.replica.writes import Now, is_visible, partition_name

__all__ = [
    "Change",
    "Follow",
    "Moved",
    "NewRows",
    "Now",
    "Observed",
    "Outcome",
    "Reembedded",
    "Replica",
    "found",
    "is_staged",
    "is_visible",
    "load_origin",
    "load_publishers",
    "partition_name",
    "staged_name",
]
