"""`verify` finds every damage and names it; `repair` mends it and says what that cost."""

from __future__ import annotations

import asyncio
import json
import os
import shutil

import lmdb
import numpy as np
import pytest

from nt_memory import MemorySystem
from nt_memory.errors import (
    CorruptionError,
    ForeignStoreError,
    FormatVersionError,
    StorageError,
    StoreInUseError,
)
from nt_memory.system.at_rest import write_state
from nt_memory.system.repairing import repair
from nt_memory.system.verifying import verify
from nt_memory.tiers.layout import decode_version, encode_row, version_key
from nt_memory.tiers.sealing import seal, unseal


async def fill(memory, rounds=3):
    for n in range(rounds):
        await asyncio.gather(*(memory.put("a", f"k{i}", [n, i]) for i in range(30)))
    vectors = np.random.default_rng(1).normal(size=(40, 8)).astype(np.float32)
    await memory.observe_many("a", vectors, [{"n": n} for n in range(40)])


async def contents(memory):
    return {
        record.key: (record.value, record.revision, record.known_at)
        async for record in memory.scan("a")
    }


@pytest.fixture
def made(store, run):
    """A store with a base and a journal of some entries behind it; and what it holds."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            await memory.compact()
            await fill(memory)
            return await contents(memory)

    return run(body())


@pytest.fixture
def reopened(store, run):
    """`reopened()`: what the store holds when it is opened, and that it takes writes."""

    def reopen():
        async def body():
            async with MemorySystem.open(store) as memory:
                found = await contents(memory)
                await memory.put("z", "after", 1)
                assert await memory.get("z", "after") == 1
            return found

        return run(body())

    return reopen


def only(pattern):
    (path,) = pattern
    return path


def journal(store):
    return only((store / "journal").iterdir())


def base(store):
    return only((store / "base").iterdir())


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 0x20
    path.write_bytes(data)


def test_a_whole_store_verifies(store, made):
    """And nothing of it is changed by that."""
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    found = verify(store)
    assert found.is_ok, found.damage
    assert found.damage == found.warnings == []
    assert found.entries > 90
    assert found.rows > 300
    assert found.vectors == 80
    after = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    assert {path.name for path in before} == {path.name for path in after}
    assert all(before[path] == after[path] for path in before if path.name != "lock.mdb")


def test_a_store_in_use_verifies(store, made, run):
    """Also while it is written and compacted."""

    async def body():
        async with MemorySystem.open(store) as memory:
            stop = asyncio.Event()

            async def write():
                n = 0
                while not stop.is_set():
                    n += 1
                    await memory.put("w", f"k{n % 7}", n)
                    if n % 200 == 0:
                        await memory.compact()

            task = asyncio.create_task(write())
            for _ in range(3):
                found = await asyncio.to_thread(verify, store)
                assert found.is_ok, found.damage
            stop.set()
            await task

    run(body())


def test_there_must_be_a_store(tmp_path):
    """A directory without one, and one of a newer format, are refused."""
    for call in (verify, repair):
        with pytest.raises(StorageError):
            call(tmp_path / "nowhere")
        assert not (tmp_path / "nowhere").exists()
    (tmp_path / "FORMAT").write_text(json.dumps({"format": "nt-memory", "version": 99}))
    for call in (verify, repair):
        with pytest.raises(FormatVersionError):
            call(tmp_path)


def test_a_store_in_use_is_not_repaired(store, made, run):
    """The error names the process."""

    async def body():
        async with MemorySystem.open(store):
            with pytest.raises(StoreInUseError):
                await asyncio.to_thread(repair, store)

    run(body())


def test_repairing_a_whole_store_changes_nothing_in_it(store, made, reopened):
    """It costs time."""
    done = repair(store)
    assert done.is_repaired
    assert done.lost == []
    assert done.kept_at is None
    assert reopened() == made


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.8])
def test_damaged_entries_lose_nothing_while_the_views_are_whole(store, made, reopened, share):
    """The views hold all that the journal said, and become the base."""
    path = journal(store)
    size = path.stat().st_size
    flip(path, 40 + int(share * (size - 40)))
    found = verify(store)
    assert any(f"{path.name}: offset" in damage for damage in found.damage)
    done = repair(store)
    assert done.is_repaired
    assert any("No version of any key is lost" in lost for lost in done.lost)
    assert (store / "damaged").exists()
    assert verify(store).is_ok
    assert reopened() == made
    assert verify(store).is_ok


def test_a_lost_tail_is_noticed_and_taken_from_the_views(store, made, reopened):
    """A journal that ends before what the views hold."""
    path = journal(store)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 100)
    assert "but the views hold" in verify(store).damage[0]
    assert repair(store).is_repaired
    assert verify(store).is_ok
    assert reopened() == made


def test_without_views_the_journal_is_cut_at_the_damage(store, made, reopened):
    """What lies before it is there, what lies behind it is named."""
    path = journal(store)
    flip(path, path.stat().st_size // 2)
    shutil.rmtree(store / "views")
    assert not verify(store).is_ok
    done = repair(store)
    assert done.is_repaired
    assert any("can still be read" in lost for lost in done.lost), done.lost
    assert any("cannot be read" in lost for lost in done.lost)
    text = only((store / "damaged").glob("*/lost.jsonl")).read_text()
    listed = [json.loads(line) for line in text.splitlines()]
    assert listed
    assert all(line["kind"] in {"write", "observe", "session"} for line in listed)
    numbers = [line["sequence"] for line in listed]
    assert numbers == sorted(numbers)
    assert verify(store).is_ok
    found = reopened()
    assert set(found) <= set(made)
    assert found["k0"][0][0] in {0, 1, 2}


def test_a_missing_segment_is_named(store, run, reopened):
    """Those behind it are kept aside."""

    async def body():
        async with MemorySystem.open(store) as memory:
            for n in range(3):
                await memory.put("a", "k", n)
                await asyncio.to_thread(memory._engine.opened.journal.begin_segment)

    run(body())
    segments = sorted((store / "journal").iterdir())
    segments[1].unlink()
    shutil.rmtree(store / "views")
    assert "the segment ends here" in verify(store).damage[0]
    done = repair(store)
    assert done.is_repaired
    assert verify(store).is_ok
    assert reopened()["k"][0] == 0


@pytest.mark.parametrize("place", [3, 100, -10])
def test_a_damaged_base_is_made_again_from_the_views(store, made, reopened, place):
    """As long as they are whole."""
    flip(base(store), place)
    assert any(base(store).name in damage for damage in verify(store).damage)
    done = repair(store)
    assert done.is_repaired, done
    assert verify(store).is_ok
    assert reopened() == made


def test_a_damaged_base_without_views_cannot_be_repaired(store, made, run):
    """Nothing is made up, and nothing is deleted."""
    flip(base(store), 200)
    shutil.rmtree(store / "views")
    done = repair(store)
    assert not done.is_repaired
    assert "restore a copy" in done.lost[0]
    assert base(store).exists()
    assert journal(store).exists()


def test_a_damaged_base_with_the_whole_journal_behind_it(store, run, reopened):
    """Such as after a crash between the base and the deletion of what it replaced."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            await asyncio.to_thread(memory._engine.journal.begin_segment)
            shutil.copytree(store / "journal", store.parent / "journal")
            await memory.compact()
            return await contents(memory)

    held = run(body())
    for path in (store.parent / "journal").iterdir():
        shutil.copy(path, store / "journal" / path.name)
    flip(base(store), 200)
    shutil.rmtree(store / "views")
    done = repair(store)
    assert done.is_repaired, done
    assert done.lost == []
    assert reopened() == held


def test_damaged_views_cost_nothing(store, made, reopened):
    """They are made again."""
    flip(store / "views" / "data.mdb", 20_000)
    assert any("data.mdb" in damage for damage in verify(store).damage)
    done = repair(store)
    assert done.is_repaired
    assert done.lost == []
    assert verify(store).is_ok
    assert reopened() == made


def test_damaged_vectors_cost_nothing(store, made, reopened):
    """They are made again too."""
    flip(store / "vectors" / "0.f16", 300)
    assert any("0.f16" in damage for damage in verify(store).damage)
    assert repair(store).is_repaired
    assert verify(store).is_ok
    assert reopened() == made


def change_row(store, change):
    """Change the views behind the store's back, with checksums that fit."""
    state = store / "views" / "STATE"
    said = json.loads(state.read_text())
    state.write_text(json.dumps({**said, "clean": False}))
    with lmdb.open(str(store / "views"), max_dbs=32, map_size=1 << 30) as env:
        table = env.open_db(b"versions")
        with env.begin(write=True) as txn, txn.cursor(table) as cursor:
            assert cursor.set_range(b"sa\0k5\0")
            key = cursor.key()
            change(txn, table, key, decode_version(unseal(b"versions", key, cursor.value())))


def test_a_changed_row_is_found(store, made):
    """Even if its checksum fits."""

    def change(txn, table, key, version):
        import msgspec

        other = encode_row(msgspec.structs.replace(version, actor="someone"))
        txn.put(key, seal(b"versions", key, other), db=table)

    change_row(store, change)
    (damage,) = verify(store).damage
    assert "a/k5" in damage
    assert "base and journal say" in damage


def test_a_missing_row_is_found(store, made):
    """It is named as what base and journal say it is."""
    change_row(store, lambda txn, table, key, _: txn.delete(key, db=table))
    (damage,) = verify(store).damage
    assert "a/k5" in damage
    assert "is not in the views" in damage


def test_a_row_too_many_is_found(store, made):
    """Nobody wrote it."""

    def change(txn, table, key, version):
        other = version_key(key[:-16], 1, 1)
        txn.put(other, seal(b"versions", other, encode_row(version)), db=table)

    change_row(store, change)
    (damage,) = verify(store).damage
    assert "base and journal do not say so" in damage


def test_a_torn_tail_is_no_damage(store, made, reopened):
    """A crash leaves one, and nobody was told of what it held."""
    with journal(store).open("ab") as file:
        file.write(b"\x01" * 50)
    assert verify(store).is_ok
    assert reopened() == made


def test_an_interrupted_repair_can_be_run_again(store, made, reopened, monkeypatch):
    """Wherever it stopped."""
    from nt_memory.system import repairing

    flip(journal(store), 3000)
    for step in ("save_base", "create_segment", "drop_views", "open_store"):
        with monkeypatch.context() as patched:
            patched.setattr(repairing, step, _stop)
            with pytest.raises(KeyboardInterrupt):
                repair(store)
    assert repair(store).is_repaired
    assert verify(store).is_ok
    assert reopened() == made


def _stop(*_, **__):
    raise KeyboardInterrupt


def test_flips_anywhere_in_the_journal_are_found(store, made):
    """A hundred places, one byte each."""
    path = journal(store)
    good = path.read_bytes()
    for place in np.random.default_rng(3).integers(0, len(good), 100).tolist():
        flip(path, place)
        assert not verify(store).is_ok, place
        path.write_bytes(good)


def test_opening_a_damaged_store_says_to_repair(store, made, run):
    """The error a user meets names the place."""
    flip(journal(store), 3000)

    async def body():
        with pytest.raises(CorruptionError, match="offset"):
            await MemorySystem.open(store)

    run(body())


@pytest.mark.parametrize(
    "damage", [None, b"", b"\x80\xff", b"{}", b'{"format": "nt-memory"}', b"[1]"]
)
def test_a_damaged_format_file_is_written_anew(store, made, run, reopened, damage):
    """Whatever became of it, the journal shows that this is a store; nothing else is needed of it."""
    path = store / "FORMAT"
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)

    async def body():
        with pytest.raises(ForeignStoreError):
            await MemorySystem.open(store)

    run(body())
    with pytest.raises(ForeignStoreError):
        verify(store)
    done = repair(store)
    assert done.is_repaired
    assert done.lost == []
    assert verify(store).is_ok
    assert reopened() == made


def test_a_foreign_directory_is_not_made_a_store(tmp_path):
    """A journal without one sound segment proves nothing."""
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / f"{1:020d}.log").write_bytes(b"someone else's log")
    with pytest.raises(ForeignStoreError):
        repair(tmp_path)
    assert not (tmp_path / "FORMAT").exists()


async def _other(path, value):
    async with MemorySystem.open(path) as memory:
        for n in range(3):
            await asyncio.gather(*(memory.put("a", f"k{i}", [value, n, i]) for i in range(20)))
            await asyncio.to_thread(memory._engine.opened.journal.begin_segment)
        if value == "base":
            await memory.compact()


@pytest.mark.parametrize("has_views", [True, False])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_segment_of_another_store_is_refused(store, tmp_path, run, place, has_views):
    """Each of its frames is sound, but it does not go on from the entry before it."""
    run(_other(store, 1))
    run(_other(tmp_path / "other", 2))
    held = reopen_and_read(store, run)
    name = sorted(path.name for path in (store / "journal").iterdir())[place]
    shutil.copy(tmp_path / "other" / "journal" / name, store / "journal" / name)
    if not has_views:
        shutil.rmtree(store / "views")
    found = verify(store)
    assert not found.is_ok
    done = repair(store)
    assert done.is_repaired
    assert done.lost
    assert verify(store).is_ok
    if has_views:
        assert reopen_and_read(store, run) == held


def reopen_and_read(store, run):
    """What the store holds."""

    async def body():
        async with MemorySystem.open(store) as memory:
            return await contents(memory)

    return run(body())


def test_a_base_of_another_store_is_refused(store, tmp_path, run):
    """It would fit by its number; the journal knows the time of its last entry."""
    run(_other(store, "base"))
    run(_other(tmp_path / "other", "base"))
    held = reopen_and_read(store, run)
    shutil.copy(base(tmp_path / "other"), base(store))
    without = tmp_path / "without views"
    shutil.copytree(store, without)
    shutil.rmtree(without / "views")
    for path in (store, without):
        assert any("another store's" in damage for damage in verify(path).damage)
    assert repair(store).is_repaired
    assert verify(store).is_ok
    assert reopen_and_read(store, run) == held
    with pytest.raises(CorruptionError, match="another store's"):
        reopen_and_read(without, run)
    assert not repair(without).is_repaired


def test_views_that_stop_whoever_reads_them_do_not_stop_repair(store, run, reopened):
    """As LMDB does when a page is not of the kind it wants: another process looks."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            shutil.copytree(store, store.with_name("killed"))
            return await contents(memory)

    held = run(body())
    killed = store.with_name("killed")
    path = killed / "views" / "data.mdb"
    os.truncate(path, 3 * 4096)  # reading behind it is a bus error
    done = repair(killed)
    assert done.is_repaired
    assert done.lost == []
    assert verify(killed).is_ok
    assert reopen_and_read(killed, run) == held


def test_a_damaged_base_that_nothing_follows_is_made_again(store, run):
    """The new base has the name of the damaged one, and is not taken for it."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            await memory.compact()
            return await contents(memory)

    held = run(body())
    flip(base(store), -10)
    assert repair(store).is_repaired
    assert len(list((store / "base").iterdir())) == 1
    assert verify(store).is_ok
    shutil.rmtree(store / "views")
    assert reopen_and_read(store, run) == held


def test_a_missing_base_is_not_taken_for_an_empty_one(store, made):
    """Without views there is nothing to make it of; nothing is moved or deleted."""
    base(store).unlink()
    shutil.rmtree(store / "views")
    before = journal(store).read_bytes()
    done = repair(store)
    assert not done.is_repaired
    assert "restore a copy" in done.lost[0]
    assert journal(store).read_bytes() == before


def test_a_store_whose_first_writer_was_killed_verifies(store, made):
    """It had said that it would make views, and had made none."""
    write_state(store / "views")
    (store / "views" / "data.mdb").unlink()
    found = verify(store)
    assert found.is_ok
    assert any("views" in warning for warning in found.warnings)

    async def read():
        async with MemorySystem.open(store, read_only=True):
            pass

    with pytest.raises(StorageError, match="open the store for writing once"):
        asyncio.run(read())


def _segments(store, run):
    """Three segments with entries in them, and nothing else."""

    async def body():
        async with MemorySystem.open(store) as memory:
            for _ in range(2):
                await asyncio.to_thread(memory._engine.journal.begin_segment)
                for n in range(20):
                    await memory.put("more", f"k{n}", n)

    run(body())
    shutil.rmtree(store / "views")
    return sorted((store / "journal").glob("*.log"))


def test_segments_under_each_others_names_lose_nothing(store, made, run, reopened):
    """Their headers say who is who."""
    _, second, third = _segments(store, run)
    second.rename(third.with_suffix(".x"))
    third.rename(second)
    third.with_suffix(".x").rename(third)
    assert not verify(store).is_ok
    done = repair(store)
    assert done.is_repaired
    assert done.lost == []
    assert verify(store).is_ok
    assert reopened().items() >= made.items()


def test_a_segment_that_is_there_twice_is_taken_away_once(store, made, run, reopened):
    """Also after a repair that was stopped between its two renames."""
    first, second, third = _segments(store, run)
    shutil.copy(third, third.with_name(f"{int(second.stem) + 1:020d}.log"))
    second.rename(second.with_name(second.name + ".moving"))
    done = repair(store)
    assert done.is_repaired
    assert done.lost == []
    assert sorted((store / "journal").glob("*.log"))[:3] == [first, second, third]
    assert not list((store / "journal").glob("*.moving"))
    assert reopened().items() >= made.items()
