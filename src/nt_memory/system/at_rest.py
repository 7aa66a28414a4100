"""Whether views that lie on disk can be trusted.

They can after a clean close, which leaves a digest of every file that still has to match; and after
an unclean stop, once they were checked row by row (`checking`), as long as the operating system that
holds their unwritten pages keeps running. In every other case the journal says it all again. `views/STATE` holds what there is to know; if it
cannot be read, nothing is known.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

from nt_memory.tiers.layout import LAYOUT_VERSION
from nt_memory.transport.directory import boot_id
from nt_memory.transport.files import sync_directory

if TYPE_CHECKING:
    from pathlib import Path

    from nt_memory.transport.directory import StoreDirectory

_STATE = "STATE"
_CHUNK_BYTES = 32 << 20
_PIECE_BYTES = 1 << 20
_THREADS = 2


class State(NamedTuple):
    """What `STATE` says.

    Attributes:
        layout: Version of the views' layout.
        boot: The boot under which they are or were written.
        is_clean: They were closed cleanly.
        digests: Size and checksum of every file, if they were.
        is_in_check: Somebody began to check them after an unclean stop, and did not end it.
    """

    layout: int
    boot: str
    is_clean: bool
    digests: dict[str, list[int]]
    is_in_check: bool = False


def write_state(
    views: Path, digests: dict[str, list[int]] | None = None, *, is_in_check: bool = False
) -> None:
    """Say how the views in a directory stand.

    Args:
        views: Where they are.
        digests: Of every file, after a clean close; None while they are being written.
        is_in_check: What is there is going to be checked, which may stop the process.

    Raises:
        OSError: it could not be written.
    """
    views.mkdir(parents=True, exist_ok=True)
    state: dict[str, Any] = {
        "layout": LAYOUT_VERSION,
        "boot": boot_id(),
        "clean": digests is not None,
        "digests": digests or {},
        "in_check": is_in_check,
    }
    temporary = views / f"{_STATE}.new"
    with temporary.open("w") as file:
        file.write(json.dumps(state))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(views / _STATE)
    # So that a power loss cannot bring back the state before.
    sync_directory(views)


def read_state(views: Path) -> State | None:
    """How the views in a directory stand; None if that cannot be said."""
    try:
        state = json.loads((views / _STATE).read_bytes())
        return State(
            int(state["layout"]),
            str(state["boot"]),
            bool(state["clean"]),
            dict(state["digests"]),
            bool(state.get("in_check")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def are_trustworthy(directory: StoreDirectory) -> bool:
    """Whether views and vector files are as their last writer left them.

    After an unclean stop that means: not known to be otherwise.

    Cost: reads all of them after a clean close, 1 GB/s and more; else nothing.
    """
    state = read_state(directory.views)
    if state is None or state.layout != LAYOUT_VERSION:
        return False
    if not state.is_clean:
        return state.boot == boot_id() and not state.is_in_check
    try:
        return state.digests == digest_files(directory)
    except OSError:
        return False


def digest_files(directory: StoreDirectory) -> dict[str, list[int]]:
    """Size and checksum of every file that holds views or vectors.

    Raises:
        OSError: one could not be read.
    """
    paths = [directory.views / "data.mdb", *sorted(directory.vectors.glob("*.f16"))]
    sizes = [path.stat().st_size for path in paths]
    chunks = [
        (path, start)
        for path, size in zip(paths, sizes, strict=True)
        for start in range(0, size, _CHUNK_BYTES)
    ]
    with ThreadPoolExecutor(_THREADS) as pool:
        checksums = list(pool.map(_checksum_of, chunks))
    found = {
        path.relative_to(directory.path).as_posix(): [size, 0]
        for path, size in zip(paths, sizes, strict=True)
    }
    for (path, _), checksum in zip(chunks, checksums, strict=True):
        entry = found[path.relative_to(directory.path).as_posix()]
        entry[1] = crc32(checksum.to_bytes(4, "little"), entry[1])
    return found


def _checksum_of(chunk: tuple[Path, int]) -> int:
    return _checksum(*chunk)


def _checksum(path: Path, start: int) -> int:
    """Of one chunk of a file. The interpreter is free while the bytes are read and summed."""
    checksum = 0
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for offset in range(start, start + _CHUNK_BYTES, _PIECE_BYTES):
            data = os.pread(descriptor, _PIECE_BYTES, offset)
            if not data:
                break
            checksum = crc32(data, checksum)
    finally:
        os.close(descriptor)
    return checksum
