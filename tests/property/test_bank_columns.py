"""The bank's fast paths say, to the last bit, what going through everything again says."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nt_memory.reasoningbank.columns import NEVER, NewAction, Table
from nt_memory.reasoningbank.error_history import ErrorHistory, scale_before
from nt_memory.reasoningbank.verdict import error_scales
from nt_memory.reasoningbank.wire import ActionDoc, pack_rows, unpack_rows
from nt_memory.timeline import Moment

AGENTS = ("a", "b", "c")
FAMILY = 1

histories = st.lists(
    st.tuples(
        st.sampled_from(("track", "outcome", "outcome", "outcomes", "late", "revise", "forget")),
        st.integers(0, 999),
    ),
    min_size=5,
    max_size=40,
)


class World:
    """A table, told of changes in batches, and its clock."""

    def __init__(self, is_batched):
        self.table = Table("x")
        self.is_batched = is_batched
        self.revision = 0
        self.now = 0
        self.rng = np.random.default_rng(7)
        for _ in range(4):
            self.step("track", 89)
        # Enough for every agent and definition to have an error scale.
        for _ in range(3):
            self.step("outcomes", 89)

    @property
    def moment(self):
        return Moment(self.now, self.revision)

    def step(self, kind, number):
        self.revision += 1
        # Often the same moment again, so that ties are common.
        self.now += number % 3
        if kind == "track":
            self.track(1 + number % 90)
            return
        open_entries = np.flatnonzero(self.table.entry["until"] == NEVER)
        if not len(open_entries):
            return
        entry = int(open_entries[number % len(open_entries)])
        if kind == "forget":
            self.table.end(entry, self.now, self.revision)
        elif kind == "revise":
            self.tell([(entry, self.now, self.revision, float(self.rng.normal()))])
        else:
            fresh = open_entries[self.table.first_revision[open_entries] == NEVER]
            count = 1 + number % 90 if kind == "outcomes" else 1
            known = self.now - (number % 50 if kind == "late" else 0)
            chosen = self.rng.permutation(fresh)[:count].tolist()
            values = self.rng.normal(size=len(chosen)).tolist()
            self.tell([(e, known, self.revision, v) for e, v in zip(chosen, values, strict=True)])

    def track(self, count):
        actions = []
        for number in range(count):
            lane = int(self.rng.integers(3))
            predicted = None if number % 5 == 0 else float(self.rng.normal())
            doc = ActionDoc("x", definition=number % 2, predicted=predicted)
            row = self.table._entry.size + number if number % 4 else -1
            key = f"t{self.revision}/{number}"
            place = (lane, row) if row >= 0 else (-1, -1)
            actions.append(
                NewAction(AGENTS[lane], key, doc, self.now, self.revision, *place, FAMILY, 0)
            )
        for batch in [actions] if self.is_batched else [[one] for one in actions]:
            self.table.add(batch)

    def tell(self, versions):
        if versions:
            for batch in [versions] if self.is_batched else [[one] for one in versions]:
                self.table.set_outcomes(batch)


@settings(max_examples=40, deadline=None)
@given(histories, st.integers(0, 10**6))
def test_a_kept_error_history_is_the_one_made_anew(history, place):
    """Late, revised, forgotten and simultaneous outcomes leave the scale of every moment exact."""
    world = World(is_batched=True)
    table = world.table
    kept = {}
    for kind, number in history:
        world.step(kind, number)
        agent, definition = AGENTS[number % 3], number % 2
        lane = table.lanes.get(agent)
        if lane is None:
            continue
        one = kept.setdefault((agent, definition), ErrorHistory(table, lane, definition))
        for known in (world.now, world.now - number % 40, NEVER):
            expected = scale_before(table, lane, definition, world.moment, known)
            assert known != NEVER or expected > 0.0
            assert repr(one.before(world.moment, known)) == repr(expected)
        past = Moment(place % (world.now + 1), 1 + place % world.revision)
        expected = scale_before(table, lane, definition, past, NEVER)
        assert repr(one.before(past, NEVER)) == repr(expected)


@settings(max_examples=30, deadline=None)
@given(histories)
def test_one_error_scale_is_that_of_the_batch(history):
    """A verdict on its own says what a table of all verdicts says."""
    world = World(is_batched=True)
    for step in history:
        world.step(*step)
    table, moment = world.table, world.moment
    for lane in table.lane_list:
        view = table.view(moment)
        entries = lane.entries.array
        entries = entries[
            (view.known[entries] != NEVER) & (table.entry["definition"][entries] == 0)
        ]
        error = table.entry["predicted"][entries] - view.value[entries]
        known = view.known[entries]
        scales = error_scales(error, known).tolist()
        alone = [scale_before(table, lane, 0, moment, at) for at in known.tolist()]
        assert repr(alone) == repr(scales)


def contents(table):
    columns = (
        table.entry,
        table.log.array,
        table.first_revision,
        table._newest.array,
        table._key_end.array,
    )
    lanes = [
        (lane.agent, lane.partition, lane.entries.array.tolist(), lane.entry_of_row.array.tolist())
        for lane in table.lane_list
    ]
    return [column.tobytes() for column in columns], lanes, bytes(table._key_bytes), table.epoch


@settings(max_examples=40, deadline=None)
@given(histories)
def test_batches_leave_what_single_changes_leave(history):
    """However changes are cut into batches, columns, views and masks end up the same."""
    batched, single = World(is_batched=True), World(is_batched=False)
    for step in history:
        batched.step(*step)
        single.step(*step)
        # Masks exist from here on, and must be kept right.
        masks = []
        for world in (batched, single):
            view = world.table.view(world.moment)
            masks.append(
                [view.mask(lane, FAMILY).lend().tolist() for lane in world.table.lane_list]
            )
            assert view is world.table.view(world.moment)
        assert masks[0] == masks[1]
    assert contents(batched.table) == contents(single.table)
    views = [world.table.view(world.moment) for world in (batched, single)]
    assert views[0].value.tobytes() == views[1].value.tobytes()
    fresh = batched.table._as_of(batched.moment)
    assert views[0].value.tobytes() == fresh.value.tobytes()
    assert views[0].known.tobytes() == fresh.known.tobytes()
    for lane in batched.table.lane_list:
        kept, anew = views[0].mask(lane, FAMILY).lend(), fresh.mask(lane, FAMILY).lend()
        assert np.flatnonzero(kept).tolist() == np.flatnonzero(anew).tolist()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**31 - 1) | st.integers(0, 3),
            st.integers(0, 2**32 - 1) | st.integers(0, 2**17),
        ),
        unique=True,
    )
)
def test_packed_rows_come_back_in_order(rows):
    """A receipt keeps every row of every partition, in two bytes a step where they suffice."""
    partition = np.array([one[0] for one in rows], np.int64)
    row = np.array([one[1] for one in rows], np.int64)
    packed = pack_rows(partition, row)
    found = list(zip(*(column.tolist() for column in unpack_rows(packed)), strict=True))
    assert found == sorted(rows)
    for number, width, steps in packed:
        mine = sorted(one[1] for one in rows if one[0] == number)
        largest = int(np.diff(mine, prepend=0).max())
        assert width == (2 if largest < 2**16 else 4)
        assert len(steps) == width * len(mine)
