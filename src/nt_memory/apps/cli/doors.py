"""`nt-memory mcp`, `import agentdb` and `export agentdb`: the memory for other programs."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nt_memory.apps.cli import printing
from nt_memory.apps.cli.commands import Family
from nt_memory.apps.cli.options import Store
from nt_memory.apps.cli.running import check_not_served, in_directory
from nt_memory.errors import InvalidInputError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nt_memory import MemorySystem
    from nt_memory.apps.mcp import McpDoor
    from nt_memory.embedders import Embedder

_progress = contextmanager(printing.progress)
_AT_SERVER = "start that with --mcp, and give the host its URL with /mcp behind"
_THERE = "name the store's directory with --store, on the machine where it is"


def mcp(
    *,
    store: Store = None,
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
    from nt_memory.namespace import check_agent  # noqa: PLC0415 - slow

    check_not_served(store, _AT_SERVER)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="nt-memory: %(message)s")
    if agent:
        check_agent(agent)  # before a store is made
    embeds = embedder_of(embedder)
    try:
        from nt_memory.apps.mcp import McpDoor  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise UnsupportedError(f"{error.name}: pip install 'nt-memory[mcp]'") from None

    async def body(memory: MemorySystem) -> None:
        await _serve(memory, McpDoor(memory, agent=agent, embedder=embeds, read_only=read_only))

    in_directory(
        body,
        store,
        instead=_AT_SERVER,
        writes=not read_only,
    )


async def _serve(memory: MemorySystem, door: McpDoor) -> None:
    import asyncio  # noqa: PLC0415 - `--help` does without

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
    from nt_memory.embedders import (  # noqa: PLC0415 - slow
        HashingTextEmbedder,
        OpenAIEmbedder,
        SentenceTransformersEmbedder,
    )

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


def import_agentdb(
    source: Annotated[Path, typer.Argument(metavar="FILE.db", help="AgentDB's file.")],
    *,
    agent: Annotated[
        str, typer.Option(metavar="NAME", help="Under whose name its rows go.")
    ] = "agentdb",
    store: Store = None,
) -> None:
    """Take over the file of the npm package agentdb; repeated, only what has changed."""
    from nt_memory.integrations.agentdb import import_agentdb as take_over  # noqa: PLC0415 - slow
    from nt_memory.integrations.agentdb.rows import reading  # noqa: PLC0415
    from nt_memory.namespace import check_agent  # noqa: PLC0415

    async def body(memory: MemorySystem) -> None:
        with _progress() as told:
            done = await take_over(
                memory, source, agent=agent, progress=printing.named(told, "imported")
            )
        without = done.without_vector
        more = f", {without:,} of them without their vector" if without else ""
        printing.note(f"{done.rows:,} rows read, {done.written:,} written{more}")

    check_not_served(store, _THERE)
    check_agent(agent)
    with reading(source):
        pass  # before a store is made
    in_directory(body, store, instead=_THERE, writes=True)


def export_agentdb(
    target: Annotated[Path, typer.Argument(metavar="FILE.db", help="File to make.")],
    *,
    agent: Annotated[
        list[str] | None,
        typer.Option(metavar="AGENT", help="Only what is its; may be repeated."),
    ] = None,
    store: Store = None,
) -> None:
    """Write a file for the npm package agentdb: what came from one, and what agents saw and decided."""
    from nt_memory.integrations.agentdb import export_agentdb as hand_over  # noqa: PLC0415 - slow

    async def body(memory: MemorySystem) -> None:
        with _progress() as told:
            done = await hand_over(
                memory, target, agents=agent, progress=printing.named(told, "exported")
            )
        printing.note(f"{done.rows:,} rows written, {done.episodes:,} of them new episodes")

    in_directory(body, store, instead=_THERE)


def register(app: typer.Typer) -> None:
    """Add the commands; `mcp` stands beside `serve`."""
    family = Family(app, "The store")
    family.add(import_agentdb, "import agentdb agentdb.db", name="import agentdb")
    family.add(export_agentdb, "export agentdb agentdb.db", name="export agentdb")
