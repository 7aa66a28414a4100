"""A base taken live at a revision, and one of a fresh replay up to it, have the same bytes.

Histories are made of every kind of entry there is, accepted and refused, alone and many at once, so
that a live run applies them in other batches than a replay does; with reopening and compaction in
between, live and in a backtest.
"""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from nt_memory import ManualClock, MemoryConfig, MemorySystem, Record, Trajectory
from nt_memory.acting import ActingAs
from nt_memory.codec import encode
from nt_memory.entries import (
    STATE,
    AbandonEmbedding,
    Acquire,
    Advance,
    Body,
    CastVote,
    CleanUp,
    Configure,
    Embed,
    Fence,
    ForceRelease,
    Mark,
    ObserveMany,
    Propose,
    Reembed,
    Register,
    Release,
    Renew,
    Retain,
    SetPolicy,
    SetQuota,
    StartSession,
    Sweep,
    SwitchEmbedding,
    Tick,
    Withdraw,
    Write,
    WriteOp,
)
from nt_memory.errors import NtMemoryError
from nt_memory.replica import Replica
from nt_memory.system.baseline import load_base, newest_base, save_base
from nt_memory.system.opening import catch_up
from nt_memory.tiers.cold import ColdTier
from nt_memory.tiers.vectors import VectorFiles
from nt_memory.transport.segment_reader import SegmentReader

SECOND = 1_000_000
DIM = 4
MAX = (1 << 63) - 1

agents = st.sampled_from(["a", "b"])
keys = st.sampled_from(["k", "k/x", "l", "é"])
few = st.integers(0, 4)
ids = st.sampled_from(["p1", "p2"])
resources = st.sampled_from(["desk", "book"])
weights = st.sampled_from(["1/1", "2/1", "1/3"])
tickets = st.sampled_from(["e1", "e2"])
vectors = st.lists(st.integers(-3, 3), min_size=DIM, max_size=DIM).filter(any)


def halves(values: list[int]) -> bytes:
    """A stored vector."""
    row = np.array(values, np.float64)
    return (row / np.linalg.norm(row)).astype("<f2").tobytes()


ops = st.builds(
    WriteOp,
    st.just(STATE),
    agents,
    keys,
    st.none() | st.integers(0, 9).map(encode) | st.just(encode("x" * 3_000)),
    # Relative to now; made absolute when it is submitted.
    known_at=st.none() | st.integers(-30, 0),
    ttl_us=st.none() | st.integers(1, 40).map(lambda n: n * SECOND),
    expect=st.none() | st.integers(0, 6),
    vector=st.none() | vectors.map(halves),
    partition=st.sampled_from(["", "other"]),
    tags=st.lists(st.sampled_from("xy"), max_size=2, unique=True).map(tuple),
).map(lambda op: op if op.value is not None else WriteOp(op.space, op.agent, op.key, None))
fences = st.none() | st.builds(Fence, resources | st.just(""), st.integers(0, 12))


@st.composite
def observations(draw: st.DrawFn) -> ObserveMany:
    """Observations by columns, of new keys and old ones, some of them twice; times as in `ops`."""
    names = draw(st.lists(keys | st.text("mno", min_size=1, max_size=2), min_size=1, max_size=5))
    count = len(names)
    labels = draw(st.sampled_from([(), (("x",),), ((), ("x", "y"))]))
    each = st.integers(0, max(0, len(labels) - 1))
    tagged = draw(st.lists(each, min_size=count, max_size=count)) if len(labels) > 1 else []
    times = st.none() | st.integers(-30, 0)
    return ObserveMany(
        draw(agents),
        tuple(names),
        tuple(encode(n) for n in range(count)),
        b"".join(draw(st.lists(vectors.map(halves), min_size=count, max_size=count))),
        draw(times | st.lists(times, min_size=count, max_size=count).map(tuple)),
        labels,
        tuple(tagged),
    )


BODIES: dict[type, st.SearchStrategy[Any]] = {
    Write: st.builds(Write, st.lists(ops, min_size=1, max_size=3).map(tuple), fences),
    ObserveMany: observations(),
    Configure: st.just(Configure("another", "live", None)),
    StartSession: st.just(StartSession("another")),
    Advance: st.builds(Advance, st.integers(-5, 50)),
    Retain: st.builds(
        Retain,
        agents | st.just(""),
        st.none() | st.integers(0, 60).map(lambda n: n * SECOND),
        st.none() | few,
    ),
    Sweep: st.builds(Sweep, st.just(MAX), st.just(MAX), st.integers(1, 50)),
    # From anybody but a node's own journal it counts for nothing.
    Mark: st.builds(Mark, st.just("s"), st.integers(1, 9), ids | st.just(""), few, few),
    Tick: st.just(Tick()),
    SetQuota: st.builds(
        SetQuota,
        agents | st.just(""),
        st.none() | st.integers(0, 3),
        st.none() | st.integers(0, 200),
        st.none() | st.integers(0, 3),
    ),
    SetPolicy: st.builds(
        SetPolicy,
        agents | st.just(""),
        st.none()
        | st.dictionaries(
            st.sampled_from(["write", "lock", "vote", "propose", "operate"]),
            st.sampled_from([("**",), ("a/**", "p1", "desk"), ("*/k", "set_policy")]),
        ).map(lambda rights: tuple(rights.items())),
    ),
    ForceRelease: st.builds(
        ForceRelease, resources, st.none() | st.integers(1, 12), st.sampled_from(["", "hangs"])
    ),
    Acquire: st.builds(
        Acquire,
        resources,
        st.sampled_from(["t1", "t2", "t3"]),
        st.just("me"),
        st.just("s"),
        st.integers(1, 60).map(lambda n: n * SECOND),
        st.sampled_from([0, 20 * SECOND]),
    ),
    Renew: st.builds(Renew, resources, st.integers(1, 12), st.just(30 * SECOND)),
    Release: st.builds(Release, resources, st.integers(1, 12)),
    Withdraw: st.builds(Withdraw, resources, st.sampled_from(["t1", "t2"])),
    Register: st.builds(Register, agents, weights),
    Propose: st.builds(
        Propose,
        ids,
        agents,
        st.just(encode({"buy": 1})),
        st.sampled_from(["1/2", "2/3", "1/1"]),
        st.none() | st.integers(1, 40),
    ),
    CastVote: st.builds(CastVote, ids, agents, st.booleans(), st.none() | weights),
    CleanUp: st.builds(CleanUp, st.sampled_from([0, 10 * SECOND])),
    Reembed: st.builds(
        Reembed, agents, tickets, st.just(DIM), st.sampled_from(["", "m"]), tickets | st.just("")
    ),
    Embed: st.builds(
        Embed,
        agents,
        tickets,
        st.integers(0, 3),
        st.lists(vectors.map(halves), min_size=1, max_size=3).map(b"".join),
        st.sampled_from([(), (), (0,), (0, 1)]),
    ),
    SwitchEmbedding: st.builds(SwitchEmbedding, agents, tickets),
    AbandonEmbedding: st.builds(AbandonEmbedding, agents, tickets),
}
OTHERS = st.sampled_from(["reopen", "compact", "track", "reembed", "pass", "pass", "pass"])
steps = st.lists(
    st.lists(
        st.tuples(
            st.one_of(*BODIES.values()),
            st.none() | st.sampled_from(["r1", "r2"]),
            st.none() | agents,
        ),
        min_size=1,
        max_size=5,
    )
    | OTHERS,
    min_size=1,
    max_size=25,
)


def test_there_is_a_history_of_every_kind_of_entry() -> None:
    """A new kind fails this until it has one."""
    assert set(BODIES) == set(get_args(Body))


@pytest.mark.parametrize("timeline", ["live", "backtest"])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=steps, history=st.sampled_from([None, 0, 2]), at=st.integers(0, 24))
def test_live_and_replayed_bases_have_the_same_bytes(
    timeline: str, steps: list[Any], history: int | None, at: int
) -> None:
    """At a step in the middle of the history, and at its end."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        config = MemoryConfig(storage_path=place / "store", timeline=timeline, history=history)  # type: ignore[arg-type]
        asyncio.run(asyncio.wait_for(_live(config, steps, at, place), 30.0))
        bases = sorted((place / "live").iterdir())
        assert bases
        for live in bases:
            fresh = _replay(place, int(live.stem))
            assert fresh.name == live.name
            assert fresh.read_bytes() == live.read_bytes()


async def _live(config: MemoryConfig, steps: list[Any], at: int, place: Path) -> None:
    """Run a history, and take a base at a step and at the end."""
    clock = ManualClock()
    memory = await MemorySystem.open(config, clock=clock)
    try:
        if memory._engine.opened.replica.is_backtest:
            await memory.timeline.advance(clock.now())
        for number, step in enumerate([*steps, "end"]):
            if number == at or step == "end":
                await asyncio.to_thread(_take, memory, place / "live")
            if step == "reopen":
                await memory.close()
                memory = await MemorySystem.open(config, clock=clock)
            # Behind the step, a compaction would take what the replay up to it needs.
            elif step != "compact" or number < at:
                await _do(memory, clock, step, number)
    finally:
        await memory.close()


async def _do(memory: MemorySystem, clock: ManualClock, step: Any, number: int) -> None:
    match step:
        case "pass":
            clock.advance(7)
        case "compact":
            await memory.compact()
        case "track":
            await _track(memory, f"t{number}")
        case "reembed":
            with suppress(NtMemoryError):
                await memory.reembed("a", _embed, batch=2)
        case list():
            await asyncio.gather(*(_submit(memory, clock, *each) for each in step))


async def _submit(
    memory: MemorySystem, clock: ManualClock, body: Any, request_id: str | None, agent: str | None
) -> None:
    engine = memory._engine
    now_us = clock.now_us()
    match body:
        case Write():
            body = Write(tuple(_dated(op, now_us) for op in body.ops), body.fence)
        case ObserveMany(known_at=tuple() as times):
            body = structs.replace(body, known_at=tuple(_moved(one, now_us) for one in times))
        case ObserveMany(known_at=one):
            body = structs.replace(body, known_at=_moved(one, now_us))
        case Advance():
            body = Advance(now_us + body.now * SECOND)
        case Propose(deadline=int() as seconds):
            body = Propose(
                body.id, body.proposer, body.data, body.quorum, now_us + seconds * SECOND
            )
    with suppress(NtMemoryError), ActingAs(agent):  # refused, here and in every replay
        await engine.submit(body, request_id=request_id)


def _embed(records: list[Record]) -> list[list[float]]:
    """The next dimension is that of the entries, so that these go on being accepted."""
    return [[float(record.revision), 1.0, 2.0, float(len(record.key))] for record in records]


def _moved(seconds: int | None, now_us: int) -> int | None:
    return None if seconds is None else now_us + seconds * SECOND


def _dated(op: WriteOp, now_us: int) -> WriteOp:
    known_at = _moved(op.known_at, now_us)
    return WriteOp(
        op.space,
        op.agent,
        op.key,
        op.value,
        known_at,
        op.ttl_us,
        op.expect,
        op.vector,
        op.partition,
        op.tags,
    )


async def _track(memory: MemorySystem, name: str) -> None:
    with suppress(NtMemoryError):
        await memory.bank.define("buy", target="r", unit="1", horizon=timedelta(seconds=5))
        trajectory = Trajectory("a", id=name).add_observation({"n": 1}, [1.0, 2.0, 3.0])
        trajectory.add_action("buy", {"size": 1}, 0.02, baseline=0.01)
        await memory.track_trajectory(trajectory.complete())
        await memory.record_outcome(name, 0.5)


def _take(memory: MemorySystem, directory: Path) -> None:
    opened = memory._engine.opened
    snapshot = opened.cold.snapshot()
    try:
        save_base(directory, snapshot, opened.files)
    finally:
        snapshot.close()


def _replay(place: Path, sequence: int) -> Path:
    """The base at a sequence, of base and journal alone."""
    directory = place / f"fresh{sequence}"
    cold = ColdTier(directory / "views", max_map_bytes=1 << 30)
    files = VectorFiles(directory / "vectors")
    try:
        base = newest_base(place / "store" / "base")
        if base is not None:
            with base:
                load_base(base, cold, files)
        catch_up(Replica(cold, files), SegmentReader(place / "store" / "journal"), sequence)
        snapshot = cold.snapshot()
        try:
            save_base(directory / "base", snapshot, files)
        finally:
            snapshot.close()
    finally:
        files.close()
        cold.close()
    (made,) = (directory / "base").iterdir()
    return made
