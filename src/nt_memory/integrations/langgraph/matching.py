"""Which items and namespaces pass: LangGraph's conditions, as its stores read them."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from langgraph.store.base import MatchCondition

_ORDERED: dict[str, Callable[[float, float], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def passes(value: Mapping[str, Any], wanted: Mapping[str, Any] | None) -> bool:
    """Whether an item's value passes a filter.

    A missing field is None. Values that have no order pass no comparison of order.

    Raises:
        InvalidInputError: an unknown operator.
    """
    return all(_agrees(value.get(field), one) for field, one in (wanted or {}).items())


def _agrees(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        terms = cast("Mapping[str, Any]", wanted)
        if any(name.startswith("$") for name in terms):
            return all(_compares(found, name, one) for name, one in terms.items())
        if not isinstance(found, Mapping):
            return False
        fields = cast("Mapping[str, Any]", found)
        return all(_agrees(fields.get(name), one) for name, one in terms.items())
    if isinstance(wanted, list | tuple):
        several = cast("list[Any]", wanted)
        return (
            isinstance(found, list | tuple)
            and len(cast("list[Any]", found)) == len(several)
            and all(map(_agrees, cast("list[Any]", found), several))
        )
    return bool(found == wanted)


def _compares(found: Any, name: str, wanted: Any) -> bool:
    if name == "$eq":
        return bool(found == wanted)
    if name == "$ne":
        return bool(found != wanted)
    ordered = _ORDERED.get(name)
    if ordered is None:
        raise InvalidInputError(f"filter: unknown operator {name!r}")
    try:
        return ordered(float(found), float(wanted))
    except (TypeError, ValueError):
        return False


def fits(condition: MatchCondition, namespace: tuple[str, ...]) -> bool:
    """Whether a namespace begins, or ends, as a condition says; `*` is any label.

    Raises:
        InvalidInputError: an unknown kind of condition.
    """
    path = condition.path
    if condition.match_type not in {"prefix", "suffix"}:
        raise InvalidInputError(f"unknown match type {condition.match_type!r}")
    if len(namespace) < len(path):
        return False
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[-len(path) :]
    return not path or all(wanted in {"*", label} for wanted, label in zip(path, part, strict=True))


def known_prefix(conditions: tuple[MatchCondition, ...] | None) -> tuple[str, ...]:
    """The labels that all namespaces that fit begin with."""
    longest: tuple[str, ...] = ()
    for condition in conditions or ():
        if condition.match_type == "prefix":
            labels = condition.path
            sure = next((n for n, label in enumerate(labels) if label == "*"), len(labels))
            longest = max(longest, tuple(labels[:sure]), key=len)
    return longest
