"""Export and import: everything arrives as it was, or nothing does, and nobody has to stop."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import sys
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import zstandard
from typer.testing import CliRunner

from nt_memory import (
    ManualClock,
    MemoryConfig,
    MemorySystem,
    Proposal,
    Trajectory,
    Vote,
    export_store,
    import_store,
)
from nt_memory.apps.cli.main import app
from nt_memory.errors import (
    CorruptionError,
    ForeignStoreError,
    FormatVersionError,
    InvalidInputError,
    NtMemoryError,
    StorageError,
    StoreInUseError,
    TrimmedError,
    UnsupportedError,
)
from nt_memory.reasoningbank.definition import DefinitionDoc
from nt_memory.system import exporting, importing, staging
from nt_memory.system.baseline import save_base
from nt_memory.system.exportlines import (
    Digest,
    JsonLinesSink,
    JsonLinesSource,
    _half_texts,
    header_line,
    parse_header,
)
from nt_memory.system.spelled_values import spell_fields, unspell_fields


def lines_of(path):
    """Its lines, without their checksums."""
    source = JsonLinesSource(path)
    try:
        return [line for line, _ in source.lines()]
    finally:
        source.close()


TARGETS = ["export.jsonl", "export.jsonl.zst", "export.parquet"]
ROWS = np.random.default_rng(3).normal(size=(40, 6))


async def fill(memory, clock):
    """Some of everything that a store can hold."""
    then = clock.now()
    clock.advance(60)
    await memory.put("a", "position", {"AAPL": 10, "odd": (1, b"\0", float("nan"))})
    await memory.put("a", "position", {"AAPL": 25, "cash": 1.5})
    await memory.put("a", "late", "was known before", known_at=then)
    await memory.put("a", "brief", 1, ttl=3600.0)
    await memory.put("a", "lapsed", 1, ttl=1.0)
    await memory.put("a", "nothing", None)
    await memory.put("a", "gone", 1)
    await memory.delete("a", "gone")
    await memory.put("a", "large", ["x" * 3000, "\x01" * 50])
    keys = [f"o{n:02}" for n in range(40)]
    await memory.observe_many("a", ROWS, [{"n": n} for n in range(40)], keys=keys)
    for n in range(6):
        await memory.observe("b", ROWS[n, :3], {"n": n}, key="same", tags=("t", "u"))
    clock.advance(10)
    await memory.delete("a", "o03")
    await memory.bank.define("buy", target="return", unit="fraction", horizon=timedelta(seconds=5))
    trajectory = Trajectory("a")
    trajectory.add_observation({"vix": 20}, ROWS[0])
    trajectory.add_action("buy", {"size": 1}, 0.02, baseline=0.01)
    trajectory.complete()
    await memory.track_trajectory(trajectory)
    clock.advance(5)
    await memory.record_outcome(trajectory.id, 0.03)
    await memory.acquire_lock("desk")
    await memory.consensus.register_agent("a")
    await memory.consensus.register_agent("b", weight=2)
    proposal = await memory.consensus.submit_proposal(Proposal("a", {"buy": (1, 2)}, id="p1"))
    await memory.consensus.vote(Vote(proposal, "a", approve=True))
    await memory.put("a", "once", 1, request_id="r1")
    return trajectory.id


async def picture(memory):
    """All that reads can say."""
    seen = {}
    for agent in ("a", "b"):
        async for record in memory.scan(agent):
            seen[agent, record.key] = [
                repr((r.value, r.revision, r.known_at, r.recorded_at, r.expires_at, r.actor))
                async for r in memory.history(agent, record.key)
            ]
    seen["search"] = await memory.search_similar("a", ROWS[5], 30)
    seen["tags"] = await memory.search_similar("b", ROWS[5, :3], tags=["t"])
    seen["patterns"] = await memory.bank.patterns("a")
    seen["trajectories"] = [repr(t.score()) for t in await memory.bank.trajectories("a")]
    seen["ballots"] = await memory.consensus.list_proposals()
    return seen


@pytest.fixture
def source(store, run, clock):
    """A closed store, its base at the last revision, and what it says there."""
    found = SimpleNamespace(path=store)

    async def body():
        config = MemoryConfig(storage_path=store, history=3, agent="tester")
        async with MemorySystem.open(config, clock=clock) as memory:
            found.trajectory = await fill(memory, clock)
            found.picture = await picture(memory)
            found.revision = memory.revision
            opened = memory._engine.opened
            snapshot = opened.cold.snapshot()
            save_base(store.parent / "expected", snapshot, opened.files)
            snapshot.close()

    run(body())
    (found.base,) = (store.parent / "expected").iterdir()
    return found


def tree(path):
    """Every file below a path with its bytes."""
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", TARGETS)
def test_the_imported_store_is_the_exported_one(source, tmp_path, name):
    """Its base has the same bytes, and there is nothing else but an empty journal."""
    done = export_store(source.path, tmp_path / name)
    assert done.revision == source.revision
    made = import_store(tmp_path / name, tmp_path / "made")
    assert made.is_new
    assert (made.revision, made.rows, made.digest) == (done.revision, done.rows, done.digest)
    (base,) = (tmp_path / "made" / "base").iterdir()
    assert base.name == source.base.name
    assert base.read_bytes() == source.base.read_bytes()
    assert {p.name for p in (tmp_path / "made").iterdir()} == {
        *("FORMAT", "IMPORTED", "LOCK", "base", "journal")
    }


def test_everything_reads_as_in_the_source(source, tmp_path, run, clock):
    """State, times, search, the bank, locks, ballots and remembered requests; and it goes on."""
    export_store(source.path, tmp_path / "e.jsonl")
    import_store(tmp_path / "e.jsonl", tmp_path / "made")

    async def body():
        config = MemoryConfig(storage_path=tmp_path / "made", history=3, agent="tester")
        async with MemorySystem.open(config, clock=clock) as memory:
            assert await picture(memory) == source.picture
            assert await memory.get("a", "position", as_of=clock.now()) == {
                "AAPL": 25,
                "cash": 1.5,
            }
            early = clock.now() - timedelta(seconds=30)
            assert await memory.get("a", "position", as_of=early) is None
            assert await memory.get("a", "late", as_of=early) == "was known before"
            with pytest.raises(TrimmedError):
                await memory.get("a", "position", as_of=source.revision - 1)
            with pytest.raises(TrimmedError):
                await anext(memory.tail())
            once = await memory.get_record("a", "once")
            assert await memory.put("a", "once", 2, request_id="r1") == once.revision
            decided = await memory.consensus.vote(Vote("p1", "b", approve=True))
            assert type(decided).__name__ == "Approved"
            clock.advance(4000)
            assert await memory.get("a", "brief") is None
            assert await memory.put("a", "next", 1) > source.revision

    run(body())


def test_exports_of_one_revision_are_equal(source, tmp_path):
    """Byte for byte; and the digest is that of the other forms."""
    digests = {export_store(source.path, tmp_path / f"1-{name}").digest for name in TARGETS}
    export_store(source.path, tmp_path / "2.jsonl")
    assert (tmp_path / "1-export.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()
    assert len(digests) == 1
    for name in TARGETS:
        import_store(tmp_path / f"1-{name}", tmp_path / "made")  # any form of it is the same export


def test_an_imported_store_exports_the_same(source, tmp_path, run, clock):
    """There and back: once its views are there, it says what the source said."""
    export_store(source.path, tmp_path / "1.jsonl")
    import_store(tmp_path / "1.jsonl", tmp_path / "made")
    with pytest.raises(StorageError, match="open it for writing once"):
        export_store(tmp_path / "made", tmp_path / "2.jsonl")

    async def body():
        async with MemorySystem.open(tmp_path / "made", clock=clock):
            pass

    run(body())
    export_store(tmp_path / "made", tmp_path / "2.jsonl")

    def versions(name):
        lines = (tmp_path / name).read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        return [
            {key: value for key, value in row.items() if key != "crc"}
            for row in rows
            if row.get("table") in {"versions", "rows", "proposals", "partitions", "requests"}
        ]

    assert versions("1.jsonl") == versions("2.jsonl")


@pytest.mark.parametrize("name", TARGETS)
def test_importing_twice_changes_nothing(source, tmp_path, run, clock, name):
    """Right away, and when the new store has been written to."""
    export_store(source.path, tmp_path / name)
    import_store(tmp_path / name, tmp_path / "made")
    before = tree(tmp_path / "made")
    assert not import_store(tmp_path / name, tmp_path / "made").is_new
    assert tree(tmp_path / "made") == before

    async def body():
        async with MemorySystem.open(tmp_path / "made", clock=clock) as memory:
            await memory.put("a", "position", "later")
            assert not (
                await asyncio.to_thread(import_store, tmp_path / name, tmp_path / "made")
            ).is_new
            assert await memory.get("a", "position") == "later"

    run(body())


def test_other_places_are_refused(source, tmp_path, run, clock):
    """Other stores, other exports, other directories and files: left as they are."""
    export_store(source.path, tmp_path / "1.jsonl")

    async def body():
        async with MemorySystem.open(source.path, clock=clock) as memory:
            await memory.put("a", "more", 1)

    run(body())
    export_store(source.path, tmp_path / "2.jsonl")
    import_store(tmp_path / "1.jsonl", tmp_path / "made")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for target in (source.path, tmp_path / "made", tmp_path / "mine", tmp_path / "2.jsonl"):
        before = tree(target) if target.is_dir() else target.read_bytes()
        with pytest.raises(ForeignStoreError):
            import_store(tmp_path / "2.jsonl", target)
        assert (tree(target) if target.is_dir() else target.read_bytes()) == before


def test_stores_that_differ_only_inside_are_told_apart(tmp_path, run):
    """The same header is not enough to say that it was imported before."""
    for name in ("one", "two"):

        async def body(name=name):
            async with MemorySystem.open(tmp_path / name, clock=ManualClock()) as memory:
                memory._engine.session = "fixed"
                await memory.put("a", "k", name)

        run(body())
        export_store(tmp_path / name, tmp_path / f"{name}.jsonl")
    first = [(tmp_path / f"{name}.jsonl").read_text().splitlines()[0] for name in ("one", "two")]
    assert first[0] == first[1]
    import_store(tmp_path / "one.jsonl", tmp_path / "made")
    with pytest.raises(ForeignStoreError):
        import_store(tmp_path / "two.jsonl", tmp_path / "made")


# --- interrupted ------------------------------------------------------------------------------


@pytest.fixture
def small_steps(monkeypatch):
    """Many blocks, checkpoints and calls of progress even for little data."""
    monkeypatch.setattr(staging, "BLOCK_BYTES", 2_000)
    monkeypatch.setattr(staging, "CHECKPOINT_BLOCKS", 2)
    monkeypatch.setattr(importing, "PROGRESS_ROWS", 10)
    monkeypatch.setattr(exporting, "PROGRESS_ROWS", 10)


@pytest.fixture
def larger(tmp_path, run, clock):
    """An export of a few thousand rows in every form."""

    async def body():
        async with MemorySystem.open(tmp_path / "larger", clock=clock) as memory:
            rows = np.random.default_rng(1).normal(size=(1500, 4))
            await memory.observe_many("a", rows, [{"n": n} for n in range(1500)])
            await memory.observe_many("b", rows[:100], [{"n": n} for n in range(100)])

    run(body())
    for name in TARGETS:
        export_store(tmp_path / "larger", tmp_path / name)
    import_store(tmp_path / TARGETS[0], tmp_path / "whole")
    return tmp_path


def base_bytes(path):
    (base,) = (path / "base").iterdir()
    return base.read_bytes()


@pytest.mark.parametrize("name", TARGETS)
def test_a_killed_import_goes_on(larger, small_steps, name):
    """As a crash would leave it, after any step: it is no store, and a second run completes it."""
    crashed = []
    seen = []

    def crash(done, _total):
        seen.append(done)
        if len(seen) % 40 == 0 or done > 3200:
            copy = larger / f"crashed-{len(crashed)}"
            shutil.copytree(larger / "made", copy)
            crashed.append(copy)

    import_store(larger / name, larger / "made", progress=crash)
    assert len(crashed) > 5
    resumed = 0
    for path in crashed:
        assert not (path / "FORMAT").exists()
        with pytest.raises(NtMemoryError):
            asyncio.run(_open(path))
        told = []
        import_store(larger / name, path, progress=lambda done, _, told=told: told.append(done))
        resumed += told[0] > seen[0]
        assert (path / "FORMAT").exists()
        assert not (path / staging.UNFINISHED).exists()
        assert len(tree(path / "base")) == 1
    assert resumed > 3
    import_store(larger / name, larger / "again")
    assert all(base_bytes(path) == base_bytes(larger / "made") for path in crashed)
    assert base_bytes(larger / "again") == base_bytes(larger / "made")


async def _open(path):
    async with MemorySystem.open(path):
        pass


@pytest.mark.parametrize("part", ["base", "journal", "IMPORTED", "FORMAT"])
def test_a_crash_while_the_store_is_put_in_place(source, tmp_path, monkeypatch, part):
    """Before its last file is there it is no store; a second run completes it."""
    export_store(source.path, tmp_path / "e.jsonl")
    original = Path.rename

    def rename(self, target):
        if self.parent.name == "made" and self.name == part and target.parent.name == "target":
            raise KeyboardInterrupt
        return original(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            import_store(tmp_path / "e.jsonl", tmp_path / "target")
    assert not (tmp_path / "target" / "FORMAT").exists()
    assert import_store(tmp_path / "e.jsonl", tmp_path / "target").is_new
    assert base_bytes(tmp_path / "target") == source.base.read_bytes()


def test_a_crash_right_after_the_store_is_complete(source, tmp_path, monkeypatch):
    """What is left of the import goes when it is repeated."""
    export_store(source.path, tmp_path / "e.jsonl")
    monkeypatch.setattr(staging.Staging, "remove", lambda self: self.close())
    import_store(tmp_path / "e.jsonl", tmp_path / "made")
    monkeypatch.undo()
    assert (tmp_path / "made" / staging.UNFINISHED).exists()
    assert not import_store(tmp_path / "e.jsonl", tmp_path / "made").is_new
    assert not (tmp_path / "made" / staging.UNFINISHED).exists()


def test_an_unfinished_import_of_another_export(larger, source, small_steps):
    """Is left alone, and the error says what to do."""

    def interrupt(done, _total):
        if done > 1000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_store(larger / TARGETS[0], larger / "made", progress=interrupt)
    export_store(source.path, larger / "other.jsonl")
    before = tree(larger / "made")
    with pytest.raises(ForeignStoreError, match="delete the directory"):
        import_store(larger / "other.jsonl", larger / "made")
    assert tree(larger / "made") == before
    import_store(larger / TARGETS[0], larger / "made")


def test_two_imports_at_once(source, tmp_path):
    """The second is refused, and the first is not disturbed."""
    export_store(source.path, tmp_path / "e.jsonl")
    refused = []

    def again(_done, _total):
        if not refused:
            with pytest.raises(StoreInUseError) as error:
                import_store(tmp_path / "e.jsonl", tmp_path / "made")
            refused.append(error)

    assert import_store(tmp_path / "e.jsonl", tmp_path / "made", progress=again).is_new
    assert refused


# --- bad input --------------------------------------------------------------------------------


def test_a_cut_off_export_is_refused(source, tmp_path):
    """Wherever it is cut; nothing is left at the target."""
    export_store(source.path, tmp_path / "e.jsonl")
    whole = (tmp_path / "e.jsonl").read_bytes()
    packed = zstandard.ZstdCompressor().compress(whole)
    for data in (whole, packed):
        for size in [*range(0, len(data), len(data) // 60), len(data) - 1]:
            (tmp_path / "cut").write_bytes(data[:size])
            with pytest.raises((CorruptionError, InvalidInputError), match="cut"):
                import_store(tmp_path / "cut", tmp_path / "made")
            assert not (tmp_path / "made").exists()


def test_a_changed_byte_is_found(source, tmp_path):
    """Wherever it is; the error names the line."""
    export_store(source.path, tmp_path / "e.jsonl")
    whole = (tmp_path / "e.jsonl").read_bytes()
    first = whole.index(b"\n") + 1
    for place in range(first, len(whole), len(whole) // 120):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 8)
        (tmp_path / "changed").write_bytes(changed)
        line = whole[:place].count(b"\n") + 1
        with pytest.raises(CorruptionError, match=rf"line ({line}|{line + 1}): "):
            import_store(tmp_path / "changed", tmp_path / "made")
        assert not (tmp_path / "made").exists()


def test_a_changed_byte_in_parquet_is_found(larger):
    """Or does not matter: nothing else than the whole export is ever imported."""
    expected = base_bytes(larger / "whole")
    found = 0
    for name in ("versions.parquet", "tables.parquet", "manifest.jsonl"):
        path = larger / "export.parquet" / name
        whole = path.read_bytes()
        for place in range(0, len(whole), len(whole) // 15):
            changed = bytearray(whole)
            changed[place] ^= 1 << (place % 8)
            path.write_bytes(changed)
            try:
                import_store(larger / "export.parquet", larger / "made")
            except (CorruptionError, InvalidInputError):
                found += 1
                assert not (larger / "made").exists()
            else:
                assert base_bytes(larger / "made") == expected
                shutil.rmtree(larger / "made")
        path.write_bytes(whole)
    assert found > 20


def test_lines_that_were_lost_moved_or_added(source, tmp_path):
    """Every line is bound to its place."""
    export_store(source.path, tmp_path / "e.jsonl")
    lines = (tmp_path / "e.jsonl").read_bytes().splitlines(keepends=True)
    swapped = [*lines[:9], lines[10], lines[9], *lines[11:]]
    for changed, line in (
        ([*lines[:9], *lines[10:]], 10),
        (swapped, 10),
        ([*lines[:9], lines[8], *lines[9:]], 10),
        ([*lines, lines[-1]], len(lines) + 1),
        ([*lines, b"\n"], len(lines) + 1),
        ([*lines[:9], b"{}\n", *lines[9:]], 10),
    ):
        (tmp_path / "changed").write_bytes(b"".join(changed))
        with pytest.raises(CorruptionError, match=f"line {line}: "):
            import_store(tmp_path / "changed", tmp_path / "made")
        assert not (tmp_path / "made").exists()


def forge(path, lines):
    """Lines with right checksums and a right trailer, whatever they say."""
    sink, digest = JsonLinesSink(path), Digest()
    for line in lines:
        digest.add(line)
        sink.write(line, None, None)
    sink.write(digest.trailer(), None, None)
    sink.finish()


def _insert(line):
    return lambda lines: [*lines[:9], line, *lines[9:]]


def _replace(old, new, count=-1):
    return lambda lines: [line.replace(old, new, count) for line in lines]


FORGERIES = {
    "swapped": (lambda lines: [*lines[:9], lines[10], lines[9], *lines[11:]], "line 11: .*order"),
    "twice": (lambda lines: [*lines[:9], lines[9], *lines[9:]], "line 11: .*twice"),
    "lost": (lambda lines: [*lines[:9], *lines[10:]], "agree"),
    "late": (lambda lines: [*lines, lines[9]], "too late"),
    "unknown table": (_insert(b'{"table":"surprise","key":"k"}'), "line 10: .*surprise"),
    "no row": (_insert(b"[]"), "line 10: "),
    "no fields": (_insert(b'{"table":"versions"}'), "line 10: "),
    "no JSON": (_insert(b'{"table":"versions",'), "line 10: "),
    "text in an embedding": (_replace(b'"embedding":[', b'"embedding":["x",'), "line "),
    "infinity in an embedding": (_replace(b'"embedding":[', b'"embedding":[1e999,'), "line "),
    "another dimension": (_replace(b'"embedding":[0', b'"embedding":[0.5,0'), "line |embeddings"),
    "no whole number": (
        lambda lines: [
            line.replace(b'"row":7,', b'"row":7.0,') if b'"table":"rows"' in line else line
            for line in lines
        ],
        "line ",
    ),
    "no embedding": (lambda lines: [_without(line, b"o01") for line in lines], "embedding"),
    "an embedding twice": (_replace(b'"row":7,"embedding', b'"row":8,"embedding'), "embedding"),
}


def _without(line, key):
    start = b',"embedding"'
    is_it = b'"key":"' + key + b'"' in line and start in line
    return line[: line.index(start)] + b"}" if is_it else line


@pytest.mark.parametrize(("change", "what"), FORGERIES.values(), ids=FORGERIES)
def test_a_forged_export_is_refused(source, tmp_path, change, what):
    """Right checksums, wrong rows: the line is named, and nothing is left."""
    export_store(source.path, tmp_path / "e.jsonl")
    lines = lines_of(tmp_path / "e.jsonl")[:-1]
    forge(tmp_path / "forged", change(lines))
    with pytest.raises((CorruptionError, InvalidInputError), match=what):
        import_store(tmp_path / "forged", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_what_is_no_export(source, tmp_path):
    """Other files and directories are refused by name, and newer formats say so."""
    (tmp_path / "text").write_text("hello\n")
    (tmp_path / "json").write_text('{"a": 1}\n')
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "directory").mkdir()
    for name in ("text", "json", "directory"):
        with pytest.raises(InvalidInputError, match=f"{name}: not an export"):
            import_store(tmp_path / name, tmp_path / "made")
    with pytest.raises(CorruptionError, match="empty"):
        import_store(tmp_path / "empty", tmp_path / "made")
    with pytest.raises(StorageError, match="missing"):
        import_store(tmp_path / "missing", tmp_path / "made")
    export_store(source.path, tmp_path / "e.jsonl")
    lines = lines_of(tmp_path / "e.jsonl")[:-1]
    for changed, error in (
        (lines[0].replace(b'"version":1', b'"version":2'), FormatVersionError),
        (lines[0].replace(b'"format":"nt-memory-export"', b'"format":"other"'), InvalidInputError),
        (lines[0].replace(b'"revision":', b'"revisions":'), InvalidInputError),
    ):
        (tmp_path / "forged").unlink(missing_ok=True)
        forge(tmp_path / "forged", [changed, *lines[1:]])
        with pytest.raises(error):
            import_store(tmp_path / "forged", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_damaged_store_is_not_exported(source, tmp_path, run):
    """The error says so, and no file is left that could be taken for an export."""
    data = source.path / "views" / "data.mdb"
    damaged = data.read_bytes().replace(b"was known before", b"was known beforf")
    data.write_bytes(damaged)
    for name in TARGETS:
        with pytest.raises(StorageError):
            export_store(source.path, tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["expected", "store"]


def test_an_existing_target_is_left_alone(source, tmp_path):
    """Whatever it is."""
    (tmp_path / "e.jsonl").write_text("mine")
    (tmp_path / "e.parquet").mkdir()
    for name in ("e.jsonl", "e.parquet"):
        with pytest.raises(InvalidInputError, match="exists"):
            export_store(source.path, tmp_path / name)
    assert (tmp_path / "e.jsonl").read_text() == "mine"
    with pytest.raises(InvalidInputError):
        export_store(source.path, tmp_path / "new", format="csv")
    with pytest.raises(InvalidInputError):
        export_store(source.path, "-", format="parquet")


# --- partial exports, reading -----------------------------------------------------------------


@pytest.mark.parametrize("name", TARGETS)
def test_an_export_of_one_agent_is_for_reading(source, tmp_path, name):
    """It has that agent's versions only, and is not taken for a store."""
    done = export_store(source.path, tmp_path / name, agents=["b"])
    assert done.rows == 6 - 2  # history=3 keeps four
    with pytest.raises(InvalidInputError, match="some agents only"):
        import_store(tmp_path / name, tmp_path / "made")
    assert not (tmp_path / "made").exists()
    with pytest.raises(InvalidInputError):
        export_store(source.path, tmp_path / "x", agents=["no such name"])


def test_pandas_and_polars_read_the_versions(source, tmp_path):
    """With types: times, tags, and embeddings as the numbers they are stored as."""
    import pandas as pd
    import polars as pl

    export_store(source.path, tmp_path / "e.parquet")
    path = tmp_path / "e.parquet" / "versions.parquet"
    frame = pd.read_parquet(path)
    rows = frame[(frame.agent == "a") & (frame.key == "o05")]
    unit = (ROWS[5] / np.linalg.norm(ROWS[5])).astype(np.float16)
    (embedding,) = rows.embedding
    assert embedding.tolist() == unit.astype(np.float32).tolist()
    assert json.loads(rows.value.iloc[0]) == {"n": 5}
    assert str(frame.known_at.dtype) == "datetime64[us, UTC]"
    assert frame[frame.deleted].key.tolist() == ["gone", "o03"]
    table = pl.read_parquet(path)
    assert table.schema["embedding"] == pl.List(pl.Float32)
    assert table.filter(pl.col("kind") == "outcome").height == 1
    assert set(table.filter(pl.col("agent") == "b")["tags"].to_list()[0]) == {"t", "u"}


def test_the_lines_are_for_people(source, tmp_path):
    """Names, times and values as they are said."""
    export_store(source.path, tmp_path / "e.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    position = [row for row in rows if row.get("key") == "position"]
    assert position[0]["value"]["odd"] == {"$tuple": [1, {"$bytes": "AA=="}, {"$float": "nan"}]}
    assert position[1]["value"] == {"AAPL": 25, "cash": 1.5}
    assert position[1]["kind"] == "state"
    assert position[1]["actor"] == "tester"
    assert position[1]["known_at"] == "2024-01-02T14:31:00+00:00"
    (action,) = [row for row in rows if row.get("kind") == "action" and "value" in row]
    assert action["value"]["action_type"] == "buy"
    assert action["value"]["predicted"] == 0.02
    (proposal,) = [row for row in rows if row.get("table") == "proposals"]
    assert proposal["value"]["data"] == {"buy": {"$tuple": [1, 2]}}
    assert not [row for row in rows if row.get("encoding") == "bytes" or "bytes" in row]


def test_parquet_without_pyarrow(source, tmp_path, monkeypatch):
    """The error says what to install."""
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "nt_memory.system.parquetfiles", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UnsupportedError, match=r"nt-memory\[parquet\]"):
        export_store(source.path, tmp_path / "e.parquet")
    monkeypatch.delitem(sys.modules, "nt_memory.system.parquetfiles", raising=False)


def test_every_float16_has_a_decimal_that_leads_back():
    """So a list of decimals is an exact embedding."""
    bits = np.arange(1 << 16, dtype="<u2")
    every = bits.view("<f2")
    finite = np.isfinite(every)
    texts = np.array(_half_texts())[finite]
    back = np.array([json.loads(text) for text in texts], np.float64).astype("<f2")
    assert (back.view("<u2") == bits[finite]).all()


def test_a_value_compressed_in_another_way_is_still_readable(tmp_path, run, clock):
    """Uncompressed ones come back uncompressed; other compressors' are compressed anew."""
    from nt_memory.codec import encode
    from nt_memory.system.spelled_values import spell_value, unspell_value

    plain = encode("x" * 2000, compress=False)
    assert unspell_value(spell_value(plain)) == plain
    body = zstandard.ZstdCompressor(level=19).compress(plain[6:])
    from zlib import crc32

    other = bytes((1, 1)) + crc32(body, crc32(bytes((1, 1)))).to_bytes(4, "little") + body
    spelled = spell_value(other)
    assert spelled == {"value": "x" * 2000}
    assert unspell_value(spelled) == encode("x" * 2000)
    assert unspell_value(spell_value(b"\xc1 no value at all")) == b"\xc1 no value at all"


# --- beside a running store -------------------------------------------------------------------


def test_a_live_store_is_exported_at_one_revision(store, tmp_path, run):
    """While transactions go on, nothing half done is in it, and everything before the call is."""

    async def body():
        async with MemorySystem.open(store) as memory:
            done = asyncio.Event()

            async def write():
                n = 0
                while not done.is_set():
                    n += 1
                    async with memory.transaction() as tx:
                        tx.put("a", "one", n)
                        tx.put("a", "two", n)

            async with asyncio.TaskGroup() as group:
                group.create_task(write())
                for n in range(4):
                    acknowledged = await memory.put("a", "mark", n)
                    exported = await memory.export(tmp_path / f"{n}.jsonl")
                    assert acknowledged <= exported.revision <= memory.revision
                    if n % 2:
                        await memory.compact()
                done.set()

    run(body())
    for n in range(4):
        lines = (tmp_path / f"{n}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        values = {
            key: [row["value"] for row in rows if row.get("key") == key] for key in ("one", "two")
        }
        assert values["one"] == values["two"]
        assert [row["value"] for row in rows if row.get("key") == "mark"] == [*range(n + 1)]
        import_store(tmp_path / f"{n}.jsonl", tmp_path / f"made-{n}")


def test_a_compaction_does_not_disturb_an_export(store, tmp_path, run, monkeypatch):
    """The views are exchanged, and the old ones deleted, while it reads them; likewise reversed."""

    async def body():
        async with MemorySystem.open(store) as memory:
            rows = np.random.default_rng(1).normal(size=(3000, 4))
            await memory.observe_many("a", rows, [{"n": n} for n in range(3000)])
            loop = asyncio.get_running_loop()
            compactions = []

            def compact(done, _total):
                if done in {1024, 3072}:
                    future = asyncio.run_coroutine_threadsafe(memory.compact(), loop)
                    compactions.append(future.result())

            monkeypatch.setattr(exporting, "PROGRESS_ROWS", 1)
            await asyncio.to_thread(export_store, store, tmp_path / "e.jsonl", progress=compact)
            assert len(compactions) == 2
            await memory.put("a", "after", 1)
            made = await asyncio.to_thread(import_store, tmp_path / "e.jsonl", tmp_path / "made")
            assert made.rows > 6000

    run(body())


def test_a_cancelled_export_leaves_nothing(store, tmp_path, run, monkeypatch):
    """And the memory goes on."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await memory.observe_many("a", np.eye(64), [{"n": n} for n in range(64)])
            started, ended = asyncio.Event(), asyncio.Event()
            loop = asyncio.get_running_loop()
            original = exporting.export_store

            def slow(*args, progress, **options):
                def told(done, total):
                    loop.call_soon_threadsafe(started.set)
                    progress(done, total)

                try:
                    while True:
                        original(*args, progress=told, **options)
                        Path(args[1]).unlink()
                finally:
                    loop.call_soon_threadsafe(ended.set)

            monkeypatch.setattr(exporting, "PROGRESS_ROWS", 1)
            monkeypatch.setattr(exporting, "export_store", slow)
            task = asyncio.ensure_future(memory.export(tmp_path / "e.jsonl"))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await ended.wait()
            assert not list(tmp_path.glob("e.jsonl*"))
            await memory.put("a", "k", 1)

    run(body())


def test_a_follower_exports(store, tmp_path, run):
    """Reading only is enough."""

    async def body():
        async with (
            MemorySystem.open(store) as writer,
            MemorySystem.open(store, read_only=True) as follower,
        ):
            revision = await writer.put("a", "k", 1)
            await follower.wait_for(revision)
            assert (await follower.export(tmp_path / "e.jsonl")).revision >= revision

    run(body())


TAILER = """
import asyncio, sys
from nt_memory import MemorySystem
from nt_memory.errors import TrimmedError
async def main():
    async with MemorySystem.open(sys.argv[1], read_only=True) as memory:
        tail = memory.tail(after=int(sys.argv[2]))
        print("open", flush=True)
        try:
            async for entry in tail:
                values = [change.record.value["n"] for change in entry.changes if change.record]
                print(entry.revision, entry.kind, *values, flush=True)
                if values == [-1]:
                    return
        except TrimmedError as error:
            print("trimmed", error.oldest, flush=True)
asyncio.run(main())
"""


@asynccontextmanager
async def tailer(store, after):
    """Another process that prints what it tails; gone when the test is."""
    import nt_memory

    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        TAILER,
        str(store),
        str(after),
        env={**os.environ, "PYTHONPATH": str(Path(nt_memory.__file__).parent.parent)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert (await child.stdout.readline()).decode() == "open\n"
        yield child
        assert await child.wait() == 0
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def line_of(child):
    return (await child.stdout.readline()).decode().split()


def test_tail_follows_from_another_process(store, run, monkeypatch):
    """Over new segments and over compactions, none twice, none missing."""
    from nt_memory.transport import local

    monkeypatch.setattr(
        local.LocalJournal.__init__,
        "__kwdefaults__",
        {
            **local.LocalJournal.__init__.__kwdefaults__,
            "segment_bytes": 20_000,
        },
    )

    async def body():
        async with (
            MemorySystem.open(store) as writer,
            tailer(store, writer.revision) as child,
        ):
            rotated = 0
            for n in range(120):
                revision = await writer.put("a", "k", {"n": n, "x": os.urandom(1500)})
                # The writer does not know of readers elsewhere: they must not lag behind the base.
                assert await line_of(child) == [str(revision), "write", str(n)]
                rotated = max(rotated, len(list((store / "journal").iterdir())))
                if n in {60, 90}:
                    await writer.compact()
            assert rotated > 3
            await asyncio.gather(*(writer.put("a", f"k{n}", {"n": n}) for n in range(200)))
            assert [(await line_of(child))[2] for _ in range(200)] == [str(n) for n in range(200)]
            last = await writer.put("a", "end", {"n": -1})
            assert await line_of(child) == [str(last), "write", "-1"]

    run(body())


def test_tail_from_another_process_says_what_is_gone(store, run):
    """TrimmedError for what lies before the base, and from the oldest revision on it goes on."""

    async def body():
        async with MemorySystem.open(store) as writer:
            for n in range(10):
                await writer.put("a", "k", {"n": n})
            done = await writer.compact()
            async with tailer(store, 0) as child:
                assert await line_of(child) == ["trimmed", str(done.oldest_revision)]
            async with tailer(store, done.oldest_revision - 1) as child:
                last = await writer.put("a", "end", {"n": -1})
                lines = [await line_of(child)]
                while lines[-1][0] != str(last):
                    lines.append(await line_of(child))
                assert int(lines[0][0]) == done.oldest_revision

    run(body())


# --- command line -----------------------------------------------------------------------------


def invoke(*arguments, stdin=None):
    return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)


@pytest.mark.parametrize("name", TARGETS)
def test_the_commands(source, tmp_path, name):
    """Export, import, and import again."""
    result = invoke("export", tmp_path / name, "--store", source.path)
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"as of revision {source.revision}" in result.stderr
    result = invoke("import", tmp_path / name, "--store", tmp_path / "made")
    assert (result.exit_code, result.stdout) == (0, "")
    assert base_bytes(tmp_path / "made") == source.base.read_bytes()
    result = invoke(
        "stats", "--store", tmp_path / "made"
    )  # it can be read without being opened first
    assert result.exit_code == 0, result.stderr
    result = invoke("import", tmp_path / name, "--store", tmp_path / "made")
    assert result.exit_code == 0
    assert "nothing changed" in result.stderr


def test_the_commands_as_a_pipe(source, tmp_path):
    """`-` is stdout and stdin."""
    exported = invoke("export", "-", "--store", source.path)
    result = invoke("import", "-", "--store", tmp_path / "made", stdin=exported.stdout_bytes)
    assert result.exit_code == 0
    assert base_bytes(tmp_path / "made") == source.base.read_bytes()


def test_the_commands_refuse(source, tmp_path):
    """One line on stderr, and the exit code that says what is wrong."""
    (tmp_path / "there").write_text("")
    for arguments, code in (
        (("export", tmp_path / "there", "--store", source.path), 2),
        (("export", tmp_path / "new", "--store", tmp_path / "nowhere"), 7),
        (("export", tmp_path / "new", "--store", source.path, "--agent", "no name"), 2),
        (("import", tmp_path / "there", "--store", tmp_path / "made"), 4),
        (("import", tmp_path / "missing", "--store", tmp_path / "made"), 1),
    ):
        result = invoke(*arguments)
        assert result.exit_code == code, result.stderr
        assert result.stderr.startswith("nt-memory: ")
        assert result.stderr.count("\n") == 1


def test_the_bar_is_for_terminals_only(source, tmp_path, monkeypatch):
    """On stderr, and nothing of it in a log."""
    from rich import console

    seen = io.StringIO()
    original = console.Console
    monkeypatch.setattr(
        console, "Console", lambda **_: original(file=seen, force_terminal=True, width=80)
    )
    invoke("export", tmp_path / "e.jsonl", "--store", source.path)
    assert "export" in seen.getvalue()
    monkeypatch.setattr(console, "Console", lambda **_: original(file=seen, force_terminal=False))
    seen.seek(0)
    seen.truncate()
    invoke("import", tmp_path / "e.jsonl", "--store", tmp_path / "made")
    assert seen.getvalue() == ""


def test_the_header_says_what_it_is(source, tmp_path):
    """Readable before anything else is."""
    export_store(source.path, tmp_path / "e.jsonl")
    line = lines_of(tmp_path / "e.jsonl")[0]
    header = parse_header(line, "e.jsonl")
    assert header.revision == source.revision
    assert header.rows["versions"] > 40
    assert header_line(header) == line


def test_documents_of_before_their_last_fields_are_spelled_and_read_alike():
    """A definition without the fields that came later keeps its bytes, with names for what it has."""
    old = msgspec.msgpack.encode(["return", "1", 5, False, "absolute", ["scale", 1.0, 2.0], ""])
    fields = spell_fields(old, DefinitionDoc)
    assert list(fields) == list(DefinitionDoc.__struct_fields__[:7])
    assert unspell_fields(fields, DefinitionDoc) == old
    new = msgspec.msgpack.encode(DefinitionDoc("x", "1", 5, False, "absolute", ("scale", 1, 2), ""))
    assert list(spell_fields(new, DefinitionDoc)) == list(DefinitionDoc.__struct_fields__)
    short = msgspec.msgpack.encode(["return"])
    assert spell_fields(short, DefinitionDoc) == ["return"]
