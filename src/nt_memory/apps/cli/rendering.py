"""Values as JSON, for people and for pipes. One way: JSON has fewer types."""

from __future__ import annotations

import base64
import math
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

import numpy as np

from nt_memory.apps.cli.printing import spell


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
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)


def value_line(value: Any) -> str:
    """A value on one line."""
    return spell(to_plain(value))


def number(value: float | None, digits: int = 4) -> str:
    """A figure in a table; nothing where there is none."""
    return "" if value is None else f"{value:.{digits}g}"


def share(value: Fraction | float) -> str:
    """A weight or a quorum as it was meant: 2/3 as 2/3, 1 as 1."""
    return str(value)


def moment(value: datetime | None) -> str:
    """A time in a table, to the second."""
    return "" if value is None else value.isoformat(sep=" ", timespec="seconds")


def size(count: float) -> str:
    """Bytes, readable."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
