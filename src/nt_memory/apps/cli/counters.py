"""`nt-memory stats`: the counters of a store, once or as a dashboard that stays."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nt_memory.apps.cli import printing
from nt_memory.apps.cli.asking import arrived
from nt_memory.apps.cli.commands import Family
from nt_memory.apps.cli.exits import without_credentials
from nt_memory.apps.cli.options import Acting, AsJson, Limit, Store
from nt_memory.apps.cli.running import locate, over_store, writer_of
from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from nt_memory import MemoryStats
    from nt_memory.apps.cli import documents
    from nt_memory.apps.cli.asking import Memory


def stats(
    *,
    live: Annotated[
        bool, typer.Option("--live", help="Stay, and show what another process writes.")
    ] = False,
    interval: Annotated[
        float,
        typer.Option("--interval", metavar="SECONDS", min=0.05, help="With --live: between looks."),
    ] = 0.5,
    limit: Limit = None,
    store: Store = None,
    acting: Acting = None,
    json: AsJson = False,
) -> None:
    """Print the counters of a store: what it holds, and how large it is.

    Hits, misses, subscribers and messages are of this command's own process, or of the server's; sizes
    are the store's.
    With --live a dashboard until Ctrl-C, or with --json a document every interval; --limit ends it
    after so many looks.
    """
    if live and not json and not sys.stdout.isatty():
        raise InvalidInputError("--live draws on a terminal; elsewhere add --json")
    config, _ = locate(store)
    path = str(config.storage_path) if config.url is None else without_credentials(config.url)

    async def body(memory: Memory) -> None:
        if live and not json:
            from nt_memory.apps.cli.dashboard import show  # noqa: PLC0415 - slow

            await show(memory, path, interval, limit)
        elif live:
            await _stream(memory, path, interval, limit)
        elif json:
            printing.document(_document(await arrived(memory.stats()), path))
        else:
            for text in lines(await arrived(memory.stats())):
                printing.line(text)

    over_store(body, store, acting=acting)


def register(app: typer.Typer) -> None:
    """Add the command."""
    Family(app, "The store").add(
        stats,
        "stats",
        "stats --live",
        "stats --live --store http://127.0.0.1:3000",
        "stats --json | jq .l3_bytes",
        "stats --live --interval 10 --json >> growth.jsonl",
        document="Stats",
        streams=True,
    )


def lines(found: MemoryStats) -> list[str]:
    """The counters, one a line, nested names dotted."""
    flat: dict[str, Any] = {}
    for name, value in dataclasses.asdict(found).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": number for inner, number in value.items()}
        else:
            flat[name] = value
    width = max(map(len, flat))
    return [f"{name:<{width}}  {_number(value)}" for name, value in flat.items()]


async def _stream(memory: Memory, path: str, interval: float, limit: int | None) -> None:
    from nt_memory.clock import SystemClock  # noqa: PLC0415

    clock, shown = SystemClock(), 0
    while True:
        printing.document(_document(await arrived(memory.stats()), path))
        sys.stdout.flush()
        shown += 1
        if shown == limit:
            return
        await clock.sleep(interval)


def _document(found: MemoryStats, path: str) -> documents.Stats:
    from nt_memory.apps.cli import documents  # noqa: PLC0415 - numpy

    writer = writer_of(path)
    return documents.taken_from(
        documents.Stats,
        found,
        path=path,
        writer=None if writer is None else writer.pid,
        l1=documents.taken_from(documents.Tier, found.l1),
        l2=documents.taken_from(documents.VectorTier, found.l2),
    )


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)
