"""What a node begins with: its directory as it is, or the newest good snapshot of its swarm.

A node that is new takes a snapshot: the base goes where a compaction would have put it, an empty
journal behind it, and all else is what every open does. While that is being put in place the directory holds the file `JOINING`: whoever finds it
begins anew, so nothing half placed is ever taken for a replica.

A snapshot that is damaged or incomplete is passed over, and said so in the log: the next older one
does as well, or the stream from its beginning. That takes longer, and leads to the same replica.
"""

from __future__ import annotations

import logging
import os
import shutil
from typing import TYPE_CHECKING, Final

from nt_memory.codec import is_filed
from nt_memory.codec.filed import REFERENCE_START
from nt_memory.errors import (
    CorruptionError,
    FormatVersionError,
    PermissionDeniedError,
    TrimmedError,
)
from nt_memory.tiers.layout import decode_version
from nt_memory.tiers.sealing import unseal
from nt_memory.transport.basefile import BaseFile, base_path, list_bases
from nt_memory.transport.files import sync_directory, to_storage_error
from nt_memory.transport.segment_reader import SegmentReader
from nt_memory.transport.segments import SegmentHeader, encode_header, segment_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nt_memory.system.opened import Opened
    from nt_memory.tiers.views import Snapshot
    from nt_memory.transport.directory import StoreDirectory
    from nt_memory.transport.nats.blobs import Blobs
    from nt_memory.transport.nats.catalogue import Manifest
    from nt_memory.transport.nats.snapshots import Shelf

JOINING: Final = "JOINING"
GRAPHS: Final = "graphs.new"
GRAPH_PREFIX: Final = "graph/"
BASE: Final = "base"
_STARTS_BYTES: Final = 16
_log = logging.getLogger(__name__)


def begin(directory: StoreDirectory, shelf: Shelf, identity: str) -> Manifest | None:
    """Have a directory that can be opened: as it is, from a snapshot, or empty.

    Args:
        directory: The node's, which is held.
        shelf: The swarm's snapshots.
        identity: Of the swarm's stream.

    Returns:
        The snapshot that was put in place, for `finish`; None: there was none to put.

    Raises:
        DisconnectedError: no server answers.
        StorageError: files could not be written; `StorageFullError` likewise.
    """
    try:
        if (directory.path / JOINING).exists():
            clear(directory)
        if list_bases(directory.bases) or _has_entries(directory.journal):
            return None
        return _first_good(directory, shelf, identity)
    except PermissionDeniedError:  # which is an OSError, too
        raise
    except OSError as error:
        raise to_storage_error(error, f"joining in {directory.path}") from error


def _first_good(directory: StoreDirectory, shelf: Shelf, identity: str) -> Manifest | None:
    tried = set[str]()
    while True:
        try:
            first, last = shelf.bounds()
            listed = shelf.listed().snapshots
        except PermissionDeniedError:
            return None  # credentials of a time when there were no snapshots
        usable = [
            one
            for one in listed
            if one.stream == identity and one.needs >= first and one.needs <= last + 1
        ]
        found = next((one for one in usable if one.id not in tried), None)
        if found is None:
            clear(directory)
            return None
        tried.add(found.id)
        clear(directory)
        try:
            _place(directory, shelf, found)
        except (CorruptionError, FormatVersionError) as error:
            _log.warning("%s: passed over, another is tried: %s", directory.path, error)
        else:
            return found


def _has_entries(journal: Path) -> bool:
    try:
        return next(SegmentReader(journal).replay(0), None) is not None
    except (CorruptionError, TrimmedError):
        return True  # whoever opens it says what is the matter


def clear(directory: StoreDirectory) -> None:
    """Remove all that a replica consists of. A crash in between leaves `JOINING`, and nothing to trust.

    Raises:
        OSError: something could not be removed.
    """
    _write(directory.path / JOINING, b"")
    parts = (directory.journal, directory.bases, directory.views, directory.vectors)
    for part in (*parts, directory.values):
        if part.is_symlink():
            raise OSError(f"{part}: is a symbolic link; refusing to clear through it")
        shutil.rmtree(part, ignore_errors=False)
        part.mkdir()
    shutil.rmtree(directory.path / GRAPHS, ignore_errors=True)
    (directory.path / JOINING).unlink()
    sync_directory(directory.path)


def _place(directory: StoreDirectory, shelf: Shelf, snapshot: Manifest) -> None:
    _write(directory.path / JOINING, b"")
    graphs = directory.path / GRAPHS
    graphs.mkdir(exist_ok=True)
    for part in snapshot.parts:
        if part.name == BASE:
            path = base_path(directory.bases, snapshot.sequence)
            new = path.with_suffix(".new")
            shelf.fetch(snapshot, part, new)
            new.rename(path)
            with BaseFile(path) as base:
                if (base.header.revision, base.header.recorded_at) != (
                    snapshot.revision,
                    snapshot.recorded_at,
                ):
                    raise CorruptionError(f"snapshot {snapshot.id}: its base is another's")
        elif part.name.startswith(GRAPH_PREFIX) and "/" not in part.name[len(GRAPH_PREFIX) :]:
            shelf.fetch(snapshot, part, graphs / part.name[len(GRAPH_PREFIX) :])
    salt = int.from_bytes(os.urandom(4), "little")
    header = SegmentHeader(snapshot.sequence + 1, snapshot.recorded_at, salt)
    _write(segment_path(directory.journal, snapshot.sequence + 1), encode_header(header))
    sync_directory(directory.bases)


def finish(opened: Opened, blobs: Blobs) -> None:
    """After the views were made of a snapshot: fetch the value files that they name, and go by it.

    Raises:
        DisconnectedError: no server answers.
        StorageError: files could not be written.
    """
    directory = opened.directory
    try:
        for graph in (directory.path / GRAPHS).iterdir():
            # Graphs say which vectors they are of; one that does not fit is made anew.
            graph.replace(directory.vectors / graph.name)
        (directory.path / GRAPHS).rmdir()
        snapshot = opened.cold.snapshot()
        try:
            _fetch_values(snapshot, blobs, directory.values)
        finally:
            snapshot.close()
        (directory.path / JOINING).unlink()
        sync_directory(directory.path)
    except PermissionDeniedError:  # which is an OSError, too
        raise
    except OSError as error:
        raise to_storage_error(error, f"joining in {directory.path}") from error


def filed_versions(snapshot: Snapshot) -> Iterator[tuple[bytes, str]]:
    """References to the value files of all versions, each with the version's actor."""
    for rows in snapshot.stored_rows(b"versions"):
        for key, stored in rows:
            if REFERENCE_START not in stored[:_STARTS_BYTES]:
                continue
            version = decode_version(unseal(b"versions", key, stored))
            if version.value is not None and is_filed(version.value):
                yield version.value, version.actor


def _fetch_values(snapshot: Snapshot, blobs: Blobs, directory: Path) -> None:
    for reference, actor in filed_versions(snapshot):
        # Stored in its writer's name by that agent's own node, else in the operator's.
        for author in dict.fromkeys((actor, "")):
            if blobs.want_file(author, reference, directory, bool):
                break


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(path.parent)
