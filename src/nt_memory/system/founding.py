"""`import_store` into a cluster: a swarm that begins with what an export holds.

The export is imported into a directory of this machine, as if for an embedded store, and the base that
this makes becomes the swarm's first snapshot: one that reaches to before the stream's first message.
It is named in that very message, which the servers store only while the stream is empty. So either
the swarm begins with the import, for all its nodes alike, or with whatever else was first; never
with both.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import msgspec

from nt_memory.clock import StoreClock, SystemClock
from nt_memory.config import MemoryConfig
from nt_memory.entries import Configure
from nt_memory.entries.origins import Origin
from nt_memory.errors import ForeignStoreError, InvalidInputError, PermissionDeniedError
from nt_memory.replica import found
from nt_memory.system.baseline import save_base
from nt_memory.system.beginning import BASE
from nt_memory.system.joining import connect, nodes_of
from nt_memory.system.opening import SHARE_NEW, open_store
from nt_memory.system.sharing import describe, list_values
from nt_memory.transport.basefile import base_path
from nt_memory.transport.files import to_storage_error
from nt_memory.transport.nats.blobs import Blobs
from nt_memory.transport.nats.catalogue import Manifest, new_id
from nt_memory.transport.nats.leftovers import VALUES
from nt_memory.transport.nats.publishing import PATIENCE_S
from nt_memory.transport.nats.snapshots import Shelf
from nt_memory.transport.nats.streams import make_streams
from nt_memory.transport.values import parse_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nt_memory.records import Import
    from nt_memory.tiers.cold import ColdTier
    from nt_memory.transport.nats.link import Link

_IMPORTING = "importing"


def found_swarm(config: MemoryConfig, make: Callable[[Path], Import]) -> Import:
    """Begin a swarm with an export; see `import_store`.

    Args:
        config: Of a node.
        make: Imports the export into a directory.

    Raises:
        ForeignStoreError: the swarm has begun already.
        DisconnectedError, PermissionDeniedError: as `open_node`; only the operator may.
        As `make`.
    """
    link = connect(config)
    try:
        identity = make_streams(link, PATIENCE_S)
        shelf = Shelf(link)
        _check_empty(config, link, shelf)
        directory = nodes_of(config, identity) / _IMPORTING
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            done = make(directory)
            made = _send(config, link, shelf, directory, identity)
            if not shelf.publish((made,), 0):
                shelf.sweep((made,), (), made.created_at)
                _check_empty(config, link, shelf)
            shutil.rmtree(directory)
        except PermissionDeniedError:  # which is an OSError, too
            raise
        except OSError as error:
            raise to_storage_error(error, f"importing in {directory}") from error
        return done
    finally:
        link.close()


def _check_empty(config: MemoryConfig, link: Link, shelf: Shelf) -> None:
    if shelf.bounds()[1]:
        raise ForeignStoreError(
            f"{link.name}: swarm {config.swarm!r} has begun already: import into one that nobody has "
            "opened yet"
        )


def _send(
    config: MemoryConfig, link: Link, shelf: Shelf, directory: Path, identity: str
) -> Manifest:
    """Store base and value files with the servers; the catalogue's line about them."""
    clock = SystemClock()
    opened = open_store(
        MemoryConfig(storage_path=directory, max_map_bytes=config.max_map_bytes),
        StoreClock(clock),
        read_only=False,
    )
    scratch = directory / SHARE_NEW
    try:
        origin = Origin(identity, 0, opened.replica.sequence, 0)
        _found(opened.cold, origin, config.swarm)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        snapshot = opened.cold.snapshot()
        try:
            header = save_base(scratch, snapshot, opened.files)
            values = list_values(scratch, snapshot)
        finally:
            snapshot.close()
        _send_values(Blobs(link), opened.directory.values)
        id_ = new_id(clock.now_us())
        parts = shelf.put(id_, {BASE: base_path(scratch, header.sequence), VALUES: values})
        return describe(id_, origin, header, parts)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        opened.close(is_clean=False, stop_journal=True)


def _found(cold: ColdTier, origin: Origin, swarm: str) -> None:
    """Have views say that the swarm's stream goes on from them.

    Raises:
        InvalidInputError: they are of a store that was never opened, and hold nothing.
    """
    snapshot = cold.snapshot()
    try:
        stored = snapshot.get(b"meta", b"settings")
    finally:
        snapshot.close()
    if stored is None:
        raise InvalidInputError("the export holds nothing: not even what kind of store it was")
    settings = msgspec.msgpack.decode(stored, type=Configure)
    batch = cold.begin()
    try:
        found(batch, origin, msgspec.structs.replace(settings, swarm=swarm))
        cold.commit(batch)
    except BaseException:
        batch.close()
        raise


def _send_values(blobs: Blobs, values: Path) -> None:
    for path in sorted(values.iterdir()):
        if parse_name(path.name) is not None:
            blobs.put_file("", path)
