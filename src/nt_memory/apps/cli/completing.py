"""What the shell offers when Tab is pressed: agents, keys and proposals of the store that is named.

Read straight from the views, without opening the memory: no vectors, no journal, tens of milliseconds.
A completion never fails; where there is nothing to offer it offers nothing.
"""

from __future__ import annotations

from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from nt_memory.tiers.views import Snapshot

MOST = 100
_STATE = "s"


def agents(ctx: typer.Context, incomplete: str) -> list[str]:
    """Agents whose name starts like this."""
    return _offered(ctx, lambda views: _agents(views, incomplete))


def keys(ctx: typer.Context, incomplete: str) -> list[str]:
    """Keys, of the agent that stands before, that start like this."""
    agent = ctx.params.get("agent") or next(iter(ctx.params.get("agents") or ()), "")
    return _offered(ctx, lambda views: _keys(views, agent, incomplete)) if agent else []


def proposals(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of proposals that start like this."""

    def found(views: Snapshot) -> Iterator[str]:
        for key, _ in views.items(b"proposals", incomplete.encode()):
            if not key.startswith(incomplete.encode()):
                return
            yield key.decode()

    return _offered(ctx, found)


def locks(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of locks that start like this."""

    def found(views: Snapshot) -> Iterator[str]:
        for key, _ in views.items(b"locks", incomplete.encode()):
            if not key.startswith(incomplete.encode()):
                return
            yield key.decode()

    return _offered(ctx, found)


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


def _offered(ctx: typer.Context, find: Callable[[Snapshot], Iterator[str]]) -> list[str]:
    try:
        with _views(ctx.params.get("store")) as views:
            return list(islice(find(views), MOST))
    except Exception:  # noqa: BLE001 - an error in mid-line would help nobody
        return []


@contextmanager
def _views(store: str | None) -> Generator[Snapshot]:
    from nt_memory.apps.cli.running import locate  # noqa: PLC0415 - only when Tab is pressed
    from nt_memory.clock import SystemClock  # noqa: PLC0415
    from nt_memory.tiers.cold import ColdTier  # noqa: PLC0415
    from nt_memory.transport.directory import StoreDirectory  # noqa: PLC0415

    config, _ = locate(store)
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
