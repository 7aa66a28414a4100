"""`reembed`: other vectors for all observations of an agent, while the old ones serve.

The rows of the agent are read in order, some at a time, embedded by the caller's function, and go to the
journal as entries that add to vectors nobody searches yet (`replica.reembedding`). Their graph grows in
the background meanwhile. When it is there, and few rows are left, observations of the agent wait for a
moment: the last rows are embedded, and one entry switches.

Nothing else changes before that entry, so whatever ends it early (an error, a cancellation, a crash)
leaves the old vectors in force. What was made by then is given up, at once or by the next session; under
a label it is kept, and the next call of that label goes on behind it.

A row's number is what its vector is filed under, so nothing may number rows anew from the first row that
is read on. A compaction leaves a partition alone once the store knows that it is being embedded; that
it learns by an entry that comes while no compaction runs, and if one has come before it, the few rows
read until then are read again.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from nt_memory.clock import turn
from nt_memory.entries import AbandonEmbedding, Embed, Reembed, SwitchEmbedding
from nt_memory.errors import (
    InvalidInputError,
    NtMemoryError,
    ReadOnlyError,
    ReembeddingError,
    StorageError,
    UnsupportedError,
)
from nt_memory.namespace import check_agent, check_label
from nt_memory.records import ReembedResult
from nt_memory.replica import partition_name, staged_name
from nt_memory.system.ending import insist
from nt_memory.system.modelling import embed_versions, filled
from nt_memory.system.rows import version_of_row
from nt_memory.system.strays import drop_partition

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from nt_memory.entries import Stored
    from nt_memory.records import EmbedRecords
    from nt_memory.system.engine import Engine
    from nt_memory.tiers.layout import PartitionRow

MAX_BATCH = 8_192
READS_A_TURN = 64
ENTRY_BYTES = 256 * 1024
LOOK_S = 0.1


class ReembeddingCalls:
    """The call that changes an agent's embedding; `MemorySystem` inherits it."""

    _engine: Engine

    async def reembed(
        self,
        agent: str,
        embed: EmbedRecords,
        *,
        batch: int = 256,
        label: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> ReembedResult:
        """Embed all observations of an agent anew: by another model, with another dimension.

        Every version that is kept gets a new vector. Reads, searches and observations go on
        meanwhile by the old ones; then one entry switches. From that revision on the agent's
        dimension is the new one, and whoever observes or searches in the old one gets
        `DimensionError`. A search as of a moment before it asks in the new dimension too, and finds
        what was in force then, by the new vectors. Whatever happens before the switch, an error, a
        cancellation or a crash, leaves the old vectors in force.

        Situations of trajectories keep their embedding: patterns and receipts are of its space.

        Args:
            agent: Whose observations.
            embed: Is given up to `batch` records, whose `value` is the data of an observation and
                `tags` its labels, and returns their embeddings, shape (n, dim), finite and not zero, any
                scale. A plain function runs on another thread; a coroutine function on the loop. It
                must not observe for the agent.
            batch: Records a call, 1 to 8,192.
            label: Names the new embedding, as its model and version. What was made until an error,
                a cancellation or a crash is then kept, and a call under the same label goes on
                behind it. None: begin anew.
            progress: Is told, on the loop, how many rows have a new vector, and how many there are.

        Returns:
            What was done. For an agent without observations nothing is.

        Raises:
            EmbeddingError: `embed` did not return one finite vector a record.
            DimensionError: it returned vectors of different dimensions.
            InvalidInputError: an argument is malformed; or there were observations, and nothing is
                left of any of them.
            ReembeddingError: the agent's observations are being embedded anew already.
            ReadOnlyError: the memory was opened read-only.
            UnsupportedError: `agentdb_url` is set.
            StorageFullError: no space is left.
            StorageError: the journal failed.
            Exception: whatever `embed` or `progress` raises, with a note that says where.

        Cost: what `embed` takes, and 2 * dim bytes of journal a row, until a compaction. The new
            vectors and their index are beside the old ones until the switch. At the end the agent's
            observations wait while the last ones are embedded, usually one call of `embed`.
            Memory: one batch, and the new index.
        """
        engine = self._engine
        engine.check_usable()
        if engine.is_read_only:
            raise ReadOnlyError("this memory was opened read-only")
        if engine.remote is not None:
            raise UnsupportedError(
                "agentdb_url: re-embed with the embedded vectors, then set it again"
            )
        if isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= MAX_BATCH:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(f"batch must be an int from 1 to {MAX_BATCH}, not {batch!r}")
        if not callable(embed):
            raise InvalidInputError(f"embed must be callable, not {type(embed).__name__}")
        name = "" if label is None else check_label(label, "label")
        work = _Reembedding(engine, check_agent(agent), embed, batch, name, progress)
        if agent in engine.halts.under_way:
            raise ReembeddingError(f"{agent}: the observations are being embedded anew already")
        engine.halts.under_way.add(agent)
        try:
            return await work.run()
        finally:
            engine.halts.under_way.discard(agent)


class _Reembedding:
    """One re-embedding. Rows below `_covered` have their new vector in the store."""

    def __init__(
        self,
        engine: Engine,
        agent: str,
        embed: EmbedRecords,
        batch: int,
        label: str,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._engine = engine
        self._agent = agent
        self._embed = embed
        self._batch = batch
        self._label = label
        self._progress = progress
        self._ticket = ""  # until it has begun
        self._partition = -1
        self._file = -1
        self._dim = 0
        self._covered = 0
        self._looked = 0  # beyond what is covered: rows without a version, before it has begun
        self._resumed = self._embedded = self._lost = 0

    async def run(self) -> ReembedResult:
        """Do it; see `ReembeddingCalls.reembed`."""
        before = self._engine.snapshot.partition(partition_name(self._agent, ""))
        if before is None:
            return ReembedResult(self._engine.revision, 0, 0)
        try:
            self._partition = before.id
            self._go_on()
            await self._approach()
            previous = self._observed()
            revision = await self._switch()
        except BaseException:
            await insist(asyncio.ensure_future(self._abandon()))
            raise
        await self._drop(previous.file)
        return ReembedResult(
            revision,
            self._dim,
            previous.dim,
            embedded=self._embedded,
            resumed=self._resumed,
            lost=self._lost,
        )

    # --- the way there --------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Take over what an earlier call under this label has made."""
        found = self._engine.snapshot.partition(staged_name(self._agent))
        if found is None or found.staged is None or not self._label:
            return
        if found.staged.label != self._label:
            return
        self._ticket, self._file, self._dim = found.staged.ticket, found.file, found.dim
        self._covered = self._looked = self._resumed = found.rows
        self._grow()

    async def _approach(self) -> None:
        """Cover rows, and have them indexed, until those that came meanwhile are few.

        Or until they do not get fewer: then `embed` is slower than the agent observes.
        """
        last = None
        while True:
            await self._cover()
            await self._wait_grown()
            behind = self._observed().rows - self._covered
            if behind <= self._batch or (last is not None and behind >= last):
                return
            last = behind

    async def _switch(self) -> int:
        """Cover the last rows while none are added, and let the new vectors count."""
        engine = self._engine
        with engine.halts.halt(self._agent):
            while True:
                await engine.flush()
                await self._cover()
                revision: int | None = await engine.submit(
                    SwitchEmbedding(self._agent, self._ticket)
                )
                # None: one that was submitted before the halt waited for room in the journal.
                if revision is not None:
                    return revision

    async def _cover(self) -> None:
        """Embed the rows there are now."""
        rows = self._observed().rows
        # A compaction that came before the store knew of this may have left fewer of them.
        while self._looked < (end := min(rows, self._observed().rows)):
            await self._next(min(end, self._looked + self._batch))
            if not self._ticket:
                self._look_again()
        if not self._ticket:
            raise InvalidInputError(
                f"{self._agent}: nothing is left of any observation, so nothing says which dimension "
                "the new embedding has"
            )

    async def _next(self, stop: int) -> None:
        """Embed the rows up to `stop`."""
        first = self._looked
        versions = await self._read(first, stop)
        kept = [version for version in versions if version is not None]
        halves = await self._embed_versions(kept, first, stop) if kept else None
        self._engine.check_usable()
        if halves is not None and not self._ticket and not await self._begin(halves.shape[1]):
            return
        self._looked = stop
        if not self._ticket:
            return
        await self._take_lost(first)
        if halves is not None and len(kept) == len(versions):
            await self._take(halves, np.zeros(len(kept), np.bool_))
        else:
            is_lost = np.array([version is None for version in versions])
            made = await asyncio.to_thread(filled, first, is_lost, halves, self._dim)
            await self._take(made, is_lost)
        self._embedded += len(kept)
        self._grow()
        if self._progress is not None:
            self._progress(self._covered, self._observed().rows)

    def _look_again(self) -> bool:
        """Begin at the first row, if a compaction has given rows other numbers."""
        observed = self._observed()
        has_moved = observed.id != self._partition
        if has_moved:
            self._partition, self._looked = observed.id, 0
        return has_moved

    async def _read(self, first: int, stop: int) -> list[Stored | None]:
        """The versions that rows belong to; None where it was dropped."""
        found: list[Stored | None] = []
        for row in range(first, stop):
            found.append(version_of_row(self._engine.snapshot, self._partition, row))
            if len(found) % READS_A_TURN == 0:
                await turn()
                self._engine.check_usable()
        return found

    async def _embed_versions(
        self, versions: Sequence[Stored], first: int, stop: int
    ) -> NDArray[np.float16]:
        """New vectors of versions that rows `first` up to `stop` belong to."""
        try:
            return await embed_versions(self._engine, self._embed, self._agent, versions, self._dim)
        except Exception as error:
            error.add_note(
                f"reembed {self._agent!r}: rows {first} to {stop - 1}; the old embedding is in force"
            )
            raise

    # --- entries --------------------------------------------------------------------------------

    async def _begin(self, dim: int) -> bool:
        """Have the store know of it; False if a compaction came first, and rows are to be read anew."""
        engine = self._engine
        async with engine.maintenance.apart():
            if self._look_again():
                return False
            unfinished = engine.snapshot.partition(staged_name(self._agent))
            instead = ""
            if unfinished is not None and unfinished.staged is not None:
                instead = unfinished.staged.ticket
            # Before it is known to have happened: a cancelled one may have, and is given up then.
            self._ticket, self._dim = secrets.token_hex(8), dim
            entry = Reembed(self._agent, self._ticket, dim, self._label, instead)
            self._file = await engine.submit(entry)
        if unfinished is not None:
            await self._drop(unfinished.file)
        return True

    async def _take_lost(self, stop: int) -> None:
        """Rows without a version that were passed before the dimension was known."""
        step = max(1, ENTRY_BYTES // (2 * self._dim))
        while self._covered < stop:
            is_lost = np.ones(min(step, stop - self._covered), np.bool_)
            made = await asyncio.to_thread(filled, self._covered, is_lost, None, self._dim)
            await self._take(made, is_lost)

    async def _take(self, made: NDArray[np.float16], is_lost: NDArray[np.bool_]) -> None:
        """Have the store take the next vectors."""
        step = max(1, ENTRY_BYTES // (2 * self._dim))
        for start in range(0, len(made), step):
            chunk, lost = made[start : start + step], is_lost[start : start + step]
            numbers = tuple((np.flatnonzero(lost) + self._covered).tolist())
            entry = Embed(self._agent, self._ticket, self._covered, chunk.tobytes(), numbers)
            self._covered = await self._engine.submit(entry)
            self._lost += len(numbers)

    async def _abandon(self) -> None:
        """Let the old vectors be all there is, but for what a label keeps."""
        if not self._ticket:
            return
        engine = self._engine
        with suppress(NtMemoryError):  # closed, or cannot write: the next session gives it up
            if not self._label:
                given_up = await engine.submit(AbandonEmbedding(self._agent, self._ticket))
                if given_up is not None:
                    engine.vectors.give_up(given_up)
                    await self._drop(given_up)
                return
        engine.vectors.give_up(self._file)

    # --- beside the store -----------------------------------------------------------------------

    def _observed(self) -> PartitionRow:
        """The agent's observations, as visible now."""
        self._engine.check_usable()
        found = self._engine.snapshot.partition(partition_name(self._agent, ""))
        assert found is not None  # noqa: S101 - there was one when it began, and none is removed
        return found

    def _grow(self) -> None:
        self._engine.vectors.grow(self._file, self._dim, self._covered)

    async def _wait_grown(self) -> None:
        """Until the index of the new vectors is as far as they are, or nothing brings it there."""
        vectors = self._engine.vectors
        while not vectors.is_grown(self._file):
            self._engine.check_usable()
            if await asyncio.to_thread(vectors.wait_indexed, LOOK_S):
                return

    async def _drop(self, file: int) -> None:
        """Remove vectors that nobody will ask for; what cannot be removed goes at the next open."""
        engine = self._engine
        async with engine.maintenance.apart():  # a base that is being written may need them
            if not engine.is_closed:
                with suppress(StorageError):
                    await asyncio.to_thread(drop_partition, engine.opened.files, file)
