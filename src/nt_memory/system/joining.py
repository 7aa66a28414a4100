"""Opening a node of a cluster: connect, claim a directory for its replica, and catch up with the stream.

Replicas are in `<storage_path>.nodes/<swarm>-<identity of its stream>/<number>`. A process takes the
first that no other uses, and goes on from what that has; so many processes of one machine may be
started from one place, and none has to be given a name. A new one begins with a snapshot, if there is
one (`beginning`).
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from nt_memory.entries import Configure
from nt_memory.errors import CorruptionError, StoreInUseError
from nt_memory.replica import load_publishers
from nt_memory.system.auditing import DIVERGED
from nt_memory.system.beginning import JOINING, begin, finish
from nt_memory.system.opening import apply_frames, open_writer
from nt_memory.transport.directory import StoreDirectory
from nt_memory.transport.nats.address import Credentials, parse_url
from nt_memory.transport.nats.blobs import Blobs
from nt_memory.transport.nats.journal import NatsJournal
from nt_memory.transport.nats.link import Link
from nt_memory.transport.nats.publishing import PATIENCE_S
from nt_memory.transport.nats.snapshots import Shelf
from nt_memory.transport.nats.streams import make_streams
from nt_memory.transport.nats.subjects import Subjects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nt_memory.clock import StoreClock
    from nt_memory.config import MemoryConfig
    from nt_memory.system.opened import Opened
    from nt_memory.transport.ports import Frame

_log = logging.getLogger(__name__)


def open_node(config: MemoryConfig, clock: StoreClock) -> Opened:
    """Connect to `config.url`, and open this node's replica. Blocks until it has caught up.

    A replica that the stream no longer reaches back to is given up for one that begins with a
    snapshot.

    Raises:
        DisconnectedError: no server could be reached, or none that leads.
        PermissionDeniedError: the servers refuse these credentials, or what they are used for.
        StorageError: and its subclasses; see `MemorySystem.open`. No snapshot is good, and the stream
            was trimmed.
    """
    try:
        return _open(config, clock, None)
    except _BehindError as behind:
        opened = _open(config, clock, behind.path)
        _remove(behind.path, clock)
        return opened


class _BehindError(Exception):
    """The stream no longer has what the replica at `path` needs next."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path


def connect(config: MemoryConfig) -> Link:
    """A connection to the servers of `config.url`, open.

    Raises:
        DisconnectedError, PermissionDeniedError, InvalidInputError: see `Link.open`.
    """
    assert config.url is not None  # noqa: S101 - or nobody would call this
    link = Link(
        config.url,
        Subjects(config.swarm),
        agent=config.agent,
        credentials=Credentials(
            file=config.credentials_file,
            nkey_file=config.nkey_file,
            ca_file=config.tls_ca_file,
            cert_file=config.tls_cert_file,
            key_file=config.tls_key_file,
        ),
    )
    link.open()
    return link


def _open(config: MemoryConfig, clock: StoreClock, passed_over: Path | None) -> Opened:
    assert config.url is not None  # noqa: S101 - or nobody would call this
    parse_url(config.url)
    link = connect(config)
    try:
        identity = make_streams(link, PATIENCE_S)
        directory = _claim(config, identity, clock, passed_over)
        try:
            begin(directory, Shelf(link, PATIENCE_S), identity)
            opened = open_writer(
                config,
                clock,
                directory,
                lambda directory, applied: NatsJournal(
                    directory.journal,
                    link=link,
                    stream=identity,
                    values=directory.values,
                    clock=clock,
                    applied_sequence=applied,
                    patience_s=PATIENCE_S,
                ),
            )
        except BaseException:
            directory.close()
            raise
    except BaseException:
        link.close()
        raise
    try:
        if (directory.path / JOINING).exists():
            finish(opened, Blobs(link))
        _catch_up(config, opened, link, is_last_try=passed_over is not None)
    except BaseException:
        opened.abandon()
        raise
    return opened


def nodes_of(config: MemoryConfig, identity: str) -> Path:
    """Where replicas of a swarm are on this machine."""
    return Path(f"{os.fspath(config.storage_path)}.nodes") / f"{config.swarm}-{identity}"


def _claim(
    config: MemoryConfig, identity: str, clock: StoreClock, passed_over: Path | None
) -> StoreDirectory:
    root = nodes_of(config, identity)
    # One that is there has less to catch up with than a new one.
    there = sorted(int(path.name) for path in root.glob("*") if path.name.isdecimal())
    others = (number for number in itertools.count() if number not in there)
    for number in itertools.chain(there, others):
        if (path := root / str(number)) == passed_over or (path / DIVERGED).exists():
            continue
        try:
            return StoreDirectory(path, clock=clock)
        except StoreInUseError:
            continue
    raise AssertionError  # pragma: no cover


def _remove(path: Path, clock: StoreClock) -> None:
    """Remove a replica that another has taken the place of, unless somebody has it open."""
    try:
        directory = StoreDirectory(path, clock=clock)
    except StoreInUseError:
        return
    try:
        shutil.rmtree(path)
    except OSError as error:
        _log.warning("%s: what is left of a replica could not be removed: %s", path, error)
    finally:
        directory.close()


def _catch_up(config: MemoryConfig, opened: Opened, link: Link, *, is_last_try: bool) -> None:
    journal = opened.journal
    assert isinstance(journal, NatsJournal)  # noqa: S101 - `open_node` made it
    replica = opened.replica
    wanted = journal.begins_with(replica.origin)
    first, _ = Shelf(link, PATIENCE_S).bounds()
    if first > wanted:
        if replica.origin is not None and not is_last_try:
            raise _BehindError(opened.directory.path)
        raise CorruptionError(
            f"{link.name}: the swarm's stream begins with message {first}, this node needs {wanted}, "
            "and no snapshot in between is good"
        )
    snapshot = opened.cold.snapshot()
    try:
        journal.follow(replica.origin, load_publishers(snapshot))
    finally:
        snapshot.close()
    apply = functools.partial(_apply, opened)
    journal.catch_up(apply)
    if not replica.is_configured:
        settings = Configure(config.swarm, config.timeline, config.history)
        journal.configure(settings, apply)


def _apply(opened: Opened, frames: Sequence[Frame]) -> None:
    apply_frames(opened.replica, list(frames))
