"""The JSON form of values: what an export is written in, spelled out, and read back trusting nothing."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from nt_memory.codec import FILE_FROM_BYTES, Draft, decode, draft, encode
from nt_memory.codec.plain import from_plain, to_plain
from nt_memory.errors import CodecError

NEW_YORK = ZoneInfo("America/New_York")
LATE = datetime(2024, 11, 3, 1, 30, fold=1)  # noqa: DTZ001 - naive times are values too

FORMS: list[tuple[Any, Any]] = [
    (None, None),
    (True, True),
    ("text", "text"),
    ("$text", "$text"),
    (2.5, 2.5),
    (math.inf, {"$float": "inf"}),
    (2**64 - 1, 2**64 - 1),
    (-(2**63), -(2**63)),
    (2**64, {"$int": "18446744073709551616"}),
    (-(2**63) - 1, {"$int": "-9223372036854775809"}),
    (1 << 1023, {"$int": hex(1 << 1023)}),
    ([1, [2]], [1, [2]]),
    ({"a": {"b": 1}}, {"a": {"b": 1}}),
    ({"a": 1, "$b": 2}, {"a": 1, "$b": 2}),
    ({"$a": 1}, {"$dict": [["$a", 1]]}),
    ({1: "x", "y": 2.5}, {"$dict": [[1, "x"], ["y", 2.5]]}),
    ((1, ()), {"$tuple": [1, {"$tuple": []}]}),
    (b"\x00\xff", {"$bytes": "AP8="}),
    (Decimal("1.10"), {"$decimal": "1.10"}),
    (UUID(int=7), {"$uuid": "00000000-0000-0000-0000-000000000007"}),
    (LATE.replace(fold=0), {"$datetime": "2024-11-03T01:30:00"}),
    (datetime(2024, 1, 2, tzinfo=UTC), {"$datetime": "2024-01-02T00:00:00+00:00"}),
    (
        datetime(2024, 1, 2, tzinfo=timezone(timedelta(hours=2))),
        {"$datetime": "2024-01-02T00:00:00+02:00"},
    ),
    (
        datetime(2024, 1, 2, tzinfo=timezone(timedelta(hours=2), "desk")),
        {"$datetime": "2024-01-02T00:00:00+02:00", "name": "desk"},
    ),
    (
        LATE.replace(tzinfo=NEW_YORK),
        {"$datetime": "2024-11-03T01:30:00-05:00", "zone": "America/New_York", "fold": 1},
    ),
    (LATE, {"$datetime": "2024-11-03T01:30:00", "fold": 1}),
    (
        np.array([[1, 2]], "<i2"),
        {"$ndarray": "AQACAA==", "dtype": "<i2", "shape": [1, 2]},
    ),
    (np.float32(1.0), {"$scalar": "AACAPw==", "dtype": "<f4"}),
    (np.str_("x"), {"$scalar": "x", "dtype": "str"}),
    (np.bytes_(b"x"), {"$scalar": "eA==", "dtype": "bytes"}),
]


@pytest.mark.parametrize(("value", "form"), FORMS, ids=[str(n) for n in range(len(FORMS))])
def test_each_type_has_its_form_and_comes_back_from_it(value: Any, form: Any) -> None:
    """The forms are a format: exports of years ago are written in them."""
    written = to_plain(decode(encode(value)))
    assert written == form
    read = from_plain(json.loads(json.dumps(written)))
    assert type(read) is type(value)
    if isinstance(value, datetime):
        assert (read.isoformat(), read.fold) == (value.isoformat(), value.fold)
        assert repr(read.tzinfo) == repr(value.tzinfo)
    else:
        assert np.array_equal(read, value) if isinstance(value, np.ndarray) else read == value
        assert getattr(read, "dtype", None) == getattr(value, "dtype", None)


def test_not_a_number_is_kept() -> None:
    """It equals nothing, so it has a test of its own; JSON has no word for it."""
    assert to_plain(math.nan) == {"$float": "nan"}
    assert math.isnan(from_plain({"$float": "nan"}))


@pytest.mark.parametrize(
    "form",
    [
        {"$unknown": 1},
        {"$bytes": "A=P8"},
        {"$bytes": "AP8 ="},
        {"$datetime": "yesterday"},
        {"$datetime": "2024-01-02T00:00:00", "zone": "../etc/passwd"},
        {"$datetime": "2024-01-02T00:00:00", "zone": "Mars/Olympus"},
        {"$ndarray": "AQACAA==", "dtype": "object", "shape": [1]},
        {"$ndarray": "AQACAA==", "dtype": "<i2", "shape": [3]},
        {"$ndarray": "AQACAA=="},
        {"$scalar": "AACAPw==", "dtype": "<f8"},
        {"$dict": [[1]]},
        {"$int": "many"},
        {"$decimal": "one"},
        {"$uuid": 3},
        {1, 2},
        pytest.param(object(), id="an object"),
    ],
    ids=repr,
)
def test_what_is_no_form_is_refused(form: Any) -> None:
    """An import trusts nothing in its file: one error, whatever is wrong."""
    with pytest.raises(CodecError):
        from_plain(form)


def test_what_no_store_returns_has_no_form() -> None:
    """Writing an export never guesses."""
    with pytest.raises(CodecError, match="nothing that a store returns"):
        to_plain({"x": object()})


def test_a_draft_is_the_encoding_until_it_is_large() -> None:
    """Small values have one encoding; large arrays are referred to, not copied."""
    for value in (
        3,
        "x",
        {"a": 1},
        {"a": {"b": [1, 2.5]}},
        {"big": 1 << 70},
        [np.arange(3)],
        {1: "x"},
        {"a": b"x", 2: "y"},
        {"a": b"x"},
        b"x",
    ):
        assert draft(value) == encode(value, compress=False)
    array = np.zeros(FILE_FROM_BYTES + 1, np.uint8)
    large = draft({"book": array, "at": 1})
    assert isinstance(large, Draft)
    assert len(large.parts) == 1
    assert len(large.body) < 1000
    text = draft(["x" * (FILE_FROM_BYTES + 1)])
    assert isinstance(text, Draft)
    assert text.parts == []
