"""`agentdb_url` against real servers: outages, crashes, loss, refusals, tokens, and what it cannot do."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.apps.server.settings import ServerSettings
from nt_memory.apps.server.tokens import add_token
from nt_memory.clock import SystemClock, to_datetime
from nt_memory.errors import (
    InvalidInputError,
    UnsupportedError,
    VectorServerError,
    VectorServerUnavailableError,
)
from nt_memory.tiers.agentdb import MARK, Progress, collection_of

if TYPE_CHECKING:
    from pathlib import Path

DIM = 4
NOWHERE = "http://127.0.0.1:1"


def rows(count: int, seed: int = 3) -> Any:
    """`count` random vectors."""
    return np.random.default_rng(seed).normal(size=(count, DIM))


def config_of(tmp_path: Path, url: str, name: str = "client") -> MemoryConfig:
    """A store of its own, whose vectors are there."""
    return MemoryConfig(storage_path=tmp_path / name, agentdb_url=url)


def progress_of(config: MemoryConfig) -> Progress:
    """What the store has noted."""
    found = Progress.load(config.storage_path, config.agentdb_url)
    assert found is not None
    return found


async def until(memory: MemorySystem, holds: Any) -> None:
    """Wait for the delivery to come to a state; the test's deadline bounds it."""
    while not holds(memory.stats()):
        await SystemClock().sleep(0.01)


async def found(memory: MemorySystem, agent: str = "a", count: int = 100) -> set[str]:
    """The keys of all that is found."""
    return {hit.key for hit in await memory.search_similar(agent, [1.0] * DIM, count)}


# --- what it cannot do ------------------------------------------------------------------------


def test_what_the_contract_cannot_do_is_refused(running, tmp_path, run):
    """As-of, tags, exact, explanations, maps of observations, re-embedding and exotic filters say so."""
    config = config_of(tmp_path, running().url)

    async def body():
        async with MemorySystem.open(config) as memory:
            revision = await memory.put("a", "k", 1)
            await memory.observe("a", [1.0] * DIM, tags=["t"])
            await memory.sync()
            query = [1.0] * DIM
            calls = [
                lambda: memory.search_similar("a", query, as_of=revision),
                lambda: memory.at(revision).search_similar("a", query),
                lambda: memory.search_similar("a", query, tags=["t"]),
                lambda: memory.search_similar("a", query, exact=True),
                lambda: memory.explain_similar("a", query),
                lambda: memory.map("a", action_type=""),
                lambda: memory.reembed("a", lambda records: rows(len(records))),
                lambda: memory.search_similar("a", query, where={"x": b"bytes"}),
            ]
            for call in calls:
                with pytest.raises(UnsupportedError, match="agentdb_url"):
                    await call()
            assert await memory.get("a", "k", as_of=revision) == 1

    run(body())


@pytest.mark.parametrize(
    "url", ["ftp://h", "http://", "http://u:secret@h", "http://h/?q=1", "h:3000", "http://[::"]
)
def test_a_malformed_url_is_refused(tmp_path, run, url):
    """Before anything is made on disk, and without repeating a password."""

    async def body():
        with pytest.raises(InvalidInputError, match="agentdb_url") as refusal:
            await MemorySystem.open(config_of(tmp_path, url))
        assert "secret" not in str(refusal.value)
        assert list(tmp_path.iterdir()) == []

    run(body())


def test_a_missing_extra_names_the_command(tmp_path, run, monkeypatch):
    """Without httpx, opening says what to install, and makes nothing."""
    monkeypatch.setitem(sys.modules, "httpx", None)

    async def body():
        with pytest.raises(UnsupportedError, match=r"pip install 'nt-memory\[agentdb\]'"):
            await MemorySystem.open(config_of(tmp_path, NOWHERE))
        assert list(tmp_path.iterdir()) == []

    run(body())


# --- outages ----------------------------------------------------------------------------------


def test_a_server_that_is_away_stops_no_state(running, tmp_path, run):
    """Observations and state go on, searches say that a retry helps; it comes, and gets what it missed."""
    server = running(target=tmp_path / "store")
    config, port = config_of(tmp_path, server.url), server.port
    server.stop()

    async def body():
        async with MemorySystem.open(config) as memory:
            names = await memory.observe_many("a", rows(300), [{"n": n} for n in range(300)])
            assert await memory.get("a", names[7]) == {"n": 7}
            await memory.delete("a", names[0])
            with pytest.raises(VectorServerUnavailableError, match="may succeed later") as trouble:
                await memory.search_similar("a", [1.0] * DIM)
            assert trouble.value.retryable
            await until(memory, lambda stats: stats.l2_failure)
            assert memory.stats().l2_undelivered > 0
            await asyncio.to_thread(running, ServerSettings(port=port), tmp_path / "store")
            await memory.sync()
            assert memory.stats().l2_undelivered == 0
            assert memory.stats().l2_failure == ""
            assert await found(memory, count=1_000) == set(names[1:])

    run(body())


def test_a_store_that_was_full_before_is_delivered_whole(running, tmp_path, run):
    """All that is in force in it, of every agent; what was deleted is not."""
    config = config_of(tmp_path, running().url)

    async def before():
        async with MemorySystem.open(tmp_path / "client") as memory:
            for agent in ("a", "b"):
                names = [f"k{n:03}" for n in range(400)]
                await memory.observe_many(agent, rows(400), keys=names)
                await memory.put(agent, "plain", 1)
            await memory.delete("b", "k007")

    async def after():
        async with MemorySystem.open(config) as memory:
            await memory.sync()
            assert len(await found(memory, "a", 1_000)) == 400
            assert len(await found(memory, "b", 1_000)) == 399

    run(before())
    run(after())


def test_delivery_goes_on_where_a_crash_left_it(running, tmp_path, run):
    """With notes as old as before a delete and a replacement, the server ends up as it should."""
    config = config_of(tmp_path, running().url)
    path = tmp_path / "client" / "agentdb.json"

    async def first():
        async with MemorySystem.open(config) as memory:
            await memory.observe_many("a", rows(5), keys=list("vwxyz"))
            await memory.sync()

    async def second():
        async with MemorySystem.open(config) as memory:
            await memory.delete("a", "v")
            await memory.observe("a", rows(1, seed=9)[0], "new", key="w")
            await memory.sync()

    async def third():
        async with MemorySystem.open(config) as memory:
            await memory.sync()
            assert await found(memory) == set("wxyz")
            (hit,) = await memory.search_similar("a", rows(1, seed=9)[0], 1)
            assert (hit.key, hit.data) == ("w", "new")

    run(first())
    before = path.read_bytes()
    run(second())
    store = progress_of(config).store
    path.write_bytes(before)
    run(third())
    assert progress_of(config).store == store  # nothing had to begin anew
    path.write_bytes(b'{"url":')
    run(third())
    assert progress_of(config).store != store  # notes that cannot be read tell nothing


def test_after_the_log_was_compacted_all_is_delivered_anew(running, tmp_path, run):
    """What was deleted in an outage that outlived the log is not found afterwards."""
    config = config_of(tmp_path, running().url)

    async def deliver():
        async with MemorySystem.open(config) as memory:
            await memory.observe_many("a", rows(3), keys=["x", "y", "z"])
            await memory.sync()

    async def elsewhere():
        async with MemorySystem.open(tmp_path / "client") as memory:
            await memory.delete("a", "x")
            await memory.compact()

    async def again():
        async with MemorySystem.open(config) as memory:
            await memory.sync()
            assert await found(memory) == {"y", "z"}

    run(deliver())
    store = progress_of(config).store
    run(elsewhere())
    run(again())
    assert progress_of(config).store != store


def test_a_server_that_lost_everything_gets_it_again(running, tmp_path, run):
    """By a search that finds no collection, or by the next observation; also in the same session."""
    server = running(target=tmp_path / "one")
    config, port = config_of(tmp_path, server.url), server.port

    async def body():
        async with MemorySystem.open(config) as memory:
            await memory.observe_many("a", rows(3), keys=["x", "y", "z"])
            await memory.sync()
            await asyncio.to_thread(server.stop)
            second = await asyncio.to_thread(running, ServerSettings(port=port), tmp_path / "two")
            assert await found(memory) == set()
            await memory.sync()
            assert await found(memory) == {"x", "y", "z"}
            await asyncio.to_thread(second.stop)
            await asyncio.to_thread(running, ServerSettings(port=port), tmp_path / "three")
            await memory.observe("a", rows(1)[0], key="w")
            await memory.sync()
            assert await found(memory) == {"w", "x", "y", "z"}

    run(body())


def test_another_embedding_is_delivered_anew(running, tmp_path, run):
    """Re-embedded without the server, with another dimension, the observations are found by it."""
    config = config_of(tmp_path, running().url)

    async def deliver():
        async with MemorySystem.open(config) as memory:
            await memory.observe_many("a", rows(3), keys=["x", "y", "z"])
            await memory.sync()

    async def change():
        async with MemorySystem.open(tmp_path / "client") as memory:
            await memory.reembed("a", lambda records: np.eye(6)[: len(records)])

    async def again():
        async with MemorySystem.open(config) as memory:
            await memory.sync()
            hits = await memory.search_similar("a", [1.0] * 6, 10)
            assert {hit.key for hit in hits} == {"x", "y", "z"}

    run(deliver())
    run(change())
    run(again())


# --- what the server says is not believed ---------------------------------------------------


def test_documents_of_others_are_never_shown(running, tmp_path, run):
    """Without a mark, of an unknown key, of another version, or with a mark that makes no sense."""
    server = running()
    config = config_of(tmp_path, server.url)

    async def body():
        async with MemorySystem.open(config) as memory:
            await memory.observe("a", [1.0] * DIM, "mine", key="k")
            await memory.sync()
            collection = collection_of(progress_of(config).store, "a")
            marks = [
                None,
                {MARK: {"key": "other", "revision": 1}},
                {MARK: {"key": "k", "revision": 1}},
                {MARK: ["k"]},
                {MARK: {"key": 7, "revision": "x"}},
                "text",
            ]
            async with httpx.AsyncClient(base_url=server.url, timeout=30.0) as client:
                for number, metadata in enumerate(marks * 5):
                    document = {
                        "id": f"{number:02x}",
                        "embedding": [1.0] * DIM,
                        "metadata": metadata,
                    }
                    path = f"/collections/{collection}/insert"
                    assert (await client.post(path, json=document)).status_code == 201
            for top_k in (1, 10):
                (hit,) = await memory.search_similar("a", [1.0] * DIM, top_k)
                assert (hit.key, hit.data) == ("k", "mine")

    run(body())


def test_a_refused_observation_keeps_no_other_waiting(running, tmp_path, run):
    """One that is too large for the server is counted; those beside it arrive."""
    config = config_of(tmp_path, running(ServerSettings(port=0, max_body_bytes=4_000)).url)

    async def body():
        async with MemorySystem.open(config) as memory:
            await memory.observe_many(
                "a",
                rows(3),
                [{"n": 0}, {"text": "x" * 20_000}, {"n": 2}],
                keys=["x", "y", "z"],
            )
            await memory.sync()
            assert memory.stats().l2_refused == 1
            assert await found(memory) == {"x", "z"}
            assert len((await memory.get("a", "y"))["text"]) == 20_000

    run(body())


def test_answers_that_are_no_contract_are_refused(tmp_path, run):
    """A server that speaks something else, and one that never answers whole, give clear errors."""
    answers = iter([b"<html>", b'{"results": 7}', b'{"results": [{"score": 1}]}'])

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split()[1]
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        body = next(answers) if path.endswith(b"/search") else b'{"inserted": 1, "failed": 0}'
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n")
        writer.write(b"content-length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    async def body():
        listening = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        async with MemorySystem.open(config_of(tmp_path, f"http://127.0.0.1:{port}")) as memory:
            await memory.observe("a", [1.0] * DIM)
            await memory.sync()
            for _ in range(3):
                with pytest.raises(VectorServerError, match="not an answer") as trouble:
                    await memory.search_similar("a", [1.0] * DIM)
                assert not trouble.value.retryable
        listening.close()
        await listening.wait_closed()

    run(body())


# --- tokens -----------------------------------------------------------------------------------


def test_a_token_is_sent_and_never_told(running, tmp_path, run, monkeypatch, caplog):
    """Without it the error names the variable; with it all works; no log, error or file has it."""
    tokens = tmp_path / "tokens.json"
    secret = add_token(tokens, "*")
    server = running(ServerSettings(port=0, tokens=tokens))
    config = config_of(tmp_path, server.url)
    caplog.set_level(logging.DEBUG)

    async def refused():
        async with MemorySystem.open(config) as memory:
            await memory.observe("a", [1.0] * DIM, key="k")
            await until(memory, lambda stats: stats.l2_failure)
            assert "AGENTDB_TOKEN" in memory.stats().l2_failure
            with pytest.raises(VectorServerError, match="AGENTDB_TOKEN") as trouble:
                await memory.search_similar("a", [1.0] * DIM)
            assert not trouble.value.retryable
            assert secret not in str(trouble.value)

    async def taken():
        async with MemorySystem.open(config) as memory:
            await memory.sync()
            assert await found(memory) == {"k"}
            assert secret not in repr(memory._engine.remote._client)

    run(refused())
    monkeypatch.setenv("AGENTDB_TOKEN", secret)
    run(taken())
    assert secret not in caplog.text
    assert secret not in json.dumps(progress_of(config).store)
    assert secret.encode() not in (tmp_path / "client" / "agentdb.json").read_bytes()


# --- beside it --------------------------------------------------------------------------------


def test_a_reader_beside_the_writer_searches_too(running, tmp_path, run):
    """It sends nothing, and finds what the writer has delivered."""
    config = config_of(tmp_path, running().url)

    async def body():
        async with MemorySystem.open(config) as memory:
            await memory.observe("a", [1.0] * DIM, key="k")
            await memory.sync()
            async with MemorySystem.open(config, read_only=True) as reader:
                await reader.wait_for(memory.revision)
                assert await found(reader) == {"k"}

    run(body())


def test_two_stores_on_one_server_are_apart(running, tmp_path, run):
    """The same agent and key in both: each finds its own."""
    url = running().url

    async def body():
        async with (
            MemorySystem.open(config_of(tmp_path, url, "one")) as one,
            MemorySystem.open(config_of(tmp_path, url, "two")) as two,
        ):
            for number, memory in enumerate((one, two)):
                await memory.observe("a", [1.0] * DIM, number, key="k")
                await memory.sync()
            for number, memory in enumerate((one, two)):
                (hit,) = await memory.search_similar("a", [1.0] * DIM, 10)
                assert hit.data == number

    run(body())


def test_the_bank_learns_and_advises_as_before(running, tmp_path, run):
    """Situations of trajectories stay here: advice needs neither the server nor a delivery."""
    from datetime import timedelta

    from nt_memory import Trajectory

    async def body():
        async with MemorySystem.open(config_of(tmp_path, NOWHERE)) as memory:
            await memory.bank.define("f", target="v", unit="%", horizon=timedelta(hours=1))
            start = to_datetime(SystemClock().now_us()) - timedelta(days=60)
            for n in range(40):
                at = start + timedelta(days=n)
                built = Trajectory("a", id=f"t{n}")
                built.add_observation({"n": n}, [1.0, n / 40, 0.5, 0.1], at=at)
                built.add_action("f", {}, 1.0, baseline=1.0, at=at)
                built.add_outcome(1.0 + n / 50, at=at + timedelta(hours=2)).complete()
                await memory.track_trajectory(built)
            advice = await memory.bank.advise("a", [1.0, 0.5, 0.5, 0.1], action_type="f")
            assert advice.expected is not None

    run(body())


def test_the_server_holds_what_is_in_force_and_nothing_else(running, tmp_path, run):
    """What was deleted, replaced by a plain value or ran out is gone there; no vector is indexed here."""
    server = running()
    config = config_of(tmp_path, server.url)

    async def body():
        async with MemorySystem.open(config) as memory:
            data = {"symbol": "AAPL", "price": 1.5}
            for key in ("k0", "k1", "k2", "k3"):
                ttl = 0.3 if key == "k2" else None
                await memory.observe("a", [1.0] * DIM, data, key=key, ttl=ttl)
            await memory.sync()
            await memory.delete("a", "k0")
            await memory.put("a", "k1", "plain")
            async for change in memory.watch("a", after=0):
                if change.kind == "expire":
                    break
            await memory.sync()
            assert memory.stats().l2.entries == 0
            path = f"/collections/{collection_of(progress_of(config).store, 'a')}/documents/"
            async with httpx.AsyncClient(base_url=server.url, timeout=30.0) as client:
                for key in ("k0", "k1", "k2"):
                    assert (await client.get(path + key.encode().hex())).status_code == 404
                kept = (await client.get(path + b"k3".hex())).json()
            assert {name: kept[name] for name in data} == data

    run(body())
