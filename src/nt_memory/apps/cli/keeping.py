"""`nt-memory verify`, `repair`, `compact` and `snapshot`: keep a store sound and small."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nt_memory.apps.cli import printing
from nt_memory.apps.cli.commands import Family
from nt_memory.apps.cli.exits import Exit
from nt_memory.apps.cli.options import Acting, AsJson, Store, Wait
from nt_memory.apps.cli.running import (
    check_not_served,
    in_directory,
    is_cluster,
    locate,
    path_of,
    run,
)
from nt_memory.errors import InvalidInputError, NoStoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nt_memory import MemorySystem
    from nt_memory.system.repairing import Repair
    from nt_memory.system.verify_report import Verification

_progress = contextmanager(printing.progress)
_THERE = "name its directory with --store, on the machine where it is"


def verify(
    *,
    scratch: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to compute the views anew; needs their space."),
    ] = None,
    store: Store = None,
    json: AsJson = False,
) -> None:
    """Check a store against its base and journal, in use or not; exit code 4 if it is damaged.

    Of a cluster, the snapshots that its servers keep for new nodes: each is read, and held against the
    checksums that its maker noted.
    """
    with _progress() as told:
        if is_cluster(store):
            if scratch is not None:
                raise InvalidInputError(
                    "--scratch is about a store's files: a cluster has none here"
                )
            found = _verify_shared(store, told)
        else:
            from nt_memory.system.verifying import verify as verify_store  # noqa: PLC0415 - slow

            found = verify_store(path_of(store, _THERE), scratch=scratch, progress=told)
    if json:
        from nt_memory.apps.cli import documents  # noqa: PLC0415 - numpy

        printing.document(documents.taken_from(documents.Verification, found))
    else:
        _say_found(found)
    if not found.is_ok:
        raise typer.Exit(Exit.DAMAGED)


def _verify_shared(store: str | None, told: Callable[[str, int, int], None]) -> Verification:
    from nt_memory.system.joining import connect  # noqa: PLC0415 - slow
    from nt_memory.system.sharing import verify_all  # noqa: PLC0415 - slow

    link = connect(locate(store)[0])
    try:
        return verify_all(link, told)
    finally:
        link.close()


def repair(*, store: Store = None, json: AsJson = False) -> None:
    """Mend a damaged store that nobody has open, and say what is lost; nothing is deleted.

    Damaged files are kept in `damaged` below it. Exit code 4 if it could not be mended.
    """
    from nt_memory.system.repairing import repair as repair_store  # noqa: PLC0415 - slow

    with _progress() as told:
        done = repair_store(path_of(store, _THERE), progress=told)
    if json:
        from nt_memory.apps.cli import documents  # noqa: PLC0415 - numpy

        printing.document(documents.taken_from(documents.Repair, done))
    else:
        _say_done(done)
    if not done.is_repaired:
        raise typer.Exit(Exit.DAMAGED)


def compact(*, store: Store = None, wait: Wait = 0.0, json: AsJson = False) -> None:
    """Move the base forward, drop the journal behind it, and give space back.

    For a store that no other process has open for writing; that process calls memory.compact().
    """

    async def body(memory: MemorySystem) -> None:
        done = await memory.compact()
        if json:
            from nt_memory.apps.cli import documents  # noqa: PLC0415 - numpy

            printing.document(documents.taken_from(documents.Compaction, done))
        else:
            printing.line(
                f"the base reaches revision {done.revision}; "
                f"{done.freed_bytes / 1e6:,.1f} MB given back"
            )

    in_directory(body, store, instead=_THERE, writes=True, wait=wait, must_exist=True)


def snapshot(
    target: Annotated[
        Path | None,
        typer.Argument(metavar="[TARGET]", help="Missing, or empty.", show_default=False),
    ] = None,
    *,
    keep: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Without TARGET: how many the cluster keeps; by default 2."
        ),
    ] = None,
    store: Store = None,
    acting: Acting = None,
    wait: Wait = 0.0,
    json: AsJson = False,
) -> None:
    """Copy a store that no other process has open for writing; TARGET is a store too.

    The copy is opened once, which proves that it can be. A program that has the store open calls
    memory.snapshot(TARGET).

    Without TARGET, and with a cluster as the store: let new nodes begin with a snapshot that the servers
    keep, and trim the swarm's stream behind the oldest that is kept. It takes the operator's
    credentials.
    """
    if target is None:
        if not is_cluster(store):
            check_not_served(store, _THERE)
            raise InvalidInputError("name the directory to make: nt-memory snapshot TARGET")
        in_directory(
            functools.partial(_share, keep=2 if keep is None else keep, as_json=json),
            store,
            instead="name the cluster with --store nats://…",
            writes=True,
            acting=acting,
        )
        return
    if keep is not None:
        raise InvalidInputError("--keep is about what a cluster keeps: leave out TARGET")

    async def body(memory: MemorySystem) -> None:
        await memory.snapshot(target)

    in_directory(
        body, store, instead=_THERE, writes=True, acting=acting, wait=wait, must_exist=True
    )
    run(_open_copy(target, as_json=json))


async def _share(memory: MemorySystem, *, keep: int, as_json: bool) -> None:
    done = await memory.share_snapshot(keep=keep)
    made = done.snapshot
    if as_json:
        from nt_memory.apps.cli import documents  # noqa: PLC0415 - numpy

        printing.document(
            documents.Snapshot(
                path=None,
                revision=made.revision,
                id=made.id,
                bytes=made.bytes,
                dropped=done.dropped,
                trimmed=done.trimmed,
            )
        )
    else:
        printing.line(
            f"{made.id}: revision {made.revision}, {made.bytes / 1e6:,.1f} MB; "
            f"{done.dropped} older dropped, {done.trimmed:,} messages trimmed"
        )


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = Family(app, "The store")
    family.add(
        verify,
        "verify",
        "verify --store /backup/monday --json | jq .damage[]",
        "verify --store nats://127.0.0.1:4222/desk",
        document="Verification",
    )
    family.add(
        repair,
        "repair --store ./data/memory",
        document="Repair",
        in_use="stop it first: what is written to must not be mended",
    )
    family.add(
        compact,
        "compact",
        "compact --wait 60 --json | jq .freed_bytes",
        document="Compaction",
        in_use="it calls memory.compact() itself, and does by itself where old versions are dropped; "
        "or wait for it with --wait SECONDS",
    )
    family.add(
        snapshot,
        "snapshot /backup/monday",
        "snapshot --store nats://127.0.0.1:4222/desk --keep 3",
        document="Snapshot",
        in_use="it calls memory.snapshot(TARGET) itself; nt-memory export works beside it",
    )


async def _open_copy(target: Path, *, as_json: bool) -> None:
    """Make the copy's views; one that was never opened proves nothing, and cannot be read."""
    from nt_memory import MemorySystem  # noqa: PLC0415 - slow

    if not (target / "FORMAT").exists():
        raise NoStoreError(f"{target}: there is no store here")
    async with MemorySystem.open(target) as copy:
        revision = copy.revision
    if as_json:
        from nt_memory.apps.cli import documents  # noqa: PLC0415 - numpy

        printing.document(documents.Snapshot(path=str(target), revision=revision))
    else:
        printing.line(f"{target}: revision {revision}")


def _say_found(found: Verification) -> None:
    if found.snapshots is not None:
        _say_shared(found, found.snapshots)
        return
    printing.line(
        f"{found.path}: {found.entries:,} entries read, {found.rows:,} rows and "
        f"{found.vectors:,} vectors compared as of revision {found.revision}"
    )
    if found.value_bytes:
        printing.line(f"{found.value_bytes:,} bytes of value files read")
    for warning in found.warnings:
        printing.line(f"note: {warning}")
    for damage in found.damage:
        printing.line(f"DAMAGED: {damage}")
    printing.line("sound" if found.is_ok else f"to mend it: nt-memory repair --store {found.path}")


def _say_shared(found: Verification, snapshots: list[str]) -> None:
    printing.line(
        f"{found.path}: {len(snapshots)} snapshots read, {found.snapshot_bytes / 1e6:,.1f} MB; "
        f"the newest is of revision {found.revision}"
    )
    for warning in found.warnings:
        printing.line(f"note: {warning}")
    for damage in found.damage:
        printing.line(f"DAMAGED: {damage}")
    printing.line("sound" if found.is_ok else "to have a good one: nt-memory snapshot")


def _say_done(done: Repair) -> None:
    for action in done.actions:
        printing.line(action)
    for lost in done.lost:
        printing.line(f"LOST: {lost}")
    if done.is_repaired and not done.lost:
        printing.line("nothing is lost")
