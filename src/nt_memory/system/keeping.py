"""Keeping a store: copies of it, exports, compaction."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from nt_memory.errors import InvalidInputError
from nt_memory.system.exporting import export_live

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from nt_memory.records import Compaction, Export, Shared, SwarmSnapshot
    from nt_memory.system.engine import Engine
    from nt_memory.system.exporting import Format


class KeepingCalls:
    """The calls that keep a store in shape; `MemorySystem` inherits them."""

    _engine: Engine

    async def snapshot(self, path: str | os.PathLike[str]) -> None:
        """Copy the store, while it is in use, to a directory that is missing or empty.

        Everything acknowledged before the call is in the copy. Opening the copy rebuilds its views.
        Value files never change, so on the same file system the copy shares them (hard links).

        Raises:
            ForeignStoreError: the target holds something already.
            OSError: it cannot be written.
        """
        await self._engine.maintenance.copy(path)

    async def share_snapshot(self, *, keep: int = 2) -> Shared:
        """Let new nodes of the cluster begin with this node's replica, and trim the swarm's stream.

        Everything committed before the call is in the snapshot. It is stored with the servers, read
        back, and only then named, so it is there whole or not at all. Then the snapshots go that are
        not among the newest `keep`, and with them all messages of the stream before the oldest of
        those. Nodes that are at work keep what they have. One that had not followed so far begins
        with a snapshot when it is opened again.

        A node that began with a snapshot knows every version that history and retention keep, so
        reads as of a *time* are the same on all nodes. The order of entries before the snapshot it does
        not know: `tail`, `watch(after=)` and `as_of=<revision>` raise `TrimmedError` there, as
        after `compact`.

        Args:
            keep: How many snapshots are kept, this one included; at least 1. With more than one
                there is another to begin with when the newest is damaged.

        Returns:
            What was shared, and what was removed.

        Raises:
            UnsupportedError: this is no node of a cluster.
            InvalidInputError: `keep` is not positive.
            PermissionDeniedError: this node's credentials are not the operator's.
            DisconnectedError: no server answers.
            CorruptionError: what the servers have is not what was sent; nothing was removed.
            StorageFullError: no space is left, here or with the servers.
            StorageError: a file operation failed, or the servers refuse.

        Cost: writes a base, sends and reads it back, on another thread; see
            `docs/how-to/deploy.md`. Cancelled, it goes on to its end.
        """
        self._engine.check_usable()
        if not isinstance(keep, int) or keep < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(f"keep is a number of snapshots, at least 1, not {keep!r}")
        return await self._engine.maintenance.share(keep)

    async def shared_snapshots(self) -> list[SwarmSnapshot]:
        """The snapshots that a new node of the cluster could begin with, newest first.

        Raises:
            UnsupportedError: this is no node of a cluster.
            DisconnectedError: no server answers.
            PermissionDeniedError: the servers do not let this node ask.
        """
        self._engine.check_usable()
        link = self._engine.maintenance.link()
        from nt_memory.system.sharing import listed  # noqa: PLC0415 - an extra

        return await asyncio.to_thread(listed, link)

    async def verify_snapshot(self, snapshot_id: str) -> SwarmSnapshot:
        """Read a shared snapshot, all of it, and hold it against its checksums.

        Raises:
            UnsupportedError: this is no node of a cluster.
            InvalidInputError: the catalogue has no such snapshot.
            CorruptionError: it is damaged or incomplete; the message says where.
            DisconnectedError: no server answers.
            PermissionDeniedError: the servers do not let this node ask.
        """
        self._engine.check_usable()
        link = self._engine.maintenance.link()
        from nt_memory.system.sharing import verify  # noqa: PLC0415 - an extra

        return await asyncio.to_thread(verify, link, snapshot_id)

    async def export(
        self,
        path: str | os.PathLike[str],
        *,
        format: Format | None = None,  # noqa: A002 - the word users know
        agents: Iterable[str] = (),
    ) -> Export:
        """Write all that the store holds, as of one revision, in a form that others can read.

        Everything acknowledged before the call is in it. Reads and writes go on meanwhile;
        `import_store` makes the same store of it again.

        Args:
            path: A file that does not exist yet, for JSON Lines (compressed if it ends with
                `.zst`); or a directory that does not exist yet, for Parquet.
            format: "jsonl" or "parquet"; None: "parquet" if the path ends with `.parquet`.
            agents: Only versions of these agents; for reading, it cannot be imported.

        Raises:
            InvalidInputError: there is something at the path, or an agent's name is malformed.
            CorruptionError: the views are damaged; nothing is left at the path.
            StorageFullError: no space is left.
            StorageError: the path cannot be written.
            UnsupportedError: Parquet needs `nt-memory[parquet]`.

        Cost: about 30 s a million rows, on another thread, which takes turns with the event loop:
            where latency counts, use `nt-memory export` in another process.
        """
        await self._engine.flush()
        return await export_live(self._engine, path, format=format, agents=agents)

    async def compact(self) -> Compaction:
        """Move the base forward: what the journal says up to now goes into one checksummed file,
        the journal before it is deleted, and the views are written anew without the holes that
        dropped versions left. Reads and writes go on meanwhile.

        No version is lost that history and retention keep: reads as of a *time* go on as before.
        The order of entries before the base is: `tail`, `watch(after=)` and `as_of=<revision>`
        raise `TrimmedError` there. Views, scans and feeds that are open hold back what they may
        still ask for, each for ten minutes at most.

        Value files that nothing refers to any more are deleted too.

        Called while a compaction runs, it waits for that one. Cancelled, the compaction goes on.

        Returns:
            How far the base reaches, and what the store gave back to the file system.

        Raises:
            StorageFullError: there is no space for the new base and views, about the size of the
                old ones; nothing was dropped.
            CorruptionError: the views are damaged; nothing was dropped. See `repair`.
            ReadOnlyError: the memory was opened read-only.
            StorageError: a file operation failed.

        Cost: about 10 s a million rows, on other threads; the journal stands still for
            milliseconds while the new views are put in place.
        """  # noqa: D205
        return await self._engine.maintenance.compact()
