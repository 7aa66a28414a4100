"""Running a command: over a store that is opened for it, until it ends or is ended."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, cast

import typer

from nt_memory.apps.cli.exits import DAMAGED, IN_USE, SIGNALLED, Exit, code_of, explained
from nt_memory.errors import (
    InvalidInputError,
    NoStoreError,
    NtMemoryError,
    StoreInUseError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
    from pathlib import Path

    from nt_memory import MemoryConfig, MemorySystem
    from nt_memory.apps.cli.asking import Memory
    from nt_memory.transport.directory import Holder

    Body = Callable[[Memory], Awaitable[None]]

_LOOK_AGAIN_S = 0.05
_SCHEMES = frozenset({"http", "https", "nats", "tls"})


class StoppedError(Exception):
    """A signal other than Ctrl-C's asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def reported(*, in_use: str = IN_USE, damaged: str = DAMAGED) -> Generator[None]:
    """Turn what a command ends with into an exit code, and one line on stderr; see `explained`."""
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        raise typer.Exit(Exit.INTERRUPTED) from None
    except StoppedError as stopped:
        raise typer.Exit(SIGNALLED + stopped.number) from None
    except BrokenPipeError:
        _mute()
        raise typer.Exit(Exit.PIPE) from None
    except (NtMemoryError, OSError) as error:
        try:
            sys.stdout.flush()  # what was found before it
        except OSError:
            _mute()
        typer.echo(f"nt-memory: {explained(error, in_use=in_use, damaged=damaged)}", err=True)
        raise typer.Exit(code_of(error)) from None


def within_reports(command: Callable[..., None], **advice: str) -> Callable[..., None]:
    """The command, `reported` with what is advised there."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        with reported(**advice):
            command(*args, **kwargs)

    return run


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine; Ctrl-C, SIGTERM and SIGHUP cancel it, so that it gives back what it holds.

    Raises:
        KeyboardInterrupt: on Ctrl-C, once it has ended.
        StoppedError: on the others.
    """
    import asyncio  # noqa: PLC0415 - `--help` does without

    async def guarded() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        stops: list[int] = []

        def end(number: int) -> None:
            stops.append(number)
            if task is not None:
                task.cancel()

        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, end, number)
        try:
            await main
        except asyncio.CancelledError:
            if stops:
                raise StoppedError(stops[0]) from None
            raise

    asyncio.run(guarded())


def over_store(body: Body, store: str | None, **how: Any) -> None:
    """Run `body` over a store that is opened for it, here or on a server.

    Args:
        body: What to do with the memory.
        store: Its directory or URL; None: what the environment says, else `./data/memory`.
        how: See `opened`.

    Raises:
        NtMemoryError: whatever opening it or `body` raises.
    """

    async def over() -> None:
        async with opened(store, **how) as memory:
            await body(memory)

    run(over())


def in_directory(
    body: Callable[[MemorySystem], Awaitable[None]], store: str | None, *, instead: str, **how: Any
) -> None:
    """Run `body` over a store that this process itself opens, not over a server; see `over_store`.

    Raises:
        UnsupportedError: it is on a server; with what to do instead.
    """
    check_not_served(store, instead)

    async def here(memory: Memory) -> None:
        await body(cast("MemorySystem", memory))

    over_store(here, store, **how)


@asynccontextmanager
async def opened(
    store: str | None,
    *,
    writes: bool = False,
    acting: str | None = None,
    wait: float = 0.0,
    must_exist: bool = False,
) -> AsyncGenerator[Memory]:
    """A store that is open for as long as the block runs.

    Args:
        store: Its directory or URL.
        writes: Open it for writing, which one process at a time may, and make it when missing.
        acting: In whose name and with whose rights.
        wait: Seconds to wait for a store that another process writes, or a server that starts.
        must_exist: Do not make it.

    Raises:
        NtMemoryError: whatever opening it raises.
    """
    config, adopts = locate(store)
    if is_served(config.url):
        async with _reached(config.url or "", acting, wait) as remote:
            yield remote
        return
    if must_exist and config.url is None:
        check_exists(config)
    from nt_memory.system.memory import Opening  # noqa: PLC0415 - slow, and may be in vain

    def opening() -> Opening:
        # A node of a cluster has its own replica, and follows by writing it.
        read_only = not writes and config.url is None
        return Opening(config, clock=None, read_only=read_only, adopt_settings=adopts)

    async with await patiently(opening, wait) as memory:
        yield memory if acting is None else memory.as_agent(acting)


@asynccontextmanager
async def _reached(url: str, acting: str | None, wait: float) -> AsyncGenerator[Memory]:
    from nt_memory.apps.cli.remote.address import address_of  # noqa: PLC0415 - slow
    from nt_memory.apps.cli.remote.memory import RemoteMemory  # noqa: PLC0415

    if acting is not None:
        raise UnsupportedError(
            "--as: over a server the token says in whose name; give that agent's by NT_MEMORY_TOKEN"
        )
    remote = await RemoteMemory.open(address_of(url), wait=wait)
    try:
        yield remote
    finally:
        await remote.close()


async def patiently(opening: Callable[[], Awaitable[MemorySystem]], wait: float) -> MemorySystem:
    """The memory, once no other process writes it.

    Raises:
        StoreInUseError: one still does after `wait` seconds.
    """
    import asyncio  # noqa: PLC0415

    from nt_memory.clock import SystemClock  # noqa: PLC0415

    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait
    while True:
        try:
            return await opening()
        except StoreInUseError:
            if loop.time() >= deadline:
                raise
        await SystemClock().sleep(_LOOK_AGAIN_S)


def locate(store: str | None) -> tuple[MemoryConfig, bool]:
    """Where a store is, and whether it keeps the timeline, history and swarm it was made with.

    Raises:
        InvalidInputError: the environment has an unknown or malformed setting, or the URL is of no
            kind that there is.
    """
    import dataclasses  # noqa: PLC0415

    from nt_memory.config import MemoryConfig, names_swarm_settings  # noqa: PLC0415
    from nt_memory.transport.nats.address import parse_url  # noqa: PLC0415

    config = MemoryConfig.from_env()
    given = store if store is not None else config.url
    if given is None:
        pass
    elif "://" not in given:
        config = dataclasses.replace(config, storage_path=given, url=None)
    elif given.partition("://")[0] in _SCHEMES:
        swarm = "" if is_served(given) else parse_url(given)[1]
        config = dataclasses.replace(config, url=given, swarm=swarm or config.swarm)
    else:
        scheme = given.partition("://")[0]
        raise InvalidInputError(
            f"--store {scheme}://…: a directory, http://, https:// or nats:// is wanted"
        )
    return config, not names_swarm_settings()


def is_served(url: str | None) -> bool:
    """Whether a URL is that of `nt-memory serve`."""
    return url is not None and url.startswith(("http://", "https://"))


def is_cluster(store: str | None) -> bool:
    """Whether a store is a swarm of a cluster. Raises as `locate`."""
    url = locate(store)[0].url
    return url is not None and not is_served(url)


def check_not_served(store: str | None, instead: str) -> None:
    """Refuse the URL of a server.

    Raises:
        UnsupportedError: it is one; with what to do instead.
    """
    url = locate(store)[0].url
    if is_served(url):
        raise UnsupportedError(f"{url}: a server does not offer this; {instead}")


def path_of(store: str | None, instead: str) -> Path:
    """The directory of a store.

    Raises:
        UnsupportedError: it is named by a URL; with what to do instead.
        As `locate`.
    """
    from pathlib import Path  # noqa: PLC0415

    config, _ = locate(store)
    if config.url is not None:
        raise UnsupportedError(f"{config.url}: this is about a store's files; {instead}")
    return Path(config.storage_path)


def check_exists(config: MemoryConfig) -> None:
    """Refuse a mistyped path, where the command must not make a store.

    Raises:
        NoStoreError: there is no store there.
    """
    from pathlib import Path  # noqa: PLC0415

    if not (Path(config.storage_path) / "FORMAT").exists():
        raise NoStoreError(f"{os.fspath(config.storage_path)}: there is no store here")


def _mute() -> None:
    """Nobody reads stdout any more, or it is full: what is left must not be an error once more."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def writer_of(path: str) -> Holder | None:
    """The process that has a store open for writing, as far as can be told; of a URL nothing can."""
    if "://" in path:
        return None
    from nt_memory.clock import SystemClock  # noqa: PLC0415
    from nt_memory.transport.directory import StoreDirectory  # noqa: PLC0415

    directory = StoreDirectory(path, clock=SystemClock(), read_only=True)
    try:
        return directory.writer()
    finally:
        directory.close()
