"""What the shell offers when Tab is pressed: agents, keys and proposals of the store that is named.

Of a directory it is read straight from the views, without opening the memory: no vectors, no journal,
tens of milliseconds. A server is asked, and given up after a second. A completion never fails; where
there is nothing to offer it offers nothing.
"""

from __future__ import annotations

from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from nt_memory.tiers.views import Snapshot

MOST = 100
PATIENCE_S = 1.0
_STATE = "s"


def agents(ctx: typer.Context, incomplete: str) -> list[str]:
    """Agents whose name starts like this."""
    return _offered(
        ctx,
        incomplete,
        lambda views: _agents(views, incomplete),
        ("/agents", {}, lambda answer: answer["agents"]),
    )


def keys(ctx: typer.Context, incomplete: str) -> list[str]:
    """Keys, of the agent that stands before, that start like this."""
    agent = ctx.params.get("agent") or next(iter(ctx.params.get("agents") or ()), "")
    if not agent:
        return []
    return _offered(
        ctx,
        incomplete,
        lambda views: _keys(views, agent, incomplete),
        (
            f"/state/{agent}",
            {"prefix": incomplete, "limit": MOST},
            lambda answer: [one["key"] for one in answer["records"]],
        ),
    )


def proposals(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of proposals that start like this."""
    return _offered(
        ctx,
        incomplete,
        lambda views: _named(views, b"proposals", incomplete),
        ("/proposals", {}, lambda answer: [one["id"] for one in answer["proposals"]]),
    )


def locks(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of locks that start like this."""
    return _offered(
        ctx,
        incomplete,
        lambda views: _named(views, b"locks", incomplete),
        ("/locks", {}, lambda answer: [one["resource"] for one in answer["locks"]]),
    )


def _named(views: Snapshot, table: bytes, incomplete: str) -> Iterator[str]:
    for key, _ in views.items(table, incomplete.encode()):
        if not key.startswith(incomplete.encode()):
            return
        yield key.decode()


def _agents(views: Snapshot, incomplete: str) -> Iterator[str]:
    from nt_memory.tiers.layout import parse_name  # noqa: PLC0415

    prefix = f"{_STATE}{incomplete}".encode()
    name = views.first_name(prefix, prefix)
    while name is not None:
        agent = parse_name(name)[1]
        yield agent
        name = views.first_name(f"{_STATE}{agent}\1".encode(), prefix)


def _keys(views: Snapshot, agent: str, incomplete: str) -> Iterator[str]:
    from nt_memory.tiers.layout import parse_name  # noqa: PLC0415

    prefix = f"{_STATE}{agent}\0{incomplete}".encode()
    name = views.first_name(prefix, prefix)
    while name is not None:
        key = parse_name(name)[2]
        current = views.current(name)
        if current is not None and current[2].value is not None:
            yield key
        name = views.next_name(name, prefix)


def _offered(
    ctx: typer.Context,
    incomplete: str,
    find: Callable[[Snapshot], Iterator[str]],
    asks: tuple[str, dict[str, Any], Callable[[Any], list[str]]],
) -> list[str]:
    """What is offered.

    Args:
        ctx: The line so far.
        incomplete: How it goes on.
        find: Reads it from the views of a directory.
        asks: What a server is asked: path, query, and what to take of the answer.
    """
    from nt_memory.apps.cli.running import is_served, locate  # noqa: PLC0415 - only after Tab

    try:
        config, _ = locate(ctx.params.get("store"))
        if is_served(config.url):
            path, query, taken = asks
            found = taken(_asked(config.url or "", path, query))
            return [one for one in found if one.startswith(incomplete)][:MOST]
        with _views(config) as views:
            return list(islice(find(views), MOST))
    except Exception:  # noqa: BLE001 - an error in mid-line would help nobody
        return []


def _asked(url: str, path: str, query: dict[str, Any]) -> Any:
    import asyncio  # noqa: PLC0415

    from nt_memory.apps.cli.remote.address import address_of  # noqa: PLC0415
    from nt_memory.apps.cli.remote.client import Client  # noqa: PLC0415

    async def ask() -> Any:
        client = Client(address_of(url))
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await client.ask("GET", path, query=query)
        finally:
            await client.close()

    return asyncio.run(ask())


@contextmanager
def _views(config: Any) -> Generator[Snapshot]:
    from nt_memory.clock import SystemClock  # noqa: PLC0415
    from nt_memory.tiers.cold import ColdTier  # noqa: PLC0415
    from nt_memory.transport.directory import StoreDirectory  # noqa: PLC0415

    directory = StoreDirectory(config.storage_path, clock=SystemClock(), read_only=True)
    cold = ColdTier(
        directory.views,
        max_map_bytes=config.max_map_bytes,
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
        directory.close()
