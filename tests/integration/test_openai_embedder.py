"""The endpoint adapter against a real server on loopback that fails as it is told."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
import subprocess
import sys
import threading
import traceback
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nt_memory.embedders import AsyncEmbedder, HashingTextEmbedder, OpenAIEmbedder, aembed
from nt_memory.embedders.endpoint import cut, retry_after
from nt_memory.errors import (
    ClosedError,
    DimensionError,
    EmbedderError,
    EmbedderUnavailableError,
    EmbeddingError,
    InvalidInputError,
    NtMemoryError,
)
from nt_memory.testing.embedding_server import EmbeddingServer, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "sk-test-5f3a-not-to-be-seen"
TEXTS = ["rates rise", "oil falls", "gold holds", "rates fall", "tin rises"]
WANTED = HashingTextEmbedder(64).embed(TEXTS)


class Patient(OpenAIEmbedder):
    """Notes how long it would wait, and does not."""

    waits: list[float]

    def _pause(self, wait_s: float, gone: threading.Event) -> None:
        del gone
        self.waits.append(wait_s)


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    with EmbeddingServer() as running:
        yield running


def embedder_of(server: EmbeddingServer, **options: object) -> Patient:
    given = {"dim": 64, "base_url": server.url, "api_key": KEY, "max_wait": 30.0, **options}
    made = Patient("small", **given)  # type: ignore[arg-type]
    made.waits = []
    return made


def test_vectors_come_in_the_order_of_the_texts(server: EmbeddingServer) -> None:
    """In however many requests, and though this server answers backwards."""
    for batch in (1, 2, 256):
        with embedder_of(server, batch=batch) as embedder:
            assert embedder.embed(TEXTS) == pytest.approx(WANTED, abs=1e-7)
    sizes = [len(seen.body["input"]) for seen in server.seen]
    assert sizes == [1] * 5 + [2, 2, 1] + [5]
    seen = server.seen[-1]
    assert seen.path == "/v1/embeddings"
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.body == {"model": "small", "input": TEXTS, "encoding_format": "float"}


def test_nothing_is_asked_for_nothing(server: EmbeddingServer) -> None:
    """No texts: no request, no vectors."""
    with embedder_of(server) as embedder:
        assert embedder.embed([]).shape == (0, 64)
    assert not server.seen


def test_requests_are_cut_by_characters_too() -> None:
    """A range holds at most so many texts and characters, unless one text alone has more."""
    texts = ["a" * 4, "b" * 4, "c" * 4, "d" * 20, "e"]
    assert list(cut(texts, 10, 8)) == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert list(cut(texts, 2, 100)) == [(0, 2), (2, 4), (4, 5)]
    assert list(cut([], 2, 100)) == []


def test_shortened_vectors_are_asked_for(server: EmbeddingServer) -> None:
    """With `shorten` the request says how long vectors are to be."""
    with embedder_of(server, dim=96, shorten=True) as embedder:
        assert embedder.embed(TEXTS).shape == (5, 96)
    assert server.seen[0].body["dimensions"] == 96


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_service_is_asked_again(server: EmbeddingServer, status: int) -> None:
    """Waits double, within their upper half, and the answer is what it would have been."""
    server.script([Reply(status)] * 3)
    with embedder_of(server) as embedder:
        assert embedder.embed(TEXTS) == pytest.approx(WANTED, abs=1e-7)
    assert len(server.seen) == 4
    for wait, longest in zip(embedder.waits, (0.5, 1.0, 2.0), strict=True):
        assert longest / 2 <= wait <= longest


def test_connections_that_break_are_made_anew(server: EmbeddingServer) -> None:
    """A server that hangs up has not answered: ask again."""
    server.script([Reply(hang_up=True), Reply(hang_up=True)])
    with embedder_of(server) as embedder:
        assert embedder.embed(TEXTS) == pytest.approx(WANTED, abs=1e-7)
    assert len(server.seen) == 3


def test_retry_after_is_honoured(server: EmbeddingServer) -> None:
    """Not sooner than the service asked, in seconds or as a date by the service's own clock."""
    date = {
        "Retry-After": "Sat, 28 Nov 2026 10:00:09 GMT",
        "Date": "Sat, 28 Nov 2026 10:00:00 GMT",
    }
    server.script([Reply(429, headers={"Retry-After": "7"})])
    with embedder_of(server) as embedder:
        embedder.embed(TEXTS)
        assert embedder.waits == [7.0]
    assert retry_after({name.lower(): value for name, value in date.items()}) == 9.0
    for said in ("", "soon", "nan", "inf", "Sat, 28 Nov 2026 10:00:09"):
        assert retry_after({"retry-after": said}) is None


def test_a_wait_that_is_too_long_is_left_to_the_caller(server: EmbeddingServer) -> None:
    """The error says when to come back, and that it is worth it; nothing is waited for."""
    server.script([Reply(429, headers={"Retry-After": "3600"})])
    with embedder_of(server) as embedder:
        with pytest.raises(EmbedderUnavailableError) as caught:
            embedder.embed(TEXTS)
        assert embedder.waits == []
    assert caught.value.retry_after == 3600.0
    assert caught.value.status == 429
    assert caught.value.retryable
    assert len(server.seen) == 1


def test_attempts_end(server: EmbeddingServer) -> None:
    """After so many attempts a service that stays busy is given up, with its own words."""
    server.script([Reply(503, b'{"error": {"message": "model is loading"}}')] * 9)
    error = pytest.raises(EmbedderUnavailableError, match="503: model is loading")
    with embedder_of(server, attempts=3) as embedder, error:
        embedder.embed(TEXTS)
    assert len(server.seen) == 3


def test_a_service_that_is_not_there_is_worth_a_retry() -> None:
    """No connection is an error of the tree, retryable."""
    with EmbeddingServer() as gone:
        url = gone.url
    embedder = Patient("small", 64, base_url=url, api_key="", attempts=2)
    embedder.waits = []
    with embedder, pytest.raises(EmbedderUnavailableError, match="ConnectError"):
        embedder.embed(TEXTS)
    assert len(embedder.waits) == 1


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 413, 422])
def test_a_refusal_is_not_repeated(server: EmbeddingServer, status: int) -> None:
    """What asking again cannot change is said at once, with the service's words."""
    server.script([Reply(status, b'{"error": {"message": "no such\\nmodel"}}')])
    error = pytest.raises(EmbedderError, match=f"answered {status}: no such model")
    with embedder_of(server) as embedder, error as caught:
        embedder.embed(TEXTS)
    assert caught.value.status == status
    assert not caught.value.retryable
    assert len(server.seen) == 1


def _items(*embeddings: list[object]) -> bytes:
    items = [{"index": i, "embedding": one} for i, one in enumerate(embeddings)]
    return json.dumps({"data": items}).encode()


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"<html>welcome</html>", EmbedderError),
        (b'{"data": "none"}', EmbedderError),
        (b'{"data": []}', EmbedderError),
        (_items([1.0] * 64, [1.0] * 64), EmbedderError),
        (_items(["x"] * 64), EmbedderError),
        (b'{"data": [{"index": 3, "embedding": [1.0]}]}', EmbedderError),
        (_items([1.0] * 63), DimensionError),
        (_items([0.0] * 64), EmbeddingError),
        (_items([1e300] * 64), EmbeddingError),
    ],
)
def test_answers_that_make_no_sense_are_refused(
    server: EmbeddingServer, body: bytes, error: type[NtMemoryError]
) -> None:
    """Not JSON, not the contract, another count, another dimension, zeros and infinities."""
    server.script([Reply(200, body)])
    with embedder_of(server) as embedder, pytest.raises(error) as caught:
        embedder.embed(["one"])
    assert not caught.value.retryable
    assert len(server.seen) == 1


def test_an_answer_without_end_is_cut_off(server: EmbeddingServer) -> None:
    """A service cannot fill the memory."""
    server.script([Reply(200, b" " * (3 << 20))])
    with embedder_of(server) as embedder, pytest.raises(EmbedderError, match="more than"):
        embedder.embed(["one"])


def test_a_slow_answer_times_out(server: EmbeddingServer) -> None:
    """A service that does not answer in time is given up, retryable."""
    hold = threading.Event()
    server.script([Reply(hold=hold)] * 2)
    with embedder_of(server, timeout=0.05, attempts=2) as embedder:
        with pytest.raises(EmbedderUnavailableError, match="ReadTimeout"):
            embedder.embed(["one"])
        hold.set()
    assert len(server.seen) == 2


def test_texts_are_checked_before_anything_is_sent(server: EmbeddingServer) -> None:
    """A blank or a too long text is refused by its place, and no request is made."""
    with embedder_of(server, max_characters=20) as embedder:
        with pytest.raises(InvalidInputError, match="text 1 is empty"):
            embedder.embed(["fine", " "])
        with pytest.raises(InvalidInputError, match="text 1 has 21 characters"):
            embedder.embed(["fine", "x" * 21])
    assert not server.seen


# --- the key ----------------------------------------------------------------------------------


def test_the_key_comes_from_the_environment(
    server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the variable named; without one, no authorization is sent."""
    monkeypatch.setenv("OPENAI_API_KEY", "from-default")
    monkeypatch.setenv("OTHER_KEY", " from-other\n")
    monkeypatch.delenv("MISSING_KEY", raising=False)
    for variable in ("OPENAI_API_KEY", "OTHER_KEY", "MISSING_KEY"):
        with embedder_of(server, api_key=None, key_variable=variable) as embedder:
            embedder.embed(["one"])
    sent = [seen.headers.get("authorization") for seen in server.seen]
    assert sent == ["Bearer from-default", "Bearer from-other", None]


def test_the_key_is_never_shown(server: EmbeddingServer, caplog: pytest.LogCaptureFixture) -> None:
    """Not in repr, version, logs at any level, nor in an error, though the service repeats it."""
    caplog.set_level(logging.DEBUG)
    echo = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}).encode()
    server.script([Reply(401, echo), Reply(500, KEY.encode())])
    with embedder_of(server, attempts=1) as embedder:
        shown = [repr(embedder), str(embedder), embedder.version]
        for _ in range(2):
            try:
                embedder.embed(["one"])
            except EmbedderError as error:
                shown += [str(error), repr(error), "".join(traceback.format_exception(error))]
        embedder.embed(["one"])
    assert len(shown) == 9
    assert "[key]" in shown[3]
    assert all(KEY not in text for text in shown)
    assert caplog.records
    assert all(KEY not in str(vars(record)) for record in caplog.records)


def test_it_cannot_be_copied_out(server: EmbeddingServer) -> None:
    """A pickle would hold the key: there is none."""
    with embedder_of(server) as embedder:
        for way in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="make it anew"):
                way(embedder)


def test_redirects_take_the_key_nowhere(server: EmbeddingServer) -> None:
    """A redirect is an error; nobody else is asked."""
    with EmbeddingServer() as elsewhere:
        server.script([Reply(307, headers={"Location": f"{elsewhere.url}/embeddings"})])
        with embedder_of(server) as embedder, pytest.raises(EmbedderError, match="307"):
            embedder.embed(["one"])
        assert not elsewhere.seen


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": "ftp://host/v1"},
        {"base_url": "no url"},
        {"base_url": "https://me:secret@host/v1"},
        {"base_url": "https://host/v1?api-key=secret"},
        {"base_url": "https://host/v1#secret"},
        {"api_key": "two\nlines"},
        {"dim": 0},
        {"batch": 0},
        {"attempts": 0},
        {"timeout": 0.0},
        {"timeout": float("inf")},
        {"max_wait": -1.0},
    ],
)
def test_impossible_settings_are_refused(options: dict[str, object]) -> None:
    """URLs that are none or carry secrets, keys that are no header, numbers out of range."""
    with pytest.raises(InvalidInputError) as caught:
        OpenAIEmbedder("small", **{"dim": 64, **options})  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


# --- threads and loops ------------------------------------------------------------------------


def test_the_event_loop_goes_on(server: EmbeddingServer) -> None:
    """While `aembed` waits for the service, the loop runs other things."""
    hold = threading.Event()
    server.script([Reply(hold=hold)])

    async def main() -> np.ndarray:
        with embedder_of(server) as embedder:
            assert isinstance(embedder, AsyncEmbedder)
            waiting = asyncio.create_task(aembed(embedder, TEXTS))
            await asyncio.to_thread(server.arrived.wait)
            assert not waiting.done()
            hold.set()  # by the loop, which therefore is not held up
            return await waiting

    assert asyncio.run(main()) == pytest.approx(WANTED, abs=1e-7)


def test_a_cancelled_call_sends_nothing_more(server: EmbeddingServer) -> None:
    """Of several requests, those not yet sent when the caller goes are never sent."""
    hold = threading.Event()
    server.script([Reply(hold=hold)])

    async def main() -> None:
        embedder = embedder_of(server, batch=1)
        call = asyncio.create_task(embedder.aembed(TEXTS))
        await asyncio.to_thread(server.arrived.wait)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        hold.set()
        await asyncio.to_thread(embedder._threads.shutdown)  # until its thread is done
        embedder.close()

    asyncio.run(main())
    assert len(server.seen) == 1


def test_closing_ends_calls_that_wait(server: EmbeddingServer) -> None:
    """A call between two attempts ends at once; later ones are refused; closing twice is fine."""
    server.script([Reply(503, headers={"Retry-After": "3600"})])
    began = threading.Event()

    class Waiting(OpenAIEmbedder):
        def _pause(self, wait_s: float, gone: threading.Event) -> None:
            began.set()
            super()._pause(wait_s, gone)

    embedder = Waiting("small", 64, base_url=server.url, api_key="", max_wait=7200.0)

    async def main() -> None:
        call = asyncio.create_task(embedder.aembed(["one"]))
        await asyncio.to_thread(began.wait)
        embedder.close()
        with pytest.raises(ClosedError):
            await call
        with pytest.raises(ClosedError):
            await embedder.aembed(["one"])

    asyncio.run(main())
    embedder.close()
    with pytest.raises(ClosedError):
        embedder.embed(["one"])


def test_threads_share_one(server: EmbeddingServer) -> None:
    """Many threads at once each get their own vectors."""
    with embedder_of(server) as embedder:

        async def main() -> list[np.ndarray]:
            return await asyncio.gather(*(embedder.aembed([text]) for text in TEXTS * 4))

        found = np.concatenate(asyncio.run(main()))
    assert found == pytest.approx(np.tile(WANTED, (4, 1)), abs=1e-7)


def test_without_httpx_the_error_says_what_to_install() -> None:
    """The package imports without the extra; making one names the command."""
    code = (
        "import sys; sys.modules['httpx'] = None\n"
        "from nt_memory.embedders import OpenAIEmbedder\n"
        "from nt_memory.errors import UnsupportedError\n"
        "try: OpenAIEmbedder('small', 8)\n"
        "except UnsupportedError as error: print(error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert "pip install 'nt-memory[openai]'" in ran.stdout


def test_the_version_names_service_model_and_dimension(server: EmbeddingServer) -> None:
    """What gives other vectors has another version; the key does not matter."""
    host = server.url.removeprefix("http://").removesuffix("/v1")
    with embedder_of(server) as one, embedder_of(server, api_key="other", dim=65) as two:
        assert one.version == f"openai/{host}/small/64"
        assert two.version == f"openai/{host}/small/65"
