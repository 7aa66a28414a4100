"""Declarative filters over stored data: what `where` may say, and what it means.

Two forms, both plain data and never code:

- `{"symbol": "AAPL", "side": "buy"}`: every field equals its value;
- `{"op": "eq|ne|gt|gte|lt|lte", "field": F, "value": V}`, `{"op": "in", "field": F, "values": [...]}`,
  `{"op": "and|or", "filters": [...]}`.

A field may be dotted (`"order.side"`). A field that is missing, or a comparison between values
that have no order, passes no filter but `ne`.

A filter is a tree of comparisons, each of one field's value with what the filter says. Nothing in it
negates another part, so where a comparison is not decided, taking it for passed lets too much through
and never too little.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from nt_memory.errors import InvalidInputError

Where = Mapping[str, Any]
Field = tuple[str, ...]
"""A field's name; if it has dots, then the levels of the path it may also mean."""

MAX_DEPTH = 32
MISSING: Any = object()
"""The value of a field that is not there."""
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
_OPERATORS = frozenset({*_COMPARE, "in", "and", "or"})
# What comparing values of different types raises; an ArithmeticError is Decimal's, of a NaN.
_NO_ANSWER = (TypeError, ValueError, ArithmeticError)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One field compared with something.

    Attributes:
        op: "eq", "ne", "gt", "gte", "lt", "lte" or "in".
        field: Which field.
        value: What it is compared with; a list of values for "in".
    """

    op: str
    field: Field
    value: Any

    def accepts(self, data: Any) -> bool:
        """Whether stored data passes."""
        return self.passes(lookup(data, self.field))

    def passes(self, found: Any) -> bool:
        """Whether a value of the field passes; `MISSING` is one too."""
        if self.op == "in":
            return any(_equal(found, value) for value in self.value)
        if self.op == "ne":
            return not _equal(found, self.value)
        if found is MISSING:
            return False
        try:
            return bool(_COMPARE[self.op](found, self.value))
        except _NO_ANSWER:
            return False


@dataclass(frozen=True, slots=True)
class Junction:
    """Several filters as one.

    Attributes:
        parts: The filters.
        needs_all: Whether all of them must pass, or any.
    """

    parts: tuple[Filter, ...]
    needs_all: bool

    def accepts(self, data: Any) -> bool:
        """Whether stored data passes."""
        if self.needs_all:
            return all(part.accepts(data) for part in self.parts)
        return any(part.accepts(data) for part in self.parts)


Filter = Comparison | Junction


def parse_where(where: Where) -> Filter:
    """What a filter says.

    Raises:
        InvalidInputError: it is malformed; the message says where.
    """
    return _parse(where, 0)


def fields_of(where: Filter) -> Iterator[Field]:
    """The fields that a filter compares, as often as it does."""
    if isinstance(where, Comparison):
        yield where.field
    else:
        for part in where.parts:
            yield from fields_of(part)


def lookup(data: object, field: Field) -> Any:
    """The value of a field, or `MISSING`; a key spelled with dots wins over a path."""
    if not isinstance(data, Mapping):
        return MISSING
    plain = cast("Mapping[str, object]", data)
    if field[0] in plain:
        return plain[field[0]]
    found: object = plain
    for level in field[1:] or field:
        if not isinstance(found, Mapping) or level not in found:
            return MISSING
        found = found[level]
    return found


def _parse(where: object, depth: int) -> Filter:
    if depth > MAX_DEPTH:
        raise InvalidInputError(f"where: nested deeper than {MAX_DEPTH}")
    if not isinstance(where, Mapping):
        raise InvalidInputError(f"where must be a mapping, not {type(where).__name__}")
    terms = cast("Mapping[str, Any]", where)
    op = terms.get("op")
    if isinstance(op, str) and op in _OPERATORS and ("field" in terms or "filters" in terms):
        return _parse_operator(op, terms, depth)
    if "op" in terms and ("field" in terms or "filters" in terms):
        raise InvalidInputError(f"where: unknown operator {op!r}")
    tests = tuple(Comparison("eq", _field(name), value) for name, value in terms.items())
    return tests[0] if len(tests) == 1 else Junction(tests, needs_all=True)


def _parse_operator(op: str, terms: Mapping[str, Any], depth: int) -> Filter:
    if op in {"and", "or"}:
        parts = terms.get("filters")
        if not isinstance(parts, Sequence) or isinstance(parts, str):
            raise InvalidInputError(f'where: {op!r} needs a list "filters"')
        found = tuple(_parse(part, depth + 1) for part in cast("Sequence[object]", parts))
        return Junction(found, needs_all=op == "and")
    field = _field(terms.get("field"))
    if op == "in":
        values = terms.get("values")
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise InvalidInputError('where: "in" needs a list "values"')
        return Comparison(op, field, list(cast("Sequence[object]", values)))
    if "value" not in terms:
        raise InvalidInputError(f'where: {op!r} needs a "value"')
    return Comparison(op, field, terms["value"])


def _field(name: object) -> Field:
    if not isinstance(name, str) or not name:
        raise InvalidInputError(f"where: a field must be a non-empty string, not {name!r}")
    return (name, *name.split(".")) if "." in name else (name,)


def _equal(found: object, value: object) -> bool:
    if found is MISSING:
        return False
    try:
        return bool(found == value)
    except _NO_ANSWER:
        return False
