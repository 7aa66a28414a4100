"""Delivering observations to the server of `agentdb_url`: a follower of what the journal made visible.

Problem: an observation is an entry, durable and visible here before the server has heard of it, and the
server may be away, restart empty, or answer a request that we then crash over. So what is delivered is
not what happened but what *is*: of each observation that an entry touched, the version in force now
is inserted under its id, or its document deleted. That may be repeated and made up for in any order as
long as the last delivery follows the last change, which holds since there is one follower and it
reads the views after the log. How far it came is kept beside the store (`Progress`), always behind
the server's answers, so a crash repeats a little and skips nothing.

Where the log does not reach back any more (compaction during a long outage), or the server has lost
what it had, or the vectors were replaced as a whole, there is no telling what the server holds. Then
everything is delivered anew, to collections of other names; what is in the old ones is never looked
at again. Memory is bounded by a few log rows at a time, however long the server is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import numpy as np

from nt_memory.clock import turn
from nt_memory.codec import is_filed
from nt_memory.entries import STATE
from nt_memory.errors import NtMemoryError, VectorServerError, VectorServerUnavailableError
from nt_memory.replica import partition_name
from nt_memory.replica.reembedding import CHANGE
from nt_memory.system.arguments import resolve
from nt_memory.system.reads import read, scan, value_of
from nt_memory.tiers.agentdb import (
    Document,
    Progress,
    collection_of,
    document_id,
    metadata_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nt_memory.entries import Stored
    from nt_memory.system.engine import Engine
    from nt_memory.tiers.agentdb import AgentDBClient
    from nt_memory.tiers.layout import ChangeRow

LOG_ROWS = 16
"""Log rows a step; a row of `observe_many` may have some hundred observations."""
SCAN_ROWS = 256
DOCUMENTS = 64
"""A request. Its JSON, half a megabyte at 384 values, is made on the loop in a millisecond."""
DELETES = 8
"""At once."""
MAX_DATA_BYTES = 64 << 10
"""Data that takes more is not sent along: `where` does not find it."""
FIRST_WAIT_S = 0.2
MAX_WAIT_S = 15.0
SAVE_EVERY_NS = 1_000_000_000
SYNC_TIMEOUT_S = 20.0
_REFUSALS = frozenset({400, 413, 422})
"""What is wrong with one document, and no reason to keep others waiting."""

logger: logging.Logger = logging.getLogger("nt_memory.agentdb")


class Delivery:
    """The follower of one instance. Belongs to its event loop.

    Args:
        engine: Whose observations.
        client: To where.

    Attributes:
        progress: How far it has come.
        failure: Why the last attempt failed; empty if it did not.
        refused: Observations that the server did not take, since open.
    """

    def __init__(self, engine: Engine, client: AgentDBClient) -> None:
        self._engine = engine
        self._client = client
        self._directory = engine.opened.directory.path
        found = Progress.load(self._directory, client.url)
        if found is None or found.revision > engine.revision:
            found = Progress.begin(client.url, engine.revision)
        self.progress: Progress = found
        self.failure: str = ""
        self.refused: int = 0
        self._made: set[str] = set()
        self._delivered = set(found.agents)
        self._has_lost = False
        self._saved_ns = 0
        self._moved = asyncio.Event()
        engine.holds.add_feed(self)

    @property
    def revision(self) -> int:
        """Entries up to this one are not needed any more."""
        return self.progress.revision

    @property
    def pending(self) -> int:
        """Entries that are visible here and not delivered; all of them during a first delivery."""
        behind = self._engine.revision - self.progress.revision
        return behind if self.progress.scanned is None else self._engine.revision

    def collection(self, agent: str) -> str:
        """The collection of an agent's observations, as they are delivered now."""
        return collection_of(self.progress.store, agent)

    def has_delivered(self, agent: str) -> bool:
        """Whether the server should have a collection of this agent."""
        return agent in self._delivered

    def lost(self) -> None:
        """The server does not have what was delivered to it: begin anew, soon."""
        self._has_lost = True
        self._engine.visible.wake(None)

    async def run(self) -> None:
        """Deliver until cancelled. Trouble is noted, waited out and met again."""
        attempt = 0
        try:
            while True:
                try:
                    is_more = await self._step()
                    attempt, self.failure = 0, ""
                except (NtMemoryError, OSError) as error:
                    self._note_failure(error, attempt)
                    wait_s = min(FIRST_WAIT_S * 2.0**attempt, MAX_WAIT_S)
                    attempt = min(attempt + 1, 16)
                    await self._engine.clock.sleep(wait_s)
                    continue
                self._moved.set()
                if is_more:
                    await turn()
                    continue
                self._save()
                await self._engine.visible.wait()
        finally:
            with contextlib.suppress(OSError):
                self._save()

    async def wait_delivered(self) -> None:
        """Until the server has everything that is visible here now.

        Raises:
            VectorServerUnavailableError: it has not after 20 s, of which what it has gained is kept.
        """
        wanted = self._engine.revision
        try:
            async with asyncio.timeout(SYNC_TIMEOUT_S):
                while not self._has_come(wanted):
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            reason = self.failure or "it is still being sent"
            raise VectorServerUnavailableError(
                f"{self._client.url} does not have everything yet, {self.pending} entries are left: "
                f"{reason}"
            ) from None

    # --- inside -------------------------------------------------------------------------------

    def _has_come(self, revision: int) -> bool:
        progress = self.progress
        return not self._has_lost and progress.scanned is None and progress.revision >= revision

    def _note_failure(self, error: Exception, attempt: int) -> None:
        self.failure = str(error)
        if attempt == 0:
            logger.warning(
                "observations wait for the vector server", extra={"fields": {"error": str(error)}}
            )

    async def _step(self) -> bool:
        """Deliver some; whether there may be more."""
        snapshot = self._engine.snapshot
        if self._has_lost or self.progress.revision < snapshot.log_floor:
            self._begin_anew()
        if self.progress.scanned is not None:
            await self._scan_some()
            return True
        rows = snapshot.logs(self.progress.revision, LOG_ROWS)
        if not rows:
            return False
        changes = [change for _, row in rows for change in row.changes]
        if any(change.kind == CHANGE for change in changes):
            self._begin_anew()  # all of an agent's vectors are other ones
            return True
        names = dict.fromkeys(
            (change.agent, change.key) for change in changes if _concerns_vectors(change)
        )
        await self._deliver(names)
        self.progress.revision = rows[-1][0]
        self._save_now_and_then()
        return True

    def _begin_anew(self) -> None:
        logger.warning("observations are delivered anew, to new collections")
        self.progress = Progress.begin(self._client.url, self._engine.revision)
        self._made.clear()
        self._delivered.clear()
        self._has_lost = False
        self._save()

    async def _scan_some(self) -> None:
        """A part of the first delivery: what is in force of the next names."""
        engine = self._engine
        after = bytes.fromhex(self.progress.scanned or "")
        moment = resolve(engine, None)
        found, last = scan(engine.snapshot, STATE.encode(), moment, after, SCAN_ROWS)
        names = [(one.agent, one.key) for one in found if one.partition >= 0]
        await self._deliver(names)
        self.progress.scanned = None if last is None else last.hex()
        self._save_now_and_then()

    async def _deliver(self, names: Iterable[tuple[str, str]]) -> None:
        """Bring the server up to what is in force of some names."""
        by_agent: dict[str, list[str]] = {}
        for agent, key in names:
            by_agent.setdefault(agent, []).append(key)
        for agent, keys in by_agent.items():
            for first in range(0, len(keys), DOCUMENTS):
                await self._deliver_some(agent, keys[first : first + DOCUMENTS])

    async def _deliver_some(self, agent: str, keys: Sequence[str]) -> None:
        documents, gone, dim = self._documents(agent, keys)
        if documents:
            await self._insert(agent, dim, documents)
        if gone and self.has_delivered(agent):
            collection = self.collection(agent)
            for first in range(0, len(gone), DELETES):
                some = gone[first : first + DELETES]
                await asyncio.gather(*(self._client.delete(collection, one) for one in some))

    def _documents(self, agent: str, keys: Sequence[str]) -> tuple[list[Document], list[str], int]:
        """What to insert, the ids of what to delete, and the dimension. Does not wait, so is of one moment."""
        engine = self._engine
        snapshot, moment = engine.snapshot, resolve(engine, None)
        partition = snapshot.partition(partition_name(agent, ""))
        documents: list[Document] = []
        gone: list[str] = []
        for key in keys:
            stored = read(snapshot, STATE, agent, key, moment, is_now=True)
            if partition is None or stored is None or stored.partition != partition.id:
                gone.append(document_id(key))
                continue
            vectors = engine.opened.files.rows(partition.file, partition.dim, partition.rows)
            vector = vectors[stored.row].astype(np.float64).tolist()
            metadata = metadata_of(key, stored.revision, self._data(stored))
            documents.append(Document(document_id(key), vector, metadata))
        return documents, gone, 0 if partition is None else partition.dim

    def _data(self, stored: Stored) -> object:
        value = stored.value
        if value is None or len(value) > MAX_DATA_BYTES or is_filed(value):
            return None
        return value_of(stored, self._engine.values)

    async def _insert(self, agent: str, dim: int, documents: Sequence[Document]) -> None:
        collection = self.collection(agent)
        if collection not in self._made:
            await self._make(agent, collection, dim)
        failed: int | None
        try:
            failed = await self._client.insert_many(collection, documents)
        except VectorServerError as error:
            if error.status not in _REFUSALS:
                raise
            failed = len(documents)
        if failed is None:
            self._made.discard(collection)
            raise VectorServerUnavailableError(
                f"{self._client.url} has lost collection {collection}"
            )
        if failed:
            await self._insert_each(collection, documents)

    async def _insert_each(self, collection: str, documents: Sequence[Document]) -> None:
        """After some were refused: those that are not at fault go through."""
        for document in documents:
            try:
                await self._client.insert(collection, document)
            except VectorServerError as error:
                if error.status not in _REFUSALS:
                    raise
                self.refused += 1
                logger.warning(
                    "the vector server refused an observation",
                    extra={"fields": {"collection": collection, "id": document.id}},
                )

    async def _make(self, agent: str, collection: str, dim: int) -> None:
        """Make sure of a collection.

        Raises:
            VectorServerUnavailableError: it was there, and is no more: all has to be delivered anew.
        """
        is_new = await self._client.create(collection, dim)
        if is_new and self.has_delivered(agent):
            self._has_lost = True
            raise VectorServerUnavailableError(
                f"{self._client.url} has lost collection {collection}"
            )
        self._made.add(collection)
        if not self.has_delivered(agent):
            self._delivered.add(agent)
            self.progress.agents.append(agent)

    def _save_now_and_then(self) -> None:
        if self._engine.clock.monotonic_ns() - self._saved_ns >= SAVE_EVERY_NS:
            self._save()

    def _save(self) -> None:
        self.progress.save(self._directory)
        self._saved_ns = self._engine.clock.monotonic_ns()


def _concerns_vectors(change: ChangeRow) -> bool:
    if change.space != STATE:
        return False
    # An expiry does not say whether there was a vector.
    return change.partition >= 0 or bool(change.ended) or change.kind == "expire"
