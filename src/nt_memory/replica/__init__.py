"""Decide and apply: fold journal entries, in order, into the views."""

from nt_memory.replica.follow import Change, Follow, Moved, NewRows, Observed, Outcome
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
    "Replica",
    "is_visible",
    "partition_name",
]
