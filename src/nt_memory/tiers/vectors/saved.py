"""The snapshots of one partition's graphs: which there are, which of them to use, which to remove.

A live partition's are called `<partition>-<first>-<stop>.hnsw`, and that is all the catalogue there
is: a graph that takes the place of others covers what they covered, so whichever is left after a
crash, the longest that is good is used, and what it covers too is removed. A deterministic one has
`<partition>.hnsw`.
"""

from __future__ import annotations

import os
import re
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from nt_memory.errors import StorageError
from nt_memory.tiers.vectors.index import Graph
from nt_memory.tiers.vectors.sealed import Sealed
from nt_memory.tiers.vectors.snapshots import (
    Content,
    Description,
    Snapshot,
    read_snapshot,
    write_snapshot,
)

if TYPE_CHECKING:
    from pathlib import Path

    from nt_memory.tiers.vectors.source import Source

SUFFIX = ".hnsw"
EFFORT_KEY = "effort"
"""Of `Content.extra`: the breadth that searches of the graph were found to need."""
BREADTH_KEY = "breadth"
"""The breadth that rows are added to it with."""
_NAME = re.compile(r"(\d+)(?:-(\d+)-(\d+))?")
_EMPTY = Content()
_ATTEMPTS = 3


def partition_of(path: Path) -> int | None:
    """Which partition's graph a file is a snapshot of, going by its name; None: of none."""
    found = _NAME.fullmatch(path.stem) if path.suffix == SUFFIX else None
    return None if found is None else int(found[1])


class _Identity(NamedTuple):
    """A file that was replaced has another."""

    inode: int
    size: int
    modified_ns: int


class Saved:
    """Snapshots of one partition. Any thread; of one name only one at a time is written.

    Args:
        directory: Where they lie.
        source: The partition's rows.
        seed: Of the graphs' generators.
        parameters: What else graphs depend on.
        read_only: Another process's: write and remove nothing.
    """

    def __init__(
        self, directory: Path, source: Source, seed: int, parameters: str, *, read_only: bool
    ) -> None:
        self._directory = directory
        self._source = source
        self._seed = seed
        self._parameters = parameters
        self.read_only = read_only
        self.written_bytes: int = 0
        self._lock = threading.Lock()
        self._verified: dict[Path, _Identity] = {}
        self._fresh: set[Path] = set()

    def path(self, first: int | None = None, stop: int = 0) -> Path:
        """The file of the graph over rows [first, stop), or of the only one."""
        number = self._source.number
        name = f"{number}" if first is None else f"{number}-{first}-{stop}"
        return self._directory / f"{name}{SUFFIX}"

    def write(
        self, path: Path, first: int, stop: int, graph: Graph, content: Content = _EMPTY
    ) -> None:
        """Save a graph over rows [first, stop). Nobody may add to it meanwhile.

        `keep` leaves the file alone until `accept`.

        Raises:
            OSError: it could not be written; an older one stays.
            StorageError: the rows could not be read.
        """
        description = self._description(first, stop)
        content = content._replace(extra=content.extra | {BREADTH_KEY: graph.breadth})
        with self._lock:
            self._fresh.add(path)
        size = write_snapshot(path, description, graph.dump, content)
        with self._lock:
            self.written_bytes += size
            with suppress(OSError):  # written by this process, to the page cache it is read from
                self._verified[path] = _identity(path.stat())

    def accept(self, path: Path) -> None:
        """What was written is in use, or never will be."""
        with self._lock:
            self._fresh.discard(path)

    def map(self, path: Path, rows: int) -> Sealed | None:
        """The graph saved at `path`, served from the file; None if it cannot be used.

        Args:
            path: Its file.
            rows: The partition's rows; a follower's may be fewer than the graph's.

        Cost: reads the file if this process has not verified it yet, else a few pages.
        """
        opened = self._opened(path, rows)
        if opened is None:
            return None
        file, found = opened
        with file:
            try:
                payload = np.memmap(file, np.uint8, "r", found.payload, (found.size,))
            except (OSError, ValueError):
                return None
        description, content = found.description, found.content
        graph = Graph.map(payload, description.dim, self._seed)
        if graph is None or graph.rows != _graph_rows(found):
            return None
        effort = content.extra.get(EFFORT_KEY)
        graph.effort = effort if isinstance(effort, int) else graph.effort
        return Sealed(description.first, description.stop, graph, content, is_saved=True)

    def load(self, path: Path, rows: int) -> Graph | None:
        """The graph saved at `path`, in memory, to be added to; None if it cannot be used.

        Cost: as `map`, and reads the file.
        """
        opened = self._opened(path, rows)
        if opened is None:
            return None
        file, found = opened
        with file:
            file.seek(found.payload)
            try:
                graph = Graph.load(file, found.description.dim, self._seed)
            except OSError:
                return None
        if graph is None or graph.rows != _graph_rows(found):
            return None
        breadth = found.content.extra.get(BREADTH_KEY)
        graph.breadth = breadth if isinstance(breadth, int) else 0
        return graph

    def chain(self, rows: int) -> tuple[Sealed, ...]:
        """Mapped graphs that follow each other, not always closely. Useless files are removed.

        Where one is damaged, or missing, others that cover its rows are taken, or nobody does.
        """
        found: list[Sealed] = []
        for _ in range(_ATTEMPTS):
            found = []
            is_stable = True
            for first, stop in sorted(self._names(), key=lambda name: (name[0], -name[1])):
                path = self.path(first, stop)
                if found and first < found[-1].stop:
                    continue
                part = self.map(path, rows)
                if part is not None:
                    found.append(part)
                elif not path.exists():
                    is_stable = False  # a writer is just replacing it
            if is_stable:
                break
        self.keep({(part.first, part.stop) for part in found})
        return tuple(found)

    def keep(self, wanted: set[tuple[int, int]]) -> None:
        """Remove all snapshots but those of the given runs of rows."""
        if self.read_only:
            return
        with self._lock:
            fresh = self._fresh.copy()
        paths = [self.path(*name) for name in self._names() if name not in wanted]
        for path in (*paths, self.path()):
            if path in fresh:
                continue
            with suppress(OSError):  # at worst the next open removes it
                path.unlink(missing_ok=True)
            with self._lock:
                self._verified.pop(path, None)

    def _names(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for path in self._directory.glob(f"{self._source.number}-*{SUFFIX}"):
            name = _NAME.fullmatch(path.stem)
            if name is not None:
                found.append((int(name[2]), int(name[3])))
        return found

    def _opened(self, path: Path, rows: int) -> tuple[BinaryIO, Snapshot] | None:
        """An open file that was verified, and what it says; closed by the caller."""
        try:
            file = path.open("rb")
        except OSError:
            return None
        identity = _identity(os.fstat(file.fileno()))
        with self._lock:
            is_verified = self._verified.get(path) == identity
        found = read_snapshot(file, is_verified=is_verified)
        if found is None or not self._is_usable(found.description, path, rows):
            file.close()
            return None
        with self._lock:
            self._verified[path] = identity
        return file, found

    def _is_usable(self, found: Description, path: Path, rows: int) -> bool:
        # A writer whose snapshot is ahead of its rows has lost some, and others will take their
        # numbers. A follower's snapshot may well be ahead: its writer was faster.
        if found.stop <= found.first or (found.stop > rows and not self.read_only):
            return False
        if path not in (self.path(found.first, found.stop), self.path()):
            return False
        try:
            return found == self._description(found.first, found.stop)
        except StorageError:
            return False

    def _description(self, first: int, stop: int) -> Description:
        digest = self._source.digest(first, stop)
        return Description(self._source.dim, first, stop, self._seed, self._parameters, digest)


def _graph_rows(found: Snapshot) -> int:
    if found.content.numbers is not None:
        return len(found.content.numbers)
    return found.description.stop - found.description.first


def _identity(found: os.stat_result) -> _Identity:
    return _Identity(found.st_ino, found.st_size, found.st_mtime_ns)
