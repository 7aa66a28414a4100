"""Who may use how much of the memory that a store is given."""

from __future__ import annotations

from typing import NamedTuple

_HOT_SHARE = 4
_FILTER_SHARE = 16


class Shares(NamedTuple):
    """Parts of `max_memory_bytes`, bytes.

    Attributes:
        hot: Of L1.
        filters: Of tables that say what passes a filter.
        vectors: Of L2, the rest.
    """

    hot: int
    filters: int
    vectors: int

    @classmethod
    def of(cls, max_memory_bytes: int) -> Shares:
        """Of so much in all."""
        hot, filters = max_memory_bytes // _HOT_SHARE, max_memory_bytes // _FILTER_SHARE
        return cls(hot, filters, max_memory_bytes - hot - filters)


def memory_for(vectors: int) -> int:
    """The least `max_memory_bytes` of which L2 has so much, in whole MiB."""
    whole = _HOT_SHARE * _FILTER_SHARE
    share = whole - _FILTER_SHARE - _HOT_SHARE
    return -(-vectors * whole // (share << 20)) << 20
