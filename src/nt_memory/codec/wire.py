"""What the two directions of the codec agree on: limits, extension codes, and what fits them."""

from __future__ import annotations

import re
import struct
from datetime import datetime, timedelta
from typing import Final

from nt_memory.errors import ValueTooLargeError

MAX_VALUE_BYTES: Final = 64 << 20
"""Most bytes of a body before compression."""
MAX_PARTS_BYTES: Final = 1 << 30
"""Most bytes of the arrays and `bytes` that are kept outside the body, in a value file."""
FILE_FROM_BYTES: Final = 1 << 20
"""A value that takes more is kept in a file."""
PART_FROM_BYTES: Final = 64 << 10
"""In a file, arrays and `bytes` of this size and more lie outside the body."""
MAX_DEPTH: Final = 100
"""Most containers inside each other."""

TUPLE, MAP, ARRAY, INT, DATETIME, DECIMAL, UUID_, SCALAR, BLOB = range(1, 10)
MARKERS: Final = (TUPLE, MAP, ARRAY, BLOB)
NATIVE: Final = frozenset({type(None), bool, float, str, bytes})
"""What msgpack spells without a look at the value."""
FLAT: Final = NATIVE | {int}
STR: Final = frozenset({str})

# numpy types whose bytes mean the same on every machine: no objects, records or long doubles.
DTYPE: Final = re.compile(r"[<>|](b1|[iu][1248]|f[248]|c8|c16|[SU][1-9]\d{0,8}|[mM]8(\[\w+\])?)")
TEXT_SCALAR: Final = b"|U0"
BYTES_SCALAR: Final = b"|S0"

ZONE: Final = re.compile(r"[A-Za-z0-9_+-]{1,64}(/[A-Za-z0-9_+-]{1,64}){0,3}")
TIME: Final = struct.Struct("<qBB")
"""Wall time in microseconds since year 1, fold, kind of zone; the zone's own bytes follow."""
NAIVE, UTC_ZONE, OFFSET, NAMED_ZONE = range(4)
ZERO: Final = datetime.min  # noqa: DTZ901
MICROSECOND: Final = timedelta(microseconds=1)


def shorten(part: object) -> str:
    """`repr`, cut to what fits a message."""
    text = repr(part)
    return text if len(text) <= 60 else f"{text[:57]}..."


def too_large(size: int, limit: int = MAX_VALUE_BYTES) -> ValueTooLargeError:
    """The error for a value of at least `size` bytes."""
    return ValueTooLargeError(
        f"the value takes at least {size} bytes; at most {limit} can be stored: "
        "split it over several keys"
    )
