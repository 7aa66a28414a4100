"""The bank's memories as numpy columns, and what of them counts at a moment.

One `Table` holds an action type. Its entries are actions, in the one order every process agrees on:
by revision, then agent and key. A `Lane` is one agent's part of it, whose vector rows map to entries.
Outcomes are a log of versions; which of them counts at a moment is a question to a `View`:

the present view is kept up to date by every change, because nearly all advice is asked for now, any
other is computed from the log, and cached. A view's masks are handed to searches that may run in another
thread, so a mask that was handed out is copied before it changes.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nt_memory.reasoningbank.backing import NEVER
from nt_memory.reasoningbank.growing import Growing, Mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nt_memory.reasoningbank.wire import ActionDoc
    from nt_memory.timeline import Moment

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

ENTRY = np.dtype(
    [
        ("at", "i8"),
        ("known", "i8"),
        ("revision", "i8"),
        ("until", "i8"),
        ("until_revision", "i8"),
        ("lane", "i4"),
        ("family", "i4"),
        ("row", "i8"),
        ("definition", "i8"),
        ("predicted", "f8"),
        ("low", "f8"),
        ("high", "f8"),
        ("level", "f8"),
        ("probability", "f8"),
        ("baseline", "f8"),
        ("propensity", "f8"),
        ("arm", "i1"),
        ("coin", "u8"),
    ]
)
OUTCOME_VERSION = np.dtype([("entry", "i8"), ("known", "i8"), ("revision", "i8"), ("value", "f8")])
NOT_OFFERED, SHOWN, WITHHELD = -1, 0, 1
MAX_VIEWS = 8


class NewAction(NamedTuple):
    """An action that became visible.

    Attributes:
        agent: Whose.
        key: Its key.
        doc: What was stored.
        known: Since when it is known.
        revision: The entry that wrote it.
        partition: Vector partition of its situation; -1: it has none.
        row: Its row there; -1: it has none.
        family: Number of what its outcomes can be compared with.
        coin: Number of its coin's unit; 0: none was thrown.
        tags: Of its trajectory.
    """

    agent: str
    key: str
    doc: ActionDoc
    known: int
    revision: int
    partition: int
    row: int
    family: int
    coin: int
    tags: tuple[str, ...] = ()


class Lane:
    """One agent's part of a table.

    Attributes:
        agent: Whose.
        number: Its place in the table.
        partition: Id of its vector partition; -1 while it has no situations.
        entry_of_row: Entry of each vector row; -1 where a row belongs to none.
        entries: Its entries, ascending.
    """

    def __init__(self, agent: str, number: int) -> None:
        self.agent = agent
        self.number = number
        self.partition = -1
        self.entry_of_row: Growing = Growing(np.int64, -1)
        self.entries: Growing = Growing(np.int64)

    def place(self, rows: Sequence[int], entries: Sequence[int]) -> None:
        """Note which entries rows belong to."""
        missing = max(rows) + 1 - self.entry_of_row.size
        if missing > 0:
            self.entry_of_row.extend(np.full(missing, -1, np.int64))
        self.entry_of_row.array[rows] = entries


class View:
    """Which outcomes count at a moment.

    Attributes:
        value: Outcome of each entry, NaN where none counts.
        known: When it became known; NEVER where none counts.
    """

    def __init__(self, table: Table, value: Floats, known: Ints) -> None:
        self._table = table
        self._masks: dict[tuple[int, int], Mask] = {}
        self.value = value
        self.known = known

    def mask(self, lane: Lane, family: int) -> Mask:
        """Rows of a lane that may be recalled: an outcome of this family counts."""
        found = self._masks.get((lane.number, family))
        if found is None:
            entry = lane.entry_of_row.array
            # Rows added after this moment lie beyond the view.
            is_known = (entry >= 0) & (entry < len(self.known))
            inside = np.where(is_known, entry, 0)
            allowed = (
                is_known
                & (self.known[inside] != NEVER)
                & (self._table.entry["family"][inside] == family)
            )
            found = self._masks[lane.number, family] = Mask(allowed)
        return found

    def follow(self, entry: int) -> None:
        """An entry's outcome changed; keep the masks made so far right."""
        record = self._table.entry[entry]
        mask = self._masks.get((int(record["lane"]), int(record["family"])))
        if mask is not None and record["row"] >= 0:
            mask.set(int(record["row"]), is_allowed=bool(self.known[entry] != NEVER))


class Table:
    """All memories of one action type."""

    def __init__(self, action_type: str) -> None:
        self.action_type = action_type
        self.lanes: dict[str, Lane] = {}
        self.lane_list: list[Lane] = []
        self.quantiles: dict[int, Floats] = {}
        self.log: Growing = Growing(OUTCOME_VERSION)
        self.epoch: int = 0
        self.lanes_with_situations: int = 0
        self._tagged: dict[str, Growing] = {}
        self._entry = Growing(ENTRY)
        self._value = Growing(np.float64)
        self._known = Growing(np.int64)
        self._newest = Growing(np.int64)
        self._first_revision = Growing(np.int64)
        self._key_bytes = bytearray()
        self._key_end = Growing(np.int64)
        self._last_known = -(2**62)
        self._last_revision = 0
        self._present: View | None = None
        self._views: OrderedDict[Moment, View] = OrderedDict()

    @property
    def entry(self) -> NDArray[Any]:
        """Entries, structured as `ENTRY`."""
        return self._entry.array

    @property
    def first_revision(self) -> Ints:
        """When each entry first got an outcome; NEVER where it has none."""
        return self._first_revision.array

    def lane(self, agent: str) -> Lane:
        """An agent's lane, made if missing."""
        found = self.lanes.get(agent)
        if found is None:
            found = self.lanes[agent] = Lane(agent, len(self.lane_list))
            self.lane_list.append(found)
        return found

    def key(self, entry: int) -> str:
        """Key of an entry."""
        ends = self._key_end.array
        start = int(ends[entry - 1]) if entry else 0
        return self._key_bytes[start : int(ends[entry])].decode()

    def tagged(self, tag: str) -> Ints:
        """Entries of trajectories with a tag, ascending."""
        found = self._tagged.get(tag)
        return np.zeros(0, np.int64) if found is None else found.array

    def add(self, actions: Sequence[NewAction]) -> int:
        """Add actions, in the agreed order; the entry of the first, the others follow.

        Cost: about 3 microseconds an action, and 20 a call.
        """
        first = self._entry.size
        records: list[tuple[Any, ...]] = []
        ends: list[int] = []
        by_lane: dict[Lane, tuple[list[int], list[int], list[int]]] = {}
        for entry, action in enumerate(actions, first):
            lane = self.lane(action.agent)
            records.append(_record(action, lane.number))
            self._key_bytes += action.key.encode()
            ends.append(len(self._key_bytes))
            for tag in action.tags:
                self._tagged.setdefault(tag, Growing(np.int64)).append(entry)
            if action.doc.quantiles:
                self.quantiles[entry] = np.array(action.doc.quantiles, np.float64)
            entries, rows, placed = by_lane.setdefault(lane, ([], [], []))
            entries.append(entry)
            if action.row >= 0:
                self.lanes_with_situations += lane.partition < 0
                lane.partition = action.partition
                rows.append(action.row)
                placed.append(entry)
        self._entry.extend(np.array(records, ENTRY))
        self._key_end.extend(ends)
        for column, empty in (
            (self._value, np.nan),
            (self._known, NEVER),
            (self._newest, -NEVER),
            (self._first_revision, NEVER),
        ):
            column.extend(np.full(len(actions), empty, column.array.dtype))
        for lane, (entries, rows, placed) in by_lane.items():
            lane.entries.extend(entries)
            if rows:
                lane.place(rows, placed)
        self._last_revision = actions[-1].revision
        self._present = self._refreshed()
        return first

    def set_outcomes(self, versions: Sequence[tuple[int, int, int, float]]) -> None:
        """Versions of entries' outcomes became visible, in the agreed order.

        Args:
            versions: Entry, known, revision and value, as in `OUTCOME_VERSION`; a value of NaN:
                it was deleted.

        Cost: under a microsecond each if they are first outcomes, else about 3.
        """
        news = np.array(versions, OUTCOME_VERSION)
        entry = news["entry"]
        is_plain = (
            len(versions) > 1
            and len({version[0] for version in versions}) == len(versions)
            and bool((self._first_revision.array[entry] == NEVER).all())
            and bool((self.entry["until"][entry] == NEVER).all())
            and not np.isnan(news["value"]).any()
        )
        if not is_plain:
            for version in versions:
                self._set_outcome(*version)
            return
        self.log.extend(news)
        self._last_known = max(self._last_known, int(news["known"].max()))
        self._last_revision = int(news["revision"][-1])
        self._first_revision.array[entry] = news["revision"]
        self._newest.array[entry] = news["known"]
        self._value.array[entry] = news["value"]
        self._known.array[entry] = news["known"]
        if self._present is not None:
            for one in entry.tolist():
                self._present.follow(one)

    def _set_outcome(self, entry: int, known: int, revision: int, value: float) -> None:
        """A version of an entry's outcome became visible; NaN: it was deleted."""
        self.log.append((entry, known, revision, value))
        self._last_known = max(self._last_known, known)
        self._last_revision = revision
        if self._first_revision.array[entry] != NEVER:
            # What was counted once has changed: conclusions folded over it start again.
            self.epoch += 1
        else:
            self._first_revision.array[entry] = revision
        if known < self._newest.array[entry]:
            return
        self._newest.array[entry] = known
        is_deleted = bool(np.isnan(value)) or self.entry["until"][entry] != NEVER
        self._value.array[entry] = np.nan if is_deleted else value
        self._known.array[entry] = NEVER if is_deleted else known
        if self._present is not None:
            self._present.follow(entry)

    def end(self, entry: int, known: int, revision: int) -> None:
        """An action was forgotten."""
        self.entry["until"][entry] = known
        self.entry["until_revision"][entry] = revision
        self._last_known = max(self._last_known, known)
        self._last_revision = revision
        self._value.array[entry] = np.nan
        self._known.array[entry] = NEVER
        self.epoch += 1
        if self._present is not None:
            self._present.follow(entry)

    def is_present(self, moment: Moment) -> bool:
        """Whether a moment shows everything that is known here."""
        return moment.time_us >= self._last_known and moment.revision >= self._last_revision

    def view(self, moment: Moment) -> View:
        """What counts at a moment.

        Cost: nothing for the present; else about 20 nanoseconds an outcome, the first time.
        """
        if self.is_present(moment):
            if self._present is None:
                self._present = View(self, self._value.array, self._known.array)
            return self._present
        found = self._views.get(moment)
        if found is None:
            found = self._views[moment] = self._as_of(moment)
            if len(self._views) > MAX_VIEWS:
                self._views.popitem(last=False)
        self._views.move_to_end(moment)
        return found

    def _refreshed(self) -> View | None:
        present = self._present
        if present is not None:
            present.value, present.known = self._value.array, self._known.array
        return present

    def _as_of(self, moment: Moment) -> View:
        log = self.log.array
        log = log[(log["known"] <= moment.time_us) & (log["revision"] <= moment.revision)]
        # The log is in order of revision, so a stable sort leaves the latest (known_at, revision)
        # of an entry last, and of repeated indices the last assignment stays.
        log = log[np.argsort(log["known"], kind="stable")]
        value = np.full(self._entry.size, np.nan)
        known = np.full(self._entry.size, NEVER, np.int64)
        value[log["entry"]] = log["value"]
        known[log["entry"]] = log["known"]
        entry = self.entry
        is_ended = (entry["until"] <= moment.time_us) & (entry["until_revision"] <= moment.revision)
        gone = is_ended | np.isnan(value)
        value[gone] = np.nan
        known[gone] = NEVER
        return View(self, value, known)


def _record(action: NewAction, lane: int) -> tuple[Any, ...]:
    """An action as `ENTRY` has it."""
    doc = action.doc
    arm, propensity = NOT_OFFERED, np.nan
    if doc.receipt is not None:
        arm, propensity = int(doc.receipt.is_withheld), doc.receipt.propensity
    return (
        action.known if doc.at is None else doc.at,
        action.known,
        action.revision,
        NEVER,
        NEVER,
        lane,
        action.family,
        action.row,
        doc.definition,
        _number(doc.predicted),
        _number(doc.low),
        _number(doc.high),
        doc.level,
        _number(doc.probability),
        _number(doc.baseline),
        propensity,
        arm,
        action.coin,
    )


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def entries_of(lanes: Sequence[Lane]) -> Ints:
    """Entries of some lanes, ascending."""
    if not lanes:
        return np.zeros(0, np.int64)
    return np.sort(np.concatenate([lane.entries.array for lane in lanes]))


def counted(table: Table, lanes: Sequence[Lane], moment: Moment) -> tuple[Ints, View]:
    """Entries of some lanes whose outcome counts at a moment, ascending, and the view."""
    view = table.view(moment)
    entries = entries_of(lanes)
    entries = entries[entries < len(view.known)]
    return entries[view.known[entries] != NEVER], view
