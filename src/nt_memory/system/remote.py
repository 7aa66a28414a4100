"""L2 on the server of `agentdb_url`: searches there, answers from here.

The server says which documents are like a query; whether each is the version in force, passes the filter
and how like it is, is judged here, by the views and the stored vector. So a result that has grown old on
the server, or is not ours, is passed over and never shown; what the server has not got yet is missed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from nt_memory.config import secret_from_env
from nt_memory.entries import STATE
from nt_memory.errors import UnsupportedError
from nt_memory.records import Hit
from nt_memory.replica import partition_name
from nt_memory.system.arguments import resolve
from nt_memory.system.delivering import Delivery
from nt_memory.system.filing import record_of
from nt_memory.system.reads import read
from nt_memory.tiers.agentdb import (
    MAX_K,
    AgentDBClient,
    Progress,
    collection_of,
    read_mark,
    spell_where,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from nt_memory.config import MemoryConfig
    from nt_memory.filters import Filter
    from nt_memory.system.engine import Engine

TOKEN_VARIABLE = "AGENTDB_TOKEN"  # noqa: S105 - the name of it
SPARE = 4
"""Asked for beyond what is wanted, in case some are old."""


def connect(config: MemoryConfig) -> AgentDBClient | None:
    """The client of `agentdb_url`, if it is set. Sends nothing.

    Raises:
        InvalidInputError: the URL or the token is malformed.
        UnsupportedError: httpx is not installed, or the timeline is a backtest's.
    """
    if config.agentdb_url is None:
        return None
    if config.timeline == "backtest":
        raise _unsupported("a backtest timeline, whose searches are all as of its now")
    return AgentDBClient(config.agentdb_url, secret_from_env(TOKEN_VARIABLE) or "")


class RemoteVectors:
    """Observations' vectors on a server. Belongs to one event loop.

    Args:
        engine: Whose.
        client: The server.

    Attributes:
        delivery: Sends them there; None in an instance that only reads: the one that writes does.
    """

    def __init__(self, engine: Engine, client: AgentDBClient) -> None:
        if engine.timeline.is_backtest:
            raise _unsupported("a backtest timeline, whose searches are all as of its now")
        self._engine = engine
        self._client = client
        self.delivery: Delivery | None = None if engine.is_read_only else Delivery(engine, client)

    @staticmethod
    def check(*, is_now: bool, tags: bool, exact: bool, explains: bool) -> None:
        """Refuse what the contract cannot do.

        Raises:
            UnsupportedError: any of it is wanted.
        """
        for is_wanted, what in (
            (not is_now, "as_of"),
            (tags, "tags"),
            (exact, "exact"),
            (explains, "explain_similar"),
        ):
            if is_wanted:
                raise _unsupported(what)

    async def search(
        self,
        agents: Sequence[str],
        queries: NDArray[np.float32],
        top_k: int,
        where: Filter | None,
    ) -> list[list[Hit]]:
        """For each query the hits of all agents together, best first, ties by key.

        Raises:
            VectorServerUnavailableError: out of reach or busy. Retryable.
            VectorServerError: it refused.
            UnsupportedError: `where` compares with what the contract cannot say.
        """
        spelled = None if where is None else spell_where(where)
        found: list[list[Hit]] = []
        for query in queries:
            per_agent = await asyncio.gather(
                *(self._search_one(agent, query, top_k, where, spelled) for agent in agents)
            )
            hits = [hit for some in per_agent for hit in some]
            hits.sort(key=lambda hit: (-hit.score, hit.key, hit.agent))
            found.append(hits[:top_k])
        return found

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    # --- inside -------------------------------------------------------------------------------

    def _collection(self, agent: str) -> str | None:
        if self.delivery is not None:
            return self.delivery.collection(agent)
        # Whoever writes may have begun anew since the last look.
        progress = Progress.load(self._engine.opened.directory.path, self._client.url)
        return None if progress is None else collection_of(progress.store, agent)

    async def _search_one(
        self,
        agent: str,
        query: NDArray[np.float32],
        top_k: int,
        where: Filter | None,
        spelled: dict[str, Any] | None,
    ) -> list[Hit]:
        """Hits of one agent; asks for more where too few of the results are in force."""
        collection = self._collection(agent)
        if collection is None or partition_name(agent, "") not in self._engine.rows.partitions:
            return []
        values = query.tolist()
        k = min(top_k + SPARE, MAX_K)
        while True:
            results = await self._client.search(collection, values, k, spelled)
            self._engine.check_usable()
            if results is None:
                if self.delivery is not None and self.delivery.has_delivered(agent):
                    self.delivery.lost()
                return []
            hits = await self._judge(agent, query, results, where)
            if len(hits) >= top_k or len(results) < k or k == MAX_K:
                return hits
            k = min(4 * k, MAX_K)

    async def _judge(
        self, agent: str, query: NDArray[np.float32], results: list[Any], where: Filter | None
    ) -> list[Hit]:
        """What of the results is in force and passes, with its score."""
        engine = self._engine
        hits: list[Hit] = []
        for key, revision in dict.fromkeys(filter(None, map(read_mark, results))):
            snapshot = engine.snapshot
            partition = snapshot.partition(partition_name(agent, ""))
            stored = read(snapshot, STATE, agent, key, resolve(engine, None), is_now=True)
            if partition is None or stored is None or stored.revision != revision:
                continue
            if stored.partition != partition.id or partition.dim != len(query):
                continue
            rows = engine.opened.files.rows(partition.file, partition.dim, partition.rows)
            score = float(rows[stored.row].astype("float32") @ query)
            record = await record_of(engine, stored)
            if where is None or where.accepts(record.value):
                score = max(-1.0, min(1.0, score))
                hits.append(Hit(key, score, record.value, record.known_at, revision, agent))
        return hits


def _unsupported(what: str) -> UnsupportedError:
    return UnsupportedError(
        f"agentdb_url: {what} needs the embedded vectors; the server's contract knows neither time, "
        "order nor labels"
    )
