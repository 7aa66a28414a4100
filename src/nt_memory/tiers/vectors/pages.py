"""Huge pages for what a graph is made of, where the system leaves that to be asked for.

Adding a row visits a thousand others, all over hundreds of megabytes: with pages of 4 KiB the processor
walks the page table for nearly every one. On Linux most systems give pages of 2 MiB only on request
(`/sys/kernel/mm/transparent_hugepage/enabled` says `madvise`).

Files get them unasked where the file system keeps large folios (ext4 from Linux 6.16 on, xfs): the page cache
takes what one `write` hands over as one folio, if it is as large as a huge page and lies where one begins,
and maps it as one. So graphs are written in such blocks. Elsewhere that costs a copy and changes nothing.
"""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

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


class Blocks:
    """What is written from the start of a file, handed on in blocks as large as a huge page.

    Args:
        write: Takes each block; the file is to be where the last one ended.
    """

    def __init__(self, write: Callable[[memoryview], object]) -> None:
        self._write = write
        self._held = bytearray()

    def write(self, chunk: bytes) -> None:
        """Take the next bytes. What `write` raises comes through."""
        self._held += chunk
        while len(self._held) >= _HUGE:
            self._hand_on(_HUGE)

    def finish(self) -> None:
        """Hand on what is left, less than a block."""
        if self._held:
            self._hand_on(len(self._held))

    def _hand_on(self, size: int) -> None:
        with memoryview(self._held) as view, view[:size] as block:
            self._write(block)
        del self._held[:size]


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
