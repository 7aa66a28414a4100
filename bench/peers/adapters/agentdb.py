"""AgentDB, the npm package, timed inside its own language: `agentdb.mjs` is the other half of this."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from peers.adapters.servers import program, said
from peers.peer import MissingError, Peer

if TYPE_CHECKING:
    from collections.abc import Sequence

HOME = Path(sys.prefix) / "agentdb"
"""`make bench-peers` installs it there."""
NODE = "install Node 20 or newer, with npm"
NO_STATE = "it keeps episodes, skills and patterns, not the state of an agent"
NONE = "it has none"


class AgentDb(Peer):
    """Episodes of its ReflexionMemory, which is what its documentation keeps experiences in."""

    name = "AgentDB"
    used = (
        "npm package, in Node: `ReflexionMemory`, in bulk `BatchOperations`; filtered by `MetadataFilter` over all "
        "that is alike; `save()` when closed. Its search is a scan: no memory of the package uses its `HNSWIndex`, and "
        "the `createVectorDB` of its README is not in it"
    )
    acknowledged = "in the memory of one process (SQLite as WebAssembly); on disk when the caller saves the whole file"
    without: ClassVar = {"put": NO_STATE, "get": NO_STATE, "message": NONE, "lock": NONE}
    as_of: ClassVar = {"search": "the caller's filter", "outcome": "the caller's filter"}

    def version(self) -> str:
        package = HOME / "node_modules" / "agentdb" / "package.json"
        node = said([program("node", NODE), "--version"])
        return f"agentdb {json.loads(package.read_text())['version']}, Node {node}"

    def open(self) -> None:
        node = program("node", NODE)
        if not (HOME / "node_modules" / "agentdb").is_dir():
            raise MissingError("the npm package is not installed: npm could not fetch it")
        script = Path(__file__).with_suffix(".mjs")
        self._process = subprocess.Popen(
            [node, str(script), str(HOME), str(self.directory), str(self.workload.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ask("hello", [[]], 1.0)

    def close(self) -> None:
        self._ask("close", [[]], 1.0)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30.0)

    def _ask(self, kind: str, items: Sequence[Sequence[Any]], limit_s: float) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"kind": kind, "items": [list(item) for item in items], "limit_s": limit_s}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"its process ended with {self._process.wait()} during {kind}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def timed_calls(
        self, kind: str, items: Sequence[tuple[Any, ...]], limit_s: float
    ) -> tuple[list[float], list[Any]]:
        """Made and timed over there, one after another; like `phases.timed`."""
        answer = self._ask(kind, items, limit_s)
        return answer["seconds"], answer["answers"]

    def _one(self, kind: str, *item: Any) -> Any:
        return self._ask(kind, [item], 60.0)["answers"][0]

    def load(self, first: int, stop: int, at: float) -> None:
        self._one("load", first, stop, at)

    def observe(self, row: int, at: float) -> None:
        self._one("observe", row, at)

    def holds(self, row: int) -> bool:
        return bool(self._one("holds", row))

    def search(self, number: int) -> list[int]:
        return list(self._one("search", number))

    def search_as_of(self, number: int, at: float) -> list[int]:
        return list(self._one("search_as_of", number, at))

    def decide(self, row: int, at: float) -> None:
        self._one("decide", row, at)

    def outcome(self, row: int, value: float, at: float) -> None:
        self._one("outcome", row, value, at)

    def outcomes_as_of(self, row: int, at: float) -> list[float] | None:
        found: list[float] | None = self._one("outcomes_as_of", row, at)
        return found
