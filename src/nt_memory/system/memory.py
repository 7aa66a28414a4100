"""`MemorySystem`: the one way in, and the composition root."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Self

import msgspec

from nt_memory.clock import StoreClock, SystemClock
from nt_memory.codec import decode, encode
from nt_memory.config import MemoryConfig
from nt_memory.coordination.ballot_states import ProposalState
from nt_memory.coordination.consensus import Consensus
from nt_memory.coordination.elections import Elections
from nt_memory.coordination.lock_states import LockState
from nt_memory.coordination.locks import Locks
from nt_memory.coordination.pubsub import PubSub
from nt_memory.errors import ClosedError, UnsupportedError
from nt_memory.reasoningbank import ReasoningBank
from nt_memory.records import MemoryStats, VectorTierStats
from nt_memory.system.arguments import check_revision, resolve
from nt_memory.system.backing import EngineBacking
from nt_memory.system.banking import BankCalls
from nt_memory.system.busing import make_bus
from nt_memory.system.configuring import to_config
from nt_memory.system.coordinating import CoordinationCalls
from nt_memory.system.engine import Engine
from nt_memory.system.filtering import FilterTables
from nt_memory.system.governing import GoverningCalls
from nt_memory.system.keeping import KeepingCalls
from nt_memory.system.mapping import MapCalls
from nt_memory.system.reembedding import ReembeddingCalls
from nt_memory.system.shares import Shares
from nt_memory.system.similarity import SimilarityCalls
from nt_memory.system.state import StateCalls
from nt_memory.system.timelines import TimelineHandle
from nt_memory.system.view import MemoryView
from nt_memory.system.watching import Tail

if TYPE_CHECKING:
    from collections.abc import Generator

    from nt_memory.clock import Clock
    from nt_memory.system.delivering import Delivery
    from nt_memory.system.sync import SyncMemory
    from nt_memory.timeline import AsOfLike


class MemorySystem(
    StateCalls,
    SimilarityCalls,
    MapCalls,
    ReembeddingCalls,
    BankCalls,
    CoordinationCalls,
    GoverningCalls,
    KeepingCalls,
):
    """Memory of one swarm. Made by `MemorySystem.open`; belongs to one event loop.

    Attributes:
        bank: The ReasoningBank.
        consensus: Proposals and votes.
        elections: Who leads.
        timeline: The agents' now.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._named = 0
        self._filters = FilterTables(engine, Shares.of(engine.config.max_memory_bytes).filters)
        self._bus = make_bus(engine)
        self._pubsub = PubSub(self._bus, encode, decode, engine.clock)
        self._locks = Locks(engine.submit, self._read_lock, engine.clock, engine.session)
        self.consensus: Consensus = Consensus(
            engine.submit, BallotViews(engine), engine.clock, encode, decode
        )
        self.elections: Elections = Elections(self._locks)
        self.timeline: TimelineHandle = TimelineHandle(engine)
        backing = EngineBacking(engine)
        self.bank: ReasoningBank = ReasoningBank(backing, kmeans=backing.kmeans)
        engine.listeners.locks = self._locks.follow
        engine.listeners.ballots = self.consensus.follow
        engine.listeners.bank = self.bank.follow
        engine.listeners.observed = self._filters.follow
        engine.listeners.moved = self._filters.drop

    @staticmethod
    def open(
        target: MemoryConfig | str | os.PathLike[str] | None = None,
        *,
        clock: Clock | None = None,
        read_only: bool = False,
    ) -> Opening:
        """Open a memory, making its store when missing.

        Args:
            target: A `MemoryConfig`; a path, for an embedded store with default settings (an
                existing store's own timeline and history are taken over); `nats://host:port`, or
                `nats://host:port/swarm`, for a node of a cluster, likewise; None for the defaults.
            clock: Source of time; for tests and simulations.
            read_only: Follow a store that another process writes, at most about 10 ms behind;
                writes raise `ReadOnlyError`.

        Returns:
            Something to `await`, or to use with `async with`.

        Raises:
            StoreInUseError: another instance has it open for writing; names the process.
            ForeignStoreError: the path is a file, or a directory of another program.
            StorePermissionError: the directory cannot be read or written.
            FormatVersionError: a newer version wrote the store.
            CorruptionError: the journal is damaged; the message names the place.
            ConfigMismatchError: `timeline`, `history` or `swarm` is not what the store has.
            UnsupportedError: the target needs a part that is not installed.
            DisconnectedError: the cluster's servers cannot be reached.
            PermissionDeniedError: they refuse the credentials.
        """
        return Opening(target, clock=clock, read_only=read_only)

    @staticmethod
    def open_sync(
        target: MemoryConfig | str | os.PathLike[str] | None = None,
        *,
        clock: Clock | None = None,
        read_only: bool = False,
    ) -> SyncMemory:
        """Open a memory for plain code: the same calls without await, from any thread.

        An event loop on a thread of its own runs them. Works in notebooks too, where the thread
        has a running loop already; that loop stands still while a call waits.

        Args:
            target: As in `open`.
            clock: As in `open`.
            read_only: As in `open`.

        Returns:
            The memory, to be closed or used with `with`. Ctrl-C in a call that waits cancels it.

        Errors are those of `open`.

        Cost: 30 to 60 us a call, on top of what the call itself takes.
        """
        from nt_memory.system.sync import open_sync  # noqa: PLC0415 - it mirrors this very class

        return open_sync(target, clock=clock, read_only=read_only)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def as_agent(self, agent: str) -> MemorySystem:
        """This memory in an agent's name: the same calls, with that agent as actor and its rights.

        What the agent's policy does not allow raises `PermissionDeniedError`. Closing the handle
        closes nothing; it costs no more than its use.

        Raises:
            InvalidNameError: a malformed agent.
        """
        from nt_memory.system.agents import AgentMemory  # noqa: PLC0415 - it is made from this class

        self._engine.check_usable()
        return AgentMemory(self, agent)

    # --- whole system -------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """The newest revision visible here."""
        return self._engine.revision

    async def wait_for(self, revision: int) -> None:
        """Wait until a revision is visible here.

        Raises:
            ClosedError: the memory was closed meanwhile.
        """
        self._engine.check_usable()
        check_revision(revision, "revision")
        while self._engine.revision < revision:
            await self._engine.wait_visible()

    def at(self, as_of: AsOfLike) -> MemoryView:
        """A read-only view of the memory as of a time, a revision or both.

        Raises:
            LookAheadError: it lies past a backtest's now.
            InvalidTimeError, InvalidInputError: it is malformed.
        """
        self._engine.check_usable()
        moment = resolve(self._engine, as_of)
        view = MemoryView(self, moment)
        self._engine.holds.add_read(view, moment)
        return view

    def tail(self, after: int = 0) -> Tail:
        """The journal from a revision on: an async iterator of `JournalEntry`; waits for more.

        Raises:
            InvalidInputError: `after` is negative.
        """
        self._engine.check_usable()
        return Tail(self._engine, check_revision(after, "after"))

    def stats(self) -> MemoryStats:
        """The counters of this instance, as of now. Cost: microseconds."""
        engine = self._engine
        engine.check_usable()
        vectors = engine.vectors.stats
        journal = engine.journal
        delivery = None if engine.remote is None else engine.remote.delivery
        return MemoryStats(
            revision=engine.revision,
            lag=0 if journal is None else journal.unseen + journal.last_sequence - engine.sequence,
            pending_bytes=0 if journal is None else journal.pending_bytes,
            l1=engine.hot.stats,
            l2=VectorTierStats(
                entries=vectors.rows,
                bytes=vectors.bytes,
                hits=vectors.hits,
                misses=vectors.misses,
                evictions=vectors.unloads,
                pending=vectors.pending,
                graphs=vectors.graphs,
                mapped_bytes=vectors.mapped_bytes,
                loads=vectors.loads,
                merges=vectors.merges,
                written_bytes=vectors.written_bytes,
                is_idle=vectors.is_idle,
            ),
            l2_pending=vectors.pending,
            l2_filter_bytes=self._filters.held_bytes,
            l3_bytes=engine.cold_bytes,
            journal_bytes=engine.reader.size_bytes,
            value_bytes=engine.values.size_bytes(is_writer=not engine.is_read_only),
            pins=len(engine.hot.pins),
            locks=self._locks.held,
            subscribers=self._pubsub.subscribers,
            messages=self._pubsub.published,
            denied=engine.writing.denied,
            clock_jump_s=engine.clock.jump_us() / 1e6,
            compactions=engine.maintenance.compactions,
            compaction_failure=engine.maintenance.upkeep.failure,
            **({} if delivery is None else _delivered(delivery)),
        )

    async def flush(self) -> None:
        """Wait until everything written before this call is on disk and visible.

        Raises:
            StorageError: the journal failed.
        """
        await self._engine.flush()

    async def sync(self) -> None:
        """Wait until everything committed before this call, anywhere, is visible here.

        With `agentdb_url` also until the server has the observations, so that they are found.

        Raises:
            VectorServerUnavailableError: it has not got them within 20 s; they are delivered later.
        """
        await self._engine.flush()
        remote = self._engine.remote
        if remote is not None and remote.delivery is not None:
            await remote.delivery.wait_delivered()

    async def close(self) -> None:
        """Finish what was submitted, wake every waiter, release the directory. Idempotent.

        What was not closed is closed when `asyncio.run` ends; where a loop is closed by hand, by
        the next `open` in this process. A fork closes nothing.
        """
        if not self._engine.is_closed and not self._engine.is_forked:
            await self._locks.settle()
        error = ClosedError("the memory was closed")
        self._filters.close()
        self._locks.close(error)
        self.consensus.close(error)
        self._pubsub.close(error)
        await self._engine.close()

    def __repr__(self) -> str:  # type: ignore[explicit-override]  # typing.override is 3.12
        state = "closed" if self._engine.is_closed else f"revision {self.revision}"
        return f"<MemorySystem {os.fspath(self._engine.config.storage_path)!r} {state}>"

    # --- what the handles read ----------------------------------------------------------------

    def _read_lock(self, resource: str) -> LockState | None:
        data = self._engine.snapshot.get(b"locks", resource.encode())
        return None if data is None else msgspec.msgpack.decode(data, type=LockState)


def _delivered(delivery: Delivery) -> dict[str, Any]:
    return {
        "l2_undelivered": delivery.pending,
        "l2_refused": delivery.refused,
        "l2_failure": delivery.failure,
    }


class BallotViews:
    """Proposals as visible here."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def proposal(self, proposal_id: str) -> ProposalState | None:
        """One proposal, or None."""
        self._engine.check_usable()
        data = self._engine.snapshot.get(b"proposals", proposal_id.encode())
        return None if data is None else msgspec.msgpack.decode(data, type=ProposalState)

    def proposals(self) -> list[ProposalState]:
        """All proposals, by id."""
        self._engine.check_usable()
        return [
            msgspec.msgpack.decode(data, type=ProposalState)
            for _, data in self._engine.snapshot.items(b"proposals")
        ]


class Opening:
    """An open in progress: `await` it, or use it with `async with`; see `MemorySystem.open`.

    With `adopt_settings` an existing store's own timeline, history and swarm are taken over, rather
    than others refused; None: unless a `MemoryConfig` says which are wanted.
    """

    def __init__(
        self,
        target: MemoryConfig | str | os.PathLike[str] | None,
        *,
        clock: Clock | None,
        read_only: bool,
        adopt_settings: bool | None = None,
    ) -> None:
        self._target = target
        self._clock = clock
        self._read_only = read_only
        self._adopt_settings = adopt_settings
        self._memory: MemorySystem | None = None

    def __await__(self) -> Generator[Any, None, MemorySystem]:
        return self._open().__await__()

    async def __aenter__(self) -> MemorySystem:
        self._memory = await self._open()
        return self._memory

    async def __aexit__(self, *_: object) -> None:
        if self._memory is not None:
            await self._memory.close()

    async def _open(self) -> MemorySystem:
        target = self._target
        adopts = self._adopt_settings
        if adopts is None:
            adopts = not isinstance(target, MemoryConfig)
        config = to_config(target)
        if config.url is not None and config.agentdb_url is not None:
            raise UnsupportedError(
                "agentdb_url: the nodes of a cluster keep their vectors themselves"
            )
        engine = await Engine.open(
            config,
            StoreClock(self._clock or SystemClock()),
            read_only=self._read_only,
            adopt_settings=adopts,
        )
        return MemorySystem(engine)
