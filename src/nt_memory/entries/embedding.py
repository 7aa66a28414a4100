"""Entries that embed an agent's observations anew."""

from __future__ import annotations

from nt_memory.entries.wire import Wire


class Reembed(Wire, frozen=True, tag="reembed"):
    """Begin to embed an agent's observations anew.

    Attributes:
        agent: Whose.
        ticket: Names this re-embedding.
        dim: Values in a new vector.
        label: Under which it can be gone on with after an interruption; empty: it cannot.
        instead: Ticket of an unfinished one that is given up for it; empty: there is none.
    """

    agent: str
    ticket: str
    dim: int
    label: str = ""
    instead: str = ""


class Embed(Wire, frozen=True, tag="embed"):
    """New vectors of an agent's next rows.

    Attributes:
        agent: Whose.
        ticket: Of the re-embedding.
        first: Number of the first row; those before have theirs.
        vectors: Little-endian float16 unit vectors, one a row.
        lost: Numbers of those rows, ascending, of which no version is left: their vectors are made up.
    """

    agent: str
    ticket: str
    first: int
    vectors: bytes
    lost: tuple[int, ...] = ()


class SwitchEmbedding(Wire, frozen=True, tag="switch"):
    """From here on the new vectors count. Does nothing unless every row has one."""

    agent: str
    ticket: str


class AbandonEmbedding(Wire, frozen=True, tag="abandon"):
    """Give a re-embedding up; nothing but its own vectors changes."""

    agent: str
    ticket: str
