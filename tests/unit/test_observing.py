"""Bulk ingest: what `observe_many` promises of large calls, and the columns it is made of."""

from __future__ import annotations

import asyncio
import itertools

import numpy as np
import pytest

from nt_memory.clock import turn
from nt_memory.codec import encode
from nt_memory.codec.filed import Reference, write_reference
from nt_memory.entries import Entry, ObserveMany, decode_entry, encode_entry, operations_of
from nt_memory.errors import (
    EmbeddingError,
    InvalidInputError,
    InvalidNameError,
    QuotaError,
    StorageError,
)
from nt_memory.system.observing import (
    Tags,
    Values,
    check_rows,
    in_steps,
    submit_all,
    to_matrix,
    to_tags,
)
from nt_memory.system.references import in_frame
from nt_memory.system.units import lengths_of, scaled, to_half, to_unit, to_units
from nt_memory.tiers.vectors.columns import Columns
from nt_memory.tiers.vectors.visibility import NEVER
from nt_memory.transport.ports import Frame

DIM = 64


def matrix(count, dim=DIM, seed=7):
    """Random vectors, shape (count, dim)."""
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


class Turns:
    """Counts the turns of the event loop while it is entered."""

    async def __aenter__(self):
        self.count = 0
        self._task = asyncio.create_task(self._run())
        await turn()
        return self

    async def __aexit__(self, *_):
        self._task.cancel()

    async def _run(self):
        while True:
            self.count += 1
            await turn()


# --- the call ---------------------------------------------------------------------------------


def test_a_large_call_writes_what_single_calls_would(live, later):
    """Keys, data, tags and times of many chunks are those that were given, row by row."""
    count = 5_000
    rows = matrix(count)

    async def body(memory):
        keys = await memory.observe_many(
            "a",
            rows,
            [{"n": n} for n in range(count)],
            tags=[("x",) if n % 3 else ("x", f"t{n % 5}") for n in range(count)],
            known_at=[later(n - count) for n in range(count)],
        )
        assert len(set(keys)) == count
        assert keys == sorted(keys)
        for n in (0, 1, 4_000, 4_999):
            (hit,) = await memory.search_similar("a", rows[n], top_k=1)
            assert (hit.key, hit.data, hit.known_at) == (keys[n], {"n": n}, later(n - count))
        of_three = await memory.search_similar("a", rows[4_998], top_k=1, tags=["t3"])
        assert of_three[0].key == keys[4_998]
        assert (await memory.get_record("a", keys[7])).value == {"n": 7}

    live(body)


def test_nothing_is_written_unless_all_is_valid(live):
    """The last row, key, value, tag or time of a large call is looked at before the first is written."""
    count = 3_000
    rows = matrix(count)
    bad_rows = rows.copy()
    bad_rows[-1, 3] = np.nan
    keys = [f"k{n}" for n in range(count)]
    calls = [
        (EmbeddingError, bad_rows, {}),
        (InvalidNameError, rows, {"keys": [*keys[:-1], "a//b"]}),
        (InvalidNameError, rows, {"tags": [*[("x",)] * (count - 1), ("",)]}),
        (InvalidInputError, rows, {"tags": [*[("x",)] * (count - 1), "xy"]}),
        (InvalidInputError, rows, {"tags": [("x",)] * (count - 1)}),
        (Exception, rows, {"data": [*[1] * (count - 1), object()]}),
    ]

    async def body(memory):
        before = memory.revision
        for error, given, extra in calls:
            with pytest.raises(error):
                await memory.observe_many("a", given, **extra)
        assert memory.revision == before

    live(body)


def test_a_matrix_cannot_be_changed_while_it_is_stored(live):
    """Until the call is over numpy refuses; afterwards, and after a failure, it is as it was."""
    rows = matrix(4_000)

    async def body(memory):
        call = asyncio.create_task(memory.observe_many("a", rows))
        await turn()
        with pytest.raises(ValueError, match="read-only"):
            rows[0, 0] = 5
        await call
        rows[0] = 0  # and a zero row is refused
        with pytest.raises(EmbeddingError):
            await memory.observe_many("a", rows)
        rows[0, 0] = 5

    live(body)


def test_a_row_that_was_changed_after_it_was_checked_is_refused(run):
    """As code that is not numpy's can: what is stored was looked at."""

    async def body():
        for change in (np.nan, np.inf, 0.0, 3.0):
            rows = matrix(10)
            checked = await check_rows(rows)
            rows[4] = rows[4] * change if change == 3.0 else change
            checked.halves(5, 10)
            with pytest.raises(EmbeddingError):
                checked.halves(0, 10)

    run(body())


def test_the_loop_gets_its_turn(run):
    """While rows are looked at, lists are read, and values are encoded."""

    async def body():
        rows = matrix(8_192)
        async with Turns() as turns:
            await check_rows(rows)
            assert turns.count >= 8  # one for each 65,536 numbers
        async with Turns() as turns:
            await to_matrix(rows[:1_024].tolist())
            assert turns.count >= 4
        async with Turns() as turns:
            await Values().add_all(list(range(2_048)), compresses=True)
            assert turns.count >= 8
        async with Turns() as turns:
            await Values().add_all(["x" * 100_000] * 30, compresses=False)
            assert turns.count >= 8  # by size too
        async with Turns() as turns:
            await to_tags([("x",)] * 40_960)
            assert turns.count >= 9
        async with Turns() as turns:
            assert await in_steps(range(40_960), list) == list(range(40_960))
            assert turns.count >= 9

    run(body())


def test_a_refusal_ends_the_call(run):
    """What is under way is waited for, and what is not is not made."""
    made = itertools.count()
    running = set()
    begun = 0

    async def submit(number):
        nonlocal begun
        begun += 1
        running.add(number)
        try:
            for _ in range(40):
                await turn()
            if number == 3:
                raise StorageError("refused")
        finally:
            running.discard(number)

    async def body():
        with pytest.raises(StorageError, match="refused"):
            await submit_all(submit, made)
        assert not running
        assert begun < 100

    run(body())


def test_few_entries_are_under_way_at_once(run):
    """However many there are, and they are made only then; all are waited for, in order."""
    running = set()
    done = []
    most = 0

    async def submit(number):
        nonlocal most
        running.add(number)
        most = max(most, len(running))
        for _ in range(100):
            await turn()
        running.discard(number)
        done.append(number)

    async def body():
        await submit_all(submit, iter(range(200)))
        assert done == list(range(200))
        assert 8 <= most <= 32

    run(body())


def test_a_cancelled_call_takes_back_what_is_under_way(run):
    """No entry goes on without its caller."""
    running = set()
    all_run = asyncio.Event()

    async def submit(number):
        running.add(number)
        if len(running) == 10:
            all_run.set()
        try:
            await asyncio.Event().wait()
        finally:
            running.discard(number)

    async def body():
        call = asyncio.create_task(submit_all(submit, iter(range(10))))
        await asyncio.wait_for(all_run.wait(), 10.0)
        call.cancel()
        await asyncio.wait({call}, timeout=10.0)
        assert call.cancelled()
        assert not running

    run(body())


def test_a_quota_refuses_by_the_chunk(live):
    """What fitted is there, and the next chunk is not; nothing comes later."""

    async def body(memory):
        await memory.set_quota("a", max_vectors=2_000)
        with pytest.raises(QuotaError):
            await memory.observe_many("a", matrix(6_000))

        revision = memory.revision
        await memory.flush()
        assert memory.revision == revision
        used = memory.usage("a")
        assert 0 < used.vectors <= 2_000
        assert used.vectors == used.keys

    live(body)


def test_tags_of_new_observations_are_found(live):
    """Also where the tags of an agent were asked for before."""
    rows = matrix(1_000)

    async def body(memory):
        await memory.observe_many("a", rows[:10], tags=[("x",)] * 10)
        assert len(await memory.search_similar("a", rows[0], 100, tags=["x"])) == 10
        keys = await memory.observe_many(
            "a", rows[10:], tags=[("x", "y") if n % 2 else () for n in range(990)]
        )
        (hit,) = await memory.search_similar("a", rows[11], 1, tags=["y", "x"])
        assert hit.key == keys[1]
        found = await memory.search_similar("a", rows[0], 2_000, tags=["x"])
        assert len(found) == 10 + 495

    live(body)


def test_pins_of_keys_that_come_are_shown_them(live):
    """A pin that was taken before the key was observed shows it with the same revision."""

    async def body(memory):
        pins = [memory.pin("a", f"k{n}") for n in range(3)]
        await memory.observe_many("a", matrix(2), ["x", "y"], keys=["k0", "k1"])
        assert [pin.value for pin in pins] == ["x", "y", None]
        assert pins[0].record.revision == memory.revision

    live(body)


def test_the_feed_names_them_observations(live, collect):
    """`tail` says "observe", with a change for each key; also of a version that was dropped since."""

    async def body(memory):
        await memory.observe_many("a", matrix(2), ["x", "y"], keys=["k", "l"], known_at=None)
        await memory.observe_many("a", matrix(1), ["z"], keys=["k"])
        first, second = await collect(memory.tail(after=memory.revision - 2), 2)
        assert (first.kind, second.kind) == ("observe", "observe")
        assert [(one.key, one.record.value) for one in first.changes] == [("k", "x"), ("l", "y")]
        assert [(one.key, one.record.value) for one in second.changes] == [("k", "z")]

    live(body, history=0)


# --- columns ----------------------------------------------------------------------------------


def columns(**changed):
    """Three rows."""
    fields = {
        "agent": "a",
        "keys": ("k", "l", "m"),
        "values": (encode(1), encode(2), encode(3)),
        "vectors": to_half(to_units(matrix(3, 4))).tobytes(),
        "known_at": (5, None, 7),
        "labels": (("x",), ()),
        "tagged": (1, 0, 0),
    }
    return ObserveMany(**{**fields, **changed})


def test_columns_are_spelled_as_documented():
    """An `observe` entry, byte by byte: what is stored stays readable."""
    entry = Entry(ObserveMany("a", ("k",), (b"v",), b"\0\x3c", 5, (("x",),)), "me")
    spelled = bytes.fromhex(
        "0193" "98" "a76f627365727665" "a161" "91a16b" "91c40176" "c402003c" "05" "9191a178" "90"
        "a26d65" "c0"
    )  # fmt: skip
    assert encode_entry(entry) == spelled
    assert decode_entry(spelled) == entry


def test_columns_stand_for_operations():
    """Row by row, with the times, tags and vectors of each."""
    body = columns()
    ops = operations_of(body)
    assert [(op.key, op.known_at, op.tags) for op in ops] == [
        ("k", 5, ()),
        ("l", None, ("x",)),
        ("m", 7, ("x",)),
    ]
    assert b"".join(op.vector for op in ops) == body.vectors
    assert [op.tags for op in operations_of(columns(tagged=()))] == [("x",)] * 3
    assert [op.tags for op in operations_of(columns(tagged=(), labels=()))] == [()] * 3
    assert [op.known_at for op in operations_of(columns(known_at=9))] == [9] * 3


@pytest.mark.parametrize(
    "changed",
    [
        {"values": (encode(1),)},
        {"known_at": (5, 6)},
        {"tagged": (0, 1)},
        {"tagged": (0, 1, 2)},
        {"tagged": (0, -1, 1)},
        {"vectors": b""},
        {"vectors": b"\0" * 13},
        {"vectors": b"\0" * 9},
    ],
    ids=repr,
)
def test_columns_that_do_not_fit_are_refused(live, changed):
    """By name, and nothing is written."""

    async def body(memory):
        before = memory.revision
        with pytest.raises(InvalidInputError):
            await memory._engine.submit(columns(**changed))
        assert memory.revision == before

    live(body)


def test_value_files_of_columns_are_wanted():
    """A sweep of value files spares what an `observe` entry of the journal refers to."""
    # A reference: version 1, flag 2, and what `codec.filed` makes of a file.

    reference = write_reference(Reference(b"d" * 32, 5_000_000))
    payload = encode_entry(Entry(columns(values=(encode(1), reference, encode(3)))))
    (wanted,) = in_frame(Frame(9, 0, payload, 1))
    assert (wanted.agent, wanted.key, wanted.where) == ("a", "l", "entry 9")


def test_tags_are_kept_once():
    """Few sets, in order and without repetition; any stretch of rows has those it needs."""
    tags = Tags()
    tags.add([("b", "a"), ["a", "b"], ()])
    tags.add([{"a"}, ("a", "a")])
    assert len(tags) == 5
    assert tags.columns(0, 5) == ((("a", "b"), (), ("a",)), (0, 0, 1, 2, 2))
    assert tags.columns(0, 2) == ((("a", "b"),), ())
    assert tags.columns(2, 3) == ((), ())
    assert tags.columns(3, 5) == ((("a",),), ())


def test_tags_that_pretend_to_be_others_are_not_taken_for_them():
    """A str that says it equals everything is still what its characters are."""

    class Chameleon(str):
        def __eq__(self, other):
            return True

        def __hash__(self):
            return hash("a")

    tags = Tags()
    tags.add([("a",), (Chameleon("b"),)])
    assert tags.columns(0, 2) == ((("a",), ("b",)), (0, 1))


# --- what they are made of --------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e-30, 1.0, 1e30, 1e160, 1e300])
def test_one_vector_is_normalised_as_one_of_many(scale):
    """`observe` and `observe_many` store the same bytes, whatever the scale."""
    rows = matrix(50).astype(np.float64) * scale
    many = to_half(scaled(rows, lengths_of(rows)))
    for row, half in zip(rows, many, strict=True):
        assert to_half(to_unit(row)).tobytes() == half.tobytes()
    norms = np.linalg.norm(many.astype(np.float64), axis=1)
    assert np.allclose(norms, 1, atol=2e-3)


def test_rows_one_by_one_are_columns_as_at_once():
    """Whether rows come singly or together, what searches see is the same."""
    from_us = np.array([5, 6, 6, 4, 9], np.int64)
    until_us = np.array([NEVER, 8, NEVER, NEVER, 10], np.int64)
    revision = np.array([1, 1, 2, 2, 3], np.int64)
    for ended in (None, np.array([1, 4, 2, 2, 5], np.int64)):
        single, together = Columns(), Columns()
        together.append(from_us, until_us, ended, revision)
        for n in range(5):
            own = None if ended is None else ended[n : n + 1]
            single.append(from_us[n : n + 1], until_us[n : n + 1], own, revision[n : n + 1])
        for one, other in zip(single.view, together.view, strict=True):
            if isinstance(other, np.ndarray):
                used = together.view.ended_rows if other is together.view.ended else 5
                assert one[:used].tolist() == other[:used].tolist()
            else:
                assert one == other
        with pytest.raises(InvalidInputError):
            single.append(from_us[:1], until_us[:1], None, revision[:1])


def test_rows_that_end_together_end_as_one_by_one():
    """In order, so of a row that ends twice the last end counts; and each is counted once."""
    single, together = Columns(), Columns()
    for one in (single, together):
        numbers = np.arange(8)
        one.append(numbers, np.full(8, NEVER), None, numbers)
        one.end(3, 20, 9)
    rows = np.array([1, 5, 1, 3], np.int64)
    until_us = np.array([15, 11, 14, 12], np.int64)
    revision = np.array([10, 10, 11, 11], np.int64)
    together.end_all(rows, until_us, revision)
    for end in zip(rows.tolist(), until_us.tolist(), revision.tolist(), strict=True):
        single.end(*end)
    one, other = single.view, together.view
    assert one.until_us.tolist()[:8] == other.until_us.tolist()[:8]
    assert one.until_revision.tolist()[:8] == other.until_revision.tolist()[:8]
    assert one.min_until == other.min_until == 11
    assert sorted(one.ended[: one.ended_rows]) == sorted(other.ended[: other.ended_rows])
    for bad in (-1, 8):
        with pytest.raises(InvalidInputError):
            together.end_all(np.array([0, bad]), until_us[:2], revision[:2])
    assert together.view.until_us[0] == NEVER
