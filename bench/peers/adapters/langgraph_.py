"""LangGraph's stores, which share one interface: namespaces, keys, and search by an embedder."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import ExitStack
from importlib import import_module
from typing import Any, ClassVar

from langgraph.store.base import PutOp
from langgraph.store.memory import InMemoryStore

from peers.peer import Peer
from peers.workload import K, payload, symbol

NONE = "a store only stores; LangGraph's threads and graphs are another part of it"
TEXT = ["text"]
"""What is embedded, said with each put: `fields` of the index, which its documentation shows, is not read by
SqliteStore 3.1.2, which would embed the whole value."""
BY_FILTER = {"search": "the caller's filter"}


class Store(Peer):
    """What the three stores have in common: `put`, `get`, `search`, `batch` of `BaseStore`."""

    without: ClassVar = {"message": NONE, "lock": NONE}
    as_of: ClassVar = BY_FILTER
    _store: Any

    def _index(self) -> dict[str, Any]:
        def embed(texts: list[str]) -> list[list[float]]:
            return [self.workload.embed(text) for text in texts]

        return {"dims": self.workload.sizes.dim, "embed": embed, "fields": ["text"]}

    def put(self, agent: str, value: dict[str, Any]) -> None:
        self._store.put(("state", agent), "position", value, index=False)

    def get(self, agent: str) -> Any:
        found = self._store.get(("state", agent), "position")
        return found and found.value

    def _situation(self, row: int, at: float) -> dict[str, Any]:
        return payload(row, at) | {"text": self.workload.text(row)}

    def load(self, first: int, stop: int, at: float) -> None:
        self._store.batch(
            [
                PutOp(("situations",), str(row), self._situation(row, at), index=TEXT)
                for row in range(first, stop)
            ]
        )

    def observe(self, row: int, at: float) -> None:
        self._store.put(("situations",), str(row), self._situation(row, at), index=TEXT)

    def holds(self, row: int) -> bool:
        return self._store.get(("situations",), str(row)) is not None

    def search(self, number: int) -> list[int]:
        return self._found(number, None)

    def search_symbol(self, number: int, symbol: str) -> list[int]:
        return self._found(number, {"symbol": symbol})

    def search_as_of(self, number: int, at: float) -> list[int]:
        return self._found(number, {"recorded_at": {"$lte": at}})

    def _found(self, number: int, only: dict[str, Any] | None) -> list[int]:
        asked = self.workload.question(number)
        hits = self._store.search(("situations",), query=asked, limit=K, filter=only)
        return [hit.value["row"] for hit in hits]

    def decide(self, row: int, at: float) -> None:
        self._decision(row, at, {"is_known": False})

    def outcome(self, row: int, value: float, at: float) -> None:
        """A put replaces the whole record, so the decision is written again, as its documentation shows."""
        self._decision(row, at, {"is_known": True, "outcome": value})

    def _decision(self, row: int, at: float, more: dict[str, Any]) -> None:
        value = {"row": row, "symbol": symbol(row), "text": self.workload.text(row)}
        self._store.put(("episodes",), str(row), value | {"recorded_at": at} | more, index=TEXT)

    def lessons(self, number: int) -> list[float]:
        asked = self.workload.question(number)
        hits = self._store.search(("episodes",), query=asked, limit=K, filter={"is_known": True})
        return [hit.value["outcome"] for hit in hits]

    def outcomes_as_of(self, row: int, at: float) -> list[float] | None:
        del at
        found = self._store.get(("episodes",), str(row))
        if found is None:
            return None
        return [found.value["outcome"]] if found.value["is_known"] else []


class InMemory(Store):
    """For development, says its documentation."""

    name = "LangGraph InMemoryStore"
    packages = ("langgraph-checkpoint", "numpy")
    used = "`InMemoryStore(index=…)`; its search is a scan"
    acknowledged = "in the memory of one process, never on disk"

    def open(self) -> None:
        self._store = InMemoryStore(index=self._index())

    def close(self) -> None:
        """There is nothing to close."""


class Sqlite(Store):
    """sqlite-vec for the search, which is a scan."""

    name = "LangGraph SqliteStore"
    packages = ("langgraph-checkpoint-sqlite", "sqlite-vec")
    used = "`SqliteStore.from_conn_string(file, index=…)`, then `setup()`; its search is a scan by sqlite-vec"
    acknowledged = "in SQLite's file, by its own settings"

    def open(self) -> None:
        _with_extensions()
        from langgraph.store.sqlite import SqliteStore  # noqa: PLC0415 - needs the module above

        self._opened = ExitStack()
        file = str(self.directory / "store.db")
        self._store = self._opened.enter_context(
            SqliteStore.from_conn_string(file, index=self._index())
        )
        self._store.setup()

    def close(self) -> None:
        self._opened.close()


def _with_extensions() -> None:
    """sqlite-vec is an extension, which many builds of Python cannot load; then take a SQLite that can."""
    if not hasattr(sqlite3.Connection, "enable_load_extension"):
        sys.modules["sqlite3"] = import_module("pysqlite3")
