"""Declarative filters over stored data: what `where` may say, and what it means.

Two forms, both plain data and never code:

- `{"symbol": "AAPL", "side": "buy"}`: every field equals its value;
- `{"op": "eq|ne|gt|gte|lt|lte", "field": F, "value": V}`, `{"op": "in", "field": F, "values": [...]}`,
  `{"op": "and|or", "filters": [...]}`.

A field may be dotted (`"order.side"`). A field that is missing, or a comparison between values
that have no order, passes no filter but `ne`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from nt_memory.errors import InvalidInputError

Where = Mapping[str, Any]
Predicate = Callable[[Any], bool]

MAX_DEPTH = 32
_MISSING = object()
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
_OPERATORS = frozenset({*_COMPARE, "in", "and", "or"})


def compile_where(where: Where) -> Predicate:
    """A predicate over data.

    Raises:
        InvalidInputError: the filter is malformed; the message says where.
    """
    return _compile(where, 0)


def _compile(where: object, depth: int) -> Predicate:
    if depth > MAX_DEPTH:
        raise InvalidInputError(f"where: nested deeper than {MAX_DEPTH}")
    if not isinstance(where, Mapping):
        raise InvalidInputError(f"where must be a mapping, not {type(where).__name__}")
    terms = cast("Mapping[str, Any]", where)
    op = terms.get("op")
    if isinstance(op, str) and op in _OPERATORS and ("field" in terms or "filters" in terms):
        return _compile_operator(op, terms, depth)
    if "op" in terms and ("field" in terms or "filters" in terms):
        raise InvalidInputError(f"where: unknown operator {op!r}")
    tests = [_comparison("eq", _field(name), value) for name, value in terms.items()]
    return lambda data: all(test(data) for test in tests)


def _compile_operator(op: str, terms: Mapping[str, Any], depth: int) -> Predicate:
    if op in {"and", "or"}:
        parts = terms.get("filters")
        if not isinstance(parts, Sequence) or isinstance(parts, str):
            raise InvalidInputError(f'where: {op!r} needs a list "filters"')
        tests = [_compile(part, depth + 1) for part in cast("Sequence[object]", parts)]
        if op == "and":
            return lambda data: all(test(data) for test in tests)
        return lambda data: any(test(data) for test in tests)
    field = _field(terms.get("field"))
    if op == "in":
        values = terms.get("values")
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise InvalidInputError('where: "in" needs a list "values"')
        wanted = list(cast("Sequence[object]", values))
        return lambda data: any(_equal(_lookup(data, field), value) for value in wanted)
    if "value" not in terms:
        raise InvalidInputError(f'where: {op!r} needs a "value"')
    return _comparison(op, field, terms["value"])


def _field(name: object) -> tuple[str, ...]:
    if not isinstance(name, str) or not name:
        raise InvalidInputError(f"where: a field must be a non-empty string, not {name!r}")
    return (name, *name.split(".")) if "." in name else (name,)


def _lookup(data: object, field: tuple[str, ...]) -> object:
    """The value of a field; a key spelled with dots wins over a path."""
    if not isinstance(data, Mapping):
        return _MISSING
    plain = cast("Mapping[str, object]", data)
    if field[0] in plain:
        return plain[field[0]]
    found: object = plain
    for level in field[1:] or field:
        if not isinstance(found, Mapping) or level not in found:
            return _MISSING
        found = found[level]
    return found


def _equal(found: object, value: object) -> bool:
    if found is _MISSING:
        return False
    try:
        return bool(found == value)
    except (TypeError, ValueError):
        return False


def _comparison(op: str, field: tuple[str, ...], value: object) -> Predicate:
    compare = _COMPARE[op]

    def test(data: object) -> bool:
        found = _lookup(data, field)
        if op == "ne":
            return not _equal(found, value)
        if found is _MISSING:
            return False
        try:
            return bool(compare(found, value))
        except (TypeError, ValueError):
            return False

    return test
