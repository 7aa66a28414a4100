"""A client of the HTTP contract of `nt-agentdb-client`, over httpx.

Requests are not repeated here: each either has its answer or says in its error whether another try can
help. All of them may be repeated, since an insert replaces the document of its id.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from nt_memory.errors import (
    InvalidInputError,
    UnsupportedError,
    VectorServerError,
    VectorServerUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nt_memory.tiers.agentdb.shelves import Document

MAX_K = 10_000
"""The most results that a server of ours gives."""
MAX_REPLY_BYTES = 64 << 20
TIMEOUT_S = 10.0
"""For one request, whole."""
_CONNECT_S = 3.0
_CONNECTIONS = 16
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
_SHOWN_BYTES = 200


class Result(msgspec.Struct):
    """One result of a search."""

    document: Any


class _Results(msgspec.Struct):
    results: list[Result]


class _Batch(msgspec.Struct):
    inserted: int
    failed: int


class _Reply(NamedTuple):
    status: int
    body: bytes


class AgentDBClient:
    """The calls of the contract that a memory's L2 needs. Belongs to one event loop.

    Args:
        url: `http://` or `https://`, host and perhaps a path before the contract's; no password.
        token: Sent as a bearer token; empty: none. It is in no message and no log.
        timeout_s: For one request, whole.

    Raises:
        InvalidInputError: the URL or the token is malformed.
        UnsupportedError: httpx is not installed.
    """

    def __init__(self, url: str, token: str = "", *, timeout_s: float = TIMEOUT_S) -> None:
        self._httpx = _import_httpx()
        self.url: str = self._checked_url(url)
        if not token.isascii() or (token and not token.isprintable()):
            raise InvalidInputError("the token of agentdb_url must be printable ASCII")
        self._timeout_s = timeout_s
        headers = {"content-type": "application/json"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        # Neither proxies nor a .netrc of the environment: the token goes to this host and nowhere else.
        self._client = self._httpx.AsyncClient(
            headers=headers,
            timeout=self._httpx.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s)),
            limits=self._httpx.Limits(
                max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS
            ),
            trust_env=False,
        )

    async def create(self, collection: str, dim: int) -> bool:
        """Make a collection; False if there was one of this name already."""
        body = {"name": collection, "dimension": dim, "index_type": "hnsw"}
        reply = await self._send("POST", "/collections", body, also=(409,))
        return reply.status != 409

    async def insert(self, collection: str, document: Document) -> bool:
        """Insert a document, or replace the one with its id; False: there is no such collection."""
        reply = await self._send("POST", f"/collections/{collection}/insert", document, also=(404,))
        return reply.status != 404

    async def insert_many(self, collection: str, documents: Sequence[Document]) -> int | None:
        """As `insert` of each; how many were refused, or None: there is no such collection."""
        path = f"/collections/{collection}/batch_insert"
        reply = await self._send("POST", path, {"documents": documents}, also=(404,))
        return None if reply.status == 404 else self._read(reply, _Batch).failed

    async def delete(self, collection: str, document_id: str) -> None:
        """Delete a document, if it and its collection are there."""
        path = f"/collections/{collection}/documents/{document_id}"
        await self._send("DELETE", path, None, also=(404,))

    async def search(
        self,
        collection: str,
        embedding: Sequence[float],
        k: int,
        where: Mapping[str, Any] | None,
    ) -> list[Any] | None:
        """The metadata of the `k` documents most like a vector; None: there is no such collection."""
        body: dict[str, Any] = {"collection": collection, "embedding": embedding, "k": k}
        if where is not None:
            body["filters"] = [where]
        reply = await self._send("POST", f"/collections/{collection}/search", body, also=(404,))
        if reply.status == 404:
            return None
        return [one.document for one in self._read(reply, _Results).results]

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self._client.aclose()

    def __repr__(self) -> str:  # type: ignore[explicit-override]  # typing.override is 3.12
        return f"<AgentDBClient {self.url!r}>"

    # --- inside -------------------------------------------------------------------------------

    async def _send(self, method: str, path: str, body: object, *, also: tuple[int, ...]) -> _Reply:
        """The answer, if it is good or its status one of `also`.

        Raises:
            VectorServerUnavailableError: out of reach, busy or too slow.
            VectorServerError: it refused.
        """
        content = None if body is None else msgspec.json.encode(body)
        try:
            # httpx's own timeouts start again with every byte.
            async with asyncio.timeout(self._timeout_s):
                reply = await self._exchange(method, path, content)
        except TimeoutError:
            raise VectorServerUnavailableError(
                f"{self.url}: no answer in {self._timeout_s:g} s; the same call may succeed later"
            ) from None
        except self._httpx.RequestError as error:
            said = f"{type(error).__name__}: {error}".rstrip(": ")
            raise VectorServerUnavailableError(
                f"{self.url} is out of reach ({said}); the same call may succeed later"
            ) from None
        if 200 <= reply.status < 300 or reply.status in also:
            return reply
        raise self._refusal(reply)

    async def _exchange(self, method: str, path: str, content: bytes | None) -> _Reply:
        received = bytearray()
        async with self._client.stream(method, self.url + path, content=content) as response:
            async for chunk in response.aiter_bytes():
                received += chunk
                if len(received) > MAX_REPLY_BYTES:
                    raise VectorServerError(
                        f"{self.url} answered more than {MAX_REPLY_BYTES} bytes"
                    )
            return _Reply(response.status_code, bytes(received))

    def _refusal(self, reply: _Reply) -> VectorServerError:
        status = reply.status
        if status in {401, 403}:
            return VectorServerError(
                f"{self.url} refused with {status}: the token in AGENTDB_TOKEN is missing, wrong, or "
                "has no right to the collections",
                status=status,
            )
        said = reply.body[:_SHOWN_BYTES].decode(errors="replace")
        if status in _BUSY:
            return VectorServerUnavailableError(
                f"{self.url} answered {status}; the same call may succeed later: {said}",
                status=status,
            )
        return VectorServerError(f"{self.url} refused with {status}: {said}", status=status)

    def _read(self, reply: _Reply, kind: type[Any]) -> Any:
        try:
            return msgspec.json.decode(reply.body, type=kind)
        except msgspec.DecodeError as error:
            raise VectorServerError(f"{self.url}: not an answer of the contract: {error}") from None

    def _checked_url(self, given: str) -> str:
        try:
            url = self._httpx.URL(given.rstrip("/"))
        except self._httpx.InvalidURL as error:
            raise InvalidInputError(f"agentdb_url: {error}") from None
        if url.scheme not in {"http", "https"} or not url.host:
            raise InvalidInputError(
                "agentdb_url must begin with http:// or https:// and name a host"
            )
        if url.userinfo or url.query or url.fragment:
            raise InvalidInputError(
                "agentdb_url must carry no password, query or fragment: a token is read from "
                "AGENTDB_TOKEN"
            )
        return str(url)


def _import_httpx() -> Any:
    try:
        import httpx  # noqa: PLC0415 - an extra
    except ImportError:
        raise UnsupportedError(
            "agentdb_url needs httpx: pip install 'nt-memory[agentdb]'"
        ) from None
    return httpx
