"""Filters evaluated on columns: which rows may pass, a superset of those that do.

A comparison is made by `Comparison.passes` on Python values, once for each distinct value, so that a
column says exactly what reading would. Only where the filter's value is a float, or an int that a float
holds exactly, are the numbers compared as an array: int and float compare by value in Python as they do
in float64, and NaN with nothing. Rows that a column does not know pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from nt_memory.filters import MISSING, Comparison
from nt_memory.system.filtering.columns import ABSENT, FIRST, FLOAT, INT, MAX_EXACT, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from nt_memory.filters import Field, Filter
    from nt_memory.system.filtering.columns import ColumnView

_COMPARE: dict[str, Callable[[Any, Any], NDArray[np.bool_]]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "gt": np.greater,
    "gte": np.greater_equal,
    "lt": np.less,
    "lte": np.less_equal,
}
# Comparing codes with so many of them one by one is faster than looking each row's up.
_FEW = 4
# What no number equals, nor has an order with.
_UNLIKE = frozenset({str, bytes, type(None)})


def mask_of(
    where: Filter, columns: Mapping[Field, ColumnView], rows: int
) -> NDArray[np.bool_] | None:
    """Rows that may pass a filter, shape (rows,); None: as far as the columns know, all may.

    Args:
        where: The filter.
        columns: What there is; a field without a column may hold anything.
        rows: Rows of the partition. Those past a column's end are unknown to it.

    Cost: for a comparison of a million numbers 0.2 to 0.3 ms, of codes 0.1 to 2 ms; strings compared
        by order, or numbers with a Decimal, cost 0.2 us a distinct value or number.
    """
    if isinstance(where, Comparison):
        column = columns.get(where.field)
        return None if column is None else _padded(_rows_passing(where, column), rows)
    masks = [mask_of(part, columns, rows) for part in where.parts]
    known = [mask for mask in masks if mask is not None]
    if where.needs_all:
        return _joined(np.logical_and, known) if known else None
    if len(known) < len(masks):
        return None
    return _joined(np.logical_or, known) if known else np.zeros(rows, np.bool_)


def _joined(join: Any, masks: list[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    whole = masks[0]
    for mask in masks[1:]:
        join(whole, mask, out=whole)
    return whole


def _padded(mask: NDArray[np.bool_], rows: int) -> NDArray[np.bool_]:
    if len(mask) >= rows:
        return mask[:rows]
    padded = np.ones(rows, np.bool_)
    padded[: len(mask)] = mask
    return padded


def _rows_passing(test: Comparison, column: ColumnView) -> NDArray[np.bool_]:
    """Rows of a column that pass, or are unknown."""
    codes = column.codes[: column.rows]
    end = FIRST + column.distinct
    texts = _texts_equal(test)
    if texts is None:
        values = enumerate(column.values[: column.distinct], start=FIRST)
        wanted = [code for code, value in values if test.passes(value)]
    else:
        wanted = _codes_with(test, column, texts)
    if test.op == "ne" and texts is not None:
        # Few fail: those that equal the text; and numbers, for now.
        mask = np.logical_not(_with_codes(codes, [INT, FLOAT, *wanted], end))
    else:
        mask = _with_codes(codes, [UNKNOWN, *[ABSENT] * test.passes(MISSING), *wanted], end)
    if column.numbers is not None:
        _add_numbers(mask, test, codes, column.numbers[: column.rows])
    return mask


def _codes_with(test: Comparison, column: ColumnView, texts: list[str]) -> list[int]:
    """For a test of equality with strings: codes of the values that equal one of them."""
    end = FIRST + column.distinct
    equal = {code for text in texts if (code := column.texts.get(text, end)) < end}
    others = column.others[: column.other_distinct]
    wants = test.op != "ne"
    equal.update(code for code in others if test.passes(column.values[code - FIRST]) == wants)
    return sorted(equal)


def _texts_equal(test: Comparison) -> list[str] | None:
    """For a test of equality with strings: which; a str equals no other str."""
    if test.op == "in":
        are_texts = all(type(value) is str for value in test.value)
        return cast("list[str]", test.value) if are_texts else None
    is_text = test.op in {"eq", "ne"} and type(test.value) is str
    return [cast("str", test.value)] if is_text else None


def _with_codes(codes: NDArray[Any], wanted: list[int], end: int) -> NDArray[np.bool_]:
    """Rows whose code is one of those wanted, all of which are less than `end`."""
    mask: NDArray[np.bool_]
    if len(wanted) <= _FEW:
        mask = codes == wanted[0]
        for code in wanted[1:]:
            np.logical_or(mask, codes == code, out=mask)
        return mask
    table = np.zeros(end, np.bool_)
    table[wanted] = True
    mask = table[codes]
    return mask


def _add_numbers(
    mask: NDArray[np.bool_], test: Comparison, codes: NDArray[Any], numbers: NDArray[np.float64]
) -> None:
    """Let the numbers pass that do."""
    # The array may be shorter than the codes, if the last rows are no numbers.
    part, codes = mask[: len(numbers)], codes[: len(numbers)]
    if test.op == "in":
        found = [(_exact(value), value) for value in test.value]
        part |= np.isin(numbers, [one for one, _ in found if one is not None and one == one])
        rest = [value for one, value in found if one is None and type(value) not in _UNLIKE]
        if rest:
            _try_each(part, Comparison("in", test.field, rest), codes, numbers)
        return
    value = _exact(test.value)
    if value is not None:
        passing = _COMPARE[test.op](numbers, value)
        part |= passing & _are_numbers(codes) if test.op == "ne" else passing
    elif type(test.value) not in _UNLIKE:
        _try_each(part, test, codes, numbers)
    elif test.op == "ne":
        part |= _are_numbers(codes)


def _are_numbers(codes: NDArray[Any]) -> NDArray[np.bool_]:
    are: NDArray[np.bool_] = (codes == INT) | (codes == FLOAT)
    return are


def _try_each(
    mask: NDArray[np.bool_], test: Comparison, codes: NDArray[Any], numbers: NDArray[np.float64]
) -> None:
    at = np.flatnonzero(_are_numbers(codes))
    found = zip(codes[at].tolist(), numbers[at].tolist(), strict=True)
    mask[at] |= np.array([test.passes(int(n) if code == INT else n) for code, n in found], np.bool_)


def _exact(value: Any) -> float | None:
    """A filter's value as the float that compares with every number as it does; None: there is none."""
    kind = type(value)
    if kind is float or kind is bool or kind is np.float64:
        return float(value)
    if (kind is int or isinstance(value, np.integer)) and abs(int(value)) <= MAX_EXACT:
        return float(value)
    return None
