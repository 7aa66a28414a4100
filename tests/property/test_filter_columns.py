"""Filters evaluated on columns and bitmaps say what they say of the data itself.

The model is the filter's own predicate over decoded data, and sets of row numbers.
"""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from nt_memory.codec import decode, encode
from nt_memory.filters import MISSING, Comparison, fields_of, lookup, parse_where
from nt_memory.frozen import resident_bytes
from nt_memory.system.filtering.columns import MAX_VALUE_BYTES, FieldColumn
from nt_memory.system.filtering.masks import mask_of
from nt_memory.system.filtering.tags import TagRows, to_mask

NAMES = ("a", "b", "a.b", "b.a")
OPS = ("eq", "ne", "gt", "gte", "lt", "lte")

numbers = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**63, 10**400, 5.0, 0.5, -0.0, 2.0**53]),
    st.floats(allow_nan=True, allow_infinity=True),
)
times = st.sampled_from(
    [
        datetime(2024, 1, 2),  # noqa: DTZ001 - naive ones can be stored
        datetime(2024, 1, 2, tzinfo=UTC),
        datetime(2024, 1, 2, 1, tzinfo=timezone(timedelta(hours=1))),
        datetime(2024, 1, 3, tzinfo=UTC),
    ]
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    numbers,
    st.text("xyä", max_size=2),
    st.binary(max_size=1),
    times,
    st.sampled_from([Decimal("0.5"), Decimal(1), Decimal("NaN"), Decimal("sNaN"), Decimal("-Inf")]),
    st.sampled_from([UUID(int=1), UUID(int=2)]),
    st.sampled_from([np.float64(0.5), np.float32(0.1), np.int64(2), np.uint8(3), np.str_("x")]),
    st.sampled_from([np.bool_(True), np.int64(2**53 + 1)]),
)
values = st.one_of(
    scalars,
    st.lists(scalars, max_size=2),
    st.tuples(scalars),
    st.dictionaries(st.sampled_from(["a", "b", "x"]), scalars, max_size=2),
    st.just("long" * 500),
)
# Values that are equal, or nearly, though they are not of one type.
FAMILIES = (
    (True, 1, 1.0, Decimal(1), np.int64(1), np.float64(1), np.bool_(True)),
    (False, 0, 0.0, -0.0, Decimal("-0"), np.uint8(0)),
    (2**53, 2.0**53, 2**53 + 1, np.int64(2**53 + 1), Decimal(2**53 + 1), 2.0**53 + 2, 2**53 - 1),
    (10**400, float("inf"), Decimal("Infinity"), float("nan"), Decimal("NaN")),
    ("x", np.str_("x"), b"x", np.bytes_(b"x"), ["x"], ("x",), {"x": "x"}),
    (None, float("nan"), "", [], {}, ()),
)
pools = st.one_of(
    st.lists(values, min_size=1, max_size=4),
    st.sampled_from([list(family) for family in FAMILIES]),
)


def data_from(pool):
    """Data whose fields hold values of a pool, or that is one."""
    value = st.sampled_from(pool)
    fields = st.dictionaries(st.sampled_from(NAMES), value, max_size=3)
    nested = st.builds(lambda name, inner: {name: inner}, st.sampled_from("ab"), fields)
    return st.one_of(fields, nested, value)


def comparisons_with(pool):
    """One comparison with values of a pool."""
    value = st.sampled_from(pool)
    return st.one_of(
        st.builds(
            lambda op, name, value: {"op": op, "field": name, "value": value},
            st.sampled_from(OPS),
            st.sampled_from(NAMES),
            value,
        ),
        st.builds(
            lambda name, several: {"op": "in", "field": name, "values": several},
            st.sampled_from(NAMES),
            st.lists(value, max_size=4),
        ),
        st.dictionaries(st.sampled_from(NAMES), value, max_size=2),
    )


def filters_with(pool):
    """Several of them."""
    return st.recursive(
        comparisons_with(pool),
        lambda inner: st.builds(
            lambda op, parts: {"op": op, "filters": parts},
            st.sampled_from(["and", "or"]),
            st.lists(inner, max_size=3),
        ),
        max_leaves=4,
    )


def may_pass(where):
    """Whether a filter can pass data of which nothing is known."""
    if isinstance(where, Comparison):
        return True
    parts = [may_pass(part) for part in where.parts]
    return all(parts) if where.needs_all else any(parts)


def is_kept(value):
    """Whether a column keeps a value."""
    return value is MISSING or resident_bytes(value) <= MAX_VALUE_BYTES


def column_of(field, rows, scattered, unknown):
    """A column of one field; the first rows come in any order, as a build meets them."""
    column = FieldColumn(len(scattered))
    for row in scattered:
        if row not in unknown:
            column.set_at(row, lookup(rows[row], field))
    for row in range(len(scattered), len(rows)):
        if row in unknown:
            column.append_unknown()
        else:
            column.append(lookup(rows[row], field))
    return column


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_mask_says_what_the_predicate_says(draw):
    """For every row of which the compared fields are known; no row that may pass is ever left out."""
    pool = draw.draw(pools)
    stored = draw.draw(st.lists(data_from(pool), min_size=1, max_size=12))
    rows = [decode(encode(value)) for value in stored]
    parsed = parse_where(draw.draw(filters_with(pool)))
    first = draw.draw(st.permutations(range(draw.draw(st.integers(0, len(rows))))))
    unknown = draw.draw(st.sets(st.integers(0, len(rows) - 1), max_size=3))
    fields = list(fields_of(parsed))
    views = {field: column_of(field, rows, first, unknown).view for field in fields}
    total = len(rows) + draw.draw(st.integers(0, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, of comparisons that users may ask for
        mask = mask_of(parsed, views, total)
        wanted = [parsed.accepts(row) for row in rows]
    mask = np.ones(total, np.bool_) if mask is None else mask
    assert mask.shape == (total,)
    for row, passes in enumerate(wanted):
        if row in unknown:
            assert mask[row] == may_pass(parsed)
        elif all(is_kept(lookup(rows[row], field)) for field in fields):
            assert mask[row] == passes
        else:
            assert mask[row] >= passes
    assert mask[len(rows) :].tolist() == [may_pass(parsed)] * (total - len(rows))


@settings(max_examples=60, deadline=None)
@given(st.data(), st.lists(scalars, min_size=1, max_size=300), st.integers(0, 300))
def test_a_view_does_not_change(draw, stored, cut):
    """What a reader took says the same whatever is appended after it, however much it grows."""
    where = draw.draw(comparisons_with(stored[:5]))
    rows = [decode(encode({"a": value, "b": n})) for n, value in enumerate(stored)]
    cut = min(cut, len(rows))
    parsed = parse_where(where)
    columns = {field: column_of(field, rows[:cut], [], ()) for field in fields_of(parsed)}
    views = {field: column.view for field, column in columns.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = mask_of(parsed, views, cut)
        for row in [*rows[cut:], *({"a": str(n), "b": [n]} for n in range(300))]:
            for field, column in columns.items():
                column.append(lookup(row, field))
        after = mask_of(parsed, views, cut)
    assert (before is None and after is None) or before.tolist() == after.tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_values_that_are_nearly_equal_are_told_apart(family):
    """Every comparison of each with each, of one type or two, as Python makes it."""
    rows = [decode(encode({"a": value})) for value in (*family, *FAMILIES[0])]
    views = {("a",): column_of(("a",), rows, [], ()).view}
    for value in family:
        wheres = [{"op": op, "field": "a", "value": value} for op in OPS]
        wheres += [{"op": "in", "field": "a", "values": some} for some in ([value], [value, "x"])]
        for where in wheres:
            parsed = parse_where(where)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                mask = mask_of(parsed, views, len(rows))
                wanted = [parsed.accepts(row) for row in rows]
            assert mask is not None
            assert mask.tolist() == wanted, where


def test_what_is_long_is_not_kept():
    """A column of long values takes no more than one of none, and lets them pass to be read."""
    column = FieldColumn()
    for row in range(200):
        column.append([f"{row}" * 2000] if row % 2 else f"{row}" * 2000)
    assert column.held_bytes < 2000
    mask = mask_of(parse_where({"a": "x"}), {("a",): column.view}, 200)
    assert mask is not None
    assert mask.all()


def test_a_field_with_many_values_is_told_apart():
    """Codes grow from one byte to two and to four; every value is still found, and no other."""
    column = FieldColumn()
    for row in range(70_000):
        column.append(f"s{row}" if row % 2 else [row])
    for row in (0, 1, 252, 253, 300, 65_535, 65_536, 69_999):
        value = f"s{row}" if row % 2 else [row]
        mask = mask_of(parse_where({"a": value}), {("a",): column.view}, 70_000)
        assert mask is not None
        assert np.flatnonzero(mask).tolist() == [row]
    assert column.held_bytes > 70_000 * 4


row_sets = st.one_of(
    st.sets(st.integers(0, 400), max_size=60),
    st.builds(
        lambda seed, share, size: set(
            np.flatnonzero(np.random.default_rng(seed).random(size) < share).tolist()
        ),
        st.integers(0, 99),
        st.sampled_from([0.001, 0.05, 0.08, 0.5, 0.97, 1.0]),
        st.sampled_from([70_000, 65_536, 140_000, 300_000]),
    ),
)


@settings(max_examples=80, deadline=None)
@given(row_sets, st.integers(0, 70_000), st.integers(0, 5_000), st.booleans())
def test_a_bitmap_becomes_the_mask_of_its_members(members, start, length, runs):
    """Sparse or dense, with arrays, bitsets or runs in it."""
    rows = BitMap(sorted(members))
    rows.add_range(start, start + length)
    members = members | set(range(start, start + length))
    if runs:
        rows.run_optimize()
    size = max(members, default=0) + 7
    mask = to_mask(rows, size)
    assert mask.shape == (size,)
    assert set(np.flatnonzero(mask).tolist()) == members


tag_sets = st.sets(st.sampled_from("xyz"))


@given(st.lists(st.one_of(st.none(), tag_sets), max_size=40), st.data())
def test_tags_are_those_of_the_rows(rows, draw):
    """Rows that carry all wanted tags are found, and those of which nothing is known."""
    scattered = draw.draw(st.permutations(range(draw.draw(st.integers(0, len(rows))))))
    table = TagRows(len(scattered))
    for row in scattered:
        if rows[row] is not None:
            table.set_at(row, rows[row])
    for tags in rows[len(scattered) :]:
        if tags is None:
            table.append_unknown()
        else:
            table.append(tags)
    assert table.rows == len(rows)
    wanted = draw.draw(tag_sets.filter(bool))
    expected = [row for row, tags in enumerate(rows) if tags is None or wanted <= tags]
    assert list(table.rows_with(sorted(wanted))) == expected
