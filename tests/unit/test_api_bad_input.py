"""Bad input: a clear error, and nothing changed afterwards.

Every refusal is followed by the same check: the revision, every record and every search answer are
what they were, and the store still takes writes.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.errors import (
    CodecError,
    CorruptionError,
    DimensionError,
    EmbeddingError,
    ForeignStoreError,
    InvalidInputError,
    InvalidNameError,
    InvalidTimeError,
    NtMemoryError,
    ReadOnlyError,
    ReceiveTimeoutError,
    StaleFenceError,
    StorageError,
    StoreInUseError,
    StorePermissionError,
    ValueTooLargeError,
    WrongLoopError,
)


async def contents(memory):
    """Revision, all records of all agents in use here, and what a search finds."""
    records = []
    for agent in ("a", "b"):
        records += [record async for record in memory.scan(agent)]
    hits = await memory.search_similar("a", [1.0, 0.0, 0.0])
    return memory.revision, records, hits


@pytest.fixture
def refused(live):
    """`refused(error, call, …)`: each `call(memory)` raises `error` and changes nothing."""

    def refused(error, *calls):
        async def body(memory):
            await memory.put("a", "k", {"x": [1]})
            await memory.observe("a", [1.0, 0.0, 0.0], "seen", key="obs")
            before = await contents(memory)
            for call in calls:
                with pytest.raises(error) as caught:
                    await call(memory)
                assert len(str(caught.value)) > 10, "says what is wrong"
                assert await contents(memory) == before
            assert await memory.put("a", "still", "works") > before[0]

        live(body)

    return refused


# --- names ------------------------------------------------------------------------------------

BAD_KEYS = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/../b",
    "a/.",
    "../../etc/passwd",
    "a\x00b",
    "a\nb",
    "\x1b[31m",
    "a\u200eb",
    "\ud800",
    "k" * 257,
    "é" * 129,
    None,
    7,
    b"k",
]
BAD_AGENTS = [
    "",
    "-a",
    ".a",
    "_a",
    "a b",
    "a/b",
    "..",
    "a\x00",
    "a\n",
    "é",
    "x" * 65,
    "*",
    None,
    7,
    ["a"],
]


@pytest.mark.parametrize("key", BAD_KEYS, ids=repr)
def test_malformed_keys(refused, key):
    """`..`, control, unprintable, empty and over-long levels, and what is no string."""
    refused(
        InvalidNameError,
        lambda memory: memory.put("a", key, 1),
        lambda memory: memory.get("a", key),
        lambda memory: memory.get_record("a", key),
        lambda memory: memory.get_many([("a", "k"), ("a", key)]),
        lambda memory: memory.delete("a", key),
        *(
            []
            if key is None  # None asks observe for a generated key
            else [lambda memory: memory.observe("a", [1.0, 0.0, 0.0], key=key)]
        ),
        lambda memory: memory.observe_many("a", [[1.0, 0.0, 0.0]], keys=[key]),
    )


@pytest.mark.parametrize("agent", BAD_AGENTS, ids=repr)
def test_malformed_agents(refused, agent):
    """Wildcards, separators, non-ASCII, over-long, and what is no string."""
    refused(
        (InvalidNameError, TypeError),
        lambda memory: memory.put(agent, "k", 1),
        lambda memory: memory.get(agent, "k"),
        lambda memory: memory.delete(agent, "k"),
        lambda memory: memory.observe(agent, [1.0, 0.0, 0.0]),
        lambda memory: memory.observe_many(agent, [[1.0, 0.0, 0.0]]),
        lambda memory: memory.consensus.register_agent(agent),
    )


@pytest.mark.parametrize("agent", ["", "a/b", "..", "a\x00"], ids=repr)
def test_malformed_names_in_plain_functions(live, agent):
    """scan, history, watch and pin refuse at the call or at the first step."""

    async def body(memory):
        for call in (memory.scan, memory.watch):
            with pytest.raises(InvalidNameError):
                await anext(call(agent))
        with pytest.raises(InvalidNameError):
            await anext(memory.history(agent, "k"))
        with pytest.raises(InvalidNameError):
            await anext(memory.history("a", "../k"))
        with pytest.raises(InvalidNameError):
            memory.pin(agent, "k")
        with pytest.raises(InvalidNameError):
            memory.pin("a", "../k")
        with pytest.raises(InvalidNameError):
            await anext(memory.scan("a", "../"))
        assert memory.stats().pins == 0

    live(body)


# --- values -----------------------------------------------------------------------------------


class Opaque:
    """No supported type."""

    def __repr__(self) -> str:
        return "Opaque()"


def cyclic():
    """A list that holds itself."""
    value = []
    value.append(value)
    return value


def deep(levels):
    """Lists in lists."""
    value = []
    for _ in range(levels):
        value = [value]
    return value


BAD_VALUES = {
    "object": Opaque(),
    "object in a dict": {"x": Opaque()},
    "set": {1, 2},
    "set in a dict": {"x": {1, 2}},
    "function": lambda: None,
    "iterator": iter([]),
    "complex": 1j,
    "class": Opaque,
    "array of objects": np.array([Opaque()], dtype=object),
    "cycle": cyclic(),
    "too deep": deep(200),
    "surrogate": "\ud800",
}


@pytest.mark.parametrize("value", BAD_VALUES.values(), ids=BAD_VALUES.keys())
def test_unencodable_values(refused, value):
    """A CodecError that names the type or the reason."""

    async def transact(memory):
        async with memory.transaction() as tx:
            tx.put("a", "first", 1)
            tx.put("a", "k", value)

    async def publish(memory):
        rx = await memory.subscribe("topic")
        try:
            await memory.publish("topic", value)
        finally:
            with pytest.raises(ReceiveTimeoutError):
                await rx.recv(timeout=0)
            await rx.close()

    refused(
        CodecError,
        lambda memory: memory.put("a", "k", value),
        lambda memory: memory.put("a", "new", [1, value]),
        lambda memory: memory.observe("a", [1.0, 0.0, 0.0], value),
        lambda memory: memory.observe_many(
            "a", [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], ["fine", value]
        ),
        publish,
        transact,
    )


def test_an_unencodable_value_is_named(live):
    """The message says which type, so that it can be found."""

    async def body(memory):
        with pytest.raises(CodecError, match="Opaque"):
            await memory.put("a", "k", {"deep": [Opaque()]})

    live(body)


def test_oversized_values(refused):
    """Past the limit: ValueTooLargeError, which is a CodecError."""
    array = np.broadcast_to(np.uint8(0), (1 << 30) + 1)  # takes no memory
    refused(ValueTooLargeError, lambda memory: memory.put("a", "k", {"weights": array}))
    many = [0.5] * 8_000_000  # beside its arrays and bytes a value may have 64 MiB
    refused(ValueTooLargeError, lambda memory: memory.put("a", "k", many))


def test_a_value_of_50_mb_works(live):
    """Bytes that do not compress, in and out, also after reopening."""
    value = np.random.default_rng(1).bytes(50 * 1000 * 1000)

    async def write(memory):
        await memory.put("a", "big", value)
        await memory.put("a", "after", 1)
        assert await memory.get("a", "big") == value

    async def read(memory):
        assert await memory.get("a", "big") == value
        assert await memory.get("a", "after") == 1

    live(write)
    live(read)


# --- embeddings -------------------------------------------------------------------------------

BAD_EMBEDDINGS = [
    [1.0, float("nan"), 0.0],
    [1.0, float("inf"), 0.0],
    [1.0, float("-inf"), 0.0],
    [0.0, 0.0, 0.0],
    [],
    [[1.0, 0.0, 0.0]],
    1.0,
    "abc",
    None,
    ["x", "y", "z"],
    [1.0, None, 0.0],
    [1 + 1j, 0, 0],
    [[1.0], [2.0, 3.0]],
    [True, False, Opaque()],
]


@pytest.mark.parametrize("embedding", BAD_EMBEDDINGS, ids=repr)
def test_malformed_embeddings(refused, embedding):
    """NaN, infinite, zero, empty, of another shape or of no numbers: to store or to search."""
    refused(
        EmbeddingError,
        lambda memory: memory.observe("a", embedding, "bad"),
        lambda memory: memory.observe("b", embedding, "bad"),
        lambda memory: memory.search_similar("a", embedding),
    )


def test_wrong_dimension(refused):
    """Fewer or more numbers than the agent's other observations; bulk too."""
    refused(
        DimensionError,
        lambda memory: memory.observe("a", [1.0, 0.0]),
        lambda memory: memory.observe("a", [1.0, 0.0, 0.0, 0.0]),
        lambda memory: memory.observe_many("a", np.ones((3, 2))),
        lambda memory: memory.search_similar("a", [1.0, 0.0]),
    )


@pytest.mark.parametrize("rows", [1.0, [1.0, 2.0], np.ones((2, 2, 2)), "ab"], ids=repr)
def test_malformed_matrices(refused, rows):
    """observe_many wants shape (n, dim)."""
    refused(EmbeddingError, lambda memory: memory.observe_many("b", rows))


# --- times, options, tokens -------------------------------------------------------------------


def test_malformed_times(refused, later):
    """Naive, no datetime at all, or in the future."""
    naive = datetime(2024, 1, 1)  # noqa: DTZ001
    refused(
        InvalidTimeError,
        lambda memory: memory.put("a", "k", 1, known_at=naive),
        lambda memory: memory.put("a", "k", 1, known_at="2024-01-01"),
        lambda memory: memory.put("a", "k", 1, known_at=1704067200),
        lambda memory: memory.put("a", "k", 1, known_at=later(1)),
        lambda memory: memory.delete("a", "k", known_at=naive),
        lambda memory: memory.observe("a", [1.0, 0.0, 0.0], known_at=naive),
        lambda memory: memory.observe_many("a", [[1.0, 0.0, 0.0]], known_at=[naive]),
        lambda memory: memory.get("a", "k", as_of=naive),
    )


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), "10", True], ids=repr)
def test_malformed_ttl(refused, ttl):
    """A life is a positive, finite number of seconds."""
    refused(
        InvalidInputError,
        lambda memory: memory.put("a", "k", 1, ttl=ttl),
        lambda memory: memory.observe("a", [1.0, 0.0, 0.0], ttl=ttl),
    )


def test_numbers_too_large_to_be_stored(refused):
    """Are refused like other malformed arguments, not with an accident deep inside."""
    huge = 2**70
    refused(
        NtMemoryError,
        lambda memory: memory.put("a", "k", 1, expect=huge),
        lambda memory: memory.delete("a", "k", expect=huge),
        lambda memory: memory.put("a", "k", 1, fence=huge),
        lambda memory: memory.observe("a", np.array([1, 10**400, 1], dtype=object)),
        lambda memory: memory.get("a", "k", as_of=huge),
        lambda memory: memory.consensus.cleanup_old(1e300),
        lambda memory: memory.bank.define("d", target="t", unit="u", horizon=huge),
        lambda memory: memory.bank.define("d", target="t", unit="u", horizon=timedelta.max),
    )


def test_an_end_of_life_past_the_calendar(backtest):
    """A time that no datetime can hold is refused, and the store goes on."""
    end = datetime(9999, 12, 31, 23, tzinfo=UTC)

    async def body(memory):
        await memory.timeline.advance(end)
        before = memory.revision
        with pytest.raises(InvalidInputError):
            await asyncio.wait_for(memory.put("a", "k", 1, ttl=86_400.0), 2)
        assert memory.revision == before
        await memory.put("a", "k", 2, ttl=60.0)
        assert (await memory.get_record("a", "k")).expires_at == end + timedelta(seconds=60)

    backtest(body)


@pytest.mark.parametrize("expect", [-1, 1.5, "1", True], ids=repr)
def test_malformed_expect(refused, expect):
    """A revision is an int of at least 0."""
    refused(
        InvalidInputError,
        lambda memory: memory.put("a", "k", 1, expect=expect),
        lambda memory: memory.delete("a", "k", expect=expect),
    )


@pytest.mark.parametrize("request_id", ["", 7, "x" * 1000, "\x00"], ids=repr)
def test_malformed_request_ids(refused, request_id):
    """A request id is a short printable string."""
    refused(InvalidInputError, lambda memory: memory.put("a", "k", 1, request_id=request_id))


@pytest.mark.parametrize("fence", ["token", 1.5, object()], ids=lambda fence: type(fence).__name__)
def test_what_is_no_fence(refused, fence):
    """A fence is a token or its number."""
    refused(InvalidInputError, lambda memory: memory.put("a", "k", 1, fence=fence))


def test_a_fence_that_never_was(refused):
    """A number no lock has granted is stale."""
    refused(StaleFenceError, lambda memory: memory.put("a", "k", 1, fence=12345))


def test_malformed_tags(refused):
    """One string, over-long, control characters, no strings."""
    refused(
        InvalidInputError,
        lambda memory: memory.observe("a", [1.0, 0.0, 0.0], tags="one"),
        lambda memory: memory.observe("a", [1.0, 0.0, 0.0], tags=["x" * 1000]),
        lambda memory: memory.observe("a", [1.0, 0.0, 0.0], tags=["\n"]),
        lambda memory: memory.observe("a", [1.0, 0.0, 0.0], tags=[7]),
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"durability": "maybe"},
        {"timeline": "other"},
        {"history": -1},
        {"swarm": "a/b"},
        {"agent": "../x"},
        {"max_memory_bytes": 0},
        {"max_map_bytes": -1},
    ],
    ids=repr,
)
def test_malformed_configuration(settings):
    """Refused before anything is opened."""
    with pytest.raises(InvalidInputError):
        MemoryConfig(**settings)


# --- places -----------------------------------------------------------------------------------


def listing(directory):
    """Every file below a directory with its bytes."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def cannot_open(store, run):
    """`cannot_open(error)`: opening the store raises it; returns the message."""

    def cannot_open(error, path=store, **options):
        async def body():
            async with MemorySystem.open(path, **options):
                pass

        with pytest.raises(error) as caught:
            run(body())
        return str(caught.value)

    return cannot_open


def test_a_file_where_a_directory_is_expected(store, cannot_open):
    """ForeignStoreError names the path; the file is untouched."""
    store.write_text("precious")
    assert str(store) in cannot_open(ForeignStoreError)
    assert store.read_text() == "precious"


def test_a_file_in_the_middle_of_the_path(store, cannot_open):
    """`file/store` cannot be made."""
    store.write_text("precious")
    assert str(store) in cannot_open(StorageError, store / "below")
    assert store.read_text() == "precious"


def test_a_directory_of_another_program(store, cannot_open):
    """A directory with files that are not ours is refused and left exactly as it is."""
    store.mkdir()
    (store / "data.mdb").write_bytes(b"another program's database")
    (store / "sub").mkdir()
    (store / "sub" / "x").write_text("x")
    before = listing(store)
    assert str(store) in cannot_open(ForeignStoreError)
    assert listing(store) == before


def test_an_empty_directory_is_fine(store, run):
    """It becomes a store."""
    store.mkdir()

    async def body():
        async with MemorySystem.open(store) as memory:
            await memory.put("a", "k", 1)

    run(body())


@pytest.fixture
def ordinary_user(tmp_path):
    """Root may write anywhere, so a test run by root becomes nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    for path in (tmp_path, *tmp_path.parents[:-1]):
        path.chmod(path.stat().st_mode | 0o011)
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.mark.parametrize("mode", [0o000, 0o555], ids=["no access", "read only"])
def test_a_directory_without_permission(tmp_path, cannot_open, mode, request):
    """StorePermissionError, a PermissionError, names the place; nothing is made."""
    parent = tmp_path / "closed"
    parent.mkdir(mode=mode)
    request.getfixturevalue("ordinary_user")
    message = cannot_open(StorePermissionError, parent / "store")
    os.seteuid(os.getuid())
    assert str(parent) in message
    assert issubclass(StorePermissionError, PermissionError)
    parent.chmod(0o755)
    assert list(parent.iterdir()) == []


def test_a_store_without_permission(live, store, cannot_open, request):
    """Nor can a store of somebody else be opened, and it is left as it is."""
    live(lambda memory: memory.put("a", "k", 1))
    before = listing(store)
    modes = {path: path.stat().st_mode for path in (store, *store.rglob("*"))}
    for path in modes:
        path.chmod(0o500 if path.is_dir() else 0o400)
    request.getfixturevalue("ordinary_user")
    cannot_open(StorePermissionError)
    os.seteuid(os.getuid())
    for path, mode in modes.items():
        path.chmod(mode)
    assert listing(store) == before


def test_a_directory_in_use_by_this_process(live, store, cannot_open):
    """StoreInUseError names this process."""

    async def body(memory):
        with pytest.raises(StoreInUseError) as caught:
            await MemorySystem.open(store)
        assert caught.value.pid == os.getpid()
        assert str(os.getpid()) in str(caught.value)
        await memory.put("a", "k", 1)

    live(body)


def test_a_directory_in_use_by_another_process(store):
    """It names the process that holds it, and opens once that is gone."""
    holder = """
import asyncio, sys
from nt_memory import MemorySystem
async def main():
    async with MemorySystem.open(sys.argv[1]) as memory:
        await memory.put("a", "k", 1)
        print("open", flush=True)
        sys.stdin.readline()
asyncio.run(main())
"""
    import nt_memory

    source = str(Path(nt_memory.__file__).parent.parent)
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(store)],
        env={**os.environ, "PYTHONPATH": source},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout.readline() == "open\n"

        async def attempt():
            with pytest.raises(StoreInUseError) as caught:
                await MemorySystem.open(store)
            assert caught.value.pid == child.pid
            assert caught.value.retryable
            child.communicate("\n", timeout=30)
            async with MemorySystem.open(store) as memory:
                assert await memory.get("a", "k") == 1

        asyncio.run(attempt())


def test_a_store_that_is_not_there_cannot_be_followed(store, cannot_open):
    """read_only=True makes nothing."""
    cannot_open(NtMemoryError, read_only=True)
    assert not store.exists() or list(store.iterdir()) == []


# --- damage -----------------------------------------------------------------------------------


def _segments(store):
    return sorted((store / "journal").glob("*.log"))


def test_a_flipped_byte_in_the_journal_is_corruption(live, store, cannot_open):
    """Not at the torn end but in the middle: CorruptionError names the file; nothing is cut off."""

    async def body(memory):
        for n in range(50):
            await memory.put("a", f"k{n}", n)

    live(body)
    (segment,) = _segments(store)
    damaged = bytearray(segment.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    segment.write_bytes(damaged)
    # What makes the journal be read: without its views the store is rebuilt from it.
    import shutil

    shutil.rmtree(store / "views", ignore_errors=True)
    assert segment.name in cannot_open(CorruptionError)
    assert segment.read_bytes() == bytes(damaged)


def test_lost_views_are_rebuilt_from_the_journal(live, store):
    """The journal is the truth: without the views nothing is lost."""
    import shutil

    async def write(memory):
        for n in range(50):
            await memory.put("a", f"k{n}", n)
        await memory.delete("a", "k7")
        await memory.observe("a", [1.0, 0.0, 0.0], "seen", key="obs")
        return await contents(memory)

    async def read(memory):
        return await contents(memory)

    revision, records, hits = live(write)
    for name in ("views", "vectors", "indexes", "snapshots"):
        shutil.rmtree(store / name, ignore_errors=True)
    after, records_after, hits_after = live(read)
    assert after >= revision
    assert (records_after, hits_after) == (records, hits)


def test_lost_vector_files_are_noticed(live, store):
    """Embeddings that are gone are rebuilt from the journal or said to be corrupt, never zero."""
    import shutil

    async def write(memory):
        await memory.observe_many("a", np.eye(3), ["x", "y", "z"], keys=["x", "y", "z"])

    async def read(memory):
        return [hit.key for hit in await memory.search_similar("a", [0.0, 0.0, 1.0], top_k=1)]

    live(write)
    shutil.rmtree(store / "vectors")
    try:
        found = live(read)
    except CorruptionError:
        return
    assert found == ["z"]


# --- the wrong place to call from -------------------------------------------------------------


def test_calls_from_another_event_loop(store):
    """WrongLoopError, and the store is unharmed."""
    memory = None
    runner = asyncio.Runner()
    try:

        async def open_it():
            nonlocal memory
            memory = await MemorySystem.open(store)
            await memory.put("a", "k", 1)
            return memory.revision

        revision = runner.run(open_it())

        def elsewhere(call):
            async def body():
                await call()

            with pytest.raises(WrongLoopError):
                asyncio.run(body())

        elsewhere(lambda: memory.put("a", "k", 2))
        elsewhere(lambda: memory.delete("a", "k"))
        elsewhere(lambda: memory.observe("a", [1.0, 0.0]))
        elsewhere(lambda: memory.acquire_lock("book"))
        elsewhere(memory.flush)
        elsewhere(lambda: memory.wait_for(revision + 1))
        elsewhere(lambda: memory.subscribe("t"))

        async def check():
            assert memory.revision == revision
            assert await memory.get("a", "k") == 1
            await memory.put("a", "k", 3)
            await memory.close()

        runner.run(check())
    finally:
        runner.close()


def test_calls_from_another_thread(store, run):
    """WrongLoopError there too, for reads of what is not hot as for writes."""

    async def body():
        async with MemorySystem.open(store) as memory:

            def elsewhere():
                for call in (
                    lambda: memory.put("a", "k", 2),
                    lambda: memory.get("a", "cold"),
                    lambda: memory.search_similar("a", [1.0]),
                ):
                    with pytest.raises(WrongLoopError):
                        asyncio.run(call())
                with pytest.raises(WrongLoopError):
                    memory.pin("a", "k")
                with pytest.raises(WrongLoopError):
                    memory.scan("a")

            await asyncio.to_thread(elsewhere)
            assert await memory.get("a", "k") is None

    run(body())


def test_writes_to_a_read_only_instance(live):
    """Each call that would write raises ReadOnlyError."""

    async def prepare(memory):
        await memory.put("a", "k", 1)
        await memory.observe("a", [1.0, 0.0, 0.0], "seen")

    async def body(memory):
        from nt_memory import Proposal, Trajectory, Vote

        before = await contents(memory)

        async def transact():
            async with memory.transaction() as tx:
                tx.put("a", "k", 2)

        trajectory = Trajectory("a")
        for call in (
            lambda: memory.put("a", "k", 2),
            lambda: memory.delete("a", "k"),
            lambda: memory.observe("a", [1.0, 0.0, 0.0]),
            lambda: memory.observe_many("a", [[1.0, 0.0, 0.0]]),
            transact,
            lambda: memory.acquire_lock("book"),
            lambda: memory.consensus.register_agent("a"),
            lambda: memory.consensus.submit_proposal(Proposal("a", 1, weights={"a": 1})),
            lambda: memory.consensus.vote(Vote("p", "a", approve=True)),
            lambda: memory.track_trajectory(trajectory),
        ):
            with pytest.raises(ReadOnlyError):
                await call()
        assert await contents(memory) == before

    live(prepare)
    live(body, read_only=True)
