"""Connections that are made to fail: each fault does what it says, and mending undoes it."""

from __future__ import annotations

import asyncio
import random
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from nt_memory.testing.chaos import corrupt
from nt_memory.testing.wires import LOOPBACK, Wires

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

SOON_S = 0.05


@pytest.fixture
def board() -> Iterator[Wires]:
    """Wires that are taken down in the end."""
    made = Wires()
    yield made
    made.close()


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """A server that says what it hears; its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1024):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(answer, LOOPBACK, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def say(pair: Any, data: bytes) -> bytes:
    reader, writer = pair
    writer.write(data)
    heard: bytes = await reader.readexactly(len(data))
    return heard


async def is_silent(pair: Any) -> bool:
    """Whether nothing comes, for as long as it would take by far."""
    try:
        await asyncio.wait_for(pair[0].readexactly(1), SOON_S)
    except TimeoutError:
        return True
    return False


def test_a_wire_passes_on_until_it_is_held(run: Any, board: Wires) -> None:
    """Held, it passes nothing, one way or both, and keeps the connection; mended, what was held comes."""

    async def main() -> None:
        async with echo() as port:
            wire = board.lead(port)
            pair = await asyncio.open_connection(LOOPBACK, wire.port)
            assert await say(pair, b"one") == b"one"
            assert wire.connections == 1
            for way in ("there", "back", "both"):
                wire.hold(way)  # type: ignore[arg-type]
                pair[1].write(b"held")
                assert await is_silent(pair)
                wire.mend()
                assert await pair[0].readexactly(4) == b"held"
            wire.hold()
            late = await asyncio.open_connection(LOOPBACK, wire.port)
            late[1].write(b"late")
            assert await is_silent(late)
            wire.mend()
            assert await late[0].readexactly(4) == b"late"
            for each in (pair, late):
                each[1].close()

    run(main())


def test_a_wire_is_dropped_and_cut(run: Any, board: Wires) -> None:
    """Dropped, connections are reset and new ones pass; cut, new ones are reset too, until mended."""

    async def main() -> None:
        async with echo() as port:
            wire = board.lead(port)
            pair = await asyncio.open_connection(LOOPBACK, wire.port)
            await say(pair, b"x")
            wire.drop()
            with pytest.raises(ConnectionResetError):
                await pair[0].readexactly(1)
            pair = await asyncio.open_connection(LOOPBACK, wire.port)
            assert await say(pair, b"again") == b"again"
            wire.cut()
            with pytest.raises(ConnectionResetError):
                await pair[0].readexactly(1)
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                await say(await asyncio.open_connection(LOOPBACK, wire.port), b"x")
            wire.mend()
            pair = await asyncio.open_connection(LOOPBACK, wire.port)
            assert await say(pair, b"whole") == b"whole"
            pair[1].close()

    run(main())


def test_a_slow_wire_keeps_the_order(run: Any, board: Wires) -> None:
    """Slowed, everything comes later by as much, each way, and in its order."""

    async def main() -> None:
        async with echo() as port:
            wire = board.lead(port)
            pair = await asyncio.open_connection(LOOPBACK, wire.port)
            await say(pair, b"x")
            wire.slow(0.05)
            loop = asyncio.get_running_loop()
            began = loop.time()
            for number in range(20):
                pair[1].write(bytes([number]))
                await pair[1].drain()
            assert await pair[0].readexactly(20) == bytes(range(20))
            assert loop.time() - began >= 0.1
            pair[1].close()

    run(main())


def test_nobody_behind_a_wire(run: Any, board: Wires) -> None:
    """Where nobody listens behind it, a connection is reset, not kept."""

    async def main() -> None:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            wire = board.lead(probe.getsockname()[1])
            reader, _ = await asyncio.open_connection(LOOPBACK, wire.port)
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)

    run(main())


def test_corrupt_changes_what_it_says(tmp_path: Path) -> None:
    """Bytes change at the place that is returned, each of them, and nothing else does."""
    path = tmp_path / "1.blk"
    path.write_bytes(bytes(1000))
    place = corrupt(path, random.Random(1), size=3)  # noqa: S311
    data = path.read_bytes()
    assert len(data) == 1000
    assert all(data[place : place + 3])
    assert data.count(0) == 997
