"""Vectors from any OpenAI-compatible endpoint, over HTTP: `pip install nt-memory[openai]`.

The calls block, on purpose: reading a thousand vectors of JSON takes longer than an event loop may
stand still, so a worker thread is needed in any case, and then may as well do the waiting. `aembed`
uses threads of the embedder's own. asyncio's few are shared with the memory's searches, and five
slow endpoints would stop those.
"""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from nt_memory.clock import SystemClock
from nt_memory.config import secret_from_env
from nt_memory.embedders.endpoint import (
    REPLY_BYTES_A_VALUE,
    REPLY_BYTES_ASIDE,
    Answer,
    address,
    cut,
    read_vectors,
    refusal,
    request_body,
)
from nt_memory.embedders.texts import check_texts
from nt_memory.errors import (
    ClosedError,
    EmbedderError,
    EmbedderUnavailableError,
    InvalidInputError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

OPENAI_URL = "https://api.openai.com/v1"
MAX_DIM = 1 << 16
BATCH_CHARACTERS = 200_000
_THREADS = 4
_FIRST_WAIT_S = 0.5


class OpenAIEmbedder:
    """Vectors of texts from an endpoint that speaks OpenAI's `POST /embeddings`.

    May be shared by threads and event loops. What a model's name stands for is up to the service: if it
    puts another model behind the name, the version does not notice; the dimension is checked each time.

    Args:
        model: The model's name at the service.
        dim: Length of its vectors; an answer of another length is refused.
        base_url: Where `/embeddings` is, without that. Redirects are not followed.
        api_key: Sent as bearer token. None: from the environment variable `key_variable`; if that is
            not set either, nothing is sent, as local servers like it.
        key_variable: Name of that variable.
        shorten: Ask the model for `dim` values (`dimensions`), where it has more and can shorten.
        batch: Most texts a request.
        max_characters: Texts longer than this are refused rather than cut off behind your back.
        timeout: Seconds that connecting, and then one answer, may take.
        attempts: How often a request is sent, all in all, while the service is busy or away.
        max_wait: Longest wait in seconds between two attempts; a service that asks for more is not
            waited for.

    Raises:
        UnsupportedError: httpx is not installed.
        InvalidInputError: an argument is out of range, or the URL is none or carries a password.
    """

    def __init__(
        self,
        model: str,
        dim: int,
        *,
        base_url: str = OPENAI_URL,
        api_key: str | None = None,
        key_variable: str = "OPENAI_API_KEY",
        shorten: bool = False,
        batch: int = 256,
        max_characters: int = 24_000,
        timeout: float = 30.0,
        attempts: int = 5,
        max_wait: float = 30.0,
    ) -> None:
        if not model or not 1 <= dim <= MAX_DIM:
            raise InvalidInputError(f"a model needs a name, and a dim of 1 to {MAX_DIM}")
        if batch < 1 or max_characters < 1 or attempts < 1:
            raise InvalidInputError("batch, max_characters and attempts must be at least 1")
        if not 0.0 < timeout < threading.TIMEOUT_MAX or not 0.0 <= max_wait < threading.TIMEOUT_MAX:
            raise InvalidInputError("timeout must be above zero, max_wait not below, both finite")
        self._key = (secret_from_env(key_variable) or "") if api_key is None else api_key
        self._model, self._dim = model, dim
        self._dimensions = dim if shorten else None
        self._batch, self._max_characters = batch, max_characters
        self._timeout_s, self._attempts, self._max_wait_s = timeout, attempts, max_wait
        self._httpx = _import_httpx()
        self._url, self._host = address(self._httpx, base_url, "/embeddings")
        self._client = self._httpx.Client(timeout=timeout, headers=self._headers())
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="nt-memory-embed")
        self._closed = threading.Event()
        self._clock = SystemClock()
        self._spread = random.Random()  # noqa: S311 - spreads retries, decides nothing

    @property
    def version(self) -> str:
        """`openai/`, host, model and dimension; the key is no part of it."""
        return f"openai/{self._host}/{self._model}/{self._dim}"

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._dim

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of some texts, as the service returns them, in order.

        Blocks the thread: in async code use `aembed`.

        Args:
            texts: Any number; sent in as few requests as `batch` and 200,000 characters allow, one
                after the other.

        Returns:
            Shape (n, dim), finite, none zero.

        Raises:
            InvalidInputError: a text is blank, too long or no string. Nothing was sent.
            EmbedderUnavailableError: busy, over the rate limit or out of reach, after all attempts, or
                it asked for a longer wait than `max_wait`. Retryable; `retry_after` says when.
            EmbedderError: it refused (`status`) or did not answer with embeddings. Not retryable.
            DimensionError: its vectors have another dimension.
            EmbeddingError: one of them is zero or not finite.
            ClosedError: the embedder was closed.

        Cost: a request a batch; at most `attempts` * (`timeout` * 2 + `max_wait`) each.
        """
        return self._embed(self._checked(texts), threading.Event())

    async def aembed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As `embed`, on one of four threads of this embedder; the event loop goes on.

        Cancelled, it sends no further request; one that was sent is waited for by its thread.
        """
        checked = self._checked(texts)
        if self._closed.is_set():
            raise ClosedError("the embedder was closed")
        gone = threading.Event()
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._embed, checked, gone)
        finally:
            gone.set()

    def close(self) -> None:
        """Close the connections; calls that run fail with `ClosedError`. Idempotent."""
        self._closed.set()
        self._threads.shutdown(wait=False)  # what waits there meets `_closed`, and says so
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:  # type: ignore[explicit-override]  # typing.override is 3.12
        return f"<OpenAIEmbedder {self.version!r}>"

    def __reduce__(self) -> str:  # type: ignore[explicit-override]  # typing.override is 3.12
        raise TypeError("an OpenAIEmbedder holds a key and connections: make it anew instead")

    # --- inside -------------------------------------------------------------------------------

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json"}
        if self._key:
            if not self._key.isascii() or not self._key.isprintable():
                raise InvalidInputError("api_key must be printable ASCII")
            headers["authorization"] = f"Bearer {self._key}"
        return headers

    def _checked(self, texts: Sequence[str]) -> list[str]:
        checked = check_texts(texts)
        for place, text in enumerate(checked):
            if len(text) > self._max_characters:
                raise InvalidInputError(
                    f"text {place} has {len(text)} characters; max_characters is "
                    f"{self._max_characters}"
                )
        return checked

    def _embed(self, texts: list[str], gone: threading.Event) -> NDArray[np.float32]:
        vectors = np.empty((len(texts), self._dim), np.float32)
        for start, end in cut(texts, self._batch, BATCH_CHARACTERS):
            body = request_body(self._model, texts[start:end], self._dimensions)
            answer = self._answer(body, end - start, gone)
            vectors[start:end] = read_vectors(answer, end - start, self._dim, self._host)
        return vectors

    def _answer(self, body: bytes, count: int, gone: threading.Event) -> Answer:
        """A good answer, however many attempts that takes."""
        for attempt in range(1, self._attempts + 1):
            if self._closed.is_set() or gone.is_set():
                break
            error = self._attempt(body, count)
            if isinstance(error, Answer):
                return error
            wait_s = self._wait(error, attempt)
            if wait_s is None:
                raise error
            self._pause(wait_s, gone)
        raise ClosedError("the embedder was closed, or its caller has gone")

    def _attempt(self, body: bytes, count: int) -> Answer | EmbedderUnavailableError:
        """What one attempt gave: a good answer, or why to try again."""
        try:
            answer = self._send(body, count)
        except self._httpx.RequestError as error:
            said = f"{self._host}: {type(error).__name__}: {error}"
            return EmbedderUnavailableError(said.rstrip(": "))
        except RuntimeError:  # httpx: "the client has been closed"
            if self._closed.is_set():
                raise ClosedError("the embedder was closed") from None
            raise
        if answer.status == 200:
            return answer
        refused = refusal(answer, self._host, self._key)
        if isinstance(refused, EmbedderUnavailableError):
            return refused
        raise refused

    def _send(self, body: bytes, count: int) -> Answer:
        most = count * self._dim * REPLY_BYTES_A_VALUE + REPLY_BYTES_ASIDE
        late_ns = self._clock.monotonic_ns() + round(2e9 * self._timeout_s)
        received = bytearray()
        with self._client.stream("POST", self._url, content=body) as response:
            for chunk in response.iter_bytes():
                received += chunk
                if len(received) > most:
                    raise EmbedderError(f"{self._host} answered more than {most} bytes")
                if self._clock.monotonic_ns() > late_ns:
                    # httpx's own timeout starts again with every byte.
                    raise self._httpx.ReadTimeout("the answer did not end in time")
            return Answer(response.status_code, response.headers, bytes(received))

    def _wait(self, error: EmbedderUnavailableError, attempt: int) -> float | None:
        """Seconds to wait after so many attempts; None if there is no use in another."""
        if attempt == self._attempts:
            return None
        # Doubling, and somewhere in the upper half of that, so that many callers do not come at once.
        longest: float = min(_FIRST_WAIT_S * 2.0 ** (attempt - 1), self._max_wait_s)
        wait_s = longest * (0.5 + 0.5 * self._spread.random())
        if error.retry_after is None:
            return wait_s
        return None if error.retry_after > self._max_wait_s else max(error.retry_after, wait_s)

    def _pause(self, wait_s: float, gone: threading.Event) -> None:
        """Wait, unless the caller goes or the embedder is closed."""
        waited_ns = self._clock.monotonic_ns() + round(wait_s * 1e9)
        while not self._closed.is_set():
            left_s = (waited_ns - self._clock.monotonic_ns()) / 1e9
            if left_s <= 0.0 or gone.wait(min(left_s, 0.1)):
                return


def _import_httpx() -> Any:
    try:
        import httpx  # noqa: PLC0415 - an extra
    except ImportError:
        raise UnsupportedError(
            "OpenAIEmbedder needs httpx: pip install 'nt-memory[openai]'"
        ) from None
    return httpx
