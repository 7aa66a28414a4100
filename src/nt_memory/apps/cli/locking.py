"""`nt-memory lock`: run a command under a lock; see who holds one; take it away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nt_memory.apps.cli import printing
from nt_memory.apps.cli.asking import arrived
from nt_memory.apps.cli.commands import Family
from nt_memory.apps.cli.completing import locks
from nt_memory.apps.cli.exits import Exit, NotThereError
from nt_memory.apps.cli.options import Acting, AsJson, Store
from nt_memory.apps.cli.running import over_store
from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from nt_memory.apps.cli.asking import Memory
    from nt_memory.coordination.tokens import LockInfo


def lock(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Which lock; without it all are listed.", show_default=False, autocompletion=locks
        ),
    ] = None,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND", help="What to run under it.", show_default=False),
    ] = None,
    *,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout", metavar="SECONDS", min=0.0, help="Wait so long for store and lock."
        ),
    ] = 1.0,
    lease: Annotated[
        float,
        typer.Option("--lease", metavar="SECONDS", help="Lost so long after this process hangs."),
    ] = 30.0,
    holder: Annotated[
        str, typer.Option("--holder", help="Who holds it, for others to read. [default: user@host]")
    ] = "",
    force: Annotated[
        bool,
        typer.Option("--force", help="Take it from whoever holds it; its fence is stale then."),
    ] = False,
    fence: Annotated[
        int | None,
        typer.Option("--fence", metavar="N", help="With --force: only from the grant so numbered."),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="With --force: why, for tail.")] = "",
    store: Store = None,
    acting: Acting = None,
    json: AsJson = False,
) -> None:
    """Run a command under a lock, or see who holds it and who waits.

    With a command: waits for the lock, runs it with NT_LOCK_NAME and NT_LOCK_FENCE in its environment,
    gives the lock back, and ends with its exit code. If the lock is lost meanwhile the command gets
    SIGTERM, and the exit code is 10. Whoever holds a lock of a store in a directory has the store
    itself: the command can read it but not write it. Over a server it can do both.

    Without one: prints holder, fence, seconds left and who waits, also while another process writes.
    """
    if command:
        if name is None or force or json:
            raise InvalidInputError("a command runs under a NAME, without --force and --json")
        # Of this process and not of a subprocess's: what runs it needs asyncio's machinery.
        from nt_memory.apps.cli.under_lock import run_locked  # noqa: PLC0415

        code = run_locked(
            name, command, timeout=timeout, lease=lease, holder=holder, store=store, acting=acting
        )
        raise typer.Exit(code)
    if fence is not None and not force:
        raise InvalidInputError("--fence says from which grant --force takes the lock")
    if force:
        _force(name, fence, reason, timeout, store, acting, as_json=json)
    else:
        _inspect(name, store, acting, as_json=json)


def register(app: typer.Typer) -> None:
    """Add the command."""
    Family(app, "Coordination").add(
        lock,
        "lock",
        "lock rebalance",
        "lock rebalance --timeout 60 -- ./rebalance.sh --all",
        "lock rebalance --store http://127.0.0.1:3000 -- ./rebalance.sh",
        "lock rebalance --force --fence 17 --reason 'desk_2 hangs'",
        document="Lock",
        streams=True,
        in_use="it holds all locks of this store; wait longer with --timeout, or see them with "
        "nt-memory lock",
    )


def _inspect(name: str | None, store: str | None, acting: str | None, *, as_json: bool) -> None:
    async def body(memory: Memory) -> None:
        if name is None:
            found = await arrived(memory.list_locks())
        else:
            found = [await arrived(memory.inspect_lock(name))]
        if as_json:
            _print_documents(found)
            return
        printing.table(
            ("lock", "holder", "fence", "seconds left", "waiting"),
            [
                (
                    info.resource,
                    info.holder or "-",
                    info.fence,
                    f"{info.lease_left:.1f}",
                    ", ".join(info.waiters),
                )
                for info in found
            ],
        )

    over_store(body, store, acting=acting)


def _print_documents(found: list[LockInfo]) -> None:
    from nt_memory.apps.cli import documents  # noqa: PLC0415 - numpy

    for info in found:
        printing.document(
            documents.Lock(
                resource=info.resource,
                holder=info.holder,
                fence=info.fence,
                lease_left=info.lease_left,
                waiters=list(info.waiters),
            )
        )


def _force(
    name: str | None,
    fence: int | None,
    reason: str,
    wait: float,
    store: str | None,
    acting: str | None,
    *,
    as_json: bool,
) -> None:
    if name is None:
        raise InvalidInputError("--force needs the NAME of a lock")

    async def body(memory: Memory) -> None:
        is_forced = await memory.force_release(name, fence=fence, reason=reason)
        if as_json:
            from nt_memory.apps.cli import documents  # noqa: PLC0415 - numpy

            printing.document(documents.Forced(resource=name, is_forced=is_forced))
        elif is_forced:
            printing.line(f"{name}: taken from its holder")
        if not is_forced and as_json:
            raise typer.Exit(Exit.FAILED)
        if not is_forced:
            raise NotThereError(f"{name}: nobody holds it, or not under that fence")

    over_store(body, store, writes=True, acting=acting, wait=wait, must_exist=True)
