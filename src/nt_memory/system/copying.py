"""`snapshot(path)`: a copy of a store that is being written to."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from nt_memory.errors import ForeignStoreError
from nt_memory.transport.values import parse_name

if TYPE_CHECKING:
    from nt_memory.system.opened import Opened

_MARKER = "FORMAT"


def copy_store(opened: Opened, target: str | os.PathLike[str]) -> None:
    """Copy the store to a directory that is missing or empty.

    The journal is append-only, so a copy of its files is a prefix of it, and a torn end is cut at
    open. The views are not copied: they are rebuilt from the copied base and journal when it is
    opened. The marker that makes the copy a store is written last. No compaction may run.

    Raises:
        ForeignStoreError: the target exists and is not an empty directory.
        OSError: it cannot be written.
    """
    path = Path(target)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ForeignStoreError(f"{path}: exists and is not an empty directory")
    for source, pattern in (
        (opened.directory.bases, "*.base"),
        (opened.directory.journal, "*.log"),
    ):
        (path / source.name).mkdir(parents=True)
        for file in sorted(source.glob(pattern)):
            _copy(file, path / source.name / file.name)
    # Behind the journal: whatever that refers to was there before.
    _copy_values(opened.directory.values, path / "values")
    _copy(opened.directory.path / _MARKER, path / _MARKER)
    for directory in (path / "base", path / "journal", path / "values", path):
        _sync_directory(directory)


def _copy_values(source: Path, target: Path) -> None:
    """Link the value files, which never change, or copy them where they cannot be linked."""
    target.mkdir()
    for file in sorted(source.iterdir()):
        if parse_name(file.name) is None:
            continue
        try:
            os.link(file, target / file.name)
        except OSError:
            _copy(file, target / file.name)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
