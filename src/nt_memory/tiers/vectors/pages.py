"""Huge pages for what a graph is made of, where the system leaves that to be asked for.

Adding a row visits a thousand others, all over hundreds of megabytes: with pages of 4 KiB the processor
walks the page table for nearly every one. On Linux most systems give pages of 2 MiB only on request
(`/sys/kernel/mm/transparent_hugepage/enabled` says `madvise`).
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

# From <linux/mman.h>; Python has names for them only as methods of its own mappings.
_MADV_HUGEPAGE = 14
_MADV_COLLAPSE = 25
_HUGE = 2 << 20
# glibc gives blocks from this size on a mapping of their own (M_MMAP_THRESHOLD never grows past it).
_WORTH_ASKING = 32 << 20


def _madvise() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    try:
        function = ctypes.CDLL(None, use_errno=True).madvise
    except (OSError, AttributeError):  # a C library without it
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    function.restype = ctypes.c_int
    return function


_advise = _madvise()


class Roomy:
    """One growing block of memory, which is asked huge pages for whenever it has moved."""

    def __init__(self) -> None:
        self._address = 0
        self._size = 0

    def seen(self, address: int, size: int) -> None:
        """Ask, if it has moved since this was called last. Whatever comes of it, nothing is raised.

        Args:
            address: Where the block begins.
            size: Bytes in use. A vector of C++ that had to move has room for twice what it held.

        Cost: nothing for a block that has not moved; else what is in it is copied once, 3 GB/s.
        """
        moved, before = address != self._address, self._size
        self._address, self._size = address, size
        if moved:
            want_huge_pages(address, size, max(size, 2 * before))


def want_huge_pages(address: int, size: int, room: int) -> bool:
    """Ask for huge pages under a block; whether the system knows the request.

    Args:
        address: Where it begins.
        size: Bytes in use: what is in small pages is moved into huge ones.
        room: Bytes it has, which are given huge pages once they are used.

    Cost: copies `size` bytes, unless the block is too small to be worth it.
    """
    if _advise is None or room < _WORTH_ASKING:
        return False
    first = -(-address // _HUGE) * _HUGE
    last = (address + room) // _HUGE * _HUGE
    if last <= first or _advise(first, last - first, _MADV_HUGEPAGE):
        return False
    used = (address + size) // _HUGE * _HUGE
    if used > first:
        _advise(first, used - first, _MADV_COLLAPSE)  # Linux 6.1; what is refused stays as it was
    return True
