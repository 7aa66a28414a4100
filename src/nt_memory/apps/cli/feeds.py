"""`nt-memory watch` and `tail`: what another process is writing, as it writes it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nt_memory.apps.cli import printing
from nt_memory.apps.cli.commands import Family
from nt_memory.apps.cli.exits import NothingCameError
from nt_memory.apps.cli.options import (
    Acting,
    Agent,
    AsJson,
    Limit,
    Prefix,
    Store,
    Timeout,
)
from nt_memory.apps.cli.running import over_store
from nt_memory.errors import TrimmedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator

    from nt_memory import Change
    from nt_memory.apps.cli.asking import Memory
    from nt_memory.system.watching import JournalEntry

SHOWN = 10

After = Annotated[
    int | None,
    typer.Option("--after", metavar="REVISION", min=0, help="From behind this revision on."),
]


def watch(
    agent: Agent,
    prefix: Prefix = "",
    *,
    after: After = None,
    limit: Limit = None,
    timeout: Timeout = None,
    store: Store = None,
    acting: Acting = None,
    json: AsJson = False,
) -> None:
    """Print changes of an agent's keys as another process makes them, until Ctrl-C.

    From now on, or from behind a revision. Ends after --limit changes, or with exit code 6 once
    --timeout passes without one.
    """

    async def body(memory: Memory) -> None:
        changes = memory.watch(agent, prefix, after=after)
        await show_as_they_come(changes, _print_change(json), limit, timeout)

    over_store(body, store, acting=acting)


def tail(
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")
    ] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", metavar="N", min=0, help="How many of the last.")
    ] = SHOWN,
    after: After = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="End after so many.")
    ] = None,
    timeout: Timeout = None,
    store: Store = None,
    acting: Acting = None,
    json: AsJson = False,
) -> None:
    """Print the last entries of the journal, and with -f those that another process adds.

    Of all agents: writes, locks, votes, rules. With --after all from behind a revision on.
    """

    async def body(memory: Memory) -> None:
        show, until = _print_entry(json), memory.revision
        left = limit
        if after is None:
            start = await _oldest_after(memory, max(until - lines, 0), until)
        else:
            start = after
        if start < until:
            shown = await _show_until(memory.tail(start), until, show, limit)
            left = None if limit is None else limit - shown
        if follow:
            await show_as_they_come(memory.tail(max(start, until)), show, left, timeout)

    over_store(body, store, acting=acting)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = Family(app, "Feeds")
    family.add(
        watch,
        "watch agent_1",
        "watch agent_1 orders/ --after 120 --json",
        "watch agent_1 position --limit 1 --timeout 60",
        "watch agent_1 --store http://127.0.0.1:3000",
        document="Change",
        streams=True,
    )
    family.add(
        tail,
        "tail",
        "tail -f",
        "tail -n 100 --json | jq -r .kind | sort | uniq -c",
        document="Entry",
        streams=True,
    )


async def _oldest_after(memory: Memory, after: int, until: int) -> int:
    """Where to begin, if not further back than the journal still goes."""
    if after >= until:
        return until
    try:
        await anext(memory.tail(after))
    except TrimmedError as error:
        return min(error.oldest - 1, until)
    return after


async def _show_until(
    entries: AsyncIterator[JournalEntry],
    until: int,
    show: Callable[[JournalEntry], None],
    limit: int | None,
) -> int:
    """Show entries up to a revision; how many."""
    shown = 0
    async for entry in entries:
        show(entry)
        shown += 1
        if entry.revision >= until or shown == limit:
            break
    return shown


async def show_as_they_come(
    items: AsyncIterator[Any],
    show: Callable[[Any], None],
    limit: int | None,
    timeout: float | None,
) -> None:
    """Show what comes; what is shown is flushed, since whoever reads it waits for it.

    Raises:
        NothingCameError: nothing did, for so many seconds.
    """
    import asyncio  # noqa: PLC0415
    import sys  # noqa: PLC0415

    sys.stdout.flush()  # what was there before
    shown = 0
    with _while_somebody_reads():
        while shown != limit:
            try:
                async with asyncio.timeout(timeout):
                    item = await anext(items)
            except TimeoutError:
                raise NothingCameError(f"nothing came within {timeout:g} s") from None
            show(item)
            sys.stdout.flush()
            shown += 1


@contextmanager
def _while_somebody_reads() -> Generator[None]:
    """End the block when the reader of a pipe goes away, without waiting for the next line to fail.

    A quiet market may not send one for hours: `tail -f | head -1` would seem to hang.

    Raises:
        BrokenPipeError: it went away.
    """
    import asyncio  # noqa: PLC0415
    import os  # noqa: PLC0415
    import stat  # noqa: PLC0415
    import sys  # noqa: PLC0415

    try:
        pipe = sys.stdout.fileno()
    except OSError:  # replaced by something without a file
        pipe = -1
    if pipe < 0 or not stat.S_ISFIFO(os.fstat(pipe).st_mode):
        yield
        return
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    has_left = False

    def leave() -> None:
        nonlocal has_left
        has_left = True
        loop.remove_reader(pipe)
        if task is not None:
            task.cancel()

    # Nothing is ever read from this end: its only event is the error that the other is closed.
    loop.add_reader(pipe, leave)
    try:
        yield
    except asyncio.CancelledError:
        if not has_left or (task is not None and task.uncancel() > 0):
            raise  # a signal's
        raise BrokenPipeError from None
    finally:
        loop.remove_reader(pipe)


def _print_change(as_json: bool) -> Callable[[Change], None]:  # noqa: FBT001 - private
    from nt_memory.apps.cli.records import change_document  # noqa: PLC0415 - numpy
    from nt_memory.apps.cli.rendering import value_line  # noqa: PLC0415

    def show(change: Change) -> None:
        if as_json:
            printing.document(change_document(change))
            return
        value = "" if change.record is None else value_line(change.record.value)
        printing.row(change.revision, change.kind, change.key, value)

    return show


def _print_entry(as_json: bool) -> Callable[[JournalEntry], None]:  # noqa: FBT001 - private
    from nt_memory.apps.cli import documents  # noqa: PLC0415 - numpy
    from nt_memory.apps.cli.records import change_document  # noqa: PLC0415
    from nt_memory.apps.cli.rendering import to_plain, value_line  # noqa: PLC0415

    def show(entry: JournalEntry) -> None:
        if as_json:
            printing.document(
                documents.Entry(
                    revision=entry.revision,
                    recorded_at=entry.recorded_at,
                    kind=entry.kind,
                    actor=entry.actor,
                    request_id=entry.request_id,
                    changes=[change_document(change) for change in entry.changes],
                    detail=to_plain(dict(entry.detail)),
                )
            )
            return
        what = ", ".join(f"{c.kind} {c.agent}/{c.key}" for c in entry.changes)
        detail = value_line(dict(entry.detail)) if entry.detail else ""
        printing.row(
            entry.revision,
            entry.recorded_at.isoformat(timespec="milliseconds"),
            entry.kind,
            entry.actor,
            what or detail,
        )

    return show
