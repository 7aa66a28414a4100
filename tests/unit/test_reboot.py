"""The machine went down under a store: what the views had not written is gone, page by page."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from typing import TYPE_CHECKING, Any

import lmdb
import numpy as np
import pytest

from nt_memory import MemorySystem
from nt_memory.tiers.layout import decode_version, encode_row
from nt_memory.tiers.sealing import seal, unseal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PAGE = 4096
QUERY = np.random.default_rng(9).normal(size=8)


async def fill(memory: MemorySystem, part: int) -> None:
    """Entries of several kinds, all different in each part."""
    draw = np.random.default_rng(part)
    await asyncio.gather(*(memory.put("a", f"k{n}", [part, n]) for n in range(60)))
    await memory.put("a", f"brief{part}", 1, ttl=86_400.0)
    await memory.delete("a", f"k{part}")
    await memory.observe_many("a", draw.normal(size=(80, 8)), [{"n": n} for n in range(80)])
    await memory.put("a", "noise", draw.bytes(9_000))


async def contents(memory: MemorySystem) -> list[Any]:
    """Every version there is, and what a search finds."""
    found: list[Any] = [[record async for record in memory.scan("a")]]
    found += [[old async for old in memory.history("a", one.key)] for one in found[0]]
    found.append(await memory.search_similar("a", QUERY, 20, exact=True))
    return found


@pytest.fixture
def killed(store: Path, tmp_path: Path, run: Callable[..., Any]) -> tuple[Path, Path, list[Any]]:
    """A store as a killed process leaves it, its files of some time before, and what it holds."""
    left, before = tmp_path / "left", tmp_path / "before"

    async def body() -> list[Any]:
        async with MemorySystem.open(store) as memory:
            await fill(memory, 1)
            await memory.compact()
            await fill(memory, 2)
            await memory.flush()
            shutil.copytree(store, before)
            await fill(memory, 3)
            found = await contents(memory)
            shutil.copytree(store, left)
            return found

    return left, before, run(body())


def reboot(store: Path) -> None:
    """Let the views be those of another boot."""
    state = store / "views" / "STATE"
    said = json.loads(state.read_text())
    assert not said["clean"]
    state.write_text(json.dumps({**said, "boot": "another"}))


def revert(path: Path, older: Path, draw: random.Random) -> None:
    """Let some pages of a file never have been written: they hold what was there before."""
    new, old = path.read_bytes(), older.read_bytes() if older.exists() else b""
    pages = bytearray(new)
    for start in range(0, len(new), PAGE):
        if draw.random() < 0.5:
            size = min(PAGE, len(new) - start)
            pages[start : start + size] = old[start : start + size].ljust(size, b"\0")
    path.write_bytes(pages)


def reopened(store: Path, run: Callable[..., Any]) -> tuple[bool, list[Any]]:
    """Whether the views were made anew, and what the store holds."""

    async def body() -> tuple[bool, list[Any]]:
        async with MemorySystem.open(store) as memory:
            return memory._engine.opened.rebuilt, await contents(memory)

    found: tuple[bool, list[Any]] = run(body())
    return found


@pytest.mark.parametrize("seed", range(8))
def test_pages_that_were_never_written_are_made_again(
    killed: tuple[Path, Path, list[Any]], run: Callable[..., Any], seed: int
) -> None:
    """Whatever mix of old and new pages, zeros included, a power loss has left of views and vectors."""
    store, before, held = killed
    draw = random.Random(seed)  # noqa: S311 - not for secrets
    for path in [store / "views" / "data.mdb", *sorted((store / "vectors").iterdir())]:
        revert(path, before / path.relative_to(store), draw)
    reboot(store)
    assert reopened(store, run) == (True, held)
    assert reopened(store, run) == (False, held)


@pytest.mark.parametrize("seed", range(4))
def test_vectors_that_were_never_written_are_noticed_under_the_same_boot(
    killed: tuple[Path, Path, list[Any]], run: Callable[..., Any], seed: int
) -> None:
    """Each row has a checksum. (What views do that are as damaged: `tests/stress/test_damage.py`,
    since they may stop the process.)
    """
    store, before, held = killed
    draw = random.Random(seed)  # noqa: S311 - not for secrets
    for path in sorted((store / "vectors").glob("*.f16")):
        revert(path, before / path.relative_to(store), draw)
    changed = any(
        path.read_bytes() != (store.parent / "store" / path.relative_to(store)).read_bytes()
        for path in (store / "vectors").glob("*.f16")
    )
    assert reopened(store, run) == (changed, held)


def lie(store: Path) -> None:
    """Let one row of the views say something else, with a checksum that fits."""
    with lmdb.open(str(store / "views"), max_dbs=32, map_size=1 << 30) as env:
        table = env.open_db(b"versions")
        with env.begin(write=True) as txn, txn.cursor(table) as cursor:
            found = [(key, value) for key, value in cursor if b"\0k7\0" in key]
            for key, stored in found:
                version = decode_version(unseal(b"versions", key, stored))
                gone = type(version)(None, version.recorded_at)
                txn.put(key, seal(b"versions", key, encode_row(gone)), db=table)


def test_views_of_another_boot_are_not_believed_however_whole(
    killed: tuple[Path, Path, list[Any]], run: Callable[..., Any], tmp_path: Path
) -> None:
    """Pages may all be sound and yet not be of one time; under the same boot they are believed."""
    store, _, held = killed
    lie(store)
    same_boot = tmp_path / "same"
    shutil.copytree(store, same_boot)
    assert reopened(same_boot, run)[1] != held
    reboot(store)
    assert reopened(store, run) == (True, held)


def test_a_check_that_stopped_the_process_is_not_tried_again(
    killed: tuple[Path, Path, list[Any]], run: Callable[..., Any]
) -> None:
    """Damage to a mapped page may end the process; the next one makes the views anew."""
    store, _, held = killed
    state = store / "views" / "STATE"
    assert reopened(shutil.copytree(store, store.with_name("sound")), run)[0] is False
    state.write_text(json.dumps({**json.loads(state.read_text()), "in_check": True}))
    assert reopened(store, run) == (True, held)


def test_checking_is_marked_while_it_lasts(
    killed: tuple[Path, Path, list[Any]], run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a process that dies in it leaves the mark."""
    from nt_memory.system import opening

    store, _, held = killed
    seen: list[bool] = []
    check = opening.check_views

    def spy(*args: Any) -> Any:
        seen.append(json.loads((store / "views" / "STATE").read_text())["in_check"])
        return check(*args)

    monkeypatch.setattr(opening, "check_views", spy)
    assert reopened(store, run) == (False, held)
    assert seen == [True]
    assert reopened(store, run) == (False, held)
    assert seen == [True]  # a clean close has left digests
