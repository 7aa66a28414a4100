"""Chroma beside a dict: the usual pair, a vector database for what is alike and a dict for what is now."""

from __future__ import annotations

from typing import Any, ClassVar

import chromadb

from peers.peer import Peer
from peers.workload import K, payload

NONE = "neither a database of vectors nor a dict has any"


class Chroma(Peer):
    """`PersistentClient`; state in a dict that nobody else sees."""

    name = "Chroma + dict"
    packages = ("chromadb",)
    used = "`PersistentClient`, one collection for situations and one for episodes, cosine, its defaults; state in a dict"
    acknowledged = (
        "vectors in SQLite's log (its defaults: kept when the process dies); state nowhere"
    )
    without: ClassVar = {"message": NONE, "lock": NONE}
    as_of: ClassVar = {"search": "the caller's filter"}

    def open(self) -> None:
        client = chromadb.PersistentClient(
            str(self.directory), settings=chromadb.Settings(anonymized_telemetry=False)
        )
        cosine = {"hnsw": {"space": "cosine"}}
        self._situations, self._episodes = (
            client.get_or_create_collection(name, configuration=cosine, embedding_function=None)
            for name in ("situations", "episodes")
        )
        self._state: dict[str, dict[str, Any]] = {}

    def close(self) -> None:
        """The client has no call for it; what was added is in its file."""

    def put(self, agent: str, value: dict[str, Any]) -> None:
        self._state[agent] = value

    def get(self, agent: str) -> Any:
        return self._state.get(agent)

    def load(self, first: int, stop: int, at: float) -> None:
        self._situations.add(
            ids=[str(row) for row in range(first, stop)],
            embeddings=self.workload.vectors[first:stop].copy(),
            metadatas=[payload(row, at) for row in range(first, stop)],
        )

    def observe(self, row: int, at: float) -> None:
        self.load(row, row + 1, at)

    def holds(self, row: int) -> bool:
        return bool(self._situations.get(ids=[str(row)])["ids"])

    def search(self, number: int) -> list[int]:
        return self._found(number, None)

    def search_symbol(self, number: int, symbol: str) -> list[int]:
        return self._found(number, {"symbol": symbol})

    def search_as_of(self, number: int, at: float) -> list[int]:
        return self._found(number, {"recorded_at": {"$lte": at}})

    def _found(self, number: int, where: dict[str, Any] | None) -> list[int]:
        found = self._situations.query(
            query_embeddings=self.workload.queries[number : number + 1],
            n_results=K,
            where=where,
            include=["metadatas"],
        )
        return [int(one["row"]) for one in found["metadatas"][0]]

    def decide(self, row: int, at: float) -> None:
        self._episodes.add(
            ids=[str(row)],
            embeddings=self.workload.vectors[row : row + 1].copy(),
            metadatas=[{"row": row, "recorded_at": at, "is_known": False}],
        )

    def outcome(self, row: int, value: float, at: float) -> None:
        del at
        self._episodes.update(ids=[str(row)], metadatas=[{"outcome": value, "is_known": True}])

    def lessons(self, number: int) -> list[float]:
        found = self._episodes.query(
            query_embeddings=self.workload.queries[number : number + 1],
            n_results=K,
            where={"is_known": True},
            include=["metadatas"],
        )
        return [one["outcome"] for one in found["metadatas"][0]]

    def outcomes_as_of(self, row: int, at: float) -> list[float] | None:
        found = self._episodes.get(ids=[str(row)], where={"recorded_at": {"$lte": at}})
        if not found["ids"]:
            return None
        return [one["outcome"] for one in found["metadatas"] if one["is_known"]]
