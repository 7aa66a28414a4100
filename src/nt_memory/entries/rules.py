"""Entries about the store as a whole: its settings, rules, sessions and time."""

from __future__ import annotations

from nt_memory.entries.wire import Wire


class Configure(Wire, frozen=True, tag="configure"):
    """First entry of every store: the settings that belong to the swarm."""

    swarm: str
    timeline: str
    history: int | None


class StartSession(Wire, frozen=True, tag="session"):
    """An embedded store was opened for writing: earlier sessions have ended, and their locks."""

    session: str


class Advance(Wire, frozen=True, tag="advance"):
    """A backtest timeline moves to `now`."""

    now: int


class Retain(Wire, frozen=True, tag="retain"):
    """How long superseded versions are kept; `agent` "" is the rule for those without their own.

    Attributes:
        agent: Whose keys.
        max_age_us: Versions that were not in force since then may go; None: no limit.
        max_versions: So many superseded versions a key are kept; None: no limit.
    """

    agent: str
    max_age_us: int | None = None
    max_versions: int | None = None


class SetQuota(Wire, frozen=True, tag="quota"):
    """How much an agent may store; `agent` "" is the rule for those without their own.

    Attributes:
        agent: Whose quota.
        max_keys: Keys that show a value; None: no limit.
        max_bytes: Bytes of all versions that are kept; None: no limit.
        max_vectors: Versions with an embedding that are kept; None: no limit.
    """

    agent: str
    max_keys: int | None = None
    max_bytes: int | None = None
    max_vectors: int | None = None


class SetPolicy(Wire, frozen=True, tag="policy"):
    """What an agent may do; `agent` "" is the rule for those without their own.

    Attributes:
        agent: Whose policy.
        rights: Patterns by right; what is not named is not allowed. None: take the policy back.
    """

    agent: str
    rights: tuple[tuple[str, tuple[str, ...]], ...] | None = None


class Sweep(Wire, frozen=True, tag="sweep"):
    """Drop what retention does not keep, up to `limit` versions looked at, and go on next time.

    Attributes:
        hold_us: What is in force at this time or later is kept.
        hold_revision: What is in force at this revision or later is kept.
        limit: Most versions to look at.
    """

    hold_us: int
    hold_revision: int
    limit: int


class Tick(Wire, frozen=True, tag="tick"):
    """Nothing but the passing of time: what is due by then expires, lapses or is decided."""


class Mark(Wire, frozen=True, tag="mark"):
    """What follows in this node's journal is a message of its cluster's stream.

    A node writes it before the entries of each message; from anybody else it counts for nothing.

    Attributes:
        stream: Identity of the stream.
        sequence: The message's in it.
        session: Who published it: one run of one node. Empty: it was no message of a node.
        number: How many that had published before, and this; grows.
        count: So many entries follow; 0 if the message repeats an earlier one.
    """

    stream: str
    sequence: int
    session: str
    number: int
    count: int
