"""What an earlier run left where this one keeps its memory."""

from __future__ import annotations

import shutil
from contextlib import closing
from typing import TYPE_CHECKING

from nt_memory.clock import SystemClock
from nt_memory.errors import InvalidInputError
from nt_memory.transport.directory import StoreDirectory

if TYPE_CHECKING:
    from pathlib import Path

MARK = "DEMO"


def make_room(store: Path) -> None:
    """Remove the memory of an earlier run, and nothing else.

    The store is held while it is emptied, so that nobody loses one that is in use. A run marks its
    store first: one that holds anything without the mark was not made by a demo. The format file
    and the mark stay, so that a run killed in here is recognised by the next.

    Args:
        store: Where the memory goes; made when missing.

    Raises:
        InvalidInputError: it is a link, or a store that no demo made.
        ForeignStoreError: something that is no store is there.
        StoreInUseError: somebody has it open.
        StorageError: a file operation failed.
    """
    if store.is_symlink():
        raise InvalidInputError(f"{store}: is a link, and what it leads to would be removed")
    with closing(StoreDirectory(store, clock=SystemClock())) as directory:
        mark = store / MARK
        if not mark.exists() and any(directory.journal.iterdir()):
            raise InvalidInputError(f"{store}: a store that no demo made; choose another --out")
        mark.touch()
        for part in (directory.journal, directory.views, directory.vectors):
            shutil.rmtree(part)
