"""Connections that are made to fail: each fault does what it says, and mending undoes it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from nt_memory.clock import turn
from nt_memory.testing.chaos import corrupt
from nt_memory.testing.wires import LOOPBACK, Wire, Wires

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

    writers: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(ConnectionResetError):
            while data := await reader.read(1024):
                writer.write(data)

    server = await asyncio.start_server(answer, LOOPBACK, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await turn()


async def connect(wire: Wire) -> Any:
    return await asyncio.open_connection(LOOPBACK, wire.port)


async def is_reset(wire: Wire) -> bool:
    """Whether a connection is reset, at once or at the first read."""
    try:
        reader, writer = await connect(wire)
    except ConnectionResetError:
        return True
    try:
        await reader.readexactly(1)
    except ConnectionResetError:
        return True
    finally:
        writer.transport.abort()
        await turn()
    return False


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
            pair = await connect(wire)
            assert await say(pair, b"one") == b"one"
            assert wire.connections == 1
            for way in ("there", "back", "both"):
                wire.hold(way)  # type: ignore[arg-type]
                pair[1].write(b"held")
                assert await is_silent(pair)
                wire.mend()
                assert await pair[0].readexactly(4) == b"held"
            wire.hold()
            late = await connect(wire)
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
            pair = await connect(wire)
            await say(pair, b"x")
            wire.drop()
            with pytest.raises(ConnectionResetError):
                await pair[0].readexactly(1)
            pair = await connect(wire)
            assert await say(pair, b"again") == b"again"
            wire.cut()
            with pytest.raises(ConnectionResetError):
                await pair[0].readexactly(1)
            assert await is_reset(wire)
            wire.mend()
            pair = await connect(wire)
            assert await say(pair, b"whole") == b"whole"
            pair[1].close()

    run(main())


def test_a_slow_wire_keeps_the_order(run: Any, board: Wires) -> None:
    """Slowed, everything comes later by as much, each way, and in its order."""

    async def main() -> None:
        async with echo() as port:
            wire = board.lead(port)
            pair = await connect(wire)
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
            assert await is_reset(wire)

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
