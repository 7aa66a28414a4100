"""A dict, a faiss index and asyncio: what memory costs when nothing is kept, shared or asked later."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Any

import faiss
import numpy as np

from peers.peer import Peer
from peers.workload import K, payload, symbol

LINKS, BREADTH = 32, 64
NOT_KEPT = "in the memory of one process, never on disk"


class Limit(Peer):
    """Nothing else; whoever builds a memory by hand begins here."""

    name = "dict + faiss"
    packages = ("faiss-cpu", "numpy")
    used = (
        f"dicts; `IndexHNSWFlat`, {LINKS} links, efSearch {BREADTH}; a scan of the instrument's own rows when "
        "filtered; `asyncio.Queue`; `threading.Lock`"
    )
    acknowledged = NOT_KEPT

    def open(self) -> None:
        faiss.omp_set_num_threads(1)
        self._state: dict[str, dict[str, Any]] = {}
        self._index, self._decided = self._made(), self._made()
        self._rows: list[int] = []
        self._data: dict[int, dict[str, Any]] = {}
        self._of_symbol: dict[str, list[int]] = {}
        self._decisions: list[int] = []
        self._outcomes: dict[int, float] = {}
        self._lock = threading.Lock()

    def _made(self) -> Any:
        index = faiss.IndexHNSWFlat(self.workload.sizes.dim, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efSearch = BREADTH
        return index

    def close(self) -> None:
        """There is nothing to close."""

    def put(self, agent: str, value: dict[str, Any]) -> None:
        self._state[agent] = value

    def get(self, agent: str) -> Any:
        return self._state.get(agent)

    def load(self, first: int, stop: int, at: float) -> None:
        self._index.add(np.ascontiguousarray(self.workload.vectors[first:stop]))
        for row in range(first, stop):
            self._keep(row, at)

    def observe(self, row: int, at: float) -> None:
        self._index.add(np.ascontiguousarray(self.workload.vectors[row : row + 1]))
        self._keep(row, at)

    def _keep(self, row: int, at: float) -> None:
        self._rows.append(row)
        self._data[row] = payload(row, at)
        self._of_symbol.setdefault(symbol(row), []).append(row)

    def holds(self, row: int) -> bool:
        return row in self._data

    def search(self, number: int) -> list[int]:
        _, places = self._index.search(self.workload.queries[number : number + 1], K)
        return [self._data[self._rows[place]]["row"] for place in places[0] if place >= 0]

    def search_symbol(self, number: int, symbol: str) -> list[int]:
        rows = np.array(self._of_symbol[symbol])
        scores = self.workload.vectors[rows] @ self.workload.queries[number]
        return [self._data[int(row)]["row"] for row in rows[np.argsort(-scores)[:K]]]

    def decide(self, row: int, at: float) -> None:
        del at
        self._decided.add(np.ascontiguousarray(self.workload.vectors[row : row + 1]))
        self._decisions.append(row)

    def outcome(self, row: int, value: float, at: float) -> None:
        del at
        self._outcomes[row] = value

    def lessons(self, number: int) -> list[float]:
        _, places = self._decided.search(self.workload.queries[number : number + 1], K)
        rows = [self._decisions[place] for place in places[0] if place >= 0]
        return [self._outcomes[row] for row in rows if row in self._outcomes]

    async def message(self, number: int) -> None:
        if not hasattr(self, "_inbox"):
            self._inbox: asyncio.Queue[int] = asyncio.Queue()
            self._got = asyncio.Event()
            self._reader = asyncio.create_task(self._read())
        self._got.clear()
        self._inbox.put_nowait(number)
        await self._got.wait()

    async def _read(self) -> None:
        with suppress(asyncio.CancelledError):
            while True:
                await self._inbox.get()
                self._got.set()

    def lock(self, number: int) -> None:
        del number
        with self._lock:
            pass

    def outcomes_as_of(self, row: int, at: float) -> list[float] | None:
        del at
        if row not in self._decisions:
            return None
        return [self._outcomes[row]] if row in self._outcomes else []
