import gc
from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nt_memory.clock import ManualClock, to_datetime
from nt_memory.config import CacheConfig
from nt_memory.errors import InvalidInputError
from nt_memory.records import Record
from nt_memory.tiers.hot import HotTier

A, B, C = ("agent_1", "a"), ("agent_1", "b"), ("agent_2", "a")


def record(name, value=None, revision=1):
    return Record(*name, value, revision, to_datetime(0), to_datetime(0))


def tier(*, max_entries=100, max_bytes=1000, ttl=10.0, track_access=True, clock=None):
    config = CacheConfig(max_entries=max_entries, ttl=ttl, track_access=track_access)
    return HotTier(config, clock or ManualClock(), max_bytes=max_bytes)


def test_a_record_is_found_by_agent_and_key():
    """`get` returns the record itself, and one agent's copy is never another's."""
    hot = tier()
    held = record(A)
    hot.put(A, held, 10)
    assert hot.get(*A) is held
    assert hot.get(*C) is None
    assert (hot.stats.hits, hot.stats.misses) == (1, 1)


def test_peek_leaves_no_trace():
    """`peek` and `is_wanted` change neither counters nor the order of eviction."""
    hot = tier(max_entries=2)
    hot.put(A, record(A), 1)
    hot.put(B, record(B), 1)
    assert hot.peek(A) is not None
    assert hot.peek(C) is None
    assert hot.is_wanted(A)
    hot.put(C, record(C), 1)
    assert hot.peek(A) is None
    assert (hot.stats.hits, hot.stats.misses, hot.reads(B)) == (0, 0, 0)


def test_the_least_recently_used_leaves_first():
    """At the entry bound the copy unused for longest goes, and is counted."""
    hot = tier(max_entries=2)
    hot.put(A, record(A), 1)
    hot.put(B, record(B), 1)
    hot.get(*A)
    hot.put(C, record(C), 1)
    assert hot.peek(B) is None
    assert hot.peek(A) is not None
    assert (hot.stats.entries, hot.stats.evictions) == (2, 1)


def test_bytes_are_bounded_and_exact():
    """Puts, refreshes and drops keep the byte count exact and within the bound."""
    hot = tier(max_bytes=100)
    hot.put(A, record(A), 60)
    hot.put(B, record(B), 40)
    assert hot.stats.bytes == 100
    assert hot.refresh(A, record(A), 30)
    assert hot.stats.bytes == 70
    assert hot.drop(B)
    assert not hot.drop(B)
    assert hot.stats.bytes == 30
    hot.put(B, record(B), 71)
    assert (hot.stats.bytes, hot.peek(A)) == (71, None)
    hot.clear()
    assert (hot.stats.bytes, hot.stats.entries) == (0, 0)


def test_a_record_larger_than_the_tier_is_not_held():
    """It neither empties the tier nor leaves an older copy of itself behind."""
    hot = tier(max_bytes=100)
    hot.put(A, record(A), 10)
    hot.put(B, record(B), 10)
    hot.put(A, record(A, revision=2), 101)
    assert hot.peek(A) is None
    assert not hot.refresh(B, record(B, revision=2), 101)
    assert (hot.stats.entries, hot.stats.bytes) == (0, 0)


def test_refresh_replaces_only_what_is_held_and_is_no_use():
    """A change takes over from a held copy, takes in nothing new and keeps nothing alive."""
    hot = tier(max_entries=2)
    assert not hot.refresh(A, record(A), 1)
    assert hot.peek(A) is None
    hot.put(A, record(A), 1)
    hot.put(B, record(B), 1)
    newer = record(A, revision=2)
    assert hot.refresh(A, newer, 1)
    assert hot.peek(A) is newer
    hot.put(C, record(C), 1)
    assert hot.peek(A) is None


@pytest.mark.parametrize("is_tracking", [True, False])
def test_reads_are_counted_per_record_when_asked(is_tracking):
    """`track_access` counts each record's hits over its refreshes; without it nothing is."""
    hot = tier(track_access=is_tracking)
    hot.put(A, record(A), 1)
    hot.get(*A)
    hot.refresh(A, record(A, revision=2), 1)
    hot.get(*A)
    assert hot.reads(A) == (2 if is_tracking else 0)
    assert hot.reads(B) == 0
    assert hot.stats.hits == 2


def test_sweep_lets_go_of_copies_unused_for_ttl():
    """A copy leaves no earlier than ttl after its last use, nor later than one sweep after."""
    clock = ManualClock()
    hot = tier(ttl=10.0, clock=clock)
    hot.put(A, record(A), 1)
    hot.put(B, record(B), 1)
    for second in range(1, 30):
        clock.advance(1)
        if second == 5:
            hot.get(*B)
        hot.sweep()
        hot.refresh(A, record(A, revision=second), 1)
        # Put before the sweep at 1, read before the sweep at 5: gone ttl after those.
        assert (hot.peek(A) is not None) == (second < 11)
        assert (hot.peek(B) is not None) == (second < 15)
    assert (hot.stats.bytes, hot.stats.evictions) == (0, 2)


def test_sweep_never_takes_a_copy_used_within_ttl_however_rare_sweeps_are():
    """A long pause between sweeps does not count as time unread."""
    clock = ManualClock()
    hot = tier(ttl=10.0, clock=clock)
    hot.sweep()
    clock.advance(100)
    hot.put(A, record(A), 1)
    assert hot.sweep() == 0
    clock.advance(10)
    assert hot.sweep() == 1


def test_sweep_stops_at_its_limit_and_goes_on():
    """One sweep holds the loop for a bounded number of copies; the next takes the rest."""
    clock = ManualClock()
    hot = tier(ttl=10.0, clock=clock)
    for number in range(25):
        name = ("agent_1", f"k{number}")
        hot.put(name, record(name), 1)
    hot.sweep()
    clock.advance(10)
    assert [hot.sweep(10), hot.sweep(10), hot.sweep(10), hot.sweep(10)] == [10, 10, 5, 0]


def test_pressure_frees_by_recency():
    """Memory pressure lets the least recently used go until little enough is held."""
    hot = tier()
    for name in (A, B, ("agent_1", "c")):
        hot.put(name, record(name), 10)
    hot.get(*A)
    assert hot.pressure(15) == 20
    assert hot.peek(A) is not None
    assert hot.pressure(-1) == 10
    assert hot.stats.entries == 0


def test_a_noisy_agent_displaces_itself():
    """Whatever one agent reads or writes, what the others had within half an equal share stays."""
    hot = tier(max_entries=400, max_bytes=10**6)
    quiet = [(f"quiet_{n}", f"k{key}") for n in range(9) for key in range(20)]
    for name in quiet:
        hot.put(name, record(name), 100)
    for n in range(5_000):
        name = ("noisy", f"k{n}")
        hot.put(name, record(name), 100)
    assert all(hot.peek(name) for name in quiet)
    assert hot.stats.entries == 400
    assert hot.peek(("noisy", "k4999"))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=2, max_size=5),
    steps=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40), st.booleans()), max_size=200),
)
def test_no_agent_is_pushed_below_half_of_an_equal_share(sizes, steps):
    """A put of one agent takes from another only while that holds half of an equal share."""
    hot = tier(max_entries=20, max_bytes=300)
    agents = [f"agent_{n}" for n in range(len(sizes))]
    for number, key, is_read in steps:
        name = (agents[number % len(agents)], f"k{key}")
        if is_read:
            hot.get(*name)
            continue
        before = {agent: hot.share(agent) for agent in agents}
        hot.put(name, record(name), sizes[number % len(agents)])
        present = sum(1 for agent in agents if hot.share(agent) or before[agent])
        for agent in set(agents) - {name[0]}:
            if hot.share(agent) < before[agent]:
                assert before[agent] >= 0.4 * hot.share() / present
        assert hot.stats.entries <= 20
        assert hot.stats.bytes <= 300


def test_room_costs_little_however_many_agents_hold_as_much(monkeypatch):
    """Of a thousand agents with two copies each, an eviction weighs a few, not all of them."""
    weighed = 0
    weigh = HotTier._weight

    def counted(self, share):
        nonlocal weighed
        weighed += 1
        return weigh(self, share)

    hot = tier(max_entries=2_000, max_bytes=10**6)
    names = [(f"agent_{n % 1_000}", f"k{n}") for n in range(6_000)]
    for name in names[:2_000]:
        hot.put(name, record(name), 100)
    monkeypatch.setattr(HotTier, "_weight", counted)
    for name in names[2_000:]:
        hot.put(name, record(name), 100)
    assert hot.stats.evictions == 4_000
    assert weighed < 10 * 4_000


def test_the_largest_share_gives_first():
    """Room is made down from the top: shares end as equal as copies allow."""
    hot = tier(max_entries=300, max_bytes=10**6)
    held = {"a": 150, "b": 90, "c": 40, "d": 20}
    for agent, count in held.items():
        for n in range(count):
            hot.put((agent, f"k{n}"), record((agent, f"k{n}")), 1)
    hot.pressure(160)
    left = {
        agent: sum(bool(hot.peek((agent, f"k{n}"))) for n in range(held[agent])) for agent in held
    }
    assert left == {"a": 50, "b": 50, "c": 40, "d": 20}


def test_impossible_bound_is_refused():
    """A negative budget is an error, not a tier that holds nothing."""
    with pytest.raises(InvalidInputError, match="max_bytes"):
        tier(max_bytes=-1)


# --- pins -----------------------------------------------------------------------------------------


def test_a_pin_follows_its_key():
    """Value and record change together with each change; None when there is none."""
    hot = tier()
    pin = hot.pins.add(A, None)
    assert (pin.value, pin.record) == (None, None)
    newer = record(A, {"AAPL": 10}, revision=5)
    hot.pins.show(A, newer)
    assert pin.value is newer.value
    assert pin.record is newer
    hot.pins.show(B, record(B, "other"))
    assert pin.record is newer
    hot.pins.show(A, None)
    assert (pin.value, pin.record) == (None, None)


def test_pins_outlive_the_copies():
    """A pin does not depend on the cache: eviction and clearing leave it alone."""
    hot = tier(max_entries=1)
    held = record(A, 1)
    hot.put(A, held, 1)
    pin = hot.pins.add(A, held)
    hot.put(B, record(B), 1)
    hot.clear()
    assert pin.record is held
    assert hot.is_wanted(A)
    assert not hot.is_wanted(B)


def test_several_pins_on_one_name_are_independent():
    """Releasing one pin leaves the others live; a released pin keeps what it last showed."""
    hot = tier()
    first, second = hot.pins.add(A, record(A, 1)), hot.pins.add(A, record(A, 1))
    assert len(hot.pins) == 2
    first.release()
    first.release()
    hot.pins.show(A, record(A, 2))
    assert (first.value, first.is_live) == (1, False)
    assert (second.value, second.is_live) == (2, True)
    assert len(hot.pins) == 1
    second.release()
    assert (len(hot.pins), hot.is_wanted(A)) == (0, False)


def test_a_dropped_pin_does_not_leak():
    """The registry holds pins weakly and forgets those that were dropped without release."""
    hot = tier()
    kept = hot.pins.add(A, record(A, 1))
    for _ in range(100):
        hot.pins.add(A, record(A, 1))
        hot.pins.add(B, None)
    gc.collect()
    hot.pins.show(A, record(A, 2))
    assert kept.value == 2
    assert len(hot.pins) == 1
    assert not hot.is_wanted(B)
    assert list(hot.pins._pins) == [A]


def test_a_pin_cannot_be_assigned():
    """A pin is a view: writing to it is refused and says how to change the value."""
    pin = tier().pins.add(A, record(A, 1))
    for attribute in ("value", "record", "name", "other"):
        with pytest.raises(AttributeError, match="put"):
            setattr(pin, attribute, 2)
    assert pin.value == 1
    assert "revision=1" in repr(pin)


class HotTierMachine(RuleBasedStateMachine):
    """The tier against an ordered dict that evicts by hand."""

    MAX_ENTRIES, MAX_BYTES = 4, 60
    names = st.sampled_from([("agent_1", f"k{n}") for n in range(7)])
    sizes = st.integers(0, 70)

    def __init__(self):
        super().__init__()
        self.hot = tier(max_entries=self.MAX_ENTRIES, max_bytes=self.MAX_BYTES)
        self.model: OrderedDict = OrderedDict()
        self.hits = self.misses = self.evictions = self.revision = 0
        self.pins: list = []

    def fresh(self, name):
        self.revision += 1
        return record(name, self.revision, self.revision)

    def shrink(self, max_bytes, max_entries=MAX_ENTRIES):
        while len(self.model) > max_entries or sum(s for _, s in self.model.values()) > max_bytes:
            self.model.popitem(last=False)
            self.evictions += 1

    @rule(name=names, size=sizes)
    def put(self, name, size):
        new = self.fresh(name)
        self.hot.put(name, new, size)
        if size > self.MAX_BYTES:
            self.model.pop(name, None)
            return
        if name not in self.model:
            self.shrink(10**9, self.MAX_ENTRIES - 1)
        self.model[name] = (new, size)
        self.model.move_to_end(name)
        self.shrink(self.MAX_BYTES)

    @rule(name=names, size=sizes)
    def refresh(self, name, size):
        new = self.fresh(name)
        is_held = self.hot.refresh(name, new, size)
        if name in self.model:
            if size > self.MAX_BYTES:
                del self.model[name]
            else:
                self.model[name] = (new, size)
                self.shrink(self.MAX_BYTES)
        assert is_held == (name in self.model)

    @rule(name=names)
    def get(self, name):
        expected = self.model.get(name)
        if expected is None:
            self.misses += 1
        else:
            self.hits += 1
            self.model.move_to_end(name)
        assert self.hot.get(*name) is (expected and expected[0])

    @rule(name=names)
    def drop(self, name):
        assert self.hot.drop(name) == (self.model.pop(name, None) is not None)

    @rule(max_bytes=st.integers(0, 60))
    def pressure(self, max_bytes):
        self.hot.pressure(max_bytes)
        self.shrink(max_bytes)

    @rule(name=names)
    def pin(self, name):
        self.pins.append([self.hot.pins.add(name, None), name, None])

    @rule(name=names)
    def set_pins(self, name):
        new = self.fresh(name)
        self.hot.pins.show(name, new)
        for entry in self.pins:
            if entry[1] == name and entry[0].is_live:
                entry[2] = new

    @precondition(lambda self: self.pins)
    @rule(data=st.data(), is_released=st.booleans())
    def give_up_pin(self, data, is_released):
        index = data.draw(st.integers(0, len(self.pins) - 1))
        if is_released:
            self.pins[index][0].release()
        else:
            del self.pins[index]

    @invariant()
    def agrees(self):
        stats = self.hot.stats
        assert stats.entries == len(self.model)
        assert stats.bytes == sum(size for _, size in self.model.values())
        assert (stats.hits, stats.misses) == (self.hits, self.misses)
        assert stats.evictions == self.evictions
        for name, (held, _) in self.model.items():
            assert self.hot.peek(name) is held
        for pin, _, shown in self.pins:
            assert pin.record is shown
        assert len(self.hot.pins) == sum(pin.is_live for pin, _, _ in self.pins)


TestHotTierMachine = HotTierMachine.TestCase
TestHotTierMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
