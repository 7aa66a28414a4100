"""Do the nodes of a swarm agree? Each says now and then what its replica's digest is; whoever differs stops.

Problem: `decide` and `apply` are the same everywhere, until a fault, another build or a broken disk
makes them not so; and then nodes would grant one lock twice and never know. So every node states the
digest of its replica at its newest entry (`replica.ledger`), and holds what others state against
what it had there itself.

Where two differ, all state all digests that they hold. Then each knows, by halving, the first entry that
another took otherwise, and who is on whose side. A node that more nodes differ from than agree with
stops following, and its replica is marked, so that the next open begins with another. Of two, nobody
can tell which is wrong: both stop, as a wrong answer is worse than none.

No agent can stop others by lying: an agent has one voice, however many nodes speak in its name, and
against a single voice of an agent a node stops only if it is that agent's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from array import array
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from nt_memory.clock import to_datetime
from nt_memory.entries import decode_entry
from nt_memory.errors import CorruptionError, NtMemoryError
from nt_memory.transport.segment_reader import SegmentReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nt_memory.replica.ledger import Ring
    from nt_memory.system.engine import Engine

STATE_EVERY: Final = 1000
"""A node states its digest after so many entries, or"""
STATE_S: Final = 5.0
"""after so long, if there were any."""
SETTLE_S: Final = 2.0
"""Between finding that somebody differs and judging, so that all can say what they have."""
LOOK_S: Final = 0.25
FORGET_S: Final = 60.0
"""Who has stated nothing for so long has no say. A node that is at work but idle states nothing either, and
has then nothing new to say."""
_FULL_S: Final = 10.0
_WAITING: Final = 16
_MOST_VOICES: Final = 1024
DIVERGED: Final = "DIVERGED"
"""A file in the directory of a replica that is not to be used any more; it says why."""
_log = logging.getLogger(__name__)


class Voice(NamedTuple):
    """Who states something.

    Attributes:
        author: Of the node, as the servers know it; "" is the operator.
        session: Names this run of the node.
    """

    author: str
    session: str


class Statement(NamedTuple):
    """Digests of consecutive entries.

    Attributes:
        first: Sequence of the first.
        digests: Short ones, as `Ring` has them.
    """

    first: int
    digests: array[int]

    @property
    def last(self) -> int:
        """Sequence of the last."""
        return self.first + len(self.digests) - 1


class Verdict(NamedTuple):
    """How one node's statement stands to this replica.

    Attributes:
        at: The newest entry that could be compared.
        differs_from: The first entry that differs, as far as is known; 0: none does.
        agrees_until: The last before it that was compared and agrees; 0: there is none.
    """

    at: int
    differs_from: int
    agrees_until: int


def compare(ring: Ring, statement: Statement) -> Verdict | None:
    """Hold a statement against what is held here; None: they have no entry in common.

    Cost: a comparison, or as many as halving takes.
    """
    low, high = max(ring.oldest, statement.first), min(ring.last, statement.last)

    def differs(sequence: int) -> bool:
        return ring.at(sequence) != statement.digests[sequence - statement.first]

    if low > high:
        return None
    if not differs(high):
        return Verdict(high, 0, high)
    at, agreed = high, low - 1
    while high - agreed > 1:  # all up to `agreed` agree, and `high` does not
        middle = (agreed + high) // 2
        if differs(middle):
            high = middle
        else:
            agreed = middle
    return Verdict(at, high, agreed if agreed >= low else 0)


@dataclass(slots=True)
class _Heard:
    """What a node has stated."""

    waiting: deque[Statement] = field(default_factory=lambda: deque[Statement](maxlen=_WAITING))
    verdict: Verdict | None = None


class Audit:
    """What other nodes state, held against one ring. Pure: no clock, no I/O.

    Args:
        ring: This node's digests.
        me: This node.
    """

    def __init__(self, ring: Ring, me: Voice) -> None:
        self.ring = ring
        self.me = me
        self._heard: dict[Voice, _Heard] = {}

    def hear(self, voice: Voice, statement: Statement) -> None:
        """Take in a statement, to be compared once this replica is so far."""
        if voice == self.me or not statement.digests:
            return
        if voice not in self._heard and len(self._heard) >= _MOST_VOICES:
            del self._heard[next(iter(self._heard))]
        self._heard.setdefault(voice, _Heard()).waiting.append(statement)

    def forget(self, voice: Voice) -> None:
        """Drop what a node has stated."""
        self._heard.pop(voice, None)

    def look(self) -> list[Voice]:
        """Compare what can be compared; who differs."""
        for heard in self._heard.values():
            later: list[Statement] = []
            for statement in heard.waiting:
                if statement.first > self.ring.last:
                    later.append(statement)
                elif (found := compare(self.ring, statement)) is not None:
                    heard.verdict = _sharper(heard.verdict, found)
            heard.waiting.clear()
            heard.waiting.extend(later)
        return [voice for voice, heard in self._heard.items() if _differs(heard)]

    def first_difference(self) -> tuple[int, int]:
        """The first entry that somebody took otherwise, and the last before it that is known to agree."""
        verdicts = [h.verdict for h in self._heard.values() if h.verdict and _differs(h)]
        first = min(verdict.differs_from for verdict in verdicts)
        return first, max(v.agrees_until for v in verdicts if v.differs_from == first)

    def is_outvoted(self) -> bool:
        """Whether this replica is the one that has to stop; see the module's first lines."""
        first, _ = self.first_difference()
        me = self._speaker(self.me)
        sides: dict[Voice, set[bool]] = {}
        for voice, heard in self._heard.items():
            if heard.verdict is not None and heard.verdict.at >= first:  # else of what was before
                sides.setdefault(self._speaker(voice), set()).add(not _differs(heard))
        against = [voice for voice, agrees in sides.items() if agrees == {False}]
        beside = {me, *(voice for voice, agrees in sides.items() if agrees == {True})}
        if len(against) != len(beside):
            return len(against) > len(beside)
        return any(voice.author in ("", self.me.author) for voice in against)

    @staticmethod
    def _speaker(voice: Voice) -> Voice:
        """Whose voice it is: an agent has one. The operator's nodes have one each: nobody forges them."""
        return Voice(voice.author, "") if voice.author else voice


def _differs(heard: _Heard) -> bool:
    return heard.verdict is not None and heard.verdict.differs_from > 0


def _sharper(known: Verdict | None, found: Verdict) -> Verdict:
    """What two comparisons with one node say together."""
    if known is None or not known.differs_from or not found.differs_from:
        # Who agrees later has agreed before, whatever was garbled; who differs, differs from now on.
        return found if known is None or found.at >= known.at else known
    return Verdict(
        max(known.at, found.at),
        min(known.differs_from, found.differs_from),
        max(known.agrees_until, found.agrees_until),
    )


class Auditor:
    """States an engine's digests, hears others', and stops it when it has gone astray.

    Belongs to the engine's loop.

    Args:
        engine: Whose.
        me: This node.
        state: Sends a statement to all others.
        stop: Ends following, with why; from any thread.
    """

    def __init__(
        self,
        engine: Engine,
        me: Voice,
        *,
        state: Callable[[Statement], None],
        stop: Callable[[CorruptionError], None],
    ) -> None:
        self._engine = engine
        self._state = state
        self._end = stop
        self._heard_ns: dict[Voice, int] = {}
        self.audit: Audit = Audit(engine.opened.replica.ledger.ring, me)
        self._stated = 0
        self._stated_ns = self._full_ns = 0
        self._told: set[Voice] = set()

    def hear(self, voice: Voice, statement: Statement) -> None:
        """Take in what a node states."""
        self._heard_ns[voice] = self._engine.clock.monotonic_ns()
        self.audit.hear(voice, statement)

    async def run(self) -> None:
        """State and compare for ever, or until this replica has gone astray."""
        clock = self._engine.clock
        while True:
            await clock.sleep(LOOK_S)
            self.audit.ring = self._engine.opened.replica.ledger.ring
            self._state_if_due()
            self._forget()
            if not self.audit.look():
                continue
            self._state_all()
            await clock.sleep(SETTLE_S)
            differing = self.audit.look()
            if not differing:
                continue
            if self.audit.is_outvoted():
                await asyncio.to_thread(self._stop, differing)
                return
            self._tell(differing)

    def _forget(self) -> None:
        """Nodes that have gone have no say, and need not be told anything."""
        before_ns = self._engine.clock.monotonic_ns() - int(FORGET_S * 1e9)
        for voice in [voice for voice, at in self._heard_ns.items() if at < before_ns]:
            del self._heard_ns[voice]
            self.audit.forget(voice)

    def _state_if_due(self) -> None:
        ring, now_ns = self.audit.ring, self._engine.clock.monotonic_ns()
        last = ring.last
        digest = ring.at(last)
        if digest is None or last == self._stated:
            return
        if last - self._stated >= STATE_EVERY or now_ns - self._stated_ns >= STATE_S * 1e9:
            self._stated, self._stated_ns = last, now_ns
            self._state(Statement(last, array("Q", (digest,))))

    def _state_all(self) -> None:
        now_ns = self._engine.clock.monotonic_ns()
        if self._full_ns and now_ns - self._full_ns < _FULL_S * 1e9:
            return
        self._full_ns = now_ns
        self._state(Statement(*self.audit.ring.span()))

    def _tell(self, differing: Iterable[Voice]) -> None:
        first, _ = self.audit.first_difference()
        for voice in differing:
            if voice not in self._told:
                self._told.add(voice)
                _log.warning(
                    "node %s of %s differs from this one since entry %d, and is in the minority",
                    voice.session,
                    voice.author or "the operator",
                    first,
                )

    def _stop(self, differing: list[Voice]) -> None:
        engine = self._engine
        first, agreed = self.audit.first_difference()
        directory = engine.opened.directory
        what = _described(directory.journal, first)
        since = "" if agreed == first - 1 else f" (none before was compared since entry {agreed})"
        error = CorruptionError(
            f"{directory.path}: this replica differs from that of {len(differing)} other nodes; the first "
            f"entry that they took otherwise is {what}{since}. It is not followed any more: reopen, and "
            "another one is made; this one is kept to be looked into"
        )
        _log.error("%s", error)
        with contextlib.suppress(OSError):
            (directory.path / DIVERGED).write_text(f"{error}\n")
        self._end(error)


def _described(journal: object, sequence: int) -> str:
    """An entry, in words."""
    try:
        reader = SegmentReader(journal)  # type: ignore[arg-type]
        frame = next(reader.replay(sequence - 1, until=sequence))
        entry = decode_entry(frame.payload)
    except (NtMemoryError, StopIteration):
        return f"{sequence}, which is no longer in its journal"
    kind = entry.body.__struct_config__.tag
    return f"{sequence} ({kind} of {entry.actor or 'nobody'}, {to_datetime(frame.recorded_at)})"
