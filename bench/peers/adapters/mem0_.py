"""mem0, its open-source library, without a language model.

`infer=False` stores what it is given. By default (`infer=True`) mem0 asks a language model, at each `add`, which
facts are worth keeping; that is what it is made for, costs a second or so and some money a call, and is no
property of a store, so it is left out here.
"""

from __future__ import annotations

import json
import os
from typing import Any, ClassVar

from langchain_core.embeddings import Embeddings

from peers.peer import Peer
from peers.workload import K, Workload, payload

NONE = "it stores and searches texts, and nothing else"
ANY = 0.0
"""The lowest it takes; what is less alike is left out, by its default what is below 0.1."""
DESK, EPISODES = "desk-memory", "episodes"


class _Lookup(Embeddings):
    """The embedder of all peers; a state, which nobody searches for, has the vector of row 0."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload

    def embed_query(self, text: str) -> list[float]:
        return self._workload.embed("situation 0" if text.startswith("{") else text)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


class Mem0(Peer):
    """State is a memory that is updated by its id, which the caller has to keep."""

    name = "mem0"
    packages = ("mem0ai", "qdrant-client")
    used = (
        "`Memory.from_config`, `infer=False`, Qdrant's local mode (its default) for vectors, a history of "
        "changes in SQLite; no language model, no keyword index"
    )
    acknowledged = "in SQLite's files (Qdrant's local mode), by their own settings"
    without: ClassVar = {"message": NONE, "lock": NONE}
    as_of: ClassVar = {"search": "the caller's filter"}

    def open(self) -> None:
        os.environ |= {"MEM0_TELEMETRY": "False", "MEM0_DIR": str(self.directory / "home")}
        from mem0 import Memory  # noqa: PLC0415 - reads the environment when imported

        vectors = {
            "path": str(self.directory / "qdrant"),
            "embedding_model_dims": self.workload.sizes.dim,
            "on_disk": True,
        }
        self._memory = Memory.from_config(
            {
                "vector_store": {"provider": "qdrant", "config": vectors},
                "embedder": {"provider": "langchain", "config": {"model": _Lookup(self.workload)}},
                "llm": {"provider": "openai", "config": {"api_key": "never asked"}},
                "history_db_path": str(self.directory / "history.db"),
            }
        )
        self._ids: dict[str, str] = {}

    def close(self) -> None:
        self._memory.close()
        self._memory.vector_store.client.close()

    def _add(self, text: str, agent: str, metadata: dict[str, Any]) -> str:
        done = self._memory.add(text, agent_id=agent, metadata=metadata, infer=False)
        return str(done["results"][0]["id"])

    def put(self, agent: str, value: dict[str, Any]) -> None:
        if agent in self._ids:
            self._memory.update(self._ids[agent], text=json.dumps(value))
        else:
            self._ids[agent] = self._add(json.dumps(value), agent, {"kind": "state"})

    def get(self, agent: str) -> Any:
        if agent in self._ids:
            return json.loads(self._memory.get(self._ids[agent])["memory"])
        found = self._memory.get_all(filters={"agent_id": agent})["results"]
        return json.loads(found[0]["memory"]) if found else None

    def load(self, first: int, stop: int, at: float) -> None:
        for row in range(first, stop):
            self.observe(row, at)

    def observe(self, row: int, at: float) -> None:
        self._add(self.workload.text(row), DESK, payload(row, at))

    def holds(self, row: int) -> bool:
        return bool(self._memory.get_all(filters={"agent_id": DESK, "row": row})["results"])

    def search(self, number: int) -> list[int]:
        return self._found(number, {})

    def search_symbol(self, number: int, symbol: str) -> list[int]:
        return self._found(number, {"symbol": symbol})

    def search_as_of(self, number: int, at: float) -> list[int]:
        return self._found(number, {"recorded_at": {"lte": at}})

    def _found(self, number: int, only: dict[str, Any]) -> list[int]:
        asked = self.workload.question(number)
        found = self._memory.search(
            asked, top_k=K, filters={"agent_id": DESK, **only}, threshold=ANY
        )
        return [hit["metadata"]["row"] for hit in found["results"]]

    def decide(self, row: int, at: float) -> None:
        metadata = {"row": row, "recorded_at": at, "is_known": False}
        self._ids[f"t{row}"] = self._add(self.workload.text(row), EPISODES, metadata)

    def outcome(self, row: int, value: float, at: float) -> None:
        metadata = {"row": row, "recorded_at": at, "is_known": True, "outcome": value}
        self._memory.update(self._ids[f"t{row}"], metadata=metadata)

    def lessons(self, number: int) -> list[float]:
        asked = self.workload.question(number)
        only = {"agent_id": EPISODES, "is_known": True}
        found = self._memory.search(asked, top_k=K, filters=only, threshold=ANY)
        return [hit["metadata"]["outcome"] for hit in found["results"]]

    def outcomes_as_of(self, row: int, at: float) -> list[float] | None:
        del at
        found = self._memory.get(self._ids[f"t{row}"])
        if found is None:
            return None
        kept = found["metadata"]
        return [kept["outcome"]] if kept["is_known"] else []
