"""Observations by columns do exactly what the writes they stand for do, in every table and to everyone.

Two replicas apply one history: one as it is, the other with each `ObserveMany` spelled as the `Write`
of its operations. Histories mix new keys with old, twice within an entry too, late times and times to
come, other dimensions, quotas, `history`, sweeps, ttls and a backtest.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from nt_memory.codec import encode
from nt_memory.entries import (
    STATE,
    Advance,
    Configure,
    Entry,
    ObserveMany,
    SetQuota,
    Sweep,
    Tick,
    Write,
    WriteOp,
    encode_entry,
    operations_of,
)
from nt_memory.replica import Change, Follow, Observed, Replica
from nt_memory.tiers.cold import ColdTier
from nt_memory.tiers.tables import TABLES
from nt_memory.tiers.vectors import VectorFiles
from nt_memory.transport.ports import Frame

SECOND = 1_000_000
START = 1_700_000_000 * SECOND
MAX = (1 << 63) - 1
ODD_NAMES = ["", "..", "a//b", "x" * 257, "é" * 129, "a\0b", "/a", "\n"]

good_keys = st.sampled_from([f"k{n}" for n in range(30)] + ["é/k", "z/1", "x" * 256])
values = st.integers(0, 99).map(encode) | st.just(encode("y" * 9_000, compress=False))
labels = st.sampled_from([(), ((),), (("x",),), (("x", "é"), (), ("y",))])
# Seconds before the entry; one that lies after it is refused.
times = st.none() | st.sampled_from([-3600, -9, -1, 0]) | st.integers(-20, 1)


def halves(draw: st.DrawFn, count: int, dim: int) -> bytes:
    """So many stored vectors."""
    numbers = np.random.default_rng(draw(st.integers(0, 9))).normal(size=(count, dim))
    return (numbers / np.linalg.norm(numbers, axis=1, keepdims=True)).astype("<f2").tobytes()


FLAWS = ["twice", "to come", "long past", "name", "agent", "dim", "tags", "length", "empty"]


@st.composite
def observations(draw: st.DrawFn) -> ObserveMany:
    """Good ones, of new keys, old ones or both; or such with one thing wrong."""
    flaw = draw(st.none() | st.none() | st.sampled_from(FLAWS))
    names = draw(st.lists(good_keys, min_size=1, max_size=8, unique=True))
    if flaw == "twice":
        names.append(names[0])
    elif flaw == "name":
        names.insert(draw(st.integers(0, len(names))), draw(st.sampled_from(ODD_NAMES)))
    count = len(names)
    sets = draw(labels)
    tagged: tuple[int, ...] = ()
    if len(sets) > 1:
        tagged = tuple(draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)))
    each = st.none() | st.integers(-20, 0)
    known_at: Any = draw(each | st.lists(each, min_size=count, max_size=count).map(tuple))
    if flaw in {"to come", "long past"}:
        wrong = 1 if flaw == "to come" else -(10**11)
        known_at = draw(st.sampled_from([wrong, (wrong, *[None] * (count - 1))]))
    body = ObserveMany(
        "no agent" if flaw == "agent" else draw(st.sampled_from(["a", "b"])),
        tuple(names),
        tuple(draw(st.lists(values, min_size=count, max_size=count))),
        halves(draw, count, 3 if flaw == "dim" else 4),
        known_at,
        sets,
        (*tagged[1:], 3) if flaw == "tags" and tagged else tagged,
    )
    if flaw == "length":
        return structs.replace(body, values=body.values[1:])
    return structs.replace(body, keys=(), values=(), vectors=b"") if flaw == "empty" else body


@st.composite
def writes(draw: st.DrawFn) -> Write:
    """A put, an observation of one or a delete, of keys that observations have too."""
    value = draw(st.none() | values)
    vector = halves(draw, 1, 4) if value is not None and draw(st.booleans()) else None
    ttl = draw(st.none() | st.integers(1, 30)) if value is not None else None
    op = WriteOp(
        STATE,
        draw(st.sampled_from(["a", "b"])),
        draw(good_keys),
        value,
        draw(times),
        None if ttl is None else ttl * SECOND,
        vector=vector,
    )
    return Write((op,))


quotas = st.builds(
    SetQuota,
    st.sampled_from(["", "a"]),
    st.none() | st.integers(0, 12),
    st.none() | st.integers(0, 400),
    st.none() | st.integers(0, 9),
)
others = st.sampled_from([Tick(), Sweep(MAX, MAX, 50)]) | quotas | writes()
histories = st.lists(
    st.lists(observations() | observations() | others, min_size=1, max_size=3),
    min_size=1,
    max_size=8,
)


def dated(body: Any, now_us: int) -> Any:
    """With times that count from `now_us`."""

    def date(one: int | None) -> int | None:
        return None if one is None else now_us + one * SECOND

    match body:
        case ObserveMany(known_at=tuple() as many):
            known: Any = tuple(date(one) for one in many)
        case ObserveMany(known_at=one):
            known = date(one)
        case Write(ops=(op,)):
            return Write(
                (
                    WriteOp(
                        op.space,
                        op.agent,
                        op.key,
                        op.value,
                        date(op.known_at),
                        op.ttl_us,
                        vector=op.vector,
                    ),
                )
            )
        case _:
            return body
    return structs.replace(body, known_at=known)


def spelled(body: Any) -> Any:
    """Columns as the write they stand for; what has none stays as it is, and is refused."""
    operations = operations_of(body) if isinstance(body, ObserveMany) else ()
    return Write(operations) if operations else body


class Side:
    """One replica, and what it told the loop."""

    def __init__(self, place: Path) -> None:
        self.cold = ColdTier(place / "views", max_map_bytes=1 << 28)
        self.files = VectorFiles(place / "vectors")
        self.replica = Replica(self.cold, self.files)

    def apply(self, frames: list[Frame]) -> tuple[Any, ...]:
        """Everything that can be seen of a batch: outcomes, changes, rows, and all tables."""
        follow = self.replica.apply(frames)
        assert follow.snapshot is not None
        try:
            tables = {
                table: [row for rows in follow.snapshot.stored_rows(table) for row in rows]
                for table in TABLES
            }
        finally:
            follow.snapshot.close()
        return _outcomes(follow), _changes(follow), _rows(follow), follow.ended, tables

    def close(self) -> None:
        """Let go of its files."""
        self.files.close()
        self.cold.close()


def _outcomes(follow: Follow) -> list[Any]:
    # Columns also tell their first key and number: see what becomes of it in resuming.
    results = [
        one.result[0] if type(one.result) is tuple else one.result for one in follow.outcomes
    ]
    told = zip(follow.outcomes, results, strict=True)
    return [(one.ticket, result, repr(one.error)) for one, result in told]


def _changes(follow: Follow) -> list[Change]:
    found: list[Change] = []
    for one in follow.changes:
        if isinstance(one, Observed):
            found += one.changes()
            by_tag: dict[str, list[int]] = {}
            for change in found[-len(one.body.keys) :]:
                for tag in change.stored.tags:
                    by_tag.setdefault(tag, []).append(change.stored.row)
            assert one.rows_by_tag() == by_tag
        else:
            found.append(one)
    return found


def _rows(follow: Follow) -> list[Any]:
    return [
        (
            rows.partition,
            rows.dim,
            rows.first_row,
            list(rows.from_us),
            list(rows.until_us),
            list(rows.revision),
            b"".join(rows.vectors),
        )
        for rows in follow.rows.values()
    ]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    history=histories,
    kept=st.sampled_from([None, None, 0, 1]),
    timeline=st.sampled_from(["live", "live", "backtest"]),
)
def test_columns_do_what_their_operations_do(
    history: list[list[Any]], kept: int | None, timeline: str
) -> None:
    """Outcomes, refusals with their words, what the loop is told, and every row of every table."""
    with tempfile.TemporaryDirectory() as name:
        sides = [Side(Path(name) / "columns"), Side(Path(name) / "operations")]
        try:
            batches: list[list[Any]] = [[Configure("s", timeline, kept)], *history]
            sequence = 0
            for number, batch in enumerate(batches):
                now_us = START + number * 7 * SECOND
                bodies = [dated(body, now_us) for body in batch]
                # A backtest's first observations come before it has begun.
                if timeline == "backtest" and number > 1:
                    bodies.insert(0, Advance(now_us))
                seen = []
                for side, spell in zip(sides, (lambda body: body, spelled), strict=True):
                    frames = [
                        Frame(place, now_us, encode_entry(Entry(spell(body), "me")), place, place)
                        for place, body in enumerate(bodies, sequence + 1)
                    ]
                    seen.append(side.apply(frames))
                assert seen[0] == seen[1]
                sequence += len(bodies)
        finally:
            for side in sides:
                side.close()
