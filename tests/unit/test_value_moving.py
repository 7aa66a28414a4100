"""Value files under verify, repair, snapshot, export and import."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import tracemalloc

import numpy as np
import pytest

from nt_memory import MemorySystem
from nt_memory.errors import CorruptionError, StorageError
from nt_memory.system import exported_files, exporting, importing, staging
from nt_memory.system.exporting import export_store
from nt_memory.system.importing import import_store
from nt_memory.system.repairing import repair
from nt_memory.system.verifying import verify

COUNT = 140_000  # of float64: a little over 1 MiB
FORMS = ("export.jsonl", "export.jsonl.zst", "export.parquet")


def weights(seed=0, count=COUNT):
    """An array that is kept in a file, and does not compress."""
    return np.random.default_rng(seed).normal(size=count)


def value_files(store):
    """Value files by name."""
    return {path.name: path for path in (store / "values").iterdir()}


@pytest.fixture
def filled(live, store):
    """A store with history in files: `a/k` is 0 then 1, `a/moved` is 0, `b/other` 2."""

    async def body(memory):
        await memory.put("a", "k", {"w": weights(0)})
        await memory.put("a", "k", {"w": weights(1)})
        await memory.put("a", "moved", {"w": weights(0)})
        await memory.put("b", "other", weights(2))
        await memory.observe("b", [1.0, 0.0], weights(3), key="seen")
        await memory.put("b", "small", 1)

    live(body)
    return store


async def contents(memory):
    """All versions of all keys, with arrays as bytes."""
    found = []
    for agent in ("a", "b"):
        async for record in memory.scan(agent):
            found += [
                (old.agent, old.key, old.revision, _plain(old.value))
                async for old in memory.history(agent, record.key)
            ]
    return found


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.tobytes() if isinstance(value, np.ndarray) else value


def damage(path, place=None):
    """Flip a bit, in a file of its own even if it was shared."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if place is None else place] ^= 1
    path.unlink()
    path.write_bytes(data)


# --- verify and repair ------------------------------------------------------------------------


def test_verify_reads_every_file(filled):
    """A sound store is said to be sound, and how much of it was read."""
    found = verify(filled)
    assert found.is_ok
    assert not found.warnings
    sizes = [path.stat().st_size for path in value_files(filled).values()]
    assert (len(sizes), found.value_bytes) == (4, sum(sizes))


@pytest.mark.parametrize("how", ["flipped", "cut", "missing"])
def test_verify_names_the_damaged_file_and_its_keys(filled, live, how):
    """Damage to a file is reported once, with the file and whose value it was."""

    async def name_of(memory):
        value = memory._engine.snapshot.current(b"sa\0moved\0")[2].value
        return value[6:38].hex()

    name = live(name_of)
    path = value_files(filled)[name]
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        damage(path)
    (said,) = verify(filled).damage
    assert name in said
    assert "a/k" in said
    assert "a/moved" in said


def test_verify_mentions_orphans(filled):
    """A file that nothing refers to harms nothing."""
    (filled / "values" / ("0" * 64)).write_bytes(b"x")
    found = verify(filled)
    assert found.is_ok
    assert any("1 files that nothing refers to" in warning for warning in found.warnings)


def test_repair_says_which_keys_lost_their_values(filled, live):
    """Damaged files are kept aside, what they held is named, the rest is as it was, and a second
    look finds a whole store with a known loss."""
    before = live(contents)
    name, path = min(value_files(filled).items())
    damaged = bytearray(path.read_bytes())
    damage(path)
    done = repair(filled)
    assert done.is_repaired
    assert len(done.lost) == 1
    assert name in done.lost[0]
    kept = next((filled / "damaged").glob(f"*/{name}"))
    assert len(kept.read_bytes()) == len(damaged)
    lines = [
        json.loads(line) for line in (kept.parent / "lost-values.jsonl").read_text().splitlines()
    ]
    lost = {(line["agent"], line["key"], line["where"]) for line in lines}
    for agent, key, where in lost:
        assert f"{agent}/{key}" in done.lost[0]
        assert where.startswith("revision ")
    again = verify(filled)
    assert again.is_ok
    assert any(name in warning and "known to be lost" in warning for warning in again.warnings)
    assert repair(filled).lost == []

    async def body(memory):
        for agent, key, revision, value in before:
            if (agent, key, f"revision {revision}") in lost:
                with pytest.raises(CorruptionError, match=f"{agent}/{key}"):
                    await memory.get(agent, key, as_of=revision)
            else:
                assert _plain(await memory.get(agent, key, as_of=revision)) == value

    live(body)


def test_a_lost_value_that_is_put_again_is_whole_again(filled, live):
    """The value's content names its file, so whoever still has it can bring it back."""
    for path in value_files(filled).values():
        path.unlink()
    assert len(repair(filled).lost) == 4

    async def body(memory):
        await memory.put("a", "again", {"w": weights(0)})
        assert _plain(await memory.get("a", "moved")) == {"w": weights(0).tobytes()}

    live(body)
    assert len([one for one in verify(filled).warnings if "known to be lost" in one]) == 3


# --- copies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("can_link", [True, False])
def test_a_snapshot_has_the_values(filled, live, tmp_path, run, monkeypatch, can_link):
    """A copy holds every value, shared with the original where that is possible."""
    target = tmp_path / "copy"
    if not can_link:
        monkeypatch.setattr(os, "link", _cannot_link)

    async def body(memory):
        (filled / "values" / "half.new").write_bytes(b"x")
        await memory.snapshot(target)
        return await contents(memory)

    before = live(body)
    monkeypatch.undo()
    assert value_files(target).keys() == value_files(filled).keys() - {"half.new"}
    for name, path in value_files(target).items():
        assert path.samefile(filled / "values" / name) is can_link

    async def read():
        async with MemorySystem.open(target) as memory:
            return await contents(memory)

    assert run(read()) == before
    assert verify(target).is_ok


def _cannot_link(*_args, **_options):
    raise OSError("not on this file system")


# --- export and import ------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_an_import_has_the_same_values(filled, live, tmp_path, run, monkeypatch, form):
    """Values in files travel with an export in any form, and a second export is the same."""
    monkeypatch.setattr(exported_files, "PIECE_BYTES", 300_000)
    before = live(contents)
    target = tmp_path / "imported"
    done = export_store(filled, tmp_path / form)
    made = import_store(tmp_path / form, target)
    assert (made.digest, made.is_new) == (done.digest, True)
    assert {n: p.read_bytes() for n, p in value_files(target).items()} == {
        n: p.read_bytes() for n, p in value_files(filled).items()
    }
    assert verify(target).is_ok
    assert not import_store(tmp_path / form, target).is_new

    async def read():
        async with MemorySystem.open(target) as memory:
            (hit,) = await memory.search_similar("b", [1.0, 0.0], 1)
            assert _plain(hit.data) == weights(3).tobytes()
            return await contents(memory)

    assert run(read()) == before
    assert export_store(target, tmp_path / f"again-{form}").rows >= done.rows


def test_an_export_of_some_agents_has_their_values(filled, tmp_path):
    """Files of other agents' values are not in it."""
    export_store(filled, tmp_path / "b.jsonl", agents=["b"])
    lines = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    names = {line["file"] for line in lines if line.get("table") == "files"}
    values = {line["value"]["file"] for line in lines if line.get("encoding") == "file"}
    assert names == values
    assert len(names) == 2


def test_an_export_of_a_damaged_file_leaves_nothing(filled, tmp_path):
    """What would be wrong in the export is not exported."""
    damage(next(iter(value_files(filled).values())))
    with pytest.raises(CorruptionError, match="fail their checksum"):
        export_store(filled, tmp_path / "e.jsonl")
    assert not list(tmp_path.glob("e.jsonl*"))


class _KilledError(Exception):
    """As good as `kill -9`."""


@pytest.mark.parametrize("form", ["export.jsonl", "export.parquet"])
@pytest.mark.parametrize("after", [1, 3, 4, 9, 15])
def test_an_interrupted_import_goes_on(filled, tmp_path, monkeypatch, form, after):
    """Killed between or within files, an import ends as if nothing had happened."""
    monkeypatch.setattr(exported_files, "PIECE_BYTES", 300_000)
    monkeypatch.setattr(staging, "CHECKPOINT_BLOCKS", 3)
    export_store(filled, tmp_path / form)
    pieces = 0
    add_piece = staging.Staging.add_piece

    def killed(self, piece):
        nonlocal pieces
        pieces += 1
        add_piece(self, piece)
        if pieces == after:
            raise _KilledError

    target = tmp_path / "imported"
    monkeypatch.setattr(staging.Staging, "add_piece", killed)
    with pytest.raises(_KilledError):
        import_store(tmp_path / form, target)
    first, pieces = pieces, 0
    after = 0
    assert import_store(tmp_path / form, target).is_new
    assert first + pieces <= 16 + 2 * 3  # what lies behind the last checkpoint comes again
    assert verify(target).is_ok
    assert value_files(target).keys() == value_files(filled).keys()
    assert not (target / "unfinished-import").exists()


def test_an_import_killed_while_it_moves_its_parts_goes_on(filled, tmp_path, monkeypatch):
    """Killed after the values were put in place, the next run puts them there again."""
    export_store(filled, tmp_path / "e.jsonl")
    sync = importing.sync_directory

    def killed(path):
        sync(path)
        if path == target and (target / "values").exists():
            raise _KilledError

    target = tmp_path / "imported"
    monkeypatch.setattr(importing, "sync_directory", killed)
    with pytest.raises(_KilledError):
        import_store(tmp_path / "e.jsonl", target)
    monkeypatch.undo()
    assert import_store(tmp_path / "e.jsonl", target).is_new
    assert verify(target).is_ok
    assert len(value_files(target)) == 4


def test_an_import_refuses_a_file_that_is_not_what_it_says(filled, tmp_path, monkeypatch):
    """An export that contradicts itself is refused, though each of its lines is whole."""
    spell = exported_files._spell_piece

    def forged(piece):
        row = spell(piece)
        if piece.offset:
            row["data"] = row["data"][:100] + "AAAA" + row["data"][104:]
        return row

    monkeypatch.setattr(exported_files, "_spell_piece", forged)
    export_store(filled, tmp_path / "e.jsonl")
    monkeypatch.undo()
    with pytest.raises(CorruptionError, match="fail their checksum"):
        import_store(tmp_path / "e.jsonl", tmp_path / "imported")
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("how", ["lost", "twice", "swapped"])
def test_an_import_refuses_pieces_out_of_order(filled, tmp_path, monkeypatch, how):
    """Pieces that are lost, repeated or moved by a wrong exporter are refused."""
    monkeypatch.setattr(exported_files, "PIECE_BYTES", 300_000)
    spell = importing.parse_row
    rows = []

    def wrong(line):
        row, halves = spell(line)
        if row["table"] == "files":
            rows.append(row)
            if how == "lost" and len(rows) == 2:
                row = {**row, "offset": row["offset"] + 300_000}
            if how == "twice" and len(rows) == 2:
                row = rows[0]
            if how == "swapped" and len(rows) == 5:
                row = {**row, "file": "0" * 64}
        return row, halves

    export_store(filled, tmp_path / "e.jsonl")
    monkeypatch.setattr(importing, "parse_row", wrong)
    with pytest.raises(CorruptionError, match="out of order"):
        import_store(tmp_path / "e.jsonl", tmp_path / "imported")


def test_an_export_needs_no_memory_for_a_value(live, store, tmp_path):
    """Export and import of a 32 MB value take a few pieces of memory, not the value."""
    big = weights(count=4 << 20)

    async def body(memory):
        await memory.put("a", "k", big)

    live(body)
    tracemalloc.start()
    try:
        export_store(store, tmp_path / "e.jsonl")
        import_store(tmp_path / "e.jsonl", tmp_path / "imported")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < big.nbytes / 2


def test_a_compaction_does_not_take_files_from_an_export(live, store, tmp_path, monkeypatch):
    """An export that is under way in this process keeps the files of what it shows, though no
    version of them is left by then; the next compaction takes them."""
    reached, go_on = threading.Event(), threading.Event()
    spell = exporting.spell_files

    def late(directory, references):
        reached.set()
        assert go_on.wait(10)
        yield from spell(directory, references)

    monkeypatch.setattr(exporting, "spell_files", late)

    async def body(memory):
        await memory.put("a", "k", weights(0))
        await memory.put("a", "k", weights(1))
        export = asyncio.ensure_future(memory.export(tmp_path / "e.jsonl"))
        assert await asyncio.to_thread(reached.wait, 10)
        await memory.set_retention(None, max_versions=0)
        await memory.compact()
        assert len(value_files(store)) == 2
        go_on.set()
        await export
        await memory.compact()
        assert len(value_files(store)) == 1

    live(body)
    import_store(tmp_path / "e.jsonl", tmp_path / "imported")
    assert verify(tmp_path / "imported").is_ok


def test_a_failed_export_holds_nothing(live, store, tmp_path):
    """Nothing is held once an export has ended, however it did."""

    async def body(memory):
        await memory.put("a", "k", weights(0))
        await memory.export(tmp_path / "one.jsonl")
        with pytest.raises(StorageError):
            await memory.export(tmp_path / "none" / "there.jsonl")
        assert memory._engine.values._holds == 0

    live(body)
