"""`share_snapshot`: a node's replica as a snapshot that others can begin with, and the stream trimmed behind.

A base of what one read transaction shows is written beside the replica, sent, read back, and only
then named in the catalogue; with it go the saved graphs of the vectors, so that whoever begins with
them need not build them. Then, and in this order: snapshots that are no longer kept lose their
pieces, the stream its messages before the oldest that is kept, and the large values go that nothing needs
any more. Whatever is interrupted in
between leaves the stream longer than it has to be, and nothing less.
"""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING, Final

from nt_memory.clock import to_datetime
from nt_memory.entries.origins import first_needed
from nt_memory.errors import (
    CorruptionError,
    InvalidInputError,
    PermissionDeniedError,
    StorageError,
)
from nt_memory.records import Shared, SwarmSnapshot
from nt_memory.replica import load_origin
from nt_memory.system.baseline import save_base
from nt_memory.system.beginning import BASE, GRAPH_PREFIX, filed_versions
from nt_memory.system.opening import SHARE_NEW
from nt_memory.system.verify_report import Verification
from nt_memory.transport.basefile import base_path
from nt_memory.transport.files import to_storage_error
from nt_memory.transport.nats.catalogue import Manifest, Part, new_id
from nt_memory.transport.nats.leftovers import VALUES, Leftovers, write_list
from nt_memory.transport.nats.snapshots import Shelf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nt_memory.entries.origins import Origin
    from nt_memory.system.engine import Engine
    from nt_memory.tiers.views import Snapshot
    from nt_memory.transport.basefile import BaseHeader
    from nt_memory.transport.nats.link import Link

_MOST_GRAPHS: Final = 1024
"""So many files go into one line of the catalogue, which is a message. The others are built anew."""
_TRIES: Final = 20


def share(engine: Engine, link: Link, keep: int) -> Shared:
    """Share a snapshot of an engine's replica; see `MemorySystem.share_snapshot`. Blocks.

    Nothing may be compacted meanwhile.
    """
    shelf = Shelf(link)
    for _ in range(_TRIES):
        made = _make(engine, shelf)
        entered = enter(shelf, made, keep)
        if entered is not None:
            kept, dropped = entered
            shelf.sweep(dropped, kept, engine.clock.now_us())
            trimmed = shelf.trim()
            return Shared(to_record(made), len(dropped), trimmed, _remove(engine, link, shelf))
        # Overtaken while it was sent: what would have to follow it may be trimmed already.
        shelf.sweep((made,), shelf.listed().snapshots, engine.clock.now_us())
        assert engine.journal is not None  # noqa: S101 - or nothing could be shared
        engine.journal.flush()
    raise _outrun()


def _remove(engine: Engine, link: Link, shelf: Shelf) -> int:
    """Remove the large values and entries that nothing needs any more; how many."""
    scratch = engine.opened.directory.path / SHARE_NEW
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir()
        return Leftovers(link, shelf, scratch).remove()
    except PermissionDeniedError:  # which is an OSError, too
        raise
    except OSError as error:
        raise to_storage_error(error, f"checking values in {scratch}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _make(engine: Engine, shelf: Shelf) -> Manifest:
    """Send a snapshot of what the replica holds now."""
    directory = engine.opened.directory.path / SHARE_NEW
    shutil.rmtree(directory, ignore_errors=True)
    try:
        directory.mkdir()
        with contextlib.suppress(StorageError, OSError):
            engine.vectors.save()  # or who begins with it builds more of them
        graphs = _link_graphs(engine.opened.directory.vectors, directory)
        header, origin = _freeze(engine, directory)
        id_ = new_id(engine.clock.now_us())
        base = base_path(directory, header.sequence)
        files = {BASE: base, VALUES: directory / VALUES, **graphs}
        parts = shelf.put(id_, files)
    except PermissionDeniedError:  # which is an OSError, too
        raise
    except OSError as error:
        raise to_storage_error(error, f"sharing {directory.parent}") from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return describe(id_, origin, header, parts)


def describe(id_: str, origin: Origin, header: BaseHeader, parts: list[Part]) -> Manifest:
    """The catalogue's line about a snapshot."""
    return Manifest(
        id_,
        origin.stream,
        origin.message,
        first_needed(origin, header.sequence),
        header.sequence,
        header.revision,
        header.recorded_at,
        int(id_.partition("-")[0], 16),
        tuple(parts),
    )


def enter(
    shelf: Shelf, made: Manifest, keep: int
) -> tuple[tuple[Manifest, ...], tuple[Manifest, ...]] | None:
    """Enter a snapshot into the catalogue; what is kept then, newest first, and what is not.

    With it goes up to where the stream may be trimmed, in one message that is only stored if nobody
    else's came first. So nobody trims what a snapshot needs that is entered at the same time.

    Returns:
        None if the stream may be trimmed already where the snapshot needs it.

    Raises:
        StorageError: others did so all the time.
    """
    for _ in range(_TRIES):
        listed = shelf.listed()
        if made.needs < listed.floor:
            return None
        # By how far they reach: whoever was slow may be late with an older one.
        known = sorted((made, *listed.snapshots), key=_reach, reverse=True)
        kept, dropped = tuple(known[:keep]), tuple(known[keep:])
        floor = max(listed.floor, min(one.needs for one in kept))
        if made in dropped or shelf.publish(kept, listed.last, floor):
            return kept, tuple(one for one in dropped if one == made or made in kept)
    raise _outrun()


def _outrun() -> StorageError:
    return StorageError("others enter snapshots of the swarm all the time: this one is not kept")


def _reach(snapshot: Manifest) -> tuple[int, int]:
    return snapshot.sequence, snapshot.created_at


def _link_graphs(vectors: Path, directory: Path) -> dict[str, Path]:
    """Saved graphs, which are replaced and never changed: linked, so that none goes meanwhile.

    Before the base is taken, so that they are of no more rows than that.
    """
    found: dict[str, Path] = {}
    for path in sorted(vectors.glob("*.hnsw"))[:_MOST_GRAPHS]:
        try:
            (directory / path.name).hardlink_to(path)
        except FileNotFoundError:
            continue  # replaced by one that covers it
        found[GRAPH_PREFIX + path.name] = directory / path.name
    return found


def _freeze(engine: Engine, directory: Path) -> tuple[BaseHeader, Origin]:
    snapshot = engine.opened.cold.snapshot()
    try:
        origin = load_origin(snapshot)
        if origin is None:
            raise StorageError("this replica has followed nothing of the stream yet")
        list_values(directory, snapshot)
        return save_base(directory, snapshot, engine.opened.files), origin
    finally:
        snapshot.close()


def list_values(directory: Path, snapshot: Snapshot) -> Path:
    """Write the list of value files that a snapshot needs; its path. Raises OSError."""
    path = directory / VALUES
    write_list(path, (reference for reference, _ in filed_versions(snapshot)))
    return path


def listed(link: Link) -> list[SwarmSnapshot]:
    """The snapshots that a new node could begin with, newest first. Blocks."""
    return [to_record(one) for one in Shelf(link).listed().snapshots]


def verify(link: Link, id_: str) -> SwarmSnapshot:
    """Read a snapshot, all of it; see `MemorySystem.verify_snapshot`. Blocks."""
    shelf = Shelf(link)
    one = next((one for one in shelf.listed().snapshots if one.id == id_), None)
    if one is not None:
        try:
            shelf.verify(one)
        except CorruptionError:
            if shelf.is_kept(one):
                raise
        else:
            return to_record(one)
    raise InvalidInputError(f"there is no snapshot {id_!r} in the swarm's catalogue")


def verify_all(link: Link, told: Callable[[str, int, int], None]) -> Verification:
    """Read all snapshots of the catalogue, each to its end or to where it is damaged. Blocks.

    Args:
        link: Of any node that may read them.
        told: Is told `(what, done, total)`, in bytes.

    Raises:
        DisconnectedError: no server answers.
        PermissionDeniedError: this node may not ask.
    """
    shelf = Shelf(link)
    snapshots = shelf.listed().snapshots
    read: list[str] = []
    found = Verification(link.name, snapshots=read)
    if not snapshots:
        found.warnings.append(
            "no snapshot was shared: a new node reads the stream from its beginning"
        )
        return found
    found.revision, found.sequence = snapshots[0].revision, snapshots[0].sequence
    done, total = 0, sum(one.size for one in snapshots)
    for one in snapshots:
        told("snapshots", done, total)
        try:
            shelf.verify(one)
        except CorruptionError as error:
            if shelf.is_kept(one):
                found.damage.append(str(error))
                read.append(one.id)
            else:
                found.warnings.append(f"snapshot {one.id} was dropped while it was read")
        else:
            found.snapshot_bytes += one.size
            read.append(one.id)
        done += one.size
    return found


def to_record(snapshot: Manifest) -> SwarmSnapshot:
    """What callers are told of a snapshot."""
    return SwarmSnapshot(
        snapshot.id,
        snapshot.revision,
        to_datetime(snapshot.recorded_at),
        to_datetime(snapshot.created_at),
        snapshot.size,
        snapshot.message,
    )
