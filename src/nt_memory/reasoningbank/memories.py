"""All of the bank's tables: filled from storage at first use, then kept current by every change."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import types
from hashlib import blake2b
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.entries import ACTION, DEFINITION, OUTCOME, PATTERN, Stored
from nt_memory.reasoningbank.columns import Lane, NewAction, Table
from nt_memory.reasoningbank.definition import Definition, decode_definition
from nt_memory.reasoningbank.wire import decode_action, decode_outcome
from nt_memory.timeline import Moment

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from nt_memory.reasoningbank.backing import Backing, StoredChange, Versions
    from nt_memory.reasoningbank.wire import ActionDoc

# A definition comes before the actions it judges, those before their outcomes.
RANK = {DEFINITION: 0, PATTERN: 1, ACTION: 2, OUTCOME: 3}
SLICE = 500
"""Versions read between two looks of the event loop: about two milliseconds."""


class Place(NamedTuple):
    """Where an action is."""

    table: Table
    entry: int

    def is_ended(self, moment: Moment) -> bool:
        """Whether a moment shows that it was forgotten."""
        if not self.table.epoch:
            return False  # nothing of the table has ended; there are a million to ask about
        entry = self.table.entry
        return bool(
            entry["until"][self.entry] <= moment.time_us
            and entry["until_revision"][self.entry] <= moment.revision
        )


class Versioned:
    """Versions of one key that are kept in memory, because they are few and often asked for."""

    def __init__(self) -> None:
        self._versions: list[Stored] = []

    def add(self, stored: Stored) -> None:
        """Note a version."""
        self._versions.append(stored)
        self._versions.sort(key=lambda one: (one.known_at, one.revision))

    def at(self, moment: Moment) -> Stored | None:
        """The version a moment shows; None if there is none or it is a delete."""
        for stored in reversed(self._versions):
            if stored.known_at <= moment.time_us and stored.revision <= moment.revision:
                return None if stored.value is None else stored
        return None


class Memories:
    """Tables by action type, definitions and pattern sets.

    Args:
        backing: Where they are stored.
    """

    def __init__(self, backing: Backing) -> None:
        self._backing = backing
        self._loading = asyncio.Lock()
        self._forget_all()

    def _forget_all(self) -> None:
        self._early: list[Stored] | None = None
        self._while_loading: dict[tuple[str, str], Place] = {}
        self.is_loaded: bool = False
        self._definitions: dict[str, Versioned] = {}
        self._decoded: dict[int, Definition] = {}
        self._families: dict[tuple[str, str, int, bool], int] = {}
        self._without_situation: dict[tuple[str, str], Place] = {}
        self._expected: dict[tuple[str, str], Place] = {}
        self._lanes: dict[int, tuple[Table, Lane]] = {}
        self.tables: dict[str, Table] = {}
        self.patterns: dict[tuple[str, str], Versioned] = {}
        self.pattern_changes: int = 0

    # --- definitions ------------------------------------------------------------------------

    def definition(self, action_type: str, moment: Moment) -> Definition | None:
        """The definition a moment shows."""
        versions = self._definitions.get(action_type)
        stored = None if versions is None else versions.at(moment)
        return None if stored is None else self._decode(stored)

    def definition_at(self, action_type: str, revision: int) -> Definition | None:
        """The definition an entry made; None for revision 0."""
        found = self._decoded.get(revision)
        return found if found is not None and found.action_type == action_type else None

    def family(self, definition: Definition | None) -> int:
        """Number of what a definition's outcomes can be compared with; 0: undefined."""
        if definition is None:
            return 0
        return self._families.setdefault(definition.family, len(self._families) + 1)

    def _decode(self, stored: Stored) -> Definition:
        found = self._decoded.get(stored.revision)
        if found is None or found.action_type != stored.key:
            found = decode_definition(stored.key, stored.value or b"", stored.revision)
            self._decoded[stored.revision] = found
        return found

    def lane(self, partition: int) -> tuple[Table, Lane] | None:
        """The lane a vector partition belongs to."""
        found = self._lanes.get(partition)
        if found is None:
            for table in self.tables.values():
                for lane in table.lane_list:
                    self._lanes[lane.partition] = (table, lane)
            found = self._lanes.get(partition)
        return found

    # --- keeping current --------------------------------------------------------------------

    def follow(self, changes: Iterable[StoredChange]) -> None:
        """Take in what became visible, in order. Ignored until something was asked for."""
        if not self.is_loaded and self._early is None:
            return
        news = [
            change.stored
            for change in changes
            if change.stored.space in RANK and change.kind != "expire"
        ]
        if self._early is not None:
            self._early.extend(news)
        elif news:
            self._take(news)

    def _take(self, news: Sequence[Stored]) -> None:
        """Fold in versions in the order every process agrees on: revision, space, agent, key."""
        self._fold(sorted(news, key=_agreed_order))

    def _fold(self, ordered: Iterable[Stored]) -> None:
        for space, run in itertools.groupby(ordered, key=attrgetter("space")):
            if space == ACTION:
                self._take_actions(run)
            elif space == OUTCOME:
                self._take_outcomes(run)
            else:
                for stored in run:
                    self._define(stored) if space == DEFINITION else self._set_patterns(stored)

    def _define(self, stored: Stored) -> None:
        self._definitions.setdefault(stored.key, Versioned()).add(stored)
        if stored.value is not None:
            self.family(self._decode(stored))

    def _set_patterns(self, stored: Stored) -> None:
        self.patterns.setdefault((stored.agent, stored.key), Versioned()).add(stored)
        self.pattern_changes += 1

    def _take_actions(self, run: Iterable[Stored]) -> None:
        added: dict[str, list[NewAction]] = {}
        families: dict[tuple[str, int], int] = {}
        for stored in run:
            if stored.value is None:
                self._add(added)
                added = {}
                self._end_action(stored)
                continue
            doc = decode_action(stored.value)
            receipt = doc.receipt
            judged_by = (doc.action_type, doc.definition)
            if judged_by not in families:
                families[judged_by] = self.family(self.definition_at(*judged_by))
            action = NewAction(
                stored.agent,
                stored.key,
                doc,
                stored.known_at,
                stored.revision,
                stored.partition,
                stored.row,
                families[judged_by],
                0 if receipt is None or not receipt.coin else coin_number(receipt.coin),
                stored.tags,
            )
            added.setdefault(doc.action_type, []).append(action)
        self._add(added)

    def _add(self, added: Mapping[str, Sequence[NewAction]]) -> None:
        for action_type, actions in added.items():
            table = self.tables.get(action_type)
            if table is None:
                table = self.tables[action_type] = Table(action_type)
            for entry, action in enumerate(actions, table.add(actions)):
                if action.row < 0:
                    self._without_situation[action.agent, action.key] = Place(table, entry)
                elif not self.is_loaded:
                    self._while_loading[action.agent, action.key] = Place(table, entry)

    def _end_action(self, stored: Stored) -> None:
        place = self.find(stored.agent, stored.key, Moment(stored.known_at, stored.revision - 1))
        if place is not None:
            place.table.end(place.entry, stored.known_at, stored.revision)

    @contextlib.contextmanager
    def expecting(self, places: Mapping[tuple[str, str], Place | None]) -> Generator[None]:
        """While outcomes of these actions, by agent and key, are written: no need to find them."""
        expected = {name: place for name, place in places.items() if place is not None}
        self._expected.update(expected)
        try:
            yield
        finally:
            for name in expected:
                self._expected.pop(name, None)

    def _take_outcomes(self, run: Iterable[Stored]) -> None:
        news: dict[str, list[tuple[int, int, int, float]]] = {}
        for stored in run:
            moment = Moment(2**62, stored.revision)
            place = self._expected.get((stored.agent, stored.key))
            if place is None or place.is_ended(moment):
                place = self.find(stored.agent, stored.key, moment)
            if place is not None:
                value = float("nan") if stored.value is None else decode_outcome(stored.value).value
                version = (place.entry, stored.known_at, stored.revision, value)
                news.setdefault(place.table.action_type, []).append(version)
        for action_type, versions in news.items():
            self.tables[action_type].set_outcomes(versions)

    def find(self, agent: str, key: str, moment: Moment) -> Place | None:
        """Where an action is that a moment shows.

        Cost: one read, because a map of all keys would cost more memory than all columns together.
        """
        found = self._without_situation.get((agent, key)) or self._while_loading.get((agent, key))
        if found is not None:
            return None if found.is_ended(moment) else found
        stored = self._backing.read(ACTION, agent, key, moment)
        if stored is None or stored.value is None:
            return None
        return self.place(stored, decode_action(stored.value))

    def place(self, stored: Stored, doc: ActionDoc) -> Place | None:
        """Where a stored action is; for good, since entries never move."""
        if stored.row < 0:
            return self._without_situation.get((stored.agent, stored.key))
        table = self.tables.get(doc.action_type)
        lane = None if table is None else table.lanes.get(stored.agent)
        if table is None or lane is None or stored.row >= lane.entry_of_row.size:
            return None
        entry = int(lane.entry_of_row.array[stored.row])
        return None if entry < 0 else Place(table, entry)

    # --- loading ----------------------------------------------------------------------------

    async def ready(self) -> None:
        """Fill the tables, the first time.

        Cost: about 10 microseconds an action and outcome, in slices that let the event loop breathe.
        """
        if self.is_loaded:
            return
        async with self._loading:
            if not self.is_loaded:
                await self._load()

    async def _load(self) -> None:
        limit = self._backing.resolve(None).revision
        self._early = []
        try:
            await self._take_slowly((DEFINITION, PATTERN, ACTION), limit)
            await self._take_slowly((OUTCOME,), limit)
        except BaseException:
            self._forget_all()
            raise
        early, self._early, self.is_loaded = self._early, None, True
        self._while_loading.clear()
        self._take([stored for stored in early if stored.revision > limit])

    async def _take_slowly(self, spaces: Sequence[str], limit: int) -> None:
        batches: list[Versions] = []
        revisions = [np.empty(0, np.int64)]
        read = 0
        for space in sorted(spaces, key=RANK.__getitem__):
            for batch in self._backing.all_versions(space):
                batches.append(batch)
                revisions.append(batch.revisions)
                read += len(revisions[-1])
                if read >= SLICE:
                    read = 0
                    await breathe()
        # A million versions in order take a tenth of a second.
        batch_of, place_of = await asyncio.to_thread(_in_order, revisions[1:], limit)
        for start in range(0, len(batch_of), SLICE):
            some = slice(start, start + SLICE)
            names = zip(batch_of[some].tolist(), place_of[some].tolist(), strict=True)
            self._fold([batches[batch][place] for batch, place in names])
            await breathe()


def _in_order(
    revisions: Sequence[NDArray[np.int64]], limit: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Batch and place there of each version up to an entry, in the order every process agrees on.

    Args:
        revisions: Of the versions of each batch. Batches come by space, agent and key, so that a stable
            sort by revision is all that is left to do.
        limit: The last entry of interest. What came after the start of loading is taken from what `follow`
            put aside.
    """
    sizes = np.array([len(some) for some in revisions], np.int64)
    every = np.concatenate([np.empty(0, np.int64), *revisions])
    order = np.argsort(every, kind="stable")
    order = order[: np.searchsorted(every[order], limit, side="right")]
    ends = np.cumsum(sizes)
    batch = np.searchsorted(ends, order, side="right")
    return batch, order - (ends - sizes)[batch]


def _agreed_order(stored: Stored) -> tuple[int, int, str, str]:
    return (stored.revision, RANK[stored.space], stored.agent, stored.key)


def coin_number(coin: str) -> int:
    """A coin's unit as 64 bits, never 0."""
    return int.from_bytes(blake2b(coin.encode(), digest_size=8).digest(), "little") | 1


@types.coroutine
def breathe() -> Generator[None, None, None]:
    """Let the event loop run once; no time is waited for."""
    yield
