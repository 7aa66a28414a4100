"""`nt-memory mcp`, `import agentdb` and `export agentdb`: the memory for other programs."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.apps.cli.moving import progress
from nt_memory.embedders import (
    HashingTextEmbedder,
    OpenAIEmbedder,
    SentenceTransformersEmbedder,
)
from nt_memory.errors import InvalidInputError, UnsupportedError
from nt_memory.integrations.agentdb import Exported, Imported
from nt_memory.integrations.agentdb import export_agentdb as hand_over
from nt_memory.integrations.agentdb import import_agentdb as take_over
from nt_memory.integrations.agentdb.rows import reading
from nt_memory.namespace import check_agent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nt_memory.embedders import Embedder

_Store = Annotated[
    Path | None,
    typer.Option(
        "--store",
        metavar="DIR",
        help="Directory of the store. Default: what NT_MEMORY_* says, or ./data/memory.",
    ),
]


def mcp(
    *,
    store: _Store = None,
    agent: Annotated[
        str,
        typer.Option(metavar="NAME", help="Act in this agent's name, with its rights."),
    ] = "",
    embedder: Annotated[
        str,
        typer.Option(
            metavar="WHICH",
            help="How texts become vectors: `hashing`, `hashing:DIM`, "
            "`sentence-transformers:MODEL`, `openai:MODEL:DIM` or `none`.",
        ),
    ] = "hashing",
    read_only: Annotated[
        bool,
        typer.Option("--read-only", help="Only look: another process may be writing."),
    ] = False,
) -> None:
    """Serve the memory to an MCP host over stdin and stdout; the host starts this, not you."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="nt-memory: %(message)s")
    if agent:
        check_agent(agent)  # before a store is made
    asyncio.run(_serve(_target(store), agent, embedder_of(embedder), read_only=read_only))


async def _serve(
    target: MemoryConfig | Path,
    agent: str,
    embedder: Embedder[Sequence[str]] | None,
    *,
    read_only: bool,
) -> None:
    try:
        from nt_memory.apps.mcp import McpDoor  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise UnsupportedError(f"{error.name}: pip install 'nt-memory[mcp]'") from None
    async with MemorySystem.open(target, read_only=read_only) as memory:
        door = McpDoor(memory, agent=agent, embedder=embedder, read_only=read_only)
        serving = asyncio.ensure_future(door.serve_stdio())
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        stopping = asyncio.ensure_future(stopped.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if serving.done():
            serving.result()
            return
        # The transport reads stdin on a thread, which nothing but the host can end. So give back
        # what agents hold, close the store, and go without waiting for that thread.
        await door.close()
        await memory.close()
        os._exit(0)


def embedder_of(which: str) -> Embedder[Sequence[str]] | None:
    """The embedder of texts that a name stands for; None for "none".

    Raises:
        InvalidInputError: there is none of that name.
        UnsupportedError, EmbedderError: it cannot be loaded.
    """
    kind, _, rest = which.partition(":")
    if which == "none":
        return None
    if kind == "hashing":
        return HashingTextEmbedder(_dim(rest)) if rest else HashingTextEmbedder()
    if kind == "sentence-transformers" and rest:
        return SentenceTransformersEmbedder(rest)
    if kind == "openai" and rest.rpartition(":")[0]:
        model, _, dim = rest.rpartition(":")
        return OpenAIEmbedder(model, _dim(dim))
    raise InvalidInputError(
        f"--embedder {which!r}: hashing, hashing:DIM, sentence-transformers:MODEL, "
        "openai:MODEL:DIM or none"
    )


def _dim(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise InvalidInputError(f"--embedder: {text!r} is not the length of a vector")
    return int(text)


class TwoWords(TyperGroup):
    """Commands, some of which have two words: `import agentdb` beside `import`."""

    # Typer's classes are click's or its own copy of them, by version.
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # type: ignore[explicit-override]
        """The command that the first words name, and the words after them."""
        both = " ".join(args[:2])
        if both in self.commands:
            return both, self.commands[both], args[2:]
        return super().resolve_command(ctx, args)


def import_agentdb(
    source: Annotated[Path, typer.Argument(metavar="FILE.db", help="AgentDB's file.")],
    *,
    agent: Annotated[
        str, typer.Option(metavar="NAME", help="Under whose name its rows go.")
    ] = "agentdb",
    store: _Store = None,
) -> None:
    """Take over the file of the npm package agentdb; repeated, only what has changed."""

    async def run() -> Imported:
        with progress("import") as told:
            async with MemorySystem.open(_target(store)) as memory:
                return await take_over(memory, source, agent=agent, progress=told)

    check_agent(agent)
    with reading(source):
        pass  # before a store is made
    done = asyncio.run(run())
    note = f", {done.without_vector:,} of them without their vector" if done.without_vector else ""
    typer.echo(f"{done.rows:,} rows read, {done.written:,} written{note}", err=True)


def export_agentdb(
    target: Annotated[Path, typer.Argument(metavar="FILE.db", help="File to make.")],
    *,
    agent: Annotated[
        list[str] | None,
        typer.Option(metavar="AGENT", help="Only what is its; may be repeated."),
    ] = None,
    store: _Store = None,
) -> None:
    """Write a file for the npm package agentdb: what came from one, and what agents saw and decided."""

    async def run() -> Exported:
        with progress("export") as told:
            async with MemorySystem.open(_target(store), read_only=True) as memory:
                return await hand_over(memory, target, agents=agent, progress=told)

    done = asyncio.run(run())
    typer.echo(f"{done.rows:,} rows written, {done.episodes:,} of them new episodes", err=True)


def _target(store: Path | None) -> MemoryConfig | Path:
    return MemoryConfig.from_env() if store is None else store


def register(app: typer.Typer, reported: Callable[[], AbstractContextManager[None]]) -> None:
    """Add the commands to `app`; errors in them are `reported` as in its others."""

    def within(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(*args: Any, **kwargs: Any) -> None:
            with reported():
                command(*args, **kwargs)

        return run

    app.command(
        "mcp",
        epilog="Example, as a host's configuration has it: "
        "`nt-memory mcp --store /home/me/memory --agent claude`",
    )(within(mcp))
    app.command("import agentdb", epilog="Example: `nt-memory import agentdb agentdb.db`")(
        within(import_agentdb)
    )
    app.command("export agentdb", epilog="Example: `nt-memory export agentdb agentdb.db`")(
        within(export_agentdb)
    )
