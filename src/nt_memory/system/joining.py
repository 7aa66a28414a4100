"""Opening a node of a cluster: connect, claim a directory for its replica, and catch up with the stream.

Replicas are in `<storage_path>.nodes/<swarm>-<identity of its stream>/<number>`. A process takes the
first that no other uses, and goes on from what that has; so many processes of one machine may be
started from one place, and none has to be given a name.
"""

from __future__ import annotations

import functools
import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from nt_memory.entries import Configure
from nt_memory.errors import StoreInUseError
from nt_memory.replica import load_publishers
from nt_memory.system.opening import apply_frames, open_writer
from nt_memory.transport.directory import StoreDirectory
from nt_memory.transport.nats.address import Credentials, parse_url
from nt_memory.transport.nats.journal import NatsJournal
from nt_memory.transport.nats.link import Link
from nt_memory.transport.nats.publishing import PATIENCE_S
from nt_memory.transport.nats.streams import make_streams
from nt_memory.transport.nats.subjects import Subjects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nt_memory.clock import StoreClock
    from nt_memory.config import MemoryConfig
    from nt_memory.system.opened import Opened
    from nt_memory.transport.ports import Frame


def open_node(config: MemoryConfig, clock: StoreClock) -> Opened:
    """Connect to `config.url`, and open this node's replica. Blocks until it has caught up.

    Raises:
        DisconnectedError: no server could be reached, or none that leads.
        PermissionDeniedError: the servers refuse these credentials, or what they are used for.
        StorageError: and its subclasses; see `MemorySystem.open`.
    """
    assert config.url is not None  # noqa: S101 - or nobody would call this
    parse_url(config.url)
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
    try:
        link.open()
        identity = make_streams(link, PATIENCE_S)
        directory = _claim(config, identity, clock)
        try:
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
        _catch_up(config, opened)
    except BaseException:
        opened.abandon()
        raise
    return opened


def _claim(config: MemoryConfig, identity: str, clock: StoreClock) -> StoreDirectory:
    root = Path(f"{os.fspath(config.storage_path)}.nodes") / f"{config.swarm}-{identity}"
    for number in itertools.count():
        try:
            return StoreDirectory(root / str(number), clock=clock)
        except StoreInUseError:
            continue
    raise AssertionError  # pragma: no cover


def _catch_up(config: MemoryConfig, opened: Opened) -> None:
    journal = opened.journal
    assert isinstance(journal, NatsJournal)  # noqa: S101 - `open_node` made it
    replica = opened.replica
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
