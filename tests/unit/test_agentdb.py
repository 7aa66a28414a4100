"""AgentDB's file: what the real package wrote comes in whole, and goes out as the same rows."""

from __future__ import annotations

import gzip
import json
import math
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nt_memory import Policy, Trajectory
from nt_memory.errors import CorruptionError, InvalidInputError, PermissionDeniedError
from nt_memory.integrations.agentdb import Exported, Imported, export_agentdb, import_agentdb
from nt_memory.integrations.agentdb.tables import TABLES

if TYPE_CHECKING:
    from nt_memory import MemorySystem

FIXTURE = Path(__file__).parents[1] / "fixtures" / "agentdb" / "agentdb-1.6.1.db.gz"
COMMAND = str(Path(sys.executable).parent / "nt-memory")
WRITTEN = datetime.fromtimestamp(1795844074, UTC)


def letters(text: str) -> list[float]:
    """As `agentdb_peer.mjs` embeds."""
    return [float(text.lower().count(chr(97 + n))) for n in range(26)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that the package wrote."""
    path = tmp_path / "agentdb.db"
    path.write_bytes(gzip.decompress(FIXTURE.read_bytes()))
    return path


@pytest.fixture
def filled(live: Any, clock: Any) -> Any:
    """`filled(body)`: run `await body(memory)` at a time after the file was written."""
    clock.advance((WRITTEN + timedelta(days=1) - clock.now()).total_seconds())
    return live


def contents(path: Path) -> dict[str, list[Any]]:
    """All rows that are exchanged, but for embeddings."""
    with closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        return {
            table.name: [dict(row) for row in db.execute(f"SELECT * FROM {table.name}")]  # noqa: S608
            for table in TABLES
        }


def embeddings(path: Path) -> dict[tuple[str, int], Any]:
    """The unit vector, and the model, of each row that has one."""
    found: dict[tuple[str, int], Any] = {}
    with closing(sqlite3.connect(path)) as db:
        for table in TABLES:
            if table.embeddings:
                for number, blob, *model in db.execute(f"SELECT * FROM {table.embeddings}"):  # noqa: S608
                    found[table.name, number] = unit(blob), model
    return found


def unit(blob: bytes) -> np.ndarray[Any, Any]:
    vector = np.frombuffer(blob, "<f4").astype(np.float64)
    return vector / np.linalg.norm(vector)


def test_what_the_package_wrote_comes_in(filled: Any, file: Path) -> None:
    """Every row with its columns, its time, its JSON read and its embedding searchable."""

    async def body(memory: MemorySystem) -> None:
        assert await import_agentdb(memory, file) == Imported(7, 7, 0)
        record = await memory.get_record("agentdb", "agentdb/episodes/1")
        assert record is not None
        assert record.known_at == WRITTEN
        assert record.tags == ("episodes", "failure")
        assert record.value == {
            "ts": 1795844074,
            "session_id": "s1",
            "task": "sell before earnings",
            "input": "AAPL",
            "output": "sold at the open",
            "critique": "too early",
            "reward": 0.25,
            "success": 0,
            "latency_ms": 12,
            "tokens_used": 340,
            "tags": ["earnings", "équité"],
            "metadata": {"symbol": "AAPL", "deep": {"n": [1, 2]}},
            "created_at": 1795844074,
            "embedding_model": "all-MiniLM-L6-v2",
        }
        query = letters("sell before earnings")
        hits = await memory.search_similar("agentdb", query, 10, tags=["episodes"])
        assert [hit.key for hit in hits] == ["agentdb/episodes/1", "agentdb/episodes/2"]
        hits = await memory.search_similar("agentdb", query, 10, where={"metadata.symbol": "AAPL"})
        assert [hit.key for hit in hits] == ["agentdb/episodes/1"]
        skill = await memory.get("agentdb", "agentdb/skills/1")
        assert skill["signature"] == {"inputs": {"symbol": "string"}, "outputs": {}}
        edge = await memory.get("agentdb", "agentdb/causal_edges/1")
        assert (edge["evidence_ids"], edge["mechanism"]) == (["a"], "patience")
        pattern = await memory.get("agentdb", "agentdb/reasoning_patterns/1")
        assert pattern["approach"] == "sell half"
        assert await memory.get("agentdb", "agentdb/skill_links/1") is not None

    filled(body)


def test_coming_in_again_writes_what_changed(filled: Any, file: Path) -> None:
    """Nothing if nothing did; else a new version of that row, and the old one as of before."""

    async def body(memory: MemorySystem) -> None:
        await import_agentdb(memory, file)
        revision = memory.revision
        assert await import_agentdb(memory, file) == Imported(7, 0, 0)
        assert memory.revision == revision
        with closing(sqlite3.connect(file)) as db:
            db.execute("UPDATE episodes SET reward = 0.5 WHERE id = 1")
            db.commit()
        told: list[tuple[int, int]] = []
        done = await import_agentdb(memory, file, progress=lambda n, all_: told.append((n, all_)))
        assert done == Imported(7, 1, 0)
        assert told == [(7, 7)]
        assert (await memory.get("agentdb", "agentdb/episodes/1"))["reward"] == 0.5
        before = await memory.get("agentdb", "agentdb/episodes/1", as_of=revision)
        assert before["reward"] == 0.25

    filled(body)


def test_rows_go_out_as_they_came(filled: Any, file: Path, tmp_path: Path) -> None:
    """Same ids, columns and JSON; embeddings of the same direction, to float16."""
    out = tmp_path / "out.db"

    async def body(memory: MemorySystem) -> None:
        await import_agentdb(memory, file)
        assert await export_agentdb(memory, out) == Exported(7, 0)

    filled(body)
    assert contents(out) == contents(file)
    theirs, ours = embeddings(file), embeddings(out)
    assert ours.keys() == theirs.keys()
    assert len(ours) == 5
    for name, (vector, model) in theirs.items():
        assert ours[name][0] == pytest.approx(vector, abs=1e-3), name
        assert ours[name][1] == model
    with closing(sqlite3.connect(out)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        # What AgentDB itself runs when it opens a file.
        db.execute("CREATE INDEX IF NOT EXISTS idx_episodes_ts ON episodes(ts DESC)")
        db.execute("INSERT INTO episodes (session_id, task) VALUES ('s', 't')")


def test_what_agents_saw_and_decided_becomes_episodes(
    live: Any, later: Any, tmp_path: Path
) -> None:
    """With its embedding, who it was and how it turned out; rows of a file keep their ids."""
    out = tmp_path / "out.db"

    async def body(memory: MemorySystem) -> None:
        await memory.put("ann", "position", {"AAPL": 1})
        await memory.observe("ann", [1.0, 2.0], "oil rose", key="o1", tags=["oil"])
        await memory.observe(
            "ann", [2.0, 1.0], {"text": "banks fell", "reward": 0.5, "success": True}
        )
        await memory.observe("ann", [2.0, 1.0], {"at": later(0), "x": np.array([1.5])})
        await memory.observe(
            "old", [3.0, 1.0], {"session_id": "s", "task": "t"}, key="agentdb/episodes/1"
        )
        await memory.bank.define("vol", target="v", unit="u", horizon=1, tolerance="relative")
        one = Trajectory("ann", id="t").add_observation("calm", [0.0, 1.0], at=later(-10))
        one.add_action("vol", {"buy": 1}, 2.0, at=later(-9)).add_outcome(2.01, at=later(-1))
        await memory.track_trajectory(one.complete())
        await memory.track_trajectory(Trajectory("ann", id="none").add_action("vol", {}))
        assert await export_agentdb(memory, out) == Exported(5, 4)
        only = await export_agentdb(memory, tmp_path / "old.db", agents=["old"])
        assert only == Exported(1, 0)

    live(body)
    found = contents(out)
    episodes = {row["task"]: row for row in found["episodes"]}
    assert episodes["t"]["id"] == 1
    assert len({row["id"] for row in found["episodes"]}) == 5
    assert json.loads(episodes["oil rose"]["tags"]) == ["oil"]
    assert json.loads(episodes["oil rose"]["metadata"])["nt_memory"]["key"] == "o1"
    assert (episodes["banks fell"]["reward"], episodes["banks fell"]["success"]) == (0.5, 1)
    decided = episodes["vol: calm"]
    assert (decided["session_id"], decided["success"], decided["reward"]) == ("ann", 1, 1.0)
    assert json.loads(decided["output"]) == {"buy": 1}
    assert json.loads(decided["metadata"])["nt_memory"]["actual"] == 2.01
    assert decided["ts"] == int(later(-9).timestamp())
    vectors = {number: vector for (_, number), (vector, _) in embeddings(out).items()}
    assert vectors[decided["id"]].tolist() == [0.0, 1.0]
    oil = [one / math.sqrt(5) for one in (1, 2)]
    assert vectors[episodes["oil rose"]["id"]] == pytest.approx(oil, abs=1e-3)
    assert found["skills"] == []


def test_rows_that_are_odd_come_in_all_the_same(filled: Any, file: Path) -> None:
    """Embeddings that are none or of another length, times of the future, or none, ids that were taken."""
    with closing(sqlite3.connect(file)) as db:
        late = int((WRITTEN + timedelta(days=400)).timestamp())
        for number, (ts, tags, blob) in enumerate(
            [
                (late, "not json", struct.pack("<3f", 1, 2, 3)),
                (10**18, '"text"', struct.pack("<26f", *[0.0] * 26)),
                (-5, None, struct.pack("<26f", *[math.nan] * 26)),
                ("yesterday", "[]", b""),
                (WRITTEN.timestamp(), "{}", b"abc"),
            ],
            10,
        ):
            # By itself SQLite would say when this test runs.
            made = WRITTEN.timestamp()
            values = (number, ts, "s", f"task {number}", tags, made)
            db.execute(
                "INSERT INTO episodes (id, ts, session_id, task, tags, created_at) VALUES (?, ?, ?, ?, ?, ?)",
                values,
            )
            db.execute(
                "INSERT INTO episode_embeddings (episode_id, embedding) VALUES (?, ?)",
                (number, blob),
            )
        db.commit()

    async def body(memory: MemorySystem) -> None:
        assert await import_agentdb(memory, file) == Imported(12, 12, 1)
        now = memory.timeline.now
        records = [
            await memory.get_record("agentdb", f"agentdb/episodes/{n}") for n in range(10, 15)
        ]
        assert [r.known_at == now for r in records] == [True, True, False, False, False]
        assert records[2].known_at.year == 1969
        assert records[3].known_at == WRITTEN
        assert [r.value.get("tags") for r in records] == ["not json", '"text"', None, [], {}]
        assert all([await memory.get_embedding("agentdb", r.key) is None for r in records])
        assert await import_agentdb(memory, file) == Imported(12, 0, 0)

    filled(body)


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (None, InvalidInputError),
        (b"", InvalidInputError),
        (b"PK\x03\x04 something else entirely", InvalidInputError),
        ("other", InvalidInputError),
        ("cut", CorruptionError),
    ],
)
def test_what_is_no_agentdb_file_is_refused(live: Any, file: Path, made: Any, error: Any) -> None:
    """A missing, foreign or damaged file, in words; nothing is written."""
    if made is None:
        file.unlink()
    elif made == "cut":
        whole = file.read_bytes()
        file.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    elif made == "other":
        file.unlink()
        with closing(sqlite3.connect(file)) as db:
            db.execute("CREATE TABLE cats (id)")
    else:
        file.write_bytes(made)

    async def body(memory: MemorySystem) -> None:
        before = memory.revision
        with pytest.raises(error, match=file.name):
            await import_agentdb(memory, file)
        assert memory.revision == before

    live(body)


def test_a_refused_export_leaves_nothing(live: Any, tmp_path: Path) -> None:
    """An existing file stays, two files' rows are not mixed up, and no half file appears."""
    out = tmp_path / "out.db"

    async def body(memory: MemorySystem) -> None:
        out.write_bytes(b"mine")
        with pytest.raises(InvalidInputError, match="exists"):
            await export_agentdb(memory, out)
        assert out.read_bytes() == b"mine"
        for agent in ("a", "b"):
            row = {"session_id": agent, "task": "t"}
            await memory.put(agent, "agentdb/episodes/1", row)
        with pytest.raises(InvalidInputError, match="episodes, row 1"):
            await export_agentdb(memory, tmp_path / "two.db")
        await memory.put("a", "agentdb/episodes/2", {"task": "no session"})
        with pytest.raises(InvalidInputError, match="session_id"):
            await export_agentdb(memory, tmp_path / "bad.db", agents=["a"])

    live(body)
    assert sorted(path.name for path in tmp_path.glob("*db*")) == ["out.db"]


def test_an_embedding_is_the_one_that_was_given(live: Any) -> None:
    """`get_embedding`: the direction, as of any moment; None where there is none; rights hold."""

    async def body(memory: MemorySystem) -> None:
        await memory.observe("a", [3.0, 4.0], key="k")
        first = memory.revision
        await memory.observe("a", [0.0, 2.0], key="k")
        await memory.put("a", "plain", 1)
        assert (await memory.get_embedding("a", "k")).tolist() == [0.0, 1.0]
        then = await memory.get_embedding("a", "k", as_of=first)
        assert then.dtype == np.float32
        assert then == pytest.approx([0.6, 0.8], abs=1e-3)
        assert await memory.get_embedding("a", "plain") is None
        assert await memory.get_embedding("a", "missing") is None
        assert await memory.get_embedding("nobody", "k") is None
        await memory.reembed("a", lambda records: [[1.0, 0.0, 0.0] for _ in records], label="v2")
        assert (await memory.get_embedding("a", "k")).tolist() == [1.0, 0.0, 0.0]
        await memory.delete("a", "k")
        assert await memory.get_embedding("a", "k") is None
        await memory.set_policy("b", Policy(read=("b/**",)))
        with pytest.raises(PermissionDeniedError):
            await memory.as_agent("b").get_embedding("a", "plain")

    live(body)


def ran(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )


def test_the_commands(file: Path, tmp_path: Path) -> None:
    """`import agentdb` and `export agentdb`, with their exit codes; plain import and export go on."""
    store, out = tmp_path / "store", tmp_path / "out.db"
    bad = ran("import", "agentdb", tmp_path / "none.db", "--store", store)
    assert bad.returncode == 2
    assert bad.stderr.count("\n") == 1
    assert not store.exists()
    done = ran("import", "agentdb", file, "--store", store, "--agent", "old")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "7 rows read, 7 written")
    done = ran("export", "agentdb", out, "--store", store)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        0, "7 rows written, 0 of them new episodes",
    )  # fmt: skip
    assert contents(out) == contents(file)
    assert ran("export", "agentdb", out, "--store", store).returncode == 2
    assert ran("import", "agentdb").returncode == 2
    assert ran("export", tmp_path / "all.jsonl", "--store", store).returncode == 0
    assert ran("import", tmp_path / "all.jsonl", "--store", tmp_path / "copy").returncode == 0
    assert "import agentdb" in ran("--help").stdout
    assert "FILE.db" in ran("import", "agentdb", "--help").stdout
