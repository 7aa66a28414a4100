"""Stories by a language model stand beside the statistics: over HTTP, kept once, never advice."""

from __future__ import annotations

import json
import logging
import pickle
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nt_memory import MemoryConfig, MemorySystem, Trajectory
from nt_memory.errors import EmbedderError, EmbedderUnavailableError, InvalidInputError
from nt_memory.integrations.stories import Facts, Story, read_story, tell_stories
from nt_memory.integrations.stories.openai import OpenAIStoryTeller
from nt_memory.testing.embedding_server import EmbeddingServer, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

KEY = "sk-test-77aa-not-to-be-seen"
DAY = timedelta(days=1)
START = datetime(2020, 1, 1, tzinfo=UTC)
FACTS = Facts("f/1-1/0", "a", "f", "10 such situations.", {"n": 10}, ["saw 1"], [])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    with EmbeddingServer(key=KEY) as running:
        yield running


def teller_of(server: EmbeddingServer, **options: Any) -> OpenAIStoryTeller:
    given = {"api_key": KEY, "attempts": 2, "max_wait": 0.01, **options}
    return OpenAIStoryTeller("small", base_url=server.url, **given)


async def learn(memory: MemorySystem) -> None:
    """Eighty forecasts of a backtest, and patterns of them."""
    rng = np.random.default_rng(1)
    await memory.timeline.advance(START + 100 * DAY)
    await memory.bank.define("f", target="x", unit="1", horizon=DAY)
    for day in range(80):
        at = START + day * DAY
        one = Trajectory("a", id=f"t{day}").add_observation({"day": day}, rng.normal(size=4), at=at)
        one.add_action("f", {"size": 1}, float(rng.normal()), baseline=0.5, at=at)
        await memory.track_trajectory(one.add_outcome(0.0, at=at + DAY))
    await memory.bank.distill("a")


def config(path: Path) -> MemoryConfig:
    return MemoryConfig(storage_path=path / "memory", timeline="backtest")


async def test_stories_are_kept_once_and_change_no_advice(
    server: EmbeddingServer, tmp_path: Path
) -> None:
    """On a backtest timeline advice, patterns and verdicts are the same to the byte with and without."""
    async with MemorySystem.open(config(tmp_path)) as memory, teller_of(server) as teller:
        await learn(memory)
        question = np.ones(4)
        before = json.dumps((await memory.bank.advise("a", question)).to_dict())
        patterns = [one.describe() for one in await memory.bank.patterns("a")]
        told = await tell_stories(memory, "a", teller, promoted_only=False)
        assert len(told) == len(patterns) == len(server.seen) > 0
        assert await tell_stories(memory, "a", teller, promoted_only=False) == told
        assert len(server.seen) == len(patterns)
        assert await tell_stories(memory, "a", teller) == []  # none was promoted
        first = (await memory.bank.patterns("a"))[0]
        assert await read_story(memory, "a", first.id) == told[0]
        assert told[0].title == "What f taught"
        assert json.dumps((await memory.bank.advise("a", question)).to_dict()) == before
        assert [one.describe() for one in await memory.bank.patterns("a")] == patterns


async def test_the_model_is_given_numbers_and_trajectories_as_data(
    server: EmbeddingServer, tmp_path: Path
) -> None:
    """What worked and what failed is quoted from the record, in one JSON object, with the numbers."""
    async with MemorySystem.open(config(tmp_path)) as memory, teller_of(server) as teller:
        await learn(memory)
        await tell_stories(memory, "a", teller, promoted_only=False)
        body = server.seen[0].body
        assert body["response_format"] == {"type": "json_object"}
        assert body["temperature"] == 0
        asked = json.loads(body["messages"][-1]["content"])
        pattern = (await memory.bank.patterns("a"))[0]
        assert asked["numbers"]["n"] == pattern.n
        assert len(asked["worked"]) == 3
        assert all("predicted" in one and "saw" in one for one in asked["worked"] + asked["failed"])


async def test_a_busy_endpoint_is_asked_again_and_one_that_is_away_said_to_be(
    server: EmbeddingServer,
) -> None:
    """429 and a broken connection are tried again; a wait that is too long is not waited for."""
    async with teller_of(server) as teller:
        server.script([Reply(429, b"slow down")])
        assert (await teller.tell(FACTS)).pattern == FACTS.pattern
        server.script([Reply(hang_up=True), Reply(503)])
        with pytest.raises(EmbedderUnavailableError):
            await teller.tell(FACTS)
        server.script([Reply(429, headers={"retry-after": "3600"})])
        with pytest.raises(EmbedderUnavailableError) as refused:
            await teller.tell(FACTS)
        assert refused.value.retry_after == 3600
        assert len(server.seen) == 5


@pytest.mark.parametrize(
    "said",
    [
        b"no json",
        b'{"choices": []}',
        json.dumps({"choices": [{"message": {"content": "plain words"}}]}).encode(),
        json.dumps({"choices": [{"message": {"content": '{"title": "t"}'}}]}).encode(),
        json.dumps(
            {"choices": [{"message": {"content": json.dumps(
                {"title": "x" * 121, "description": "d", "content": "c"})}}]}
        ).encode(),
    ],
)  # fmt: skip
async def test_what_is_no_story_is_refused(server: EmbeddingServer, said: bytes) -> None:
    """Cut off, empty, prose instead of JSON, parts missing or too long: nothing is kept."""
    async with teller_of(server) as teller:
        server.script([Reply(body=said)])
        with pytest.raises(InvalidInputError):
            await teller.tell(FACTS)


async def test_a_refusal_is_not_repeated_and_shows_no_key(
    server: EmbeddingServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong key is an error at once; the key is in no message, name, log or pickle."""
    caplog.set_level(logging.DEBUG)
    async with teller_of(server, api_key="sk-wrong-key") as teller:
        server.script([Reply(401, b'{"error": {"message": "no such key sk-wrong-key"}}')])
        with pytest.raises(EmbedderError) as refused:
            await teller.tell(FACTS)
        assert refused.value.status == 401
        assert len(server.seen) == 1
        shown = f"{refused.value}{teller!r}{teller.name}{caplog.text}"
        assert "sk-wrong-key" not in shown
        with pytest.raises(TypeError):
            pickle.dumps(teller)


@pytest.mark.parametrize(
    "url", ["ftp://x/v1", "http://user:pw@x/v1", "http://x/v1?k=1", "http://x/v1#a", "nowhere"]
)
async def test_malformed_addresses_are_refused(url: str) -> None:
    """Another scheme, a password, a query, a fragment, no host."""
    with pytest.raises(InvalidInputError):
        OpenAIStoryTeller("m", base_url=url)


async def test_a_story_of_something_else_is_not_kept(tmp_path: Path) -> None:
    """A teller that answers about another pattern is refused."""

    class Absent:
        name = "absent"

        async def tell(self, facts: Facts) -> Story:
            del facts
            return Story("other", "t", "d", "c", self.name)

    async with MemorySystem.open(config(tmp_path)) as memory:
        await learn(memory)
        with pytest.raises(InvalidInputError, match="told of 'other'"):
            await tell_stories(memory, "a", Absent(), promoted_only=False)
        pattern = (await memory.bank.patterns("a"))[0]
        assert await read_story(memory, "a", pattern.id) is None
