"""L3: the views of the journal, in LMDB.

Problem: every read has to be a point-in-time read, and the current value is only its most common
case. So there is no table of latest values beside the history; there is one table of versions,
ordered so that the version in force at any moment is one cursor seek away. Measured on two cores
over 100,000 keys: 0.38 us for that seek, 0.32 us for a plain get, so the second table would have
bought 0.06 us and cost a second write per put.

The environment is opened without LMDB's own fsync: the journal is durable and repeats what the
operating system lost. Its address space is reserved at open and never resized, because resizing
under a live reader ends in SIGBUS. Reads return copies: a page may not outlive its transaction.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb

from nt_memory.errors import (
    ClosedError,
    CorruptionError,
    StorageError,
    StorageFullError,
    StoreInUseError,
)
from nt_memory.tiers.tables import TABLES
from nt_memory.tiers.views import Snapshot, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Generator

MAX_READERS = 126
_LITTLE_SPACE_BYTES = 1 << 20
_DATA = "data.mdb"
_FILES = (".", _DATA, "lock.mdb")
# What LMDB says of pages that are not what their place in the tree wants.
_DAMAGED = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.BadTxnError,
    lmdb.BadValsizeError,
    lmdb.CursorFullError,
    lmdb.IncompatibleError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
)

# LMDB's locks are per process: opening an environment twice in one process breaks them. So a
# reader beside the writer, in the same process, is given the writer's environment; and because the
# writer may come later, a reader that no writer of another process is beside opens one that could be
# written to, where it may, and never does. Beside one it must not: see `_Environment`.
_sharing = threading.Lock()


class _Environment:
    """An open environment, its tables, which file it is, and how many tiers of this process use it.

    The tables are opened here and once: where writing is allowed that takes LMDB's writer lock, which
    it waits for without letting other threads run, so beside a write transaction it never returns.
    """

    def __init__(self, env: Any, inode: int, *, read_only: bool) -> None:
        self.env = env
        self.inode = inode
        self.users = 0
        self.writer = threading.Lock()
        """Held by the write transaction that is open."""
        self.tables = {name: env.open_db(name, create=not read_only) for name in TABLES}


_shared: dict[str, _Environment] = {}


def _share(path: str, max_map_bytes: int, *, read_only: bool, is_alone: bool) -> _Environment:
    with _sharing:
        shared = _shared.get(path)
        if shared is not None and shared.inode != _inode(path):
            shared = None  # these files were replaced; who still reads them keeps them
        if shared is not None and not read_only and shared.env.flags()["readonly"]:
            raise StoreInUseError(f"{path}: a reader in this process has it open")
        if shared is None:
            shared = _shared[path] = _new(
                path, max_map_bytes, read_only=read_only, is_alone=is_alone
            )
        shared.users += 1
        return shared


def _new(path: str, max_map_bytes: int, *, read_only: bool, is_alone: bool) -> _Environment:
    if read_only and is_alone and all(os.access(Path(path) / name, os.W_OK) for name in _FILES):
        with contextlib.suppress(lmdb.Error):
            return _new(path, max_map_bytes, read_only=False, is_alone=True)
    env = _open(path, max_map_bytes, read_only=read_only)
    try:
        return _Environment(env, _inode(path), read_only=read_only)
    except BaseException:
        env.close()
        raise


def _open(path: str, max_map_bytes: int, *, read_only: bool) -> Any:
    # On a file system that nobody can write to, readers need no protection, and can take no lock.
    return lmdb.open(
        path,
        map_size=max_map_bytes,
        max_dbs=len(TABLES),
        max_readers=MAX_READERS,
        max_spare_txns=4,
        readonly=read_only,
        lock=not (read_only and _is_read_only(path)),
        sync=False,
        metasync=False,
        readahead=False,
        meminit=False,
    )


def _is_read_only(path: str) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _inode(path: str) -> int:
    try:
        return (Path(path) / _DATA).stat().st_ino
    except OSError:
        return 0


def _unshare(shared: _Environment) -> None:
    with _sharing:
        shared.users -= 1
        if shared.users:
            return
        for path in [path for path, other in _shared.items() if other is shared]:
            del _shared[path]
        shared.env.close()


def has_views(directory: Path) -> bool:
    """Whether there is an environment in a directory, whatever state it is in."""
    return (directory / _DATA).exists()


class ColdTier:
    """The LMDB environment of one store.

    Args:
        directory: Where its files are; made when missing.
        max_map_bytes: Address space to reserve.
        read_only: Open as a reader beside the process that writes.
        is_alone: No other process writes; a writer of this one may then come later.

    Raises:
        CorruptionError: the files are no LMDB environment; the journal can rebuild them.
        StorageError: they cannot be opened.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_map_bytes: int,
        read_only: bool = False,
        is_alone: bool = False,
    ) -> None:
        if not read_only:
            directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._is_closed = False
        self._batch: WriteBatch | None = None
        try:
            self._shared = _share(
                str(directory.resolve()), max_map_bytes, read_only=read_only, is_alone=is_alone
            )
            self._env = self._shared.env
            self._tables = self._shared.tables
        except _DAMAGED as error:
            raise CorruptionError(f"{directory}: not a readable view: {error}") from error
        except lmdb.ReadersFullError as error:
            raise StoreInUseError(f"{directory}: too many readers: {error}") from error
        except lmdb.Error as error:
            if read_only and not has_views(directory):
                raise StorageError(
                    f"{directory}: there are no views yet; open the store for writing once, which "
                    "makes them"
                ) from error
            raise StorageError(f"{directory}: {error}") from error
        if not read_only:
            self._env.reader_check()

    def snapshot(self) -> Snapshot:
        """Reads as of the last committed batch. Callable from any thread."""
        return Snapshot(self._tables, self._env.begin())

    @contextlib.contextmanager
    def reading(self) -> Generator[Snapshot]:
        """A snapshot for a thread that nobody waits for: the files stay open under it, whoever closes them.

        Raises:
            ClosedError: they were closed before.
            CorruptionError, StorageError: LMDB cannot read.
        """
        shared = self._shared
        with _sharing:
            if self._is_closed:
                raise ClosedError("the views were closed")
            shared.users += 1
        try:
            with contextlib.closing(self.snapshot()) as snapshot:
                yield snapshot
        except lmdb.Error as error:
            raise self.explain(error) from error
        finally:
            _unshare(shared)

    def begin(self) -> WriteBatch:
        """Start a write transaction; end it with `commit` or `close`, on the same thread.

        Raises:
            StorageError: one is open already: LMDB would wait until it ends, and nobody may be left
                who ends it. Or LMDB could not start one.
        """
        writer = self._shared.writer
        if not writer.acquire(blocking=False):
            raise StorageError(f"{self._directory}: a write transaction is open already")
        try:
            batch = WriteBatch(self._tables, self._env.begin(write=True), self._end_batch)
        except BaseException as error:
            writer.release()
            explained = self.explain(error)
            if explained is error:
                raise
            raise explained from error
        self._batch = batch
        return batch

    def _end_batch(self) -> None:
        self._batch = None
        self._shared.writer.release()

    def commit(self, batch: WriteBatch) -> None:
        """Make a batch visible to later snapshots.

        Raises:
            StorageFullError: no space is left; the batch is gone, and may be tried again.
            StorageError: LMDB could not write it; the views must be reopened.
        """
        try:
            batch.commit()
        except lmdb.Error as error:
            raise self.explain(error) from error

    def explain(self, error: BaseException) -> BaseException:
        """The store's word for an error of LMDB; any other error as it is."""
        if isinstance(error, lmdb.MapFullError):
            return StorageError(
                f"{self._directory}: the views have reached max_map_bytes; reopen with a larger one"
            )
        if not isinstance(error, lmdb.Error):
            return error
        if isinstance(error, _DAMAGED):
            return CorruptionError(f"{self._directory}: the views are damaged: {error}")
        message = f"{self._directory}: views could not be written: {error}"
        is_full = any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EDQUOT))
        # A page of which only a part fitted is an I/O error to LMDB.
        is_cut = os.strerror(errno.EIO) in str(error) and self._has_little_space()
        return StorageFullError(message) if is_full or is_cut else StorageError(message)

    def _has_little_space(self) -> bool:
        found = os.statvfs(self._directory)
        return found.f_bavail * found.f_frsize < _LITTLE_SPACE_BYTES

    def check_readers(self) -> int:
        """Drop the slots of readers whose process died; how many there were."""
        return int(self._env.reader_check())

    @property
    def is_in_place(self) -> bool:
        """Whether the files that are open are still those of the directory."""
        return _inode(str(self._directory)) == self._shared.inode

    @property
    def size_bytes(self) -> int:
        """Bytes of pages in use."""
        info, stat = self._env.info(), self._env.stat()
        return int((info["last_pgno"] + 1) * stat["psize"])

    def sync(self) -> None:
        """Write everything to disk."""
        self._env.sync(True)  # noqa: FBT003 - lmdb's own signature

    def close(self) -> None:
        """Close the environment. All snapshots must be closed first. Idempotent.

        A batch that was left open is dropped; the thread that began it must have ended, or be this.
        """
        if not self._is_closed:
            self._is_closed = True
            if self._batch is not None:
                # LMDB would wait for that thread to end it.
                self._batch.close()
            _unshare(self._shared)

    def move(self, directory: Path) -> None:
        """Rename the directory, which nothing may be at, and go on from there.

        Raises:
            StorageError: it could not be renamed.
        """
        with _sharing:
            try:
                source, target = str(self._directory.resolve()), str(directory.resolve())
                self._directory.rename(directory)
            except OSError as error:
                raise StorageError(f"renaming {self._directory}: {error}") from error
            # Whoever opens the old place next must not be given these files.
            _shared[target] = _shared.pop(source)
            self._directory = directory
