"""A real HTTP server on loopback that speaks OpenAI's embeddings and chat, and fails as it is told."""

from __future__ import annotations

import json
import sys
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from nt_memory.embedders.hashing import HashingTextEmbedder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Seen(NamedTuple):
    """One request as it arrived."""

    path: str
    headers: Mapping[str, str]
    body: Any


class Reply(NamedTuple):
    """What the server does instead of answering with embeddings.

    Attributes:
        status: HTTP status.
        body: Sent as it is.
        headers: Sent besides.
        hang_up: Close the connection without a word.
        hold: Wait for this before answering as always.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = {}
    hang_up: bool = False
    hold: threading.Event | None = None


class EmbeddingServer:
    """Answers with `HashingTextEmbedder` vectors, last text first; use with `with`.

    Args:
        dim: Of the vectors it answers with, unless asked for other `dimensions`.
        key: Bearer token it wants; None takes any.

    Attributes:
        url: The `base_url`.
        seen: Requests so far.
        arrived: Set once there was one.
    """

    def __init__(self, dim: int = 64, *, key: str | None = None) -> None:
        self.dim: int = dim
        self.key: str | None = key
        self.seen: list[Seen] = []
        self.arrived: threading.Event = threading.Event()
        self._script: deque[Reply] = deque()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.url: str = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def script(self, replies: Iterable[Reply]) -> None:
        """What to do with the next requests, one each; then embeddings again."""
        with self._lock:
            self._script.extend(replies)

    def next_reply(self, seen: Seen) -> Reply:
        """Note a request; what to do with it."""
        with self._lock:
            self.seen.append(seen)
            self.arrived.set()
            if self._script:
                return self._script.popleft()
        if self.key is not None and seen.headers.get("authorization") != f"Bearer {self.key}":
            return Reply(401, json.dumps({"error": {"message": "Incorrect API key"}}).encode())
        return Reply()

    def embeddings(self, body: Any) -> bytes:
        """The contract's answer to a request."""
        vectors = HashingTextEmbedder(body.get("dimensions", self.dim)).embed(body["input"])
        items = [
            {"object": "embedding", "index": index, "embedding": vector.tolist()}
            for index, vector in enumerate(vectors)
        ]
        return json.dumps({"object": "list", "data": items[::-1], "model": body["model"]}).encode()

    def chat(self, body: Any) -> bytes:
        """An answer to `POST /chat/completions`: a JSON object made from what was asked."""
        asked = json.loads(body["messages"][-1]["content"])
        said = {
            "title": f"What {asked['action_type']} taught",
            "description": asked["in_words"][:400],
            "content": f"{len(asked['worked'])} worked, {len(asked['failed'])} failed.",
        }
        message = {"role": "assistant", "content": json.dumps(said)}
        return json.dumps({"choices": [{"index": 0, "message": message}]}).encode()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *request: Any) -> None:  # type: ignore[explicit-override]  # 3.12
        """A client that has gone away, as after a timeout, is no error here."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*request)


def _handler(server: EmbeddingServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = server.next_reply(Seen(self.path, headers, body))
            if reply.hold is not None:
                reply.hold.wait()
            if reply.hang_up:
                self.close_connection = True
                return
            is_plain = reply.status == 200 and not reply.body
            answer = server.chat if self.path.endswith("/chat/completions") else server.embeddings
            sent = answer(body) if is_plain else reply.body
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_: Any) -> None:  # type: ignore[explicit-override]  # 3.12
            """Say nothing."""

    return Handler
