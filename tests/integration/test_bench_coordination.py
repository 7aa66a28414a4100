"""`nt-memory bench coordination` at a small size, from its options to its files, servers included."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from nt_memory.apps.bench import coordination
from nt_memory.apps.bench.coordination import CoordinationOptions, run_coordination, works_of
from nt_memory.apps.bench.coordinators import OURS, PEERS, RELAXED
from nt_memory.apps.bench.coordinators.servers import HOST, Server, free_port
from nt_memory.apps.cli.main import app

if TYPE_CHECKING:
    from pathlib import Path

RUNNER = CliRunner()
pytestmark = pytest.mark.timeout(300)  # a process for each, which imports what it measures
TINY: dict[str, Any] = {
    "receivers": (1, 3), "contenders": 4, "voters": (2, 3), "seconds": 0.02, "repeats": 1,
}  # fmt: skip


def lines_of(text: str, title: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    part = text.partition(f"## {title}\n")[2].partition("\n## ")[0]
    rows = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_tables_hold_every_row_whatever_peers_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is measured has figures; a package or a server that is missing is a line that says so."""
    fakes = tmp_path / "fakes"
    (fakes / "redis").mkdir(parents=True)
    (fakes / "redis" / "__init__.py").write_text("")
    (fakes / "redis" / "asyncio.py").write_text("")
    for name in ("retry", "backoff"):
        (fakes / "redis" / f"{name}.py").write_text("Retry = ConstantBackoff = lambda *_: None")
    (fakes / "hiredis.py").write_text("")
    (fakes / "blinker.py").write_text("def Signal(): raise ValueError('no signal')")
    for name in ("aiologic", "nats"):
        (fakes / f"{name}.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(fakes))
    monkeypatch.setenv("PATH", str(tmp_path))  # no server anywhere
    result = RUNNER.invoke(
        app,
        ["bench", "coordination", "--receivers", "1,3", "--contenders", "4", "--voters", "2,3",
         "--seconds", "0.02", "--repeats", "1", "--out", str(tmp_path), "--name", "small"],
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    (as_json,) = tmp_path.glob("*-small.json")
    (as_text,) = tmp_path.glob("*-small.md")
    text = as_text.read_text()
    assert result.stdout.strip() in text

    messages = lines_of(text, "Messages to tasks")
    senders = (OURS, "asyncio", "anyio", "aiologic", "blinker", "redis", "nats")
    assert [row[:2] for row in messages] == [[w, n] for n in ("1", "3") for w in senders]
    locks = lines_of(text, "Locks")
    assert [row[0] for row in locks] == [OURS, RELAXED, "asyncio", "anyio", "aiologic", "redis"]
    threads = lines_of(text, "Messages to threads")
    assert [row[0] for row in threads] == [OURS, "queue", "aiologic", "redis"]
    votes = lines_of(text, "Proposals, from submission to decision")
    assert [row[:2] for row in votes] == [[w, n] for n in ("2", "3") for w in (OURS, RELAXED)]
    assert len(lines_of(text, "Who is who")) == 2 + len(PEERS)

    said = {row[0]: " ".join(row) for row in messages + locks}
    assert "not installed (not here): pip install 'nt-memory[bench-coordination]'" in said["nats"]
    assert "not installed (not here)" in said["aiologic"]
    assert "no redis-server on PATH: apt-get install redis-server" in said["redis"]
    assert "ValueError: no signal" in said["blinker"]
    for row in messages + threads + locks + votes:
        if row[0] in {OURS, RELAXED, "asyncio", "anyio", "queue"}:
            assert not {"–", "not measured"} & set(row), row

    document = json.loads(as_json.read_text())
    assert document["command"].startswith("nt-memory bench coordination --receivers 1,3 ")
    assert document["machine"]["versions"]["nt-memory"]
    (ours,) = document["rounds"][OURS]["locks"]
    assert (ours["contended"]["lost"], ours["contended"]["most_overtaken"]) == (0, 0)
    assert 0 < ours["alone"]["p50"] <= ours["alone"]["p99"]
    assert [row["is_met"] for row in document["bars"][-2:]] == [True, True]  # locks
    assert len(document["bars"]) == 4


@pytest.mark.parametrize("who", PEERS)
def test_each_peer_is_measured(who: str, tmp_path: Path) -> None:
    """A peer that is installed, and its server, do all the work that is theirs."""
    options = CoordinationOptions(**TINY)
    for work in works_of(who):
        figures = coordination.measure(who, work, options, tmp_path / work)
        if "not installed" in figures["failure"] or "on PATH" in figures["failure"]:
            pytest.skip(figures["failure"])
        assert figures["failure"] == ""
        if work == "messages":
            for point in figures["messages"].values():
                assert 0 < point["p50"] <= point["p99"] <= point["max"]
                assert 0 < point["messages_per_s"] <= point["deliveries_per_s"]
        elif work == "threads":
            assert 0 < figures["threads"]["p50"] <= figures["threads"]["p99"]
        else:
            assert figures["contended"]["lost"] == 0
            assert 0 < figures["contended"]["jain"] <= 1


def test_what_was_measured_before_ctrl_c_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped run has what was found until then, and says that it was stopped."""
    measure = coordination.measure

    def stopped(who: str, work: str, *rest: Any) -> Any:
        """As it is, until the peer's lock."""
        if (who, work) == ("asyncio", "locks"):
            raise KeyboardInterrupt
        return measure(who, work, *rest)

    monkeypatch.setattr(coordination, "measure", stopped)
    found = run_coordination(CoordinationOptions(peers=("asyncio",), **TINY), lambda _: None)
    assert found.is_interrupted
    rounds = found.document["rounds"]
    assert rounds["asyncio"]["messages"][0]["failure"] == ""
    assert rounds["asyncio"]["locks"] == rounds[OURS]["proposals"] == []
    assert "not measured" in found.text()


def test_a_server_ends_when_it_is_told(tmp_path: Path) -> None:
    """It listens once it is waited for, and is gone after `stop`, also the second time."""
    port = free_port()
    command = [sys.executable, "-m", "http.server", "--bind", HOST, str(port)]
    server = Server(command, tmp_path)
    asyncio.run(server.listening(port))
    os.kill(server.pid, 0)
    server.stop()
    server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    """Its last line is in the error."""
    server = Server([sys.executable, "-c", "raise SystemExit('no such port')"], tmp_path)
    with pytest.raises(RuntimeError, match="no such port"):
        asyncio.run(server.listening(free_port()))
