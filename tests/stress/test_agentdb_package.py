"""AgentDB's own npm package reads and searches what we wrote, and we what it wrote.

It is installed from the registry into a temporary directory: `make test-agentdb`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nt_memory import MemorySystem
from nt_memory.integrations.agentdb import export_agentdb, import_agentdb

pytestmark = pytest.mark.stress

VERSION = "1.6.1"
PEER = Path(__file__).parents[1] / "fixtures" / "agentdb" / "agentdb_peer.mjs"


def letters(text: str) -> list[float]:
    """As `agentdb_peer.mjs` embeds."""
    return [float(text.lower().count(chr(97 + n))) for n in range(26)]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which the package is installed."""
    if shutil.which("npm") is None:
        if "CI" in os.environ:
            pytest.fail("npm is missing")
        pytest.skip("npm is missing")
    folder = tmp_path_factory.mktemp("agentdb")
    install = [
        "npm",
        "install",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        f"agentdb@{VERSION}",
    ]
    subprocess.run(install, cwd=folder, check=True, capture_output=True, timeout=600)
    return folder


def peer(package: Path, *arguments: Any) -> str:
    command = ["node", str(PEER), str(package), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def read(package: Path, file: Path, text: str) -> dict[str, Any]:
    return json.loads(peer(package, "read", file, text))


def test_we_search_what_the_package_wrote(package: Path, tmp_path: Path) -> None:
    """Its rows in its order of likeness, with its scores."""
    file = tmp_path / "theirs.db"
    peer(package, "write", file)
    text = "sell the earnings"
    theirs = read(package, file, text)

    async def body() -> None:
        async with MemorySystem.open(tmp_path / "store") as memory:
            done = await import_agentdb(memory, file)
            assert (done.rows, done.written, done.without_vector) == (7, 7, 0)
            hits = await memory.search_similar("agentdb", letters(text), 10, tags=["episodes"])
            assert [hit.data["task"] for hit in hits] == [one["task"] for one in theirs["episodes"]]
            for hit, one in zip(hits, theirs["episodes"], strict=True):
                assert hit.score == pytest.approx(one["similarity"], abs=2e-3)
                assert hit.data.get("tags") == one.get("tags")

    asyncio.run(body())


def test_the_package_searches_what_we_wrote(package: Path, tmp_path: Path) -> None:
    """Episodes of ours in our order with our scores; its own rows come back to it unchanged."""
    file, ours = tmp_path / "theirs.db", tmp_path / "ours.db"
    peer(package, "write", file)
    before = read(package, file, "calm")
    text = "banks fell as rates rose"
    draw = np.random.default_rng(5)
    words = ["banks", "rates", "oil", "gold", "storm", "calm", "rose", "fell", "held", "sold"]
    said = sorted({" ".join(draw.choice(words, 5)) for _ in range(200)})

    async def body() -> list[tuple[str, float]]:
        async with MemorySystem.open(tmp_path / "store") as memory:
            await import_agentdb(memory, file)
            await memory.observe_many("ann", [letters(one) for one in said], said)
            done = await export_agentdb(memory, ours)
            assert (done.rows, done.episodes) == (7 + len(said), len(said))
            hits = await memory.search_similar(["ann", "agentdb"], letters(text), 20, exact=True)
            return [(hit.data, hit.score) for hit in hits if hit.agent == "ann"]

    found = asyncio.run(body())
    theirs = {one["task"]: one["similarity"] for one in read(package, ours, text)["episodes"]}
    for task, score in found:
        assert theirs[task] == pytest.approx(score, abs=2e-3)
    ranked = [task for task in theirs if task in said][: len(found)]
    assert set(ranked[:5]) <= {task for task, _ in found}
    after = read(package, ours, "calm")
    for kind in ("skills", "patterns", "edges", "links"):
        assert [without_score(one) for one in after[kind]] == [
            without_score(one) for one in before[kind]
        ], kind
    kept = [without_score(one) for one in after["episodes"] if one["sessionId"] == "s1"]
    assert sorted(kept, key=lambda one: one["id"]) == sorted(
        (without_score(one) for one in before["episodes"]), key=lambda one: one["id"]
    )


def without_score(row: dict[str, Any]) -> dict[str, Any]:
    """A row but for its likeness, which is float16's here; an edge's is a column."""
    return row if "from_memory_id" in row else {k: v for k, v in row.items() if k != "similarity"}
