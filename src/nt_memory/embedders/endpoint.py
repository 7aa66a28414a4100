"""The contract of an OpenAI-compatible embedding endpoint, without a network: what to send, how to read.

`POST {base_url}/embeddings` with `{"model", "input": [text, ...], "encoding_format": "float"}` gives
`{"data": [{"index", "embedding"}, ...]}`, as OpenAI, vLLM, llama.cpp, Ollama, LM Studio, text
embeddings inference and others have it.
"""

from __future__ import annotations

import email.utils
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from nt_memory.embedders.texts import check_vectors
from nt_memory.errors import (
    EmbedderError,
    EmbedderUnavailableError,
    InvalidInputError,
    NtMemoryError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

REPLY_BYTES_A_VALUE = 64
REPLY_BYTES_ASIDE = 1 << 20
_SHOWN_CHARACTERS = 300
_BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


class _Item(msgspec.Struct):
    index: int
    embedding: list[float]


class _Reply(msgspec.Struct):
    data: list[_Item]


class _Fault(msgspec.Struct):
    error: msgspec.Raw = msgspec.Raw(b"")
    message: msgspec.Raw = msgspec.Raw(b"")
    detail: msgspec.Raw = msgspec.Raw(b"")


class Answer(NamedTuple):
    """What came back, the whole of it.

    Attributes:
        status: HTTP status.
        headers: By lower-case name.
        body: As sent.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


def address(httpx: Any, base_url: str, path: str) -> tuple[str, str]:
    """The whole URL below `base_url`, and its host, with the port if one is given, for messages.

    Args:
        httpx: The library, which only an extra brings.
        base_url: As the caller gave it.
        path: What is asked for there, with its slash.

    Raises:
        InvalidInputError: not an HTTP URL with a host; or it has a password, a query or a fragment: the
            first would be shown in messages, and `path` would become part of the others.
    """
    try:
        url = httpx.URL(base_url.rstrip("/") + path)
    except httpx.InvalidURL as error:
        raise InvalidInputError(f"base_url: {error}") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise InvalidInputError("base_url must begin with https:// or http:// and name a host")
    if url.userinfo or url.query or url.fragment:
        raise InvalidInputError("base_url must carry no password, query or fragment: use api_key")
    return str(url), url.host if url.port is None else f"{url.host}:{url.port}"


def cut(texts: Sequence[str], most: int, most_characters: int) -> Iterator[tuple[int, int]]:
    """Where to cut texts into requests: ranges of at most `most` texts and so many characters."""
    start, size = 0, 0
    for place, text in enumerate(texts):
        if place > start and (place - start >= most or size + len(text) > most_characters):
            yield start, place
            start, size = place, 0
        size += len(text)
    if start < len(texts):
        yield start, len(texts)


def request_body(model: str, texts: Sequence[str], dimensions: int | None) -> bytes:
    """The JSON of one request; `dimensions` asks the server to shorten the vectors."""
    asked: dict[str, object] = {
        "model": model,
        "input": list(texts),
        "encoding_format": "float",
    }
    if dimensions is not None:
        asked["dimensions"] = dimensions
    return msgspec.json.encode(asked)


def read_vectors(answer: Answer, count: int, dim: int, source: str) -> NDArray[np.float32]:
    """The vectors of a good answer, in the order of the texts, whatever order they came in.

    Raises:
        EmbedderError: it is not what the contract says.
        DimensionError: the vectors have another dimension.
        EmbeddingError: one is zero or not finite.
    """
    try:
        items = msgspec.json.decode(answer.body, type=_Reply).data
    except msgspec.DecodeError as error:
        raise EmbedderError(f"{source} did not answer with embeddings: {error}") from None
    items.sort(key=lambda item: item.index)
    if [item.index for item in items] != list(range(count)):
        raise EmbedderError(f"{source} answered {len(items)} embeddings for {count} texts")
    lengths = {len(item.embedding) for item in items}
    if len(lengths) > 1:
        raise EmbedderError(f"{source} answered embeddings of several dimensions")
    return check_vectors([item.embedding for item in items], count, dim, source)


def refusal(answer: Answer, source: str, secret: str) -> NtMemoryError:
    """The error that an answer other than 200 means, with the server's own words.

    Only the beginning of what the server said is kept, and never the key, should it repeat that.
    """
    said = _words(answer.body)
    if secret:
        said = said.replace(secret, "[key]")
    text = f"{source} answered {answer.status}" + (f": {said[:_SHOWN_CHARACTERS]}" if said else "")
    if answer.status in _BUSY:
        return EmbedderUnavailableError(
            text, status=answer.status, retry_after=retry_after(answer.headers)
        )
    return EmbedderError(text, status=answer.status)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asked to wait: `Retry-After` in seconds, or as a date after its `Date`."""
    asked = headers.get("retry-after", "").strip()
    try:
        seconds = float(asked)
    except ValueError:
        seconds = _seconds_until(asked, headers.get("date", ""))
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _seconds_until(later: str, earlier: str) -> float:
    # Both by the server's clock, so that ours need not be right.
    try:
        end = email.utils.parsedate_to_datetime(later)
        return (end - email.utils.parsedate_to_datetime(earlier)).total_seconds()
    except (TypeError, ValueError):
        return math.nan


def _words(body: bytes) -> str:
    """What a server says went wrong, in one printable line."""
    text = body[:4096].decode(errors="replace")
    try:
        fault = msgspec.json.decode(body, type=_Fault)
        inner = fault.error or fault.message or fault.detail
        said = msgspec.json.decode(inner) if bytes(inner) else text
        if isinstance(said, dict):
            said = said.get("message", said)
        text = str(said)
    except msgspec.DecodeError:
        pass
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
