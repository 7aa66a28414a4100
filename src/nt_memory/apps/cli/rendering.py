"""Values and records as JSON, for people and for pipes. One way: JSON has fewer types."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from datetime import datetime
from typing import Any

import numpy as np

from nt_memory.records import MemoryStats, Record, TierStats


def to_plain(value: Any) -> Any:
    """What `json.dumps` takes, for any value the memory stores.

    Times become ISO 8601, bytes base64, arrays and tuples lists; numbers that JSON cannot spell,
    and everything else, become their `str`.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): to_plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return _scalar_to_plain(value)


def _scalar_to_plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return to_plain(value.tolist())
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)


def value_line(value: Any) -> str:
    """A value on one line."""
    return json.dumps(to_plain(value), ensure_ascii=False)


def record_line(record: Record) -> str:
    """A record, all of it, on one line."""
    return value_line({f.name: getattr(record, f.name) for f in dataclasses.fields(record)})


def stats_to_plain(stats: MemoryStats) -> dict[str, Any]:
    """The counters by name, tiers nested."""
    plain = {field.name: getattr(stats, field.name) for field in dataclasses.fields(stats)}
    for name, value in plain.items():
        if isinstance(value, TierStats):
            plain[name] = dataclasses.asdict(value)
    return plain


def stats_lines(stats: MemoryStats) -> list[str]:
    """The counters, one a line, nested names dotted."""
    flat: dict[str, Any] = {}
    for name, value in stats_to_plain(stats).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": number for inner, number in value.items()}
        else:
            flat[name] = value
    width = max(map(len, flat))
    return [f"{name:<{width}}  {_number(value)}" for name, value in flat.items()]


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)
