"""The `nt-memory` command: parse, call `MemorySystem`, print.

Exit codes: 0 done; 1 the store or the operation refused or failed; 2 the command line or what it
names is malformed; 3 `get` found nothing; 130 interrupted. Errors are one line on stderr.
"""

from __future__ import annotations

import asyncio
import json as json_module
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from nt_memory import MemoryConfig, MemorySystem, __version__
from nt_memory.apps.cli import benching, doors, keeping, moving, serving
from nt_memory.apps.cli.rendering import record_line, stats_lines, stats_to_plain, value_line
from nt_memory.apps.demo.options import DemoOptions
from nt_memory.errors import InvalidInputError, NtMemoryError
from nt_memory.records import Record

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_FOUND = 3
EXIT_INTERRUPTED = 130

_EXIT_CODES = (
    "Exit codes: 0 done, 1 refused or failed, 2 malformed input, 3 `get` found nothing, "
    "130 interrupted."
)

_Body = Callable[[MemorySystem], Coroutine[Any, Any, None]]

app = typer.Typer(
    name="nt-memory",
    cls=doors.TwoWords,
    help="Memory for swarms of trading agents.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

Store = Annotated[
    Path | None,
    typer.Option(
        "--store",
        metavar="DIR",
        help="Directory of the store. Default: what NT_MEMORY_* says, or ./data/memory.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, with all fields.")]
AsOfText = Annotated[
    str | None,
    typer.Option(
        "--as-of",
        metavar="TIME|REVISION",
        help="What was known then: an ISO 8601 time with its offset, or a revision.",
    ),
]
Agent = Annotated[str, typer.Argument(help="Whose memory, such as agent_1.", show_default=False)]
Key = Annotated[str, typer.Argument(help="Which key, such as position.", show_default=False)]


def _print_version(is_asked: bool) -> None:  # noqa: FBT001 - Typer's callback form
    if is_asked:
        typer.echo(f"nt-memory {__version__}")
        raise typer.Exit


@app.callback()
def cli(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and stop.",
            is_eager=True,
            callback=_print_version,
        ),
    ] = False,
) -> None:
    """Memory for swarms of trading agents."""


@app.command(epilog="Example: `nt-memory stats --store ./data/memory --json`")
def stats(*, store: Store = None, json: AsJson = False) -> None:
    """Print the counters of a store: what it holds, and how large it is."""

    async def body(memory: MemorySystem) -> None:
        found = memory.stats()
        if json:
            typer.echo(json_module.dumps(stats_to_plain(found), indent=2))
        else:
            typer.echo("\n".join(stats_lines(found)))

    _with_memory(body, store, read_only=True)


@app.command(
    epilog="Example: `nt-memory get agent_1 position --as-of 2026-03-02T16:00:00-05:00`",
)
def get(
    agent: Agent,
    key: Key,
    *,
    as_of: AsOfText = None,
    store: Store = None,
    json: AsJson = False,
) -> None:
    """Print the value of a key; exit code 3 if there is none."""

    async def body(memory: MemorySystem) -> None:
        record = await memory.get_record(agent, key, as_of=_parse_as_of(as_of))
        if record is None:
            typer.echo(f"nt-memory: {agent} has no {key}", err=True)
            raise typer.Exit(EXIT_NOT_FOUND)
        typer.echo(record_line(record) if json else value_line(record.value))

    _with_memory(body, store, read_only=True)


@app.command(
    epilog="""Examples: `nt-memory put agent_1 position '{"AAPL": 10}'`;
    `nt-memory put agent_1 note --text 'hold until the close'`""",
)
def put(  # noqa: PLR0913 - a command's options are its arguments
    agent: Agent,
    key: Key,
    value: Annotated[str, typer.Argument(help="JSON, or any text with --text; - reads stdin.")],
    *,
    text: Annotated[bool, typer.Option("--text", help="VALUE is a plain string.")] = False,
    ttl: Annotated[
        float | None, typer.Option("--ttl", metavar="SECONDS", help="Forget it after this long.")
    ] = None,
    expect: Annotated[
        int | None,
        typer.Option("--expect", metavar="REVISION", help="Only if still at it; 0: only if new."),
    ] = None,
    store: Store = None,
    json: AsJson = False,
) -> None:
    """Write a key, and print the revision once it is on disk; makes the store when missing."""

    async def body(memory: MemorySystem) -> None:
        raw = sys.stdin.read() if value == "-" else value
        parsed = raw if text else _parse_json(raw)
        revision = await memory.put(agent, key, parsed, ttl=ttl, expect=expect)
        typer.echo(json_module.dumps({"revision": revision}) if json else str(revision))

    _with_memory(body, store, read_only=False)


@app.command(epilog="Example: `nt-memory scan agent_1 orders/ --json`")
def scan(
    agent: Agent,
    prefix: Annotated[str, typer.Argument(help="Only keys that start with it.")] = "",
    *,
    as_of: AsOfText = None,
    store: Store = None,
    json: AsJson = False,
) -> None:
    """Print an agent's keys and values, by key, one a line."""

    async def body(memory: MemorySystem) -> None:
        records = memory.scan(agent, prefix, as_of=_parse_as_of(as_of))
        await _print_lines(records, lambda r: f"{r.key}\t{value_line(r.value)}", as_json=json)

    _with_memory(body, store, read_only=True)


@app.command(epilog="Example: `nt-memory history agent_1 position`")
def history(
    agent: Agent,
    key: Key,
    *,
    store: Store = None,
    json: AsJson = False,
) -> None:
    """Print every version of a key, newest first: revision, when it was known, value."""

    async def body(memory: MemorySystem) -> None:
        await _print_lines(
            memory.history(agent, key),
            lambda r: f"{r.revision}\t{r.known_at.isoformat()}\t{value_line(r.value)}",
            as_json=json,
        )

    _with_memory(body, store, read_only=True)


@app.command(
    epilog="Examples: `nt-memory demo`; `nt-memory demo --quick`; "
    "`nt-memory demo --full --out full-report`; `nt-memory demo --prices mine.csv --years 3`",
)
def demo(  # noqa: PLR0913 - a command's options are its arguments
    *,
    years: Annotated[
        int | None,
        typer.Option(help="Trade the last so many years; remember those before.  [default: 8]"),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Trade all years, memory empty.")] = False,
    no_past: Annotated[
        bool,
        typer.Option(
            "--no-past",
            help="Start with an empty memory, then trade again with the past, to say what that costs.",
        ),
    ] = False,
    prices: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Your prices: a date column, one column a ticker."),
    ] = None,
    cost_bps: Annotated[float, typer.Option(help="Cost of a trade in basis points.")] = 5.0,
    seed: Annotated[int, typer.Option(help="Same seed and prices: same numbers.")] = 7,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the report goes.")] = Path(
        "demo-report"
    ),
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the figures as JSON.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A small run, under 30 s.")] = False,
) -> None:
    """Let a swarm with memory trade real prices, and report what memory was worth."""
    with _errors_reported():
        if full and years is not None:
            raise InvalidInputError("--years and --full exclude each other: --full trades all")
        options = DemoOptions(
            years=DemoOptions().years if years is None else years,
            full=full,
            no_past=no_past,
            prices=prices,
            cost_bps=cost_bps,
            seed=seed,
            out=out,
            json=json,
            quick=quick,
        )
        # Slow to import, and only used here.
        from nt_memory.apps.demo.output import write_all  # noqa: PLC0415
        from nt_memory.apps.demo.run import run_demo  # noqa: PLC0415
        from nt_memory.apps.demo.terminal import Progress  # noqa: PLC0415

        with Progress(Console(stderr=True)) as progress:
            result = run_demo(options, progress.update)
        write_all(result, Console())
        if result.is_interrupted:
            raise typer.Exit(EXIT_INTERRUPTED)


def main() -> None:
    """Entry point of the `nt-memory` script."""
    app(prog_name="nt-memory")


@contextmanager
def _errors_reported() -> Generator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        raise  # the reader of our output has gone: Typer ends quietly
    except (NtMemoryError, OSError) as error:
        typer.echo(f"nt-memory: {error}", err=True)
        is_input = isinstance(error, InvalidInputError)
        raise typer.Exit(EXIT_USAGE if is_input else EXIT_FAILED) from None


def _with_memory(body: _Body, store: Path | None, *, read_only: bool) -> None:
    async def opened() -> None:
        # A path takes over the timeline and history the store was made with.
        target = MemoryConfig.from_env() if store is None else store
        async with MemorySystem.open(target, read_only=read_only) as memory:
            await body(memory)

    with _errors_reported():
        asyncio.run(opened())


def _parse_as_of(text: str | None) -> datetime | int | None:
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInputError(
            f"--as-of {text!r} is neither a revision nor a time such as 2026-03-02T16:00:00-05:00"
        ) from None


def _parse_json(text: str) -> Any:
    try:
        return json_module.loads(text)
    except ValueError as error:
        raise InvalidInputError(f"VALUE is not JSON ({error}); for plain text add --text") from None


async def _print_lines(
    records: AsyncIterator[Record], line: Callable[[Record], str], *, as_json: bool
) -> None:
    async for record in records:
        typer.echo(record_line(record) if as_json else line(record))


keeping.register(app, _errors_reported)
moving.register(app, _errors_reported)
benching.register(app, _errors_reported)
serving.register(app, _errors_reported)
doors.register(app, _errors_reported)

if __name__ == "__main__":
    main()
