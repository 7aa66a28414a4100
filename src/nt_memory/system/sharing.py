"""`share_snapshot`: a node's replica as a snapshot that others can begin with, and the stream trimmed behind.

A base of what one read transaction shows is written beside the replica, sent, read back, and only
then named in the catalogue; with it go the saved graphs of the vectors, so that whoever begins with
them need not build them. Then, and in this order: snapshots that are no longer kept lose their
pieces, and the stream its messages before the oldest that is kept. Whatever is interrupted in
between leaves the stream longer than it has to be, and nothing less.
"""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING, Final

from nt_memory.clock import to_datetime
from nt_memory.entries.origins import first_needed
from nt_memory.errors import InvalidInputError, PermissionDeniedError, StorageError
from nt_memory.records import Shared, SwarmSnapshot
from nt_memory.replica import load_origin
from nt_memory.system.baseline import save_base
from nt_memory.system.beginning import BASE, GRAPH_PREFIX
from nt_memory.system.opening import SHARE_NEW
from nt_memory.transport.basefile import base_path
from nt_memory.transport.files import to_storage_error
from nt_memory.transport.nats.catalogue import Manifest, Part, new_id
from nt_memory.transport.nats.snapshots import Shelf

if TYPE_CHECKING:
    from pathlib import Path

    from nt_memory.entries.origins import Origin
    from nt_memory.system.engine import Engine
    from nt_memory.transport.basefile import BaseHeader
    from nt_memory.transport.nats.link import Link

_MOST_GRAPHS: Final = 1024
"""So many files go into one line of the catalogue, which is a message. The others are built anew."""
_TRIES: Final = 20


def share(engine: Engine, link: Link, keep: int) -> Shared:
    """Share a snapshot of an engine's replica; see `MemorySystem.share_snapshot`. Blocks.

    Nothing may be compacted meanwhile.
    """
    directory = engine.opened.directory.path / SHARE_NEW
    shutil.rmtree(directory, ignore_errors=True)
    try:
        directory.mkdir()
        with contextlib.suppress(StorageError, OSError):
            engine.vectors.save()  # or who begins with it builds more of them
        graphs = _link_graphs(engine.opened.directory.vectors, directory)
        header, origin = _freeze(engine, directory)
        shelf = Shelf(link)
        id_ = new_id(engine.clock.now_us())
        files = {BASE: base_path(directory, header.sequence), **graphs}
        parts = shelf.put(id_, files)
    except PermissionDeniedError:  # which is an OSError, too
        raise
    except OSError as error:
        raise to_storage_error(error, f"sharing {directory.parent}") from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    made = describe(id_, origin, header, parts)
    kept, dropped = enter(shelf, made, keep)
    shelf.sweep(dropped, kept, engine.clock.now_us())
    return Shared(to_record(made), len(dropped), _trim(shelf))


def _trim(shelf: Shelf) -> int:
    """Remove what no snapshot needs that is in the catalogue now; how many messages.

    Another node that enters an older snapshot in this very moment may find the messages behind it
    gone: whoever joins passes such a one over, and begins with the newest, which is always whole.
    """
    return shelf.trim(min(one.needs for one in shelf.listed().snapshots))


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
) -> tuple[tuple[Manifest, ...], tuple[Manifest, ...]]:
    """Enter a snapshot into the catalogue; what is kept then, newest first, and what is not.

    Raises:
        StorageError: others did so all the time.
    """
    for _ in range(_TRIES):
        listed = shelf.listed()
        # By how far they reach: whoever was slow may be late with an older one.
        known = sorted((made, *listed.snapshots), key=_reach, reverse=True)
        kept, dropped = tuple(known[:keep]), tuple(known[keep:])
        if made in dropped or shelf.publish(kept, listed.last):
            return kept, tuple(one for one in dropped if one == made or made in kept)
    raise StorageError("others enter snapshots of the swarm all the time: this one is not kept")


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
        return save_base(directory, snapshot, engine.opened.files), origin
    finally:
        snapshot.close()


def listed(link: Link) -> list[SwarmSnapshot]:
    """The snapshots that a new node could begin with, newest first. Blocks."""
    return [to_record(one) for one in Shelf(link).listed().snapshots]


def verify(link: Link, id_: str) -> SwarmSnapshot:
    """Read a snapshot, all of it; see `MemorySystem.verify_snapshot`. Blocks."""
    shelf = Shelf(link)
    for one in shelf.listed().snapshots:
        if one.id == id_:
            shelf.verify(one)
            return to_record(one)
    raise InvalidInputError(f"there is no snapshot {id_!r} in the swarm's catalogue")


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
