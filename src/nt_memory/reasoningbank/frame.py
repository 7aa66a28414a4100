"""Tables for analysis: an Arrow C stream, which pandas and polars read without this needing either."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nanoarrow as na
import numpy as np
from nanoarrow.c_array_stream import CArrayStream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

TYPES: dict[str, Any] = {
    "int": na.int64(),
    "float": na.float64(),
    "bool": na.bool_(),
    "text": na.large_string(),
    "time": na.timestamp("us", "UTC"),
}


class Frame:
    """A table: columns by name, and an Arrow C stream of them.

    `polars.DataFrame(frame)` and `pyarrow.table(frame)` read the stream; so does
    `pandas.DataFrame.from_arrow(frame)` where pyarrow is installed, and `pandas.DataFrame(dict(frame))`
    works without it. A missing float is null in Arrow and NaN here; times are microseconds here.

    Args:
        types: Column names and what they hold: "int", "float", "bool", "text" or "time".
        columns: Values by column, all of one length.
    """

    def __init__(self, types: Mapping[str, str], columns: Mapping[str, Sequence[Any]]) -> None:
        self._types = dict(types)
        self._columns = {name: _array(kind, columns[name]) for name, kind in types.items()}

    def __len__(self) -> int:
        """Rows."""
        return len(next(iter(self._columns.values())))

    def __getitem__(self, name: str) -> Any:
        """A column as a numpy array."""
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        """Column names."""
        return iter(self._columns)

    def keys(self) -> list[str]:
        """Column names; with `__getitem__`, what `dict(frame)` needs."""
        return list(self._columns)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The Arrow PyCapsule interface: one batch."""
        schema = na.c_schema(na.struct({name: TYPES[kind] for name, kind in self._types.items()}))
        children = [_child(self._types[name], self._columns[name]) for name in self._columns]
        batch = na.c_array_from_buffers(schema, len(self), [None], children=children)
        stream = CArrayStream.from_c_arrays([batch], schema)
        return stream.__arrow_c_stream__(requested_schema)


def _array(kind: str, values: Sequence[Any]) -> Any:
    if kind == "text":
        return np.array(list(values), dtype=object)
    if kind == "float":
        return np.array([np.nan if one is None else one for one in values], np.float64)
    return np.array(values, np.bool_ if kind == "bool" else np.int64)


def _child(kind: str, values: Any) -> Any:
    count = len(values)
    if kind == "text":
        encoded = [text.encode() for text in values]
        ends = np.zeros(count + 1, np.int64)
        np.cumsum([len(text) for text in encoded], out=ends[1:])
        return na.c_array_from_buffers(TYPES[kind], count, [None, ends, b"".join(encoded)])
    if kind == "bool":
        bits = np.packbits(values, bitorder="little")
        return na.c_array_from_buffers(TYPES[kind], count, [None, bits])
    valid = None
    if kind == "float" and np.isnan(values).any():
        valid = np.packbits(np.isfinite(values), bitorder="little")
    return na.c_array_from_buffers(TYPES[kind], count, [valid, values])
