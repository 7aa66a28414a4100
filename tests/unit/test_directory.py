"""Claiming, recognising and giving back a store's directory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nt_memory.clock import ManualClock
from nt_memory.errors import (
    ForeignStoreError,
    FormatVersionError,
    StorageError,
    StoreInUseError,
    StorePermissionError,
)
from nt_memory.transport import directory as directory_module
from nt_memory.transport.directory import StoreDirectory, boot_id
from nt_memory.transport.files import below, disk_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534


def _claim(path: Path, *, read_only: bool = False) -> StoreDirectory:
    return StoreDirectory(path, clock=ManualClock(), read_only=read_only)


@contextlib.contextmanager
def _without_privileges() -> Iterator[None]:
    """Root may do anything, so it becomes nobody for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_makes_a_store(tmp_path: Path) -> None:
    """A missing directory is made, parents included, and says what it is."""
    path = tmp_path / "a" / "b"
    store = _claim(path)
    assert store.is_claimed
    assert json.loads((path / "FORMAT").read_text()) == {
        "format": "nt-memory",
        "version": 1,
        "created": "2024-01-02T14:30:00+00:00",
    }
    assert json.loads((path / "LOCK").read_text()) == {
        "pid": os.getpid(),
        "host": socket.gethostname(),
    }
    assert (store.journal, store.views, store.vectors) == (
        path / "journal",
        path / "views",
        path / "vectors",
    )
    assert store.journal.is_dir()
    assert store.views.is_dir()
    assert store.vectors.is_dir()
    store.close()


def test_reopens_as_it_was(tmp_path: Path) -> None:
    """A second opening finds the store and does not remake it; closing twice is harmless."""
    store = _claim(tmp_path)
    store.close()
    store.close()
    assert not store.is_claimed
    before = (tmp_path / "FORMAT").stat()
    _claim(tmp_path).close()
    assert (tmp_path / "FORMAT").stat() == before


def test_one_holder_in_this_process(tmp_path: Path) -> None:
    """A second instance is refused with the holder's pid and host, and changes nothing."""
    first = _claim(tmp_path)
    for _ in range(2):
        with pytest.raises(StoreInUseError, match=f"process {os.getpid()} on") as caught:
            _claim(tmp_path)
        assert (caught.value.pid, caught.value.host) == (os.getpid(), socket.gethostname())
    first.close()
    _claim(tmp_path).close()


def test_one_holder_among_processes(tmp_path: Path) -> None:
    """Another process is named, and its death, however sudden, frees the directory."""
    code = (
        "import sys; from nt_memory.clock import SystemClock\n"
        "from nt_memory.transport.directory import StoreDirectory\n"
        "store = StoreDirectory(sys.argv[1], clock=SystemClock()); print('held', flush=True)\n"
        "sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StoreInUseError) as caught:
            _claim(tmp_path)
        assert caught.value.pid == holder.pid
        holder.kill()
    _claim(tmp_path).close()


def test_a_fork_does_not_keep_the_directory(tmp_path: Path) -> None:
    """A child that outlives its parent's claim neither holds it nor gives it back."""
    store = _claim(tmp_path)
    go_read, go_write = os.pipe()
    done_read, done_write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            store.close()
            if not store.is_claimed:
                os.write(done_write, b"closed")
                os.read(go_read, 1)
                code = 0
        finally:
            os._exit(code)
    try:
        assert os.read(done_read, 6) == b"closed"
        with pytest.raises(StoreInUseError):
            _claim(tmp_path)
        store.close()
        _claim(tmp_path).close()
    finally:
        os.write(go_write, b"x")
        status = os.waitpid(child, 0)[1]
        for fd in (go_read, go_write, done_read, done_write):
            os.close(fd)
    assert status == 0


def test_giving_back_does_not_wait_for_copies(tmp_path: Path) -> None:
    """A descriptor that a process being spawned still shares does not keep the directory locked."""
    store = _claim(tmp_path)
    copy = os.dup(store._lock_fd)
    try:
        store.close()
        _claim(tmp_path).close()
    finally:
        os.close(copy)


def test_read_only_takes_no_lock(tmp_path: Path) -> None:
    """A reader works beside the writer, and a writer beside readers."""
    writer = _claim(tmp_path)
    reader = _claim(tmp_path, read_only=True)
    assert not reader.is_claimed
    writer.close()
    _claim(tmp_path).close()
    reader.close()


@pytest.mark.parametrize("make", [False, True])
def test_read_only_needs_a_store(tmp_path: Path, make: bool) -> None:
    """Reading does not make what is not there, not even a lock file."""
    path = tmp_path / "store"
    if make:
        path.mkdir()
    with pytest.raises(StorageError, match="no store"):
        _claim(path, read_only=True)
    assert path.exists() == make
    assert not make or not list(path.iterdir())


@pytest.mark.parametrize("read_only", [False, True])
def test_foreign_directories_are_left_alone(tmp_path: Path, read_only: bool) -> None:
    """A directory that holds something else is refused without a trace."""
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ForeignStoreError, match=r"thesis\.tex"):
        _claim(tmp_path, read_only=read_only)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_is_refused(tmp_path: Path, read_only: bool) -> None:
    """A file where a directory is expected, or on the way there, is a clear error."""
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(ForeignStoreError, match="not a directory"):
        _claim(path, read_only=read_only)
    with pytest.raises(StorageError, match="file"):
        _claim(path / "below", read_only=read_only)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    "text", ["", "v2", "[]", '{"format": "other", "version": 1}', '{"format": "nt-memory"}']
)
def test_foreign_format_files(tmp_path: Path, text: str) -> None:
    """A FORMAT file that is not ours makes the directory foreign."""
    (tmp_path / "FORMAT").write_text(text)
    for read_only in (False, True):
        with pytest.raises(ForeignStoreError, match="FORMAT"):
            _claim(tmp_path, read_only=read_only)
    assert [path.name for path in tmp_path.iterdir()] == ["FORMAT"]


def test_newer_format_is_refused(tmp_path: Path) -> None:
    """A store of a later format is neither read nor written."""
    _claim(tmp_path).close()
    (tmp_path / "FORMAT").write_text('{"format": "nt-memory", "version": 2}')
    for read_only in (False, True):
        with pytest.raises(FormatVersionError, match="format 2"):
            _claim(tmp_path, read_only=read_only)


def test_interrupted_creation_is_completed(tmp_path: Path) -> None:
    """A process killed while making the store leaves something the next one can finish."""
    (tmp_path / "LOCK").write_text('{"pid": 1')
    (tmp_path / "FORMAT.new").write_text('{"form')
    _claim(tmp_path).close()
    assert json.loads((tmp_path / "FORMAT").read_text())["version"] == 1
    assert not (tmp_path / "FORMAT.new").exists()


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory everyone can reach; pytest's own are closed to nobody."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


def test_no_permission(open_dir: Path) -> None:
    """A directory this user may not make or write is said to be so; one it may read, it can."""
    store = open_dir / "store"
    _claim(store).close()
    for path in (store, store / "LOCK", open_dir):
        path.chmod(0o444 if path.is_file() else 0o555)
    with _without_privileges():
        for path in (store, open_dir / "new"):
            with pytest.raises(StorePermissionError, match=path.name):
                _claim(path)
        _claim(store, read_only=True).close()
    assert not (open_dir / "new").exists()
    for path in (store, open_dir):
        path.chmod(0o755)
    (store / "LOCK").chmod(0o644)
    _claim(store).close()


def test_boot_id(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is the kernel's where there is one, and otherwise one that no other process shares."""
    boot_id.cache_clear()
    known = tmp_path / "boot_id"
    known.write_text("0f-42\n")
    monkeypatch.setattr(directory_module, "_BOOT_ID", known)
    assert boot_id() == "0f-42"
    boot_id.cache_clear()
    monkeypatch.setattr(directory_module, "_BOOT_ID", tmp_path / "missing")
    own = boot_id()
    assert len(own) == 32
    assert boot_id() == own
    boot_id.cache_clear()
    assert boot_id() != own
    boot_id.cache_clear()


def test_what_goes_while_the_disk_is_looked_at_is_passed_over(tmp_path: Path) -> None:
    """A directory and a file that are listed and then gone, as when views are exchanged, are no error."""
    for name in ("views/data.mdb", "views.new/data.mdb", "journal/1.log", "journal/2.log"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(range(256)) * 64)
    (tmp_path / "elsewhere").symlink_to("/proc")
    found = set[str]()
    for path, status in below(tmp_path):
        assert status.st_ino == path.lstat().st_ino
        if not found:  # the directory was listed, but not what is in it
            shutil.rmtree(tmp_path / "views.new")
        if path.parent.name == "journal":
            for other in {"1.log", "2.log"} - {path.name}:
                (path.parent / other).unlink(missing_ok=True)
        found.add(str(path.relative_to(tmp_path)))
    assert found - {"views.new", "journal/1.log", "journal/2.log"} == {
        "views",
        "views/data.mdb",
        "journal",
        "elsewhere",
    }
    assert len(found & {"journal/1.log", "journal/2.log"}) == 1
    assert disk_bytes(tmp_path) >= 2 * 16_384
    assert disk_bytes(tmp_path / "views.new") == 0
