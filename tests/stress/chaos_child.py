"""One process of the swarm under chaos: `python chaos_child.py SETTINGS`, told on stdin what to do.

It does a bit of everything at once and writes down, before each call, what it asks, and after it what
it was told. A call that has no second line is one of which nobody knows what came of it. Lines on
stdin: `epoch <n>` (work on other keys from now on), `stop` (finish what is under way), `digest`, `end`.
Only a process whose settings name a plant has a planted bug; see `chaos_plants`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import random
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import chaos_plants

from nt_memory import Approved, MemoryConfig, MemorySystem, Proposal, Rejected, Vote
from nt_memory.errors import (
    ConflictError,
    DisconnectedError,
    LockLostError,
    LockTimeoutError,
    ProposalError,
    StaleFenceError,
    UnknownProposalError,
)
from nt_memory.tiers.tables import TABLES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

SHARED = "swarm"
KEYS = 4
PROPOSALS = 3
LEASES = 2
LEASE_S = 2.0
LONG_S = 3600.0
LONG_WAIT_S = 5.0
WRITERS = 2
SLOTS = 3
LARGE = (900_000, 1_200_000)
"""Bytes of what is larger than a message: an entry of its own size, and a value that takes a file."""
MOVED_BY_SYNC = (b"sequence", b"recorded_at", b"origin", b"publisher", b"ledger")
"""How far a node has followed the stream, in which every `sync` is a message, and no revision; and the
digest of all up to there, which the nodes themselves hold against each other's.
"""


class GoneError(Exception):
    """Nobody knows what came of it."""


class Child:
    """What one process does, and what it is told; `is_bare`: it puts without condition or request id."""

    def __init__(
        self, name: str, memory: Any, history: str, rng: random.Random, *, is_bare: bool = False
    ) -> None:
        self.name = name
        self.is_bare = is_bare
        self.memory = memory
        self.rng = rng
        self.epoch = 0
        self.is_stopping = False
        self.heard: dict[str, int] = {}
        self.noise: list[str] = []
        self._numbers = itertools.count()
        self._fd = os.open(history, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def number(self) -> str:
        return f"{self.name}/{next(self._numbers)}"

    def write(self, **line: Any) -> None:
        os.write(self._fd, json.dumps({**line, "at": time.monotonic()}).encode() + b"\n")

    async def ask(self, on: str, do: list[Any], work: Callable[[], Awaitable[Any]]) -> Any:
        """One call, written down; raises `GoneError` if nobody knows."""
        number = self.number()
        self.write(n=number, on=on, do=do)
        try:
            result = await work()
        except ConflictError as error:
            result = ["conflict", error.current]
        except StaleFenceError:
            result = ["stale"]
        except LockTimeoutError:
            result = ["timeout"]
        except LockLostError:
            result = ["lost"]
        except DisconnectedError as error:
            self.write(n=number, gone=str(error))
            raise GoneError from error
        self.write(n=number, result=getattr(result, "fence", result))
        return result

    async def insist(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """A call under a request id, repeated until it is known what came of it."""
        while True:
            try:
                return await call()
            except DisconnectedError:
                await asyncio.sleep(0.2)

    def work(self, writers: int) -> list[Coroutine[Any, Any, None]]:
        return [
            *(self.use_keys() for _ in range(writers)),
            self.use_long_lock(),
            self.use_leases(),
            self.use_votes(),
            self.use_large(),
            self.speak(),
        ]

    async def pause(self, most_s: float) -> None:
        await asyncio.sleep(self.rng.uniform(0.0, most_s))

    # --- compare-and-set and linearizable reads -------------------------------------------------

    async def use_keys(self) -> None:
        known: dict[str, int] = {}
        while not self.is_stopping:
            await self.pause(0.1)
            key = f"e{self.epoch}/k{self.rng.randrange(KEYS)}"
            try:
                if self.rng.random() < 0.4:
                    found = await self.ask(key, ["get"], lambda key=key: self.read(key))
                    known[key] = found[1] if found else 0
                else:
                    expect = known.get(key, 0) if self.rng.random() < 0.6 else None
                    told = await self.put(key, expect)
                    known[key] = told if isinstance(told, int) else told[1]
            except GoneError:
                pass

    async def read(self, key: str) -> list[Any] | None:
        await self.memory.sync()
        found = await self.memory.get_record(SHARED, key)
        return None if found is None else [found.value, found.revision]

    async def put(self, key: str, expect: int | None) -> Any:
        value = self.number()
        request = f"r{value}" if self.rng.random() < 0.5 else None
        if self.is_bare:
            expect = request = None

        def put() -> Awaitable[Any]:
            return self.memory.put(SHARED, key, value, expect=expect, request_id=request)

        return await self.ask(
            key, ["put", value, expect], put if request is None else lambda: self.insist(put)
        )

    # --- locks ----------------------------------------------------------------------------------

    async def use_long_lock(self) -> None:
        """A lock whose lease outlasts the history: a plain lock."""
        while not self.is_stopping:
            await self.pause(0.2)
            lock = f"e{self.epoch}/lock"
            # Who waits and gives up may have held it for a moment; so it is tried once, or for long.
            wait = self.rng.choice((0.0, LONG_WAIT_S))
            try:
                token = await self.ask(
                    lock, ["acquire", wait],
                    lambda lock=lock, wait=wait: self.memory.acquire_lock(lock, wait, lease=LONG_S, holder=self.number()),
                )  # fmt: skip
                if isinstance(token, list):  # a timeout
                    continue
                await self.pause(0.05)
                await self.ask(lock, ["release", token.fence], lambda token=token: self.give(token))
            except GoneError:
                pass

    async def give(self, token: Any) -> bool:
        """Release for certain: a repeated request is no error."""
        request = f"release/{self.number()}"
        try:
            await self.insist(lambda: self.memory.release_lock(token, request_id=request))
        except LockLostError:
            return False
        return True

    async def use_leases(self) -> None:
        """A lock with a lease that runs out now and then, and writes under its fence."""
        while not self.is_stopping:
            await self.pause(0.1)
            lock = f"lease{self.rng.randrange(LEASES)}"
            try:
                token = await self.ask(
                    lock, ["lease", LEASE_S],
                    lambda lock=lock: self.memory.acquire_lock(lock, 3.0, lease=LEASE_S, holder=self.number()),
                )  # fmt: skip
                if isinstance(token, list):
                    continue
                for _ in range(self.rng.randint(1, 4)):
                    # It does not look whether its lease runs still: that is what fences are for.
                    await self.pause(1.6 if self.rng.random() < 0.3 else 0.1)
                    await self.put_fenced(lock, token)
                await self.ask(lock, ["give", token.fence], lambda token=token: self.give(token))
            except GoneError:
                pass

    async def put_fenced(self, lock: str, token: Any) -> None:
        value = {"by": self.number(), "fence": token.fence}
        await self.ask(
            lock, ["fenced", value],
            lambda: self.memory.put(SHARED, f"under/{lock}", value, fence=token),
        )  # fmt: skip

    # --- votes ----------------------------------------------------------------------------------

    async def use_votes(self) -> None:
        cast: set[str] = set()
        while not self.is_stopping:
            await self.pause(0.3)
            name = f"e{self.epoch}/p{self.rng.randrange(PROPOSALS)}"
            try:
                if name in cast:
                    await self.ask(name, ["result"], lambda name=name: self.decision(name))
                    continue
                approve = self.rng.random() < 0.55
                told = await self.ask(
                    name, ["vote", approve],
                    lambda name=name, approve=approve: self.insist(lambda: self.vote(name, approve)),
                )  # fmt: skip
                if told == "unknown":
                    await self.insist(lambda name=name: self.propose(name))
                else:
                    cast.add(name)
            except GoneError:
                pass

    async def propose(self, name: str) -> None:
        # Half of them have a deadline that passes while a fault lasts.
        late = datetime.now(UTC) + timedelta(seconds=self.rng.choice((6.0, 3600.0)))
        proposal = Proposal(self.name, {"of": name}, quorum="1/2", deadline=late, id=name)
        with contextlib.suppress(ProposalError):  # another one was faster
            await self.memory.consensus.submit_proposal(proposal, request_id=f"propose/{name}")

    async def vote(self, name: str, approve: bool) -> str:
        try:
            return spell(
                await self.memory.consensus.vote(
                    Vote(name, self.name, approve), request_id=f"vote/{name}/{self.name}"
                )
            )
        except UnknownProposalError:
            return "unknown"

    async def decision(self, name: str) -> str:
        return spell(await self.memory.consensus.get_result(name))

    # --- what is too large for a message --------------------------------------------------------

    async def use_large(self) -> None:
        """Values that lie in pieces in a stream of their own, and must be found there by every node."""
        while not self.is_stopping:
            await self.pause(1.0)
            if self.rng.random() > 0.05:
                continue
            rest = self.rng.randbytes(self.rng.choice(LARGE))
            value, request = hashlib.sha256(rest).digest() + rest, f"large/{self.number()}"
            key = f"large/{self.rng.randrange(SLOTS)}"
            await self.insist(
                lambda key=key, value=value, request=request: self.memory.put(
                    SHARED, key, value, request_id=request
                )
            )
            await self.check_large()

    async def check_large(self) -> None:
        """Whoever wrote them last, they begin with the digest of the rest."""
        for slot in range(SLOTS):
            found = await self.memory.get(SHARED, f"large/{slot}")
            if found is not None and hashlib.sha256(found[32:]).digest() != found[:32]:
                raise AssertionError(f"large/{slot} is damaged at {self.name}")

    # --- messages -------------------------------------------------------------------------------

    async def speak(self) -> None:
        for number in itertools.count():
            if self.is_stopping:
                return
            await self.pause(0.1)
            with contextlib.suppress(DisconnectedError):  # a message is not promised to arrive
                await self.memory.publish(f"chaos/{self.name}", [self.name, number])

    async def listen(self) -> None:
        rx = await self.memory.subscribe("chaos/*")
        async for name, number in rx:
            if number <= self.heard.get(name, -1):
                self.noise.append(f"{name}: {number} after {self.heard[name]}")
            self.heard[name] = number

    # --- what is there in the end ---------------------------------------------------------------

    async def digest(self) -> dict[str, Any]:
        """What this node's replica holds: the digest of every row, at a revision."""
        await self.insist(self.memory.sync)
        await self.check_large()
        snapshot = self.memory._engine.snapshot
        digests = {}
        for table in TABLES:
            rows = hashlib.sha256()
            for some in snapshot.stored_rows(table, b""):
                for key, value in some:
                    if table == b"meta" and bytes(key).startswith(MOVED_BY_SYNC):
                        continue
                    rows.update(b"%d %d " % (len(key), len(value)) + bytes(key) + bytes(value))
            digests[table.decode()] = rows.hexdigest()
        return {"revision": self.memory.revision, "digests": digests}


def spell(result: Any) -> str:
    if isinstance(result, Approved):
        return "approved"
    return "rejected" if isinstance(result, Rejected) else "pending"


def say(**told: Any) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


async def lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def obey(child: Child, writers: int) -> None:
    working: list[asyncio.Future[Any]] = []
    listening = asyncio.ensure_future(child.listen())
    orders = await lines()
    taking = asyncio.ensure_future(orders.readline())
    while True:
        done, _ = await asyncio.wait({taking, *working}, return_when=asyncio.FIRST_COMPLETED)
        for each in done - {taking}:
            each.result()  # no call may fail but as the child expects
            working.remove(each)
        if taking not in done:
            continue
        what, *more = taking.result().decode().split() or ["end"]
        taking = asyncio.ensure_future(orders.readline())
        if what == "epoch":
            child.epoch = int(more[0])
            if not working:
                working += [asyncio.ensure_future(each) for each in child.work(writers)]
        elif what == "stop":
            child.is_stopping = True
            await asyncio.gather(*working)
            working.clear()
            say(stopped=child.name, heard=sum(child.heard.values()), noise=child.noise)
        elif what == "digest":
            say(**await child.digest())
        else:
            break
    taking.cancel()
    listening.cancel()


async def main() -> None:
    settings = json.loads(sys.argv[1])
    chaos_plants.plant(settings.get("plant", ""))
    config = MemoryConfig(**settings["memory"])
    rng = random.Random(f"{settings['seed']}/{config.agent}")  # noqa: S311
    async with MemorySystem.open(config) as memory:
        say(open=config.agent)
        await obey(
            Child(
                config.agent,
                memory,
                settings["history"],
                rng,
                is_bare=settings.get("is_bare", False),
            ),
            settings.get("writers", WRITERS),
        )


if __name__ == "__main__":
    asyncio.run(main())
