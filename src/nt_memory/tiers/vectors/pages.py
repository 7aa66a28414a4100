"""Pages of memory: huge ones for what a graph is made of, and those of mapped files before they are met.

Adding a row visits a thousand others, all over hundreds of megabytes: with pages of 4 KiB the processor
walks the page table for nearly every one. On Linux most systems give pages of 2 MiB only on request
(`/sys/kernel/mm/transparent_hugepage/enabled` says `madvise`).

Files get them unasked where the file system keeps large folios (ext4 from Linux 6.16 on, xfs): the page cache
takes what one `write` hands over as one folio, if it is as large as a huge page and lies where one begins,
and maps it as one. So graphs are written in such blocks. Elsewhere that costs a copy and changes nothing.

Rows come a few at a time and lie in small pages. Whoever meets one of them first has it entered in the page
table, with the fifteen around it. Of a million rows of 384 values that made the first five hundred searches
a sixth slower than those after two thousand, and the same again whenever a longer mapping takes the place of one.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

# From <linux/mman.h>; Python has names for them only as methods of its own mappings.
_MADV_HUGEPAGE = 14
_MADV_POPULATE_READ = 22
_MADV_COLLAPSE = 25
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_HUGE = 2 << 20
_PIECE = 8 << 20
# glibc gives blocks from this size on a mapping of their own (M_MMAP_THRESHOLD never grows past it).
_WORTH_ASKING = 32 << 20


def _of_libc(name: str, *arguments: Any) -> Any:
    if not sys.platform.startswith("linux"):
        return None
    try:
        function = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):  # a C library without it
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *arguments]
    function.restype = ctypes.c_int
    return function


_advise = _of_libc("madvise", ctypes.c_int)
_in_core = _of_libc("mincore", ctypes.c_void_p)


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


def enter_later(mapped: NDArray[Any], path: Path) -> None:
    """Have `enter_cached` done by a thread of its own, if a mapped file is worth it and there is one to be had.

    Args:
        mapped: All of the mapping.
        path: Of the file. Of one that cannot be written the system does not tell what is cached.
    """
    if mapped.nbytes >= _WORTH_ASKING and os.access(path, os.W_OK):
        thread = threading.Thread(target=enter_cached, args=(mapped,), name="nt-memory-pages")
        with suppress(RuntimeError):  # no more threads: then searches meet the pages one by one
            thread.start()


def enter_cached(mapped: NDArray[Any]) -> int:
    """Enter a mapped file's pages in the page table, where the page cache has them; how many bytes.

    Nothing is read from the disk: of pieces of 8 MiB that are not cached whole nothing is entered. Ends early when the
    main thread has ended.

    Cost: 75 ms a GB, most of it without the interpreter.
    """
    entered = 0
    if _advise is None or _in_core is None:
        return entered
    first = mapped.ctypes.data // _PAGE * _PAGE
    stop = mapped.ctypes.data + mapped.nbytes
    is_there = np.empty(_PIECE // _PAGE, np.uint8)
    for address in range(first, stop, _PIECE):
        size = min(_PIECE, stop - address)
        pages = is_there[: -(-size // _PAGE)]
        if not threading.main_thread().is_alive() or _in_core(address, size, pages.ctypes.data):
            break
        if (pages & 1).all():
            if _advise(address, size, _MADV_POPULATE_READ):  # Linux 5.14
                break
            entered += size
    return entered
