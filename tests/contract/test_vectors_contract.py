"""L2, embedded and on a server: one suite, against a real `nt-memory serve` on a free port.

What the server's contract cannot do is tested in `test_agentdb_url.py`. `settle` is `memory.sync()`,
which embedded vectors do not need and a server does: there an observation is found once it was delivered.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.errors import DimensionError, EmbeddingError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

DIM = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server in a process of its own."""
    store = tmp_path_factory.mktemp("server") / "store"
    command = [sys.executable, "-m", "nt_memory.apps.cli.main", "serve", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--store", str(store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "http://" in line, line
    yield line.split()[1].rstrip(",")
    process.terminate()
    process.wait(30)
    process.stdout.close()


@pytest.fixture(params=["embedded", "server"])
def config(request: pytest.FixtureRequest, store: Path) -> MemoryConfig:
    """A configuration of each kind."""
    url = request.getfixturevalue("server") if request.param == "server" else None
    return MemoryConfig(storage_path=store, agentdb_url=url)


@pytest.fixture
def live(
    config: MemoryConfig, run: Any
) -> Callable[[Callable[[MemorySystem], Awaitable[None]]], None]:
    """`live(body)`: run it with an open memory."""

    def go(body: Callable[[MemorySystem], Awaitable[None]]) -> None:
        async def opened() -> None:
            async with MemorySystem.open(config) as memory:
                await body(memory)

        run(opened())

    return go


def vectors(count: int, seed: int = 7) -> Any:
    """`count` random vectors."""
    return np.random.default_rng(seed).normal(size=(count, DIM))


def keys(hits: Any) -> list[str]:
    """Their keys, in order."""
    return [hit.key for hit in hits]


def test_what_was_observed_is_found(live):
    """Key, data, time and revision are those of the observation; the score is the cosine."""

    async def body(memory):
        row, query = vectors(2)
        key = await memory.observe("a", row, {"n": 1})
        await memory.sync()
        (hit,) = await memory.search_similar("a", query)
        record = await memory.get_record("a", key)
        assert (hit.key, hit.data, hit.agent) == (key, {"n": 1}, "a")
        assert (hit.known_at, hit.revision) == (record.known_at, record.revision)
        cosine = row @ query / np.linalg.norm(row) / np.linalg.norm(query)
        assert hit.score == pytest.approx(cosine, abs=2e-3)

    live(body)


def test_a_search_agrees_with_numpy(live):
    """Best first, all of them if so many are wanted."""

    async def body(memory):
        rows = vectors(150)
        names = await memory.observe_many("a", rows, [{"n": n} for n in range(150)])
        await memory.sync()
        units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for query in vectors(5, seed=8):
            expected = np.argsort(-(units @ query))
            assert keys(await memory.search_similar("a", query, 7)) == [
                names[n] for n in expected[:7]
            ]
        assert len(await memory.search_similar("a", rows[0], 1_000)) == 150

    live(body)


def test_a_key_used_again_replaces(live):
    """By its new vector and data; the old ones are found no more."""

    async def body(memory):
        first, second = vectors(2)
        await memory.observe("a", first, "old", key="k")
        await memory.sync()
        await memory.observe("a", second, "new", key="k")
        await memory.sync()
        (hit,) = await memory.search_similar("a", second, 5)
        assert (hit.data, round(hit.score, 2)) == ("new", 1.0)

    live(body)


def test_what_is_gone_is_not_found(live):
    """After a delete, a put over it, and the end of its ttl."""

    async def body(memory):
        rows = vectors(4)
        for n in range(3):
            await memory.observe("a", rows[n], key=f"k{n}", ttl=0.4 if n == 2 else None)
        await memory.observe("a", rows[3], key="stays")
        await memory.sync()
        await memory.delete("a", "k0")
        await memory.put("a", "k1", "no observation")
        async for change in memory.watch("a", after=0):
            if change.kind == "expire":
                break
        await memory.sync()
        assert keys(await memory.search_similar("a", rows[0], 10)) == ["stays"]

    live(body)


def test_agents_are_apart(live):
    """Names that begin alike, or have dots, share nothing; several are searched together."""

    async def body(memory):
        rows = vectors(3)
        names = ["a", "a.b", "a" * 64]
        for agent, row in zip(names, rows, strict=True):
            await memory.observe(agent, row, key="k")
        await memory.sync()
        for agent, row in zip(names, rows, strict=True):
            (hit,) = await memory.search_similar(agent, row)
            assert (hit.agent, round(hit.score, 2)) == (agent, 1.0)
        hits = await memory.search_similar(names, rows[1])
        assert (len(hits), hits[0].agent) == (3, "a.b")

    live(body)


WHERE = [
    ({"side": "buy"}, {0, 2, 4}),
    ({"op": "gte", "field": "n", "value": 3}, {3, 4, 5}),
    ({"op": "in", "field": "n", "values": [1, 5, 9]}, {1, 5}),
    ({"op": "ne", "field": "side", "value": "buy"}, {1, 3, 5, 6}),
    ({"op": "eq", "field": "order.venue", "value": "X"}, {0, 1, 2, 3, 4, 5}),
    (
        {
            "op": "or",
            "filters": [{"n": 0}, {"op": "and", "filters": [{"n": 1}, {"side": "sell"}]}],
        },
        {0, 1},
    ),
]


@pytest.mark.parametrize(("where", "expected"), WHERE)
def test_where(live, where, expected):
    """Means the same in both; data that is no mapping passes only `ne`."""

    async def body(memory):
        rows = vectors(7)
        for n in range(6):
            data = {"n": n, "side": ("buy", "sell")[n % 2], "order": {"venue": "X"}}
            await memory.observe("a", rows[n], data, key=str(n))
        await memory.observe("a", rows[6], "text", key="6")
        await memory.sync()
        found = await memory.search_similar("a", rows[0], 10, where=where)
        assert {int(key) for key in keys(found)} == expected

    live(body)


def test_ties_are_ordered_by_key(live):
    """The same vector under several keys, also of several agents."""

    async def body(memory):
        for key in ("c", "a", "b"):
            await memory.observe("a", [1.0] * DIM, key=key)
        await memory.sync()
        assert keys(await memory.search_similar("a", [1.0] * DIM)) == ["a", "b", "c"]
        await memory.observe("other", [1.0] * DIM, key="bb")
        await memory.sync()
        hits = await memory.search_similar(["a", "other"], [1.0] * DIM)
        assert keys(hits) == ["a", "b", "bb", "c"]

    live(body)


def test_keys_of_any_length_and_letters(live):
    """256 bytes, beyond ASCII, and two long ones that differ at the end."""

    async def body(memory):
        names = ["é" * 128, "x" * 255 + "1", "x" * 255 + "2", "a/b/c"]
        rows = vectors(len(names))
        await memory.observe_many("a", rows, keys=names)
        await memory.sync()
        for name, row in zip(names, rows, strict=True):
            assert keys(await memory.search_similar("a", row, 1)) == [name]

    live(body)


def test_refusals_change_nothing(live):
    """A wrong dimension, a NaN and a wrong `top_k` are refused; the next search is as before."""

    async def body(memory):
        await memory.observe("a", [1.0] * DIM, key="k")
        await memory.sync()
        with pytest.raises(DimensionError):
            await memory.observe("a", [1.0] * (DIM + 1))
        with pytest.raises(DimensionError):
            await memory.search_similar("a", [1.0] * (DIM + 1))
        with pytest.raises(EmbeddingError):
            await memory.observe("a", [float("nan")] * DIM)
        with pytest.raises(InvalidInputError):
            await memory.search_similar("a", [1.0] * DIM, 0)
        await memory.sync()
        assert keys(await memory.search_similar("a", [1.0] * DIM)) == ["k"]
        assert await memory.search_similar("nobody", [1.0] * DIM) == []

    live(body)


def test_all_is_found_after_a_reopen(config, run):
    """Also what a compaction has left only in the base."""

    async def body():
        rows = vectors(30)
        async with MemorySystem.open(config) as memory:
            await memory.observe_many("a", rows, keys=[f"k{n:02}" for n in range(30)])
            await memory.compact()
        async with MemorySystem.open(config) as memory:
            await memory.observe("a", rows[0], key="after")
            await memory.sync()
            found = await memory.search_similar("a", rows[0], 40)
            assert set(keys(found)) == {"after", *(f"k{n:02}" for n in range(30))}

    run(body())


def test_searches_run_side_by_side(live):
    """Many at once get what each gets alone."""

    async def body(memory):
        rows = vectors(60)
        await memory.observe_many("a", rows)
        await memory.sync()
        alone = [await memory.search_similar("a", row, 3) for row in rows]
        assert await asyncio.gather(*(memory.search_similar("a", row, 3) for row in rows)) == alone
        assert await memory.search_many("a", rows, 3) == alone

    live(body)
