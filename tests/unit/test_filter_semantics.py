"""What `where` means where its values have no order: it passes nothing but `ne`, and never fails."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from nt_memory.filters import parse_where

ORDERS = ("gt", "gte", "lt", "lte")


def passes(op, found, value):
    """Whether a field that holds `found` passes."""
    return parse_where({"op": op, "field": "f", "value": value}).accepts({"f": found})


@pytest.mark.parametrize("op", ORDERS)
@pytest.mark.parametrize(
    ("found", "value"),
    [
        (1.5, Decimal("NaN")),
        (Decimal("NaN"), 1.5),
        (1, "1"),
        (None, 0),
        ({"x": 1}, {"x": 2}),
        (np.array([1, 2]), 1),
        (10**400, np.float64(1.0)),
    ],
)
def test_values_without_an_order_pass_no_order(op, found, value):
    """Also where Python refuses with something else than a TypeError, as Decimal does of NaN."""
    assert passes(op, found, value) is False


@pytest.mark.parametrize(("found", "value"), [(Decimal("sNaN"), 1), (1, Decimal("sNaN"))])
def test_what_cannot_be_compared_is_not_equal(found, value):
    """A signalling NaN refuses even `==`."""
    assert passes("eq", found, value) is False
    assert passes("ne", found, value) is True


def test_a_missing_field_passes_only_ne():
    """Missing is not None."""
    for op in ("eq", "ne", *ORDERS):
        filter_ = parse_where({"op": op, "field": "f", "value": None})
        assert filter_.accepts({}) is (op == "ne")
    assert parse_where({"f": None}).accepts({"f": None})
    assert not parse_where({"op": "in", "field": "f", "values": [None]}).accepts({})
