"""A server among hostile clients: a thousand connections, floods of bad requests, and flat memory."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

CONNECTIONS = 1000
ROUNDS = 5
MAX_GROWTH = 48 << 20
DEADLINE_S = 60.0
HEAD = b"PUT /v1/state/a/k HTTP/1.1\r\nHost: localhost\r\ncontent-type: application/json\r\n"

pytestmark = pytest.mark.stress


def anonymous(pid: int) -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@pytest.fixture
def server(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NT_MEMORY_")}
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "nt_memory.apps.cli.main", "serve", "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=tmp_path,
            env=environment,
        ) as process,
    ):
        line = process.stdout.readline()
        try:
            yield process, int(line.split()[1].rstrip(",").rpartition(":")[2])
        finally:
            process.terminate()
        assert process.wait(DEADLINE_S) == 0
    logged = (tmp_path / "log").read_text()
    assert "traceback" not in logged, logged[:5000]


async def send(port: int, data: bytes, *, hold_s: float = 0.0, drip: bytes = b"") -> bytes:
    """The first line of what is answered; empty if the connection was just closed."""
    with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            with suppress(OSError):
                writer.write(data)
                await writer.drain()
                ends = time.monotonic() + hold_s
                while drip and time.monotonic() < ends:
                    writer.write(drip)
                    await asyncio.sleep(0.5)
            async with asyncio.timeout(DEADLINE_S):
                return await reader.readline()
        finally:
            writer.close()
    return b""


async def until_served(port: int) -> None:
    """Wait until an honest client is served again."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                with suppress(httpx.TransportError):
                    answer = await client.put("/v1/state/a/k", json={"value": 1})
                    if answer.status_code == 200:
                        return
                    assert answer.status_code == 503
                await asyncio.sleep(0.1)


def test_a_thousand_connections_get_clear_answers(server, run):
    """Whatever they send or do not send, each is answered or closed, and honest ones are served."""
    process, port = server
    kinds = (
        (b"", 0.0, b""),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", 20.0, b"x"),
        (HEAD + b"Content-Length: 1000000\r\n\r\n{", 35.0, b" "),
        (HEAD + b"Content-Length: 99999999999\r\n\r\n", 0.0, b""),
        (b"\x00" * 100, 0.0, b""),
    )

    async def body() -> None:
        await until_served(port)
        answers = await asyncio.gather(
            *(
                send(port, data, hold_s=hold, drip=drip)
                for data, hold, drip in (kinds[n % len(kinds)] for n in range(CONNECTIONS))
            )
        )
        statuses = {answer.split(b" ")[1] for answer in answers if answer}
        assert statuses <= {b"400", b"408", b"413", b"503"}
        assert b"503" in statuses
        assert sum(1 for answer in answers if answer) > CONNECTIONS // 2
        await until_served(port)

    asyncio.run(body())
    assert process.poll() is None


def test_memory_stays_flat_under_a_flood_of_bad_requests(server):
    """After the first round nothing grows: not by bodies, names, routes, streams or tokens."""
    process, port = server
    big = b'{"value": "' + b"x" * (15 << 20) + b'"}'
    # As deep as is read, so that what is refused was looked at.
    deep = b'{"value": ' + b"[" * 900 + b"]" * 900 + b"}"

    async def flood(round_number: int) -> None:
        jobs = []
        for n in range(400):
            name = f"{round_number}-{n}"
            jobs += [
                send(port, f"GET /no/{name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()),
                send(port, f"BREW{n % 26} /x HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()),
                send(port, f"GET /v1/state/{name}/k HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()),
                send(port, HEAD + b"Content-Length: %d\r\n\r\n" % len(deep) + deep),
                send(
                    port,
                    f"GET /v1/messages?pattern={name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
                ),
                send(
                    port,
                    b"GET /v1/agents HTTP/1.1\r\nHost: localhost\r\n"
                    b"Authorization: Bearer " + name.encode() + b"\r\n\r\n",
                ),
            ]
        for first in range(0, len(jobs), 100):
            await asyncio.gather(*jobs[first : first + 100])
        refused = b'{"value": "' + b"x" * (15 << 20)
        for _ in range(3):
            await send(port, HEAD + b"Content-Length: %d\r\n\r\n" % (len(big)) + refused + b'", 5}')
        await until_served(port)

    sizes: list[int] = []
    for round_number in range(ROUNDS):
        asyncio.run(flood(round_number))
        sizes.append(anonymous(process.pid))
    print([f"{size / 1e6:.1f} MB" for size in sizes])
    assert sizes[-1] - sizes[0] < MAX_GROWTH
    stats = httpx.get(f"http://127.0.0.1:{port}/v1/stats").json()
    assert stats["server"] == {"streams": 0, "locks": 0}
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    assert len(text) < 100_000
