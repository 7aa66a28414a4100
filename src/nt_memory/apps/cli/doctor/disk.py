"""Checks of the disk a store is on: its kind, its speed, its space, who may use it."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from nt_memory.apps.bench.machine import fdatasync_seconds
from nt_memory.apps.cli.doctor.checks import Check
from nt_memory.apps.cli.doctor.machine import is_root
from nt_memory.apps.cli.rendering import size
from nt_memory.transport.files import below, disk_bytes

if TYPE_CHECKING:
    from nt_memory.apps.cli.doctor.checks import Patient

TIMES = 50
SLOW_S = 5e-3
UNLIKELY_S = 15e-6
LITTLE_SPACE = 1 << 30
_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.sshfs", "afs"})
_VOLATILE = frozenset({"tmpfs", "ramfs"})


def check_permissions(patient: Patient) -> Check:
    """Whether this user may read and write where the store is, and who else may."""
    if patient.path.exists() and not patient.path.is_dir():
        return Check("permissions", "fail", f"{patient.path} is not a directory", "check the path")
    where = patient.path if patient.path.is_dir() else patient.place
    rights = [
        name
        for name, right in (("read", os.R_OK), ("written", os.W_OK), ("entered", os.X_OK))
        if not os.access(where, right)
    ]
    if rights:
        return Check(
            "permissions",
            "fail",
            f"{where} cannot be {', nor '.join(rights)} by user {os.geteuid()}",
            f"chown it, or run as its owner ({where.stat().st_uid})",
        )
    foreign = _foreign_files(patient.path) if patient.is_made else []
    if foreign:
        return Check(
            "permissions",
            "fail",
            f"{len(foreign)} files belong to others, such as {foreign[0]}",
            f"chown -R {os.geteuid()} {patient.path}: one user writes a store",
        )
    if patient.path.is_dir() and stat.S_IMODE(patient.path.stat().st_mode) & stat.S_IWOTH:
        return Check(
            "permissions", "warn", f"anybody may write in {where}", f"chmod o-w {patient.path}"
        )
    return Check("permissions", "ok", f"{where} can be read and written")


def check_file_system(patient: Patient) -> Check:
    """Whether files behave there as the store needs: locks, mappings, and a disk below."""
    kind = _file_system(patient.place)
    if not kind:
        return Check("file system", "skip", "this system does not say of which kind it is")
    if kind in _REMOTE:
        return Check(
            "file system",
            "fail",
            f"{patient.place} is on {kind}, over a network",
            "keep the store on a local disk: locks and mapped files are not safe over a network",
        )
    if kind in _VOLATILE:
        return Check(
            "file system",
            "warn",
            f"{patient.place} is on {kind}, in memory",
            "all of it is gone when the machine stops; keep the store on a disk",
        )
    return Check("file system", "ok", f"{patient.place} is on {kind}")


def check_disk_speed(patient: Patient) -> Check:
    """How long a write waits for the disk: the floor of every durable put."""
    if not os.access(patient.place, os.W_OK):
        return Check("disk speed", "skip", f"{patient.place} cannot be written")
    with TemporaryDirectory(prefix=".nt-memory-doctor-", dir=patient.place) as folder:
        median = fdatasync_seconds(folder, times=TIMES)
    text = f"a write of 200 bytes is on disk after {median * 1e6:,.0f} µs (median of {TIMES})"
    if median > SLOW_S:
        return Check(
            "disk speed",
            "warn",
            text,
            'every durable put takes longer than that: use a faster disk, or durability="relaxed" '
            "and flush()",
        )
    if median < UNLIKELY_S:
        return Check(
            "disk speed",
            "warn",
            text,
            "no disk is that quick: it is memory, or it says written before it is, and a power loss "
            "may cost what was acknowledged",
        )
    return Check("disk speed", "ok", text)


def check_space(patient: Patient) -> Check:
    """Whether there is room to write, and to compact, which needs the store's size again."""
    usage, inodes = shutil.disk_usage(patient.place), os.statvfs(patient.place)
    taken = disk_bytes(patient.path) if patient.is_made else 0
    text = f"{size(usage.free)} of {size(usage.total)} free; the store takes {size(taken)}"
    if usage.free < LITTLE_SPACE // 8:
        return Check("space", "fail", text, "free some: writes are about to be refused")
    if inodes.f_files and inodes.f_favail < 1_000:
        return Check("space", "fail", f"{inodes.f_favail:,} inodes are free", "remove some files")
    if usage.free < max(taken, LITTLE_SPACE):
        return Check(
            "space",
            "warn",
            text,
            "a compaction needs the size of the store once more: free some, or give versions up with "
            "history or set_retention",
        )
    return Check("space", "ok", text)


def _file_system(place: Path) -> str:
    """Kind of the file system a directory is on; empty where /proc does not say."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    path = f"{place.resolve()}/"
    for text in lines:
        fields, _, rest = text.partition(" - ")
        mounted = fields.split()[4].encode().decode("unicode_escape").rstrip("/")
        # Of two on one place the later lies above.
        if path.startswith(f"{mounted}/") and len(mounted) >= len(best):
            best, kind = mounted, rest.split()[0]
    return kind


def _foreign_files(path: Path) -> list[str]:
    if is_root():
        return []
    own = os.geteuid()
    return [str(entry) for entry, status in below(path) if status.st_uid != own]
