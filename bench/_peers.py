"""Other stores and caches, each set as its own documentation recommends; what is missing is said."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import sqlite3
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Get = Callable[[str], Any]

SIZE = 100_000
TTL_S = 3_600.0
SQLITE_TIMEOUT_S = 60.0


@dataclass
class Burst:
    """What writers did in one burst: seconds of each write, and of the whole."""

    samples: list[float] = field(default_factory=list)
    elapsed_s: float = 0.0

    def add(self, other: Burst) -> None:
        """Count another burst of the same writers in."""
        self.samples += other.samples
        self.elapsed_s += other.elapsed_s

    @property
    def rate(self) -> float:
        """Writes a second."""
        return len(self.samples) / self.elapsed_s


def missing(module: str) -> str | None:
    """Why a peer cannot be measured here; None if it can."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        return f"{module} is not installed ({error}): pip install -c constraints.txt -e '.[bench]'"
    return None


# --- durable stores --------------------------------------------------------------------------------


@contextlib.contextmanager
def lmdb_store(path: Path, _writers: int) -> Iterator[Callable[[], Any]]:
    """LMDB with its defaults, which fsync data and meta page in every commit; one commit a put."""
    import lmdb  # noqa: PLC0415 - a peer

    env = lmdb.open(str(path), map_size=1 << 34, max_spare_txns=1)

    def put(key: str, value: dict[str, Any]) -> None:
        with env.begin(write=True) as txn:
            txn.put(key.encode(), msgspec.msgpack.encode(value))

    try:
        yield lambda: put
    finally:
        env.close()


@contextlib.contextmanager
def diskcache_store(path: Path, _writers: int) -> Iterator[Callable[[], Any]]:
    """diskcache; its default (synchronous=NORMAL) may lose writes at power loss, FULL does not."""
    import diskcache  # noqa: PLC0415 - a peer

    cache = diskcache.Cache(
        str(path), sqlite_synchronous=2, eviction_policy="none", timeout=SQLITE_TIMEOUT_S
    )

    def put(key: str, value: dict[str, Any]) -> None:
        cache.set(key, value)

    try:
        yield lambda: put
    finally:
        cache.close()


@contextlib.contextmanager
def sqlite_store(path: Path, _writers: int) -> Iterator[Callable[[], Any]]:
    """SQLite: journal_mode=WAL, synchronous=FULL, a connection a thread, a transaction a put."""
    path.mkdir(parents=True, exist_ok=True)
    opened: list[sqlite3.Connection] = []

    def connect() -> Any:
        connection = sqlite3.connect(
            path / "store.db",
            timeout=SQLITE_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        opened.append(connection)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS kv (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID"
        )

        def put(key: str, value: dict[str, Any]) -> None:
            connection.execute(
                "INSERT INTO kv VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = ?2",
                (key, msgspec.msgpack.encode(value)),
            )

        return put

    try:
        yield connect
    finally:
        for connection in opened:
            connection.close()


@contextlib.contextmanager
def rocksdb_store(path: Path, _writers: int) -> Iterator[Callable[[], Any]]:
    """RocksDB by rocksdict with WriteOptions.sync.

    RocksDB groups the commits of threads that wait; the binding keeps the GIL while it waits for the
    disk, so there is only ever one, and its writers wait outside of what is timed.
    """
    import rocksdict  # noqa: PLC0415 - a peer

    db = rocksdict.Rdict(str(path), rocksdict.Options(raw_mode=True))
    options = rocksdict.WriteOptions()
    options.sync = True
    db.set_write_options(options)

    def put(key: str, value: dict[str, Any]) -> None:
        db[key.encode()] = msgspec.msgpack.encode(value)

    try:
        yield lambda: put
    finally:
        db.close()


STORES: dict[str, tuple[str, Any]] = {
    "LMDB (sync, a commit a put)": ("lmdb", lmdb_store),
    "SQLite (WAL, synchronous=FULL)": ("sqlite3", sqlite_store),
    "RocksDB (rocksdict, sync)": ("rocksdict", rocksdb_store),
    "diskcache (synchronous=FULL)": ("diskcache", diskcache_store),
}
"""What to call it: its module, and how it is opened for a number of writers."""


def append_burst(path: Path, payload: bytes, seconds: float, *, reserved: bool) -> Burst:
    """A bare loop: write the bytes and wait for the disk, in one thread.

    Args:
        path: A file; made if missing, and appended to.
        payload: What is written each time.
        seconds: How long.
        reserved: Overwrite blocks that were written before, so that the file system has no new
            size to record: less than any append can do.
    """
    burst = Burst()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | (0 if reserved else os.O_APPEND), 0o644)
    try:
        room = 16 << 20
        if reserved:
            os.pwrite(descriptor, bytes(room), 0)
            os.fsync(descriptor)
        begun = time.perf_counter()
        end, start, at = begun + seconds, begun, 0
        while start < end:
            if reserved:
                os.pwrite(descriptor, payload, at)
                at = (at + len(payload)) % (room - len(payload))
            else:
                os.write(descriptor, payload)
            os.fdatasync(descriptor)
            done = time.perf_counter()
            burst.samples.append(done - start)
            start = done
        burst.elapsed_s = start - begun
    finally:
        os.close(descriptor)
    return burst


def threads_burst(
    connect: Callable[[], Any], writers: int, seconds: float, value: dict[str, Any]
) -> Burst:
    """`writers` threads put until the time is over; what was begun is finished and counted.

    Raises:
        RuntimeError: a writer failed, with its error as the cause.
    """
    puts = [connect() for _ in range(writers)]
    for number, put in enumerate(puts):
        put(f"agent_{number}/key_0", value)
    samples: list[list[float]] = [[] for _ in range(writers)]
    failures: list[BaseException] = []
    ready = threading.Barrier(writers + 1)
    end = 0.0

    def write(number: int) -> None:
        put, mine, count = puts[number], samples[number], 0
        ready.wait()
        try:
            while (start := time.perf_counter()) < end:
                # Never twice the same: SQLite writes nothing when nothing changes.
                put(f"agent_{number}/key_{count % 50}", value | {"order": count})
                mine.append(time.perf_counter() - start)
                count += 1
        except Exception as error:  # noqa: BLE001 - raised below, in the caller's thread
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    begun = time.perf_counter()
    end = begun + seconds
    ready.wait()
    for thread in threads:
        thread.join()
    if failures:
        raise RuntimeError(f"{len(failures)} of {writers} writers failed") from failures[0]
    return Burst([sample for mine in samples for sample in mine], time.perf_counter() - begun)


# --- caches ----------------------------------------------------------------------------------------


class Caches:
    """Caches that hold the same items, each made by a method that returns its `get`.

    Args:
        directory: Where those lie that are on disk.
        items: What they hold.
    """

    def __init__(self, directory: Path, items: dict[str, Any]) -> None:
        self._directory = directory
        self._items = items

    def plain(self) -> Get:
        """A dict, for scale."""
        return dict(self._items).get

    def cachebox_lru(self) -> Get:
        """What L1 is made of."""
        import cachebox  # noqa: PLC0415 - a peer

        return self._filled_by_item(cachebox.LRUCache(SIZE))

    def cachebox_ttl(self) -> Get:
        """Judges the time at every read."""
        import cachebox  # noqa: PLC0415 - a peer

        return self._filled_by_item(cachebox.TTLCache(SIZE, TTL_S))

    def cachetools_ttl(self) -> Get:
        """Pure Python; its documentation asks for a lock around it, which is left out here."""
        import cachetools  # noqa: PLC0415 - a peer

        return self._filled_by_item(cachetools.TTLCache(SIZE, TTL_S))

    def theine(self) -> Get:
        """Its `get` returns the value and whether there was one."""
        import theine  # noqa: PLC0415 - a peer

        return self._filled_by_set(theine.Cache(SIZE))

    def moka(self) -> Get:
        """Bindings of the Rust crate."""
        import moka_py  # noqa: PLC0415 - a peer

        return self._filled_by_set(moka_py.Moka(SIZE))

    def diskcache(self) -> Get:
        """On disk: its place is beside L3."""
        import diskcache  # noqa: PLC0415 - a peer

        return self._filled_by_set(diskcache.Cache(str(self._directory / "diskcache")))

    def _filled_by_item(self, cache: Any) -> Get:
        for key, value in self._items.items():
            cache[key] = value
        return cache.get

    def _filled_by_set(self, cache: Any) -> Get:
        for key, value in self._items.items():
            cache.set(key, value)
        return cache.get


CACHES: dict[str, tuple[str, Callable[[Caches], Get]]] = {
    "dict": ("builtins", Caches.plain),
    "cachebox LRUCache": ("cachebox", Caches.cachebox_lru),
    "cachebox TTLCache": ("cachebox", Caches.cachebox_ttl),
    "cachetools TTLCache": ("cachetools", Caches.cachetools_ttl),
    "theine": ("theine", Caches.theine),
    "moka-py": ("moka_py", Caches.moka),
    "diskcache": ("diskcache", Caches.diskcache),
}
"""What to call it: its module, and how it is made."""


def version_of(module: str) -> str:
    """The version of the package that provides a module, or "built in"."""
    names = {"moka_py": "moka-py"}
    if module == "sqlite3":
        return sqlite3.sqlite_version
    try:
        return importlib.metadata.version(names.get(module, module))
    except importlib.metadata.PackageNotFoundError:
        return "built in" if module == "builtins" else "not installed"
