"""No spelling of a name reaches another agent's data: not by the API, the command or an import."""

from __future__ import annotations

import asyncio
import json
import unicodedata

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from nt_memory import ManualClock, MemoryConfig, MemorySystem, export_store, import_store
from nt_memory.apps.cli.main import app
from nt_memory.errors import (
    CorruptionError,
    InvalidInputError,
    InvalidNameError,
    NtMemoryError,
)
from nt_memory.namespace import check_agent, check_key, check_prefix
from nt_memory.system.exportlines import Digest, JsonLinesSink, JsonLinesSource
from nt_memory.topics import compile_pattern

HERS = "hers alone"
ALICE = "alice"
AGENTS = [
    *("", " alice", "alice ", "alice\t", "alice\n", "alice\r", "\ufeffalice", "alice\u00a0"),
    *("alice\0", "\0alice", "alice\0position", "s" + "alice", "alice\1", "alice\x7f", "alice\xff"),
    *("../alice", "./alice", "bob/../alice", "/alice", "alice/", "alice/position", "swarm/alice"),
    *("..", ".", "alice/..", "alice\\..", "..\\alice", "%61lice", "%2e%2e%2falice", "alice%00"),
    *("ALICE", "Alice", "alıce", "аlice", "alicе", "ⓐlice", "ａｌｉｃｅ", "ali\u0441e"),
    *("alice\u200b", "alice\u200d", "\u202ealice", "alice\u200f", "ali\u00adce", "alice\u0301"),
    *("alice\ud800", "alice\udcff", "\udc80alice", "alice\U0010ffff", "\uffff", "alice\ufffe"),
    *(
        "*",
        "**",
        "a*",
        "alice*",
        "?",
        "[a]lice",
        "alice.*",
        "%",
        "alice%",
        "_swarm",
        "_",
        "-",
        "--",
    ),
    *("alice" * 13, "a" * 64, "a" * 65, "alice." * 10, "-alice", "alice'--", "alice;", 'alice"'),
]
KEYS = [
    *("", "position", "Position", "position ", " position", "position\0", "\0alice\0position"),
    *("../alice/position", "../../alice/position", "..", ".", "/", "//", "a/../../alice/position"),
    *("/alice/position", "swarm/alice/position", "alice/position", "position/../position"),
    *("%2e%2e/alice/position", "..%2falice%2fposition", "%00alice%00position", "..\\alice"),
    *("\udc2e\udc2e/alice", b"\xc0\xae\xc0\xae/alice".decode("utf-8", "surrogateescape"), "\ud800"),
    *("\xff", "\xff" * 128, "\xff" * 129, "\U0010ffff", "\U0010fffd" * 64, "a" * 256, "a" * 257),
    *("*", "**", "*/position", "posit*", "%", "_", "é", "e\u0301", "\u202eposition", "\u200fa"),
    *("po\u00adsition", "ﬁ", "ß", "SS", "İ", "ı", "\n", "a\nb", "\x1b[31m", "a b", "~", "$(id)"),
]


async def make(memory):
    """Alice's state, observations, rules; and a little of Bob's."""
    await memory.put(ALICE, "position", HERS)
    await memory.put(ALICE, "é", HERS)
    await memory.put(ALICE, "l/m", HERS, ttl=10_000.0)
    for n in range(3):
        await memory.observe(ALICE, [1.0, float(n)], {"s": HERS}, key=f"o{n}", tags=["t"])
    await memory.set_quota(ALICE, max_keys=1000)
    await memory.set_retention(ALICE, max_versions=100)
    await memory.acquire_lock("position", lease=10_000.0)
    await memory.put("bob", "position", "bob's")
    await memory.observe("bob", [1.0, 1.0], "bob's", key="o0", tags=["t"])


async def all_of(memory, agent=ALICE):
    """Everything that can be read of an agent."""
    records = [record async for record in memory.scan(agent)]
    history = [await collect(memory.history(agent, record.key)) for record in records]
    hits = await memory.search_similar(agent, [1.0, 1.0], 50, exact=True)
    rules = memory.quota(agent), memory.retention(agent), memory.usage(agent)
    return records, history, hits, rules


def calls_of(memory, agent, key):
    """Every call that takes a name, as functions that return an awaitable or a value."""
    vector = [1.0, 1.0]
    return [
        lambda: memory.get(agent, key),
        lambda: memory.get_record(agent, key),
        lambda: memory.get_many([(agent, key)]),
        lambda: memory.peek(agent, key),
        lambda: memory.pin(agent, key).value,
        lambda: collect(memory.scan(agent, key)),
        lambda: collect(memory.scan(agent)),
        lambda: collect(memory.history(agent, key)),
        lambda: watched(memory, agent, key),
        lambda: memory.at(memory.revision).get(agent, key),
        lambda: collect(memory.at(memory.revision).scan(agent, key)),
        lambda: memory.search_similar(agent, vector, 50, exact=True),
        lambda: memory.search_similar([agent], vector, 50, tags=[key]),
        lambda: memory.search_similar(agent, vector, 50, where={key: HERS}),
        lambda: memory.bank.patterns(agent),
        lambda: memory.usage(agent),
        lambda: memory.put(agent, key, "x"),
        lambda: memory.put(agent, key, "x", known_at=memory.timeline.now),
        lambda: memory.observe(agent, vector, "x", key=key, tags=[key or "t"]),
        lambda: memory.observe_many(agent, np.eye(2), keys=[key, "other"]),
        lambda: commit(memory, agent, key),
        lambda: memory.delete(agent, key),
        lambda: memory.set_retention(agent, max_versions=0, max_age=0.001),
        lambda: memory.set_quota(agent, max_keys=0, max_bytes=0),
        lambda: memory.acquire_lock(key, 0.0),
        lambda: memory.publish(key, "x"),
        lambda: memory.set_quota(agent),  # for the next round
    ]


async def collect(items):
    """All of an iterator."""
    return [item async for item in items]


async def watched(memory, agent, prefix):
    """What a watch from the start is told, up to a change that is certainly its own."""
    watch = memory.watch(agent, prefix, after=0)
    revision = await memory.put(agent, prefix + "z", "marker")
    seen = [await anext(watch)]
    while seen[-1].revision < revision:
        seen.append(await anext(watch))
    return seen


async def commit(memory, agent, key):
    """A transaction that writes and deletes."""
    async with memory.transaction() as tx:
        tx.put("bob", "cash", 1)
        tx.put(agent, key, "x")
        tx.delete(agent, key)


async def outcome(call):
    """What a call raises and what it returns."""
    try:
        found = call()
        return None, (await found if asyncio.iscoroutine(found) else found)
    except NtMemoryError as error:
        return error, None


async def attack(memory, agent, key):
    """Make every call under a name that is not Alice's; nothing of hers is seen or moved."""
    before = await all_of(memory)
    for call in calls_of(memory, agent, key):
        error, found = await outcome(call)
        # If refused, then for what it is, and not because it met something of hers.
        assert not isinstance(error, CorruptionError), (agent, key)
        assert HERS not in f"{found!r} {error}", (agent, key)
    assert await all_of(memory) == before, (agent, key)


def attack_all(store, names):
    """Attack under each name, then see that the store is whole."""

    async def body():
        async with MemorySystem.open(
            MemoryConfig(storage_path=store), clock=ManualClock()
        ) as memory:
            if memory.revision < 5:
                await make(memory)
            for agent, key in names:
                await attack(memory, agent, key)

    asyncio.run(asyncio.wait_for(body(), 60))


def test_no_agents_name_reaches_another(store):
    """Whatever looks like Alice, contains her or is normalised to her is somebody else or nobody."""
    attack_all(store, [(agent, "position") for agent in AGENTS])


def test_no_key_reaches_another_agent(store):
    """Keys are one agent's own, whatever they climb to, escape or encode."""
    attack_all(store, [("bob", key) for key in KEYS])


FRAGMENTS = [
    *(
        "alice",
        "bob",
        "position",
        "swarm",
        "s",
        "/",
        "..",
        ".",
        "\\",
        "\0",
        "\1",
        "%2e",
        "%2f",
        "%00",
    ),
    *("*", "**", "\xff", "\u0301", "é", "\u202e", "\u200f", "\u200b", "\ufeff", "\ud800", "\udcff"),
    *(" ", "\t", "\n", "A", "ı", "ß", "ﬁ", "_", "-", "\x7f", "\U0010ffff", "x" * 60, "é" * 100),
]
spellings = st.lists(st.sampled_from(FRAGMENTS), max_size=6).map("".join)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A store that all examples of a test attack in turn."""
    return tmp_path_factory.mktemp("isolation") / "store"


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(spellings.filter(lambda agent: agent != ALICE), spellings)
@example("alice\0position", "..")
@example("bob", "\0alice\0position")
def test_no_made_up_name_reaches_another(shared, agent, key):
    """Pieces of names, separators and escapes in any order."""
    attack_all(shared, [(agent, key), ("bob", key)])


class Liar(str):
    """Equal to another name, and spelled as it likes."""

    __slots__ = ("says",)

    def __new__(cls, text, says):
        made = super().__new__(cls, text)
        made.says = says
        return made

    def __eq__(self, other):
        return str.__eq__(self.says, other)

    def __hash__(self):
        return hash(self.says)

    def __str__(self):
        return self.says

    def __format__(self, _):
        return self.says


@pytest.mark.parametrize("check", [check_agent, check_key, check_prefix])
def test_a_name_is_its_characters(check):
    """And not what a subclass of `str` says when asked: neither judged nor taken as that."""
    assert check("good") == "good"
    with pytest.raises(InvalidNameError):
        check(Liar("b\0d", says="good"))
    taken = check(Liar("mine", says="good"))
    assert type(taken) is str
    assert taken == "mine"


def test_names_are_neither_folded_nor_normalised(live):
    """What differs in bytes is another key, in case, width or composition."""

    async def body(memory):
        pairs = [("é", "e\u0301"), ("Key", "key"), ("ﬁ", "fi"), ("ß", "ss"), ("İ", "i̇")]
        for n, (one, other) in enumerate(pairs):
            assert unicodedata.normalize("NFKD", one).casefold() or one != other
            await memory.put("bob", one, n)
            await memory.put("bob", other, -n - 1)
            assert (await memory.get("bob", one), await memory.get("bob", other)) == (n, -n - 1)
        await memory.put("Bob", "k", 1)
        assert await memory.get("bob", "k") is None

    live(body)


def test_a_prefix_stays_within_its_agent(live):
    """Also the empty one, and the one that is all of another agent's name."""

    async def body(memory):
        for agent in ("a", "a.b", "a-b", "ab", "a0", "A", "b"):
            for key in ("k", "\U0002a6d6", "~", "a"):
                await memory.put(agent, key, agent)
        for agent in ("a", "ab", "A"):
            for prefix in ("", "k", "a", "\U0002a6d6"):
                records = await collect(memory.scan(agent, prefix))
                assert records
                assert {record.value for record in records} == {agent}

    live(body)


def matches(pattern, topic):
    """What the documentation says about patterns, level by level."""
    match pattern, topic:
        case [["**"], [_, *_]] | [[], []]:
            return True
        case [[first, *rest], [level, *others]]:
            return first in ("*", level) and matches(rest, others)
    return False


levels = st.sampled_from(
    ["alice", "bob", "ALICE", ".", "..", "[a]", "a.b", "é", "e\u0301", "%2f", "$"]
)


@given(st.lists(levels | st.just("*"), min_size=1, max_size=3), st.booleans(), st.data())
def test_a_pattern_matches_levels_and_nothing_else(pattern, is_open, data):
    """No regular expression, escape or wildcard in a name reaches another topic."""
    topic = data.draw(st.lists(levels, min_size=1, max_size=4))
    wanted = [*pattern, "**"] if is_open else pattern
    assert compile_pattern("/".join(wanted))("/".join(topic)) == matches(wanted, topic)


def test_the_command_reaches_nobody_else(tmp_path):
    """The same names on the command line: refused with a line, or somebody else."""
    store, runner = tmp_path / "store", CliRunner()

    def call(*arguments):
        result = runner.invoke(app, [*arguments, "--store", str(store)])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    assert call("put", ALICE, "position", json.dumps(HERS)).exit_code == 0
    names = [(agent, "position") for agent in AGENTS][::3]
    names += [("bob", key) for key in KEYS][::3]
    for agent, key in names:
        for arguments in (("get", "--", agent, key), ("history", "--", agent, key)):
            result = runner.invoke(app, [arguments[0], "--store", str(store), *arguments[1:]])
            assert result.exception is None or isinstance(result.exception, SystemExit)
            assert HERS not in result.output, (agent, key)
    result = call("get", ALICE, "position")
    assert json.loads(result.stdout) == HERS
    for agent in ("bob/../alice", "*", "alice/position", ""):
        result = runner.invoke(
            app, ["export", "--store", str(store), "--agent", agent, str(tmp_path / "out")]
        )
        assert result.exit_code != 0
        assert not (tmp_path / "out").exists()


def rewritten(source, target, change):
    """An export with other rows, and the checksums and the digest of those."""
    lines = JsonLinesSource(source)
    try:
        found = [line for line, _ in lines.lines()][:-1]
    finally:
        lines.close()
    sink, digest = JsonLinesSink(target), Digest()
    for line in found:
        row = json.loads(line)
        changed = change(row) if "table" in row else row
        spelled = line if changed == row else json.dumps(changed, separators=(",", ":")).encode()
        digest.add(spelled)
        sink.write(spelled, None, None)
    sink.write(digest.trailer(), None, None)
    sink.finish()


@pytest.mark.parametrize("table", ["versions", "expiries", "rows", "partitions"])
@pytest.mark.parametrize(
    "agent", ["alice/../bob", "bo\0b", "", "_swarm", "bob ", "../bob", "é", "b" * 65, 7, None]
)
def test_an_import_takes_no_malformed_agent(tmp_path, table, agent):
    """Rows under a name that no call could have made are refused, and no store is left."""
    source, target = tmp_path / "e.jsonl", tmp_path / "changed.jsonl"

    async def body():
        async with MemorySystem.open(tmp_path / "store", clock=ManualClock()) as memory:
            await memory.observe("bob", [1.0, 2.0], 1, key="o", ttl=1000.0)

    asyncio.run(body())
    export_store(tmp_path / "store", source)
    rewritten(source, target, lambda row: row)
    import_store(target, tmp_path / "same")

    def change(row):
        return {**row, "agent": agent} if row["table"] == table else row

    target = tmp_path / "malformed.jsonl"
    rewritten(source, target, change)
    with pytest.raises((CorruptionError, InvalidInputError)):
        import_store(target, tmp_path / "imported")
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("key", ["", "../k", "a\0b", "\u200b", "a" * 257, "/", 7, None])
def test_an_import_takes_no_malformed_key(tmp_path, key):
    """Nor a key that could not be read or deleted again."""
    source, target = tmp_path / "e.jsonl", tmp_path / "changed.jsonl"

    async def body():
        async with MemorySystem.open(tmp_path / "store", clock=ManualClock()) as memory:
            await memory.put("bob", "k", 1)

    asyncio.run(body())
    export_store(tmp_path / "store", source)
    rewritten(
        source, target, lambda row: {**row, "key": key} if row["table"] == "versions" else row
    )
    with pytest.raises((CorruptionError, InvalidInputError)):
        import_store(target, tmp_path / "imported")
    assert not (tmp_path / "imported").exists()
