"""Unfinished work as files beside the store: lost without harm, and never believed when damaged."""

from __future__ import annotations

import contextlib
import os
import shutil
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_DIGEST_BYTES = 16
MAX_REQUESTS = 16
"""Of so many requests work is kept; of more the oldest is given up."""


class DraftFiles:
    """See `reasoningbank.backing.Drafts`. A file is its content behind a checksum of it.

    Args:
        parent: The directory of all drafts.
        request_id: Whose.
    """

    def __init__(self, parent: Path, request_id: str) -> None:
        self._parent = parent
        name = blake2b(request_id.encode(), digest_size=_DIGEST_BYTES).hexdigest()
        self._directory = parent / name

    def load(self, name: str) -> bytes | None:
        """What was saved."""
        try:
            found = (self._directory / name).read_bytes()
        except OSError:
            return None
        data = found[_DIGEST_BYTES:]
        return data if found[:_DIGEST_BYTES] == _checksum(data) else None

    def save(self, name: str, data: bytes) -> None:
        """Keep it."""
        # What is half written has another name, so fsync is not needed: what a power failure left
        # under this one is told by the checksum.
        with contextlib.suppress(OSError):
            if not self._directory.is_dir():
                self._directory.mkdir(parents=True)
                self._give_up_oldest()
            half = self._directory / f"{name}.new"
            half.write_bytes(_checksum(data) + data)
            os.replace(half, self._directory / name)  # noqa: PTH105

    def clear(self) -> None:
        """Remove the files, and the directory of all drafts if it is empty then."""
        shutil.rmtree(self._directory, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._parent.rmdir()

    def _give_up_oldest(self) -> None:
        others = [one for one in self._parent.iterdir() if one != self._directory]
        others.sort(key=lambda one: one.stat().st_mtime_ns)
        for one in others[: max(0, len(others) + 1 - MAX_REQUESTS)]:
            shutil.rmtree(one, ignore_errors=True)


def _checksum(data: bytes) -> bytes:
    return blake2b(data, digest_size=_DIGEST_BYTES).digest()
