"""`MemorySystem.open_sync`: the same calls without await, from plain threads.

What must be waited for here is waited for through the API or an event; the signal tests send a real
SIGINT to the main thread once the call they interrupt is known to wait.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
import os
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import numpy as np
import pytest

import nt_memory
from nt_memory import ManualClock, MemoryConfig, MemorySystem, Proposal, Vote
from nt_memory.errors import (
    ClosedError,
    ConflictError,
    InvalidInputError,
    LockTimeoutError,
    ReadOnlyError,
    ReceiverClosedError,
    ReceiveTimeoutError,
    ReentrantLockError,
    StoreInUseError,
    WrongLoopError,
)
from nt_memory.system import mirroring
from nt_memory.testing.faults import FaultyFileSystem
from nt_memory.transport import segment_writer

WAIT_S = 20.0
SOURCE = str(Path(nt_memory.__file__).parent.parent)
# Public names that are for the owner of a handle, not for its user.
LEFT_OUT = {
    "AgentMemory": {"open", "open_sync"},
    "MemorySystem": {"open", "open_sync"},
    "ReasoningBank": {"follow", "situations"},
    "Consensus": {"close", "follow"},
    "Receiver": {"accept", "attach", "end"},
    "LossSignal": {"end", "extend"},
    "Term": {"locks", "name", "run"},
}
importlib.import_module("nt_memory.system.sync")  # which makes the mirrors
SOURCES = sorted(mirroring._mirrors, key=lambda source: source.__name__)


@pytest.fixture
def memory(store):
    """An open memory, closed behind the test."""
    with MemorySystem.open_sync(store) as opened:
        yield opened


@pytest.fixture
def files(monkeypatch):
    """A disk under the journals opened from now on, which stalls when it is told to."""
    made = FaultyFileSystem()
    monkeypatch.setattr(segment_writer, "OsFileSystem", lambda: made)
    yield made
    made.resume_sync()


def until(condition):
    """Wait until something is so, which only another thread can bring about."""
    pause = threading.Event()
    for _ in range(int(WAIT_S * 1000)):
        if condition():
            return
        pause.wait(0.001)
    raise AssertionError("it never was")


def interrupt_when(condition):
    """Interrupt the main thread as Ctrl-C does once a condition holds; the thread that does so.

    A signal that comes just before the main thread falls asleep does not wake it, so it is sent again
    until it was heard.
    """
    heard = threading.Event()

    def interrupt(_number, _frame):
        heard.set()
        signal.signal(signal.SIGINT, before)
        raise KeyboardInterrupt

    def work():
        until(condition)
        while not heard.is_set():
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            heard.wait(0.5)

    before = signal.signal(signal.SIGINT, interrupt)
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def run_script(code, *args, timeout=30):
    """Run a script in a process of its own; what it wrote to stdout. Nothing may go to stderr."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        env={**os.environ, "PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# --- nothing is missing -----------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_every_public_name_is_there_with_the_same_parameters(source):
    """A call that works with await works without, whatever is added to the API later."""
    cls = mirroring._mirrors[source]
    names = {name for name in dir(source) if not name.startswith("_")}
    assert names - set(dir(cls)) == LEFT_OUT.get(source.__name__, set())
    for name in names & set(dir(cls)):
        there = inspect.getattr_static(source, name)
        here = inspect.getattr_static(cls, name)
        if not inspect.isfunction(there):
            assert isinstance(here, property), name
            continue
        assert (
            inspect.signature(here).parameters.keys() == inspect.signature(there).parameters.keys()
        )
        assert not inspect.iscoroutinefunction(here), name
        defaults = [p.default for p in inspect.signature(there).parameters.values()]
        assert [p.default for p in inspect.signature(here).parameters.values()] == defaults, name


def test_every_attribute_is_there(store, run):
    """What the handles of an open memory hold in public attributes, their mirrors hold too."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await memory.put("a", "k", 1)
            handles = [memory, memory.bank, memory.consensus, memory.timeline, memory.at(1)]
            handles += [memory.watch("a"), memory.tail(), memory.transaction(), memory.lock("r")]
            handles += [await memory.subscribe("t"), memory.as_agent("a"), memory.elections]
            handles += [campaign := memory.elections.campaign("e"), term := await anext(campaign)]
            token = await memory.acquire_lock("r")
            assert {type(one) for one in [*handles, token, token.lost]} == set(SOURCES)
            assert {"fence", "lost", "resign"} <= set(dir(mirroring._mirrors[type(term)]))
            for one in handles:
                cls = mirroring._mirrors[type(one)]
                public = {name for name in getattr(one, "__dict__", ()) if name[0] != "_"}
                assert public - {"agent", "rights", "whole"} <= set(dir(cls)), cls
            assert set(token.__dataclass_fields__) <= set(dir(mirroring._mirrors[type(token)]))

    run(body())


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_whatever_a_call_returns_can_be_used_without_await(source):
    """No public method of a mirrored class is declared to return a handle without a mirror."""
    for name in {n for n in dir(source) if not n.startswith("_")}:
        function = inspect.getattr_static(source, name)
        if name in LEFT_OUT.get(source.__name__, set()) or not inspect.isfunction(function):
            continue
        said = str(function.__annotations__.get("return", ""))
        module = sys.modules[function.__module__]
        names = _imported(module)
        for word in said.replace("[", " ").replace("]", " ").replace("|", " ").split():
            cls = names.get(word.strip('",'))
            if isinstance(cls, type) and _is_asynchronous(cls):
                assert cls in mirroring._mirrors, (source, name, cls)


def _is_asynchronous(cls):
    return any(inspect.iscoroutinefunction(found) for _, found in inspect.getmembers(cls)) and (
        cls.__module__.startswith("nt_memory")
    )


def _imported(module):
    """What a module's names stand for, those imported for types only included."""
    import ast

    found = dict(vars(module))
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nt_memory"):
            origin = __import__(node.module, fromlist=["*"])
            for one in node.names:
                found.setdefault(one.asname or one.name, getattr(origin, one.name, None))
    return found


def test_the_types_for_editors_are_up_to_date():
    """`sync.pyi` says what the sources say: `make fmt` was run after they changed."""
    root = Path(__file__).parents[2]
    stub = root / "src/nt_memory/system/sync.pyi"
    done = subprocess.run(
        [sys.executable, str(root / "tools/sync_stub.py"), "--print"],
        env={**os.environ, "PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == stub.read_text(), "run make fmt"


# --- the calls --------------------------------------------------------------------------------


def test_state_without_await(memory):
    """Puts, gets, transactions, iterations and views give what their awaited forms give."""
    revision = memory.put("a", "k", {"x": 1})
    assert memory.get("a", "k") == memory.peek("a", "k") == {"x": 1}
    assert memory.get_record("a", "k").revision == revision == memory.revision
    with memory.transaction() as tx:
        tx.put("a", "left", 1)
        tx.put("a", "right", 2)
    assert tx.revision == memory.revision
    assert memory.get_many([("a", "left"), ("a", "right")]) == [1, 2]
    view = memory.at(revision)
    memory.put("a", "k", 2)
    assert (view.get("a", "k"), memory.get("a", "k")) == ({"x": 1}, 2)
    assert view.as_of.revision == revision
    assert [record.key for record in view.scan("a")] == ["k"]
    assert [record.value for record in memory.history("a", "k")] == [2, {"x": 1}]
    assert memory.delete("a", "k") is not None
    assert memory.get("a", "k", "gone") == "gone"


def test_an_iteration_longer_than_a_batch(memory):
    """It fetches some at a time and gives all, in order, once; closing it ends it early."""
    count = 2 * mirroring.ITEMS_A_CALL + 5
    with memory.transaction() as tx:
        for n in range(count):
            tx.put("a", f"{n:04}", n)
    records = memory.scan("a")
    assert [record.value for record in records] == list(range(count))
    assert list(records) == []
    early = memory.scan("a")
    assert next(early).value == 0
    early.close()
    assert list(early) == []


def test_an_error_within_an_iteration_comes_in_its_place(memory, monkeypatch):
    """What was read before it is given out first."""
    from nt_memory.system import lookups

    with memory.transaction() as tx:
        for n in range(5):
            tx.put("a", f"{n}", n)
    read = lookups.record_of

    async def read_some(engine, stored):
        if stored.key == "3":
            raise InvalidInputError("number three")
        return await read(engine, stored)

    monkeypatch.setattr(lookups, "record_of", read_some)
    records = memory.scan("a")
    assert [next(records).value for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InvalidInputError, match="number three"):
        next(records)


def test_a_watch_and_a_tail_are_plain_iterators(memory):
    """They wait for what is to come, and know how far they are."""
    watch = memory.watch("a")
    revision = memory.put("a", "k", 1)
    change = next(watch)
    assert (change.kind, change.revision, watch.revision) == ("put", revision, revision)
    waiting = threading.Thread(target=lambda: seen.append(next(watch)))
    seen = []
    waiting.start()
    later = memory.put("a", "k", 2)
    waiting.join(WAIT_S)
    assert [change.revision for change in seen] == [later]
    entry = next(iter(memory.tail(later - 1)))
    assert (entry.revision, entry.changes[0].record.value) == (later, 2)


def test_similarity_bank_and_votes(memory):
    """Every handle of the memory answers: search, the bank, consensus, the timeline."""
    key = memory.observe("a", np.ones(4), {"symbol": "X"}, tags=["t"])
    (hit,) = memory.search_similar("a", np.ones(4), 1)
    assert hit.key == key
    assert memory.bank.patterns("a") == memory.at(memory.revision).patterns("a") == []
    memory.consensus.register_agent("a")
    proposal = memory.consensus.submit_proposal(Proposal("a", {"buy": 1}))
    assert type(memory.consensus.vote(Vote(proposal, "a", approve=True))).__name__ == "Approved"
    assert memory.consensus.get_proposal(proposal).id == proposal
    assert not memory.timeline.is_backtest
    assert memory.timeline.now.tzinfo is not None
    assert memory.stats().revision == memory.revision


def test_messages_are_received_without_await(memory):
    """A receiver is read with timeouts or by iterating, and closed."""
    rx = memory.subscribe("t/*", buffer=2)
    assert memory.publish("t/x", 1) == 1
    assert rx.recv(timeout=WAIT_S) == 1
    with pytest.raises(ReceiveTimeoutError):
        rx.recv(timeout=0.001)
    for n in range(4):
        memory.publish("t/y", n)
    assert (rx.dropped, rx.pattern) == (2, "t/*")
    assert next(rx) == 2
    rx.close()
    assert list(rx) == []


def test_locks_are_held_by_threads(memory):
    """The same thread that asks again is told so; another waits in line; a token is a fence."""
    with memory.lock("r", lease=30.0) as token:
        assert token.resource == "r"
        assert not token.lost.is_set()
        memory.put("a", "k", 1, fence=token)
        with pytest.raises(ReentrantLockError):
            memory.acquire_lock("r", timeout=5.0)
        errors = []

        def other():
            try:
                memory.acquire_lock("r", timeout=0.0)
            except LockTimeoutError as error:
                errors.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join(WAIT_S)
        assert len(errors) == 1
    assert token.lost.wait() is False
    again = memory.acquire_lock("r")
    memory.renew_lock(again)
    memory.release_lock(again)
    assert memory.stats().locks == 0


def test_a_lock_is_renewed_while_the_block_computes(store):
    """The block does not call the memory at all, and yet its lease does not run out."""
    clock = ManualClock()
    with MemorySystem.open_sync(store, clock=clock) as memory, memory.lock("r", lease=3.0) as token:
        engine = memory._target._engine

        def keeper_sleeps():
            return any(due == clock.now_us() + 1_000_000 for due, *_ in list(clock._sleepers))

        for _ in range(6):
            before = engine.revision
            # Not just anybody: time that passes before it sleeps, it would not notice.
            until(keeper_sleeps)
            clock.advance(1.0)
            until(lambda before=before: engine.revision > before)
        assert not token.lost.is_set()


def test_an_error_in_a_block_undoes_its_transaction_and_frees_its_lock(memory):
    """`with` tells `async with` what happened."""

    def work():
        with memory.lock("r"), memory.transaction() as tx:
            tx.put("a", "k", 1)
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert memory.get("a", "k") is None
    assert memory.stats().locks == 0


def test_a_pin_is_read_on_the_callers_thread(memory, monkeypatch):
    """Reading it calls nothing; it moves before the call that moved it returns; any thread may
    release it.
    """
    memory.put("a", "k", 1)
    pin = memory.pin("a", "k")
    monkeypatch.setattr(type(memory._portal), "call", lambda *_: pytest.fail("it called"))
    assert (pin.value, pin.record.value) == (1, 1)
    monkeypatch.undo()
    memory.put("a", "k", 2)
    assert pin.value == 2
    pin.release()
    memory.put("a", "k", 3)
    assert pin.value == 2
    assert memory.stats().pins == 0


def test_pins_may_be_released_while_they_are_moved(memory):
    """Threads pin and release one key while it changes: nobody is disturbed, nothing is left."""
    errors = []

    def work():
        try:
            for _ in range(50):
                memory.pin("a", "k").release()
        except Exception as error:  # noqa: BLE001 - whatever it is
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(50):
        memory.put("a", "k", n)
    for thread in threads:
        thread.join(WAIT_S)
    assert errors == []
    assert memory.stats().pins == 0


def test_many_threads_call_at_once(memory):
    """Each put is there, each under its own revision."""
    revisions = []

    def work(n):
        for i in range(20):
            revisions.append(memory.put(f"agent_{n}", f"{i}", i))
            assert memory.get(f"agent_{n}", f"{i}") == i

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert len(set(revisions)) == 160


def test_errors_keep_their_type_and_say_where_they_come_from(memory):
    """The traceback leads from the caller's line to the one that refused."""
    memory.put("a", "k", 1)
    with pytest.raises(ConflictError) as caught:
        memory.put("a", "k", 2, expect=0)
    assert caught.value.current is not None
    lines = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert lines[0] == __file__
    assert any(line.endswith("writing.py") for line in lines)
    with pytest.raises(TypeError):
        memory.put("a")


# --- opening, closing, forgetting to ----------------------------------------------------------


def test_the_options_of_open_are_taken(store):
    """Target, clock and read_only mean what they mean for `open`."""
    clock = ManualClock()
    with MemorySystem.open_sync(
        MemoryConfig(storage_path=store, agent="me"), clock=clock
    ) as memory:
        memory.put("a", "k", 1)
        assert memory.get_record("a", "k").known_at == clock.now()
        assert memory.get_record("a", "k").actor == "me"
    with (
        MemorySystem.open_sync(store, read_only=True) as follower,
        pytest.raises(ReadOnlyError),
    ):
        follower.put("a", "k", 2)


def test_an_open_that_fails_leaves_no_thread(memory, store):
    """The error is that of `open`, and the thread that was made for it is gone."""
    before = threading.active_count()
    with pytest.raises(StoreInUseError):
        MemorySystem.open_sync(store)
    until(lambda: threading.active_count() <= before)


def test_closing(store):
    """It gives the directory back, ends the thread, may be repeated; later calls say so, those that
    wait are woken.
    """
    memory = MemorySystem.open_sync(store)
    waiting = threading.Thread(target=lambda: errors.append(_error_of(lambda: memory.wait_for(99))))
    errors = []
    waiting.start()
    until(lambda: len(memory._portal._core.calls) == 1)
    until(lambda: memory._target._engine.visible)
    memory.close()
    memory.close()
    waiting.join(WAIT_S)
    assert isinstance(errors[0], ClosedError)
    assert not memory._portal._core.thread.is_alive()
    with pytest.raises(ClosedError):
        memory.get("a", "k")
    with MemorySystem.open_sync(store):
        pass


def _error_of(call):
    try:
        call()
    except Exception as error:  # noqa: BLE001 - whatever it is
        return error
    return None


def test_it_works_where_a_loop_is_running(store, run):
    """As in a notebook, whose cells run inside an event loop."""

    async def cell():
        with MemorySystem.open_sync(store) as memory:
            memory.put("a", "k", 1)
            assert [record.value for record in memory.scan("a")] == [1]

    run(cell())


def test_the_memorys_own_thread_cannot_wait_for_itself(memory):
    """A call from the loop's thread is refused instead of hanging for ever."""
    done = []

    async def step():
        done.append(_error_of(lambda: memory.get("a", "k")))

    memory._portal.call(step)
    assert isinstance(done[0], WrongLoopError)


def test_what_is_dropped_is_closed(store):
    """Without close, the directory is given back once nothing refers to the memory; a handle does."""
    memory = MemorySystem.open_sync(store)
    memory.put("a", "k", 1)
    bank, thread = memory.bank, memory._portal._core.thread
    del memory
    gc.collect()
    assert bank.patterns("a") == []
    del bank
    gc.collect()
    thread.join(WAIT_S)
    assert not thread.is_alive()
    with MemorySystem.open_sync(store) as memory:
        assert memory.get("a", "k") == 1


FORGETFUL = """
import sys
from nt_memory import MemorySystem
memory = MemorySystem.open_sync(sys.argv[1])
print(memory.put("a", "k", 1))
watch = memory.watch("a")
rx = memory.subscribe("t")
scope = memory.lock("r", lease=600.0)
scope.__enter__()
"""


def test_a_script_that_forgets_to_close_ends(store):
    """At once, without a word, and what it was told is written is there."""
    revision = int(run_script(FORGETFUL, store))
    with MemorySystem.open_sync(store) as memory:
        assert memory.get_record("a", "k").revision == revision


FORKED = """
import os, sys
from nt_memory import MemorySystem
from nt_memory.errors import WrongLoopError
with MemorySystem.open_sync(sys.argv[1]) as memory:
    memory.put("a", "k", 1)
    child = os.fork()
    if child == 0:
        try:
            memory.get("a", "k")
        except WrongLoopError:
            pass
        else:
            os._exit(3)
    else:
        assert os.waitpid(child, 0)[1] == 0
        memory.put("a", "k", 2)
if child:
    print(memory)
"""


def test_a_fork_is_refused_and_harms_nothing(store):
    """The child's calls say so, its exit leaves the parent's store alone."""
    run_script(FORKED, store)
    with MemorySystem.open_sync(store) as memory:
        assert memory.get("a", "k") == 2


# --- interruption -----------------------------------------------------------------------------


def test_ctrl_c_withdraws_a_put_that_waits(files, store):
    """`KeyboardInterrupt` is raised, the put never happens, and the memory goes on."""
    with MemorySystem.open_sync(store) as memory:
        queue = memory._target._engine.journal._submissions._queue
        files.stall_sync()
        first = threading.Thread(target=memory.put, args=("a", "first", 1))
        first.start()
        assert files.wait_stalled()
        before = len(queue)
        sender = interrupt_when(lambda: len(queue) > before)
        with pytest.raises(KeyboardInterrupt):
            memory.put("a", "second", 2)
        sender.join(WAIT_S)
        assert len(queue) == before
        files.resume_sync()
        first.join(WAIT_S)
        memory.flush()
        assert (memory.get("a", "first"), memory.get("a", "second")) == (1, None)
        memory.put("a", "second", 3)


def test_a_receiver_closes_itself_at_the_end_of_its_block(memory):
    """`with` ends a subscription as `async with` does."""
    with memory.subscribe("t") as rx:
        memory.publish("t", 1)
        assert rx.recv(timeout=WAIT_S) == 1
    with pytest.raises(ReceiverClosedError):
        rx.recv(timeout=WAIT_S)


def test_ctrl_c_in_a_wait_leaves_no_waiter(memory):
    """Receivers, locks and watches that were interrupted hold nothing back, and can be read on."""
    rx = memory.subscribe("t")
    target = rx._target
    sender = interrupt_when(lambda: target._readers)
    with pytest.raises(KeyboardInterrupt):
        rx.recv()
    sender.join(WAIT_S)
    assert not target._readers
    memory.publish("t", 1)
    assert rx.recv(timeout=WAIT_S) == 1

    watch = memory.watch("a")
    waiters = memory._target._engine
    sender = interrupt_when(lambda: waiters.visible)
    with pytest.raises(KeyboardInterrupt):
        next(watch)
    sender.join(WAIT_S)
    memory.put("a", "k", 1)
    assert next(watch).key == "k"


def test_a_block_has_a_deadline(memory):
    """Calls within it end by then; those outside, and of other threads, are not bound."""
    with memory.deadline(0.01), pytest.raises(TimeoutError):
        memory.wait_for(10**9)
    assert not memory._target._engine.visible
    with memory.deadline(WAIT_S):
        with memory.deadline(0.0), pytest.raises(TimeoutError):
            memory.wait_for(10**9)
        assert memory.put("a", "k", 1)
    assert memory.get("a", "k") == 1


def test_an_inner_deadline_does_not_outlast_the_outer(memory):
    """The earlier of two deadlines holds."""
    with memory.deadline(0.01), memory.deadline(WAIT_S * 100), pytest.raises(TimeoutError):
        memory.wait_for(10**9)


def test_a_lock_that_was_not_waited_for_is_given_back(files, store):
    """A `with` whose entry was interrupted does not keep, and renew, the lock for ever."""
    with MemorySystem.open_sync(store) as memory:
        files.stall_sync()
        scope = memory.lock("r", lease=30.0)
        with memory.deadline(0.01), pytest.raises(TimeoutError):
            scope.__enter__()
        files.resume_sync()
        with memory.lock("r", timeout=WAIT_S):
            pass
        assert memory.stats().locks == 0


@pytest.mark.parametrize("is_stubborn", [True, False])
def test_what_was_made_for_a_caller_who_is_gone_is_taken_back(memory, is_stubborn):
    """A call that ends well although it was cancelled has its result given back, once; one that
    was cancelled has nothing to give back.
    """
    given_back = []

    async def step():
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            if not is_stubborn:
                raise
        return "made"

    async def regret(result):
        given_back.append(result)

    with memory.deadline(0.01), pytest.raises(TimeoutError):
        memory._portal.call(step, regret)
    memory.flush()
    assert given_back == (["made"] if is_stubborn else [])
    assert memory._portal.call(lambda: "kept", regret) == "kept"
    assert len(given_back) == is_stubborn


def test_a_lock_is_given_back_although_the_deadline_has_passed(memory):
    """Leaving the block starts the release, even if nobody may wait for it."""
    with pytest.raises(TimeoutError), memory.deadline(0.2), memory.lock("r"):
        memory.wait_for(10**9)
    with memory.lock("r", timeout=WAIT_S):
        pass


def test_asynchronous_code_may_use_a_thread(memory, run):
    """Calls from the worker threads of somebody else's loop are calls from plain threads."""

    async def body():
        return await asyncio.to_thread(memory.put, "a", "k", 1)

    assert run(body()) == memory.revision
