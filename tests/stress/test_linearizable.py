"""Locks and compare-and-set are linearizable, as tasks and threads see them at once.

What each caller asked and was told is recorded, with the times around the call, and the checker of
`nt_memory.testing.linearizability` looks for an order in which one caller alone could have been told
all of it. Tasks are cancelled in mid-call now and then; what came of such a call nobody knows.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import Any

import pytest

from nt_memory import MemorySystem
from nt_memory.errors import ConflictError, LockLostError, LockTimeoutError
from nt_memory.testing.linearizability import UNKNOWN, Operation, check
from nt_memory.testing.models import KeyModel, LockModel

pytestmark = pytest.mark.stress

TASKS = 20
THREADS = 20
CALLS = 400
KEYS = 40
VERBS = ("put", "put", "get", "value", "value", "delete")
LOCKS = 8
LEASE_S = 600.0  # nothing runs out while a history is recorded


class Recorder:
    """A history that many callers write."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def note(self, target: Any, call: Any, result: Any, called: float) -> None:
        """Add one call that returned, or was cancelled, just now."""
        self.operations.append(Operation(target, call, result, called, time.perf_counter()))


def choose(rng: random.Random, known: dict[str, int]) -> tuple[str, str, int | None]:
    """What to do to which key, expecting which revision."""
    key = f"k{rng.randrange(KEYS)}"
    expect = known.get(key, 0) if rng.random() < 0.5 else None
    return rng.choice(VERBS), key, expect


def spell(verb: str, value: str, expect: int | None) -> tuple[Any, ...]:
    """The call as the model spells it."""
    return {
        "put": ("put", value, expect),
        "delete": ("delete", expect),
        "get": ("get",),
        "value": ("value",),
    }[verb]


async def use_keys(memory: MemorySystem, record: Recorder, caller: int) -> None:
    """Puts, gets and deletes of one task, some of them conditional, some cancelled."""
    rng, known = random.Random(caller), {}  # noqa: S311 - a workload
    for number in range(CALLS):
        verb, key, expect = choose(rng, known)
        value = f"{caller}/{number}"
        call = spell(verb, value, expect)
        called = time.perf_counter()
        work = asyncio.ensure_future(do(memory, verb, key, value, expect))
        if verb in {"put", "delete"} and rng.random() < 0.05:
            await asyncio.wait([work], timeout=rng.uniform(0, 0.002))
            work.cancel()
        try:
            result = await work
        except asyncio.CancelledError:
            result = UNKNOWN
        record.note(key, call, result, called)
        remember(known, key, verb, result)


async def do(memory: MemorySystem, verb: str, key: str, value: str, expect: int | None) -> Any:
    """One call, and what it was told, as the model spells it."""
    try:
        if verb == "put":
            return await memory.put("a", key, value, expect=expect)
        if verb == "delete":
            return await memory.delete("a", key, expect=expect)
    except ConflictError as error:
        return ("conflict", error.current)
    if verb == "value":
        return await memory.get("a", key)
    found = await memory.get_record("a", key)
    return None if found is None else (found.value, found.revision)


def use_keys_in_thread(memory: Any, record: Recorder, caller: int) -> None:
    """The same from a thread, by the calls without await."""
    rng, known = random.Random(caller), {}  # noqa: S311 - a workload
    for number in range(CALLS):
        verb, key, expect = choose(rng, known)
        value = f"{caller}/{number}"
        call = spell(verb, value, expect)
        called = time.perf_counter()
        try:
            if verb == "put":
                result: Any = memory.put("a", key, value, expect=expect)
            elif verb == "delete":
                result = memory.delete("a", key, expect=expect)
            elif verb == "value":
                result = memory.get("a", key)
            else:
                found = memory.get_record("a", key)
                result = None if found is None else (found.value, found.revision)
        except ConflictError as error:
            result = ("conflict", error.current)
        record.note(key, call, result, called)
        remember(known, key, verb, result)


def remember(known: dict[str, int], key: str, verb: str, result: Any) -> None:
    """What a caller thinks a key's revision is."""
    if isinstance(result, tuple):
        known[key] = result[1]
    elif isinstance(result, int):
        known[key] = result if verb == "put" else 0


async def use_locks(memory: MemorySystem, record: Recorder, caller: int) -> None:
    """Acquires and releases of one task, some of which give up or are cancelled."""
    rng = random.Random(caller)  # noqa: S311 - a workload
    for _ in range(CALLS // 4):
        lock = f"l{rng.randrange(LOCKS)}"
        called = time.perf_counter()
        timeout = rng.choice((0.0, 0.002, 1.0))
        work = asyncio.ensure_future(memory.acquire_lock(lock, timeout, lease=LEASE_S))
        if rng.random() < 0.02:
            await asyncio.wait([work], timeout=rng.uniform(0, 0.002))
            work.cancel()
        try:
            token = await work
        except LockTimeoutError:
            record.note(lock, ("acquire",), ("timeout",), called)
            continue
        except asyncio.CancelledError:
            record.note(lock, ("acquire",), UNKNOWN, called)
            record.note(lock, ("release", None), UNKNOWN, called)
            continue
        record.note(lock, ("acquire",), token.fence, called)
        if rng.random() < 0.5:
            await asyncio.sleep(0)
        called = time.perf_counter()
        await memory.release_lock(token)
        record.note(lock, ("release", token.fence), True, called)
        if rng.random() < 0.1:
            called = time.perf_counter()
            with pytest.raises(LockLostError):
                await memory.release_lock(token)
            record.note(lock, ("release", token.fence), False, called)


def test_tasks_see_one_register(store, run) -> None:
    """20 tasks, 8,000 calls on 40 keys, one in twenty writes cancelled."""
    record = Recorder()

    async def body() -> None:
        async with MemorySystem.open(store) as memory:
            await asyncio.gather(*(use_keys(memory, record, caller) for caller in range(TASKS)))

    run(body())
    assert len(record.operations) == TASKS * CALLS
    assert not check(record.operations, KeyModel())


def test_threads_see_one_register(store) -> None:
    """20 threads, 8,000 calls on the same 40 keys."""
    record = Recorder()
    with MemorySystem.open_sync(store) as memory:
        threads = [
            threading.Thread(target=use_keys_in_thread, args=(memory, record, caller))
            for caller in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(record.operations) == THREADS * CALLS
    assert not check(record.operations, KeyModel())


def test_tasks_see_one_lock(store, run) -> None:
    """20 tasks over 8 locks: one holder at a time, growing fences, no timeout of a free lock."""
    record = Recorder()

    async def body() -> None:
        async with MemorySystem.open(store) as memory:
            await asyncio.gather(*(use_locks(memory, record, caller) for caller in range(TASKS)))

    run(body())
    assert len(record.operations) > TASKS * CALLS // 4
    assert not check(record.operations, LockModel())
