"""Where a node's journal comes from: how far it has followed its cluster's stream, and who published.

A message may be stored twice, if its publisher was held up between two attempts for longer than the
server remembers message ids. So every publisher numbers its messages, and a number that is not
greater than the last is a repetition, on every node alike. What a publisher's number was is
forgotten after `PUBLISHER_MEMORY_US` of entry time, which is far longer than anybody tries.
"""

from __future__ import annotations

from typing import NamedTuple

PUBLISHER_MEMORY_US = 24 * 3600 * 1_000_000


class Origin(NamedTuple):
    """The newest message of a stream that a journal has, or has a part of; 0: none, but what it began with.

    Attributes:
        stream: Identity of the stream.
        message: The message's place in it.
        mark: Sequence of its mark in this journal, which its entries follow.
        entries: How many those are.
    """

    stream: str
    message: int
    mark: int
    entries: int


def first_needed(origin: Origin, sequence: int) -> int:
    """The first message that a replica has not, or not whole, whose last entry is at `sequence`."""
    return origin.message + (sequence >= origin.mark + origin.entries)


class Publisher(NamedTuple):
    """What is known of a publisher: its last number, and when that came, in entry time."""

    number: int
    recorded_at: int


def is_repeated(last: Publisher | None, number: int, now_us: int) -> bool:
    """Whether a publisher's number was there before."""
    if last is None or last.recorded_at <= now_us - PUBLISHER_MEMORY_US:
        return False
    return number <= last.number
