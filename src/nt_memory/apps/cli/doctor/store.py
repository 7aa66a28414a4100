"""Checks of the store itself, beside whoever writes it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from nt_memory.apps.cli.doctor.checks import Check
from nt_memory.apps.cli.exits import explained
from nt_memory.apps.cli.rendering import size
from nt_memory.clock import SystemClock, to_datetime
from nt_memory.errors import NtMemoryError
from nt_memory.system.at_rest import read_state
from nt_memory.system.shares import Shares, memory_for
from nt_memory.tiers.cold import ColdTier
from nt_memory.tiers.layout import LAYOUT_VERSION
from nt_memory.tiers.vectors import graph_bytes, most_rows
from nt_memory.transport.directory import StoreDirectory

if TYPE_CHECKING:
    from collections.abc import Generator

    from nt_memory.apps.cli.doctor.checks import Patient
    from nt_memory.tiers.views import Snapshot


def check_store(patient: Patient) -> Check:
    """Whether there is a store that this version opens, and what it shows."""
    if not patient.is_made:
        if patient.path.is_dir() and any(patient.path.iterdir()):
            return Check(
                "store",
                "fail",
                f"{patient.path} is not empty, and not a store",
                "check the path; if it was one, nt-memory repair writes its FORMAT anew",
            )
        return Check("store", "ok", f"there is none at {patient.path} yet; the first put makes it")
    try:
        directory = StoreDirectory(patient.path, clock=SystemClock(), read_only=True)
    except NtMemoryError as error:
        return Check("store", "fail", explained(error), "nt-memory verify, then nt-memory repair")
    directory.close()
    state = read_state(directory.views)
    if state is None or state.layout != LAYOUT_VERSION:
        return Check(
            "store",
            "warn",
            "its views are not made yet, as in a fresh copy or after an upgrade",
            "open it for writing once: nt-memory compact",
        )
    try:
        with peeked(patient) as views:
            revision = views.number(b"revision") or 0
            times = views.log_times(revision)
    except NtMemoryError as error:
        return Check("store", "fail", explained(error), "nt-memory verify, then nt-memory repair")
    text = f"revision {revision:,}"
    if times is not None:
        text += f", last written {to_datetime(times.recorded_at).isoformat(timespec='seconds')}"
    return Check("store", "ok", text)


def check_writer(patient: Patient) -> Check:
    """Who has the store open for writing, and whether the last who did closed it."""
    if not patient.is_made:
        return Check("writer", "skip", "there is no store yet")
    directory = StoreDirectory(patient.path, clock=SystemClock(), read_only=True)
    directory.close()
    writer = directory.writer()
    if writer is not None:
        return Check(
            "writer",
            "ok",
            f"process {writer.pid} on {writer.host}; commands that only read work beside it",
        )
    state = read_state(directory.views)
    if state is not None and not state.is_clean:
        return Check(
            "writer",
            "ok",
            "nobody; the last one was stopped without closing it",
            "nothing is lost: who opens it next checks it first, which takes longer",
        )
    return Check("writer", "ok", "nobody")


def check_embeddings(patient: Patient) -> Check:
    """Whether the memory is enough for each partition, which is of one agent, to be searched in one graph."""
    if not patient.is_made:
        return Check("embeddings", "skip", "there is no store yet")
    with peeked(patient) as views:
        partitions = [row for _, row in views.partitions() if row.rows]
    if not partitions:
        return Check("embeddings", "ok", "none yet")
    budget = patient.config.max_memory_bytes
    room = Shares.of(budget).vectors
    largest = max(partitions, key=lambda row: row.rows / most_rows(row.dim, room))
    most = most_rows(largest.dim, room)
    text = (
        f"{sum(row.rows for row in partitions):,} in {len(partitions):,} partitions, at most "
        f"{largest.rows:,} in one, of {largest.dim:,} values"
    )
    if largest.rows <= most:
        return Check("embeddings", "ok", text)
    enough = memory_for(graph_bytes(largest.dim, largest.rows))
    return Check(
        "embeddings",
        "warn",
        f"{text}; with {size(budget)} of memory a graph holds {most:,}, and each of several is searched",
        f"NT_MEMORY_MAX_MEMORY_BYTES={enough} would do for one graph, once they are merged",
    )


@contextmanager
def peeked(patient: Patient) -> Generator[Snapshot]:
    """The views as they are now.

    Raises:
        StorageError: they cannot be read.
    """
    directory = StoreDirectory(patient.path, clock=SystemClock(), read_only=True)
    try:
        cold = ColdTier(
            directory.views,
            max_map_bytes=patient.config.max_map_bytes,
            read_only=True,
            is_alone=not directory.is_held_elsewhere(),
        )
        try:
            snapshot = cold.snapshot()
            try:
                yield snapshot
            finally:
                snapshot.close()
        finally:
            cold.close()
    finally:
        directory.close()
