"""`nt-memory bench` at a small size: every command from its options to its files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from nt_memory.apps.bench import datasets
from nt_memory.apps.bench.contenders import CONTENDERS, PEERS
from nt_memory.apps.bench.options import BenchOptions
from nt_memory.apps.bench.vectors import measure
from nt_memory.apps.cli.main import app

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

RUNNER = CliRunner()
pytestmark = pytest.mark.timeout(300)  # a dozen processes, each of which imports what it measures
SMALL = ("--dim", "32", "--seed", "3")


def bench(command: str, tmp_path: Path, *arguments: str) -> tuple[str, dict[str, Any]]:
    """Run a command that writes to `tmp_path`; what it printed, and its JSON."""
    result = _invoke("bench", command, *arguments, "--out", str(tmp_path), "--name", "small")
    assert result.exit_code == 0, result.stderr
    (as_json,) = tmp_path.glob("*-small.json")
    (as_text,) = tmp_path.glob("*-small.md")
    assert result.stdout.strip() in as_text.read_text()
    document = json.loads(as_json.read_text())
    assert document["machine"]["versions"]["nt-memory"]
    assert document["command"].startswith(f"nt-memory bench {command} --n ")
    return result.stdout, document


def _invoke(*arguments: str) -> Result:
    result = RUNNER.invoke(app, [*arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.mark.parametrize("who", PEERS)
def test_each_peer_builds_searches_and_opens_again(who: str, tmp_path: Path) -> None:
    """A peer finds what an exact scan finds, says its memory and disk, and answers after reopening."""
    data = datasets.prepare(
        "clustered", tmp_path / "d", 2_000, 32, queries=60, seed=3, cache=tmp_path
    )
    options = BenchOptions(n=(2_000,), dim=32, queries=60, recalls=(0.9,), budget_s=100.0)
    found = measure(who, data, options, tmp_path)
    if "not installed" in found["build"]["failure"]:
        pytest.skip(found["build"]["failure"])
    assert found["build"]["failure"] == ""
    assert found["build"]["points"][0]["recall"] > 0.85
    assert found["build"]["disk"] > 0
    assert 0 < found["build"]["points"][0]["p50"] <= found["build"]["points"][0]["p99"]
    if CONTENDERS[who].about.is_kept:
        assert found["reopen"]["failure"] == ""
        assert 0 < found["reopen"]["opened_s"] <= found["reopen"]["answered_s"]


def test_vectors_prints_one_table_whatever_peers_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Peers that are missing, fail or crash are lines that say so; the others are measured."""
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    (fakes / "hnswlib.py").write_text("raise ImportError('not here')")
    (fakes / "usearch").mkdir()
    (fakes / "usearch" / "__init__.py").write_text("")
    (fakes / "usearch" / "index.py").write_text("def Index(**_): raise ValueError('bad codes')")
    (fakes / "zvec.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGABRT)")
    monkeypatch.setenv("PYTHONPATH", str(fakes))
    peers = "numpy,numpy-1,faiss,faiss-same,hnswlib,usearch,zvec"
    out = tmp_path / "out"
    text, document = bench(
        "vectors", out, *SMALL, "--n", "5000", "--peers", peers, "--queries", "80",
        "--seconds", "1",
    )  # fmt: skip
    lines = {line.split("|")[1].split()[0]: line for line in text.splitlines() if line[:3] > "| ("}
    assert "not installed (not here)" in lines["hnswlib"]
    assert "ValueError: bad codes" in lines["usearch"]
    assert "killed by SIGABRT" in lines["zvec"]
    assert "1.000" in lines["numpy"]
    contenders = document["contenders"]
    assert contenders["faiss"]["build"]["points"]
    ours = contenders["nt-memory"]
    assert ours["build"]["growing"]["checked"] > 10
    assert ours["build"]["growing"]["unseen"] == 0
    assert ours["reopen"]["rows"] > 5_000
    assert len(document["bars"]) == 10
    assert "| bar met" in text


def test_what_was_measured_before_ctrl_c_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped run prints and writes what it has, and exits with 130."""

    def stopped(who: str, *given: Any, **how: Any) -> dict[str, Any]:
        """As it is, until the peer's turn."""
        if who == "faiss":
            raise KeyboardInterrupt
        return measure(who, *given, **how)

    monkeypatch.setattr("nt_memory.apps.bench.vectors.measure", stopped)
    result = _invoke(
        "bench", "vectors", *SMALL, "--n", "1000", "--peers", "faiss,numpy", "--queries", "60",
        "--seconds", "0", "--out", str(tmp_path),
    )  # fmt: skip
    assert result.exit_code == 130
    assert "interrupted" in result.stdout
    (as_json,) = tmp_path.glob("*.json")
    contenders = json.loads(as_json.read_text())["contenders"]
    assert list(contenders) == ["nt-memory", "faiss"]
    assert contenders["nt-memory"]["build"]["points"]


def test_curve_measures_each_size_beside_a_scan(tmp_path: Path) -> None:
    """A line a size and a number of agents, all costs with their exponents, and the verdict on growth."""
    text, document = bench(
        "curve", tmp_path, *SMALL, "--n", "2000,5000", "--agents", "1,40", "--queries", "60"
    )
    assert list(document["sizes"]) == ["2000", "5000"]
    (growth,) = document["bars"]
    assert growth["figures"]["2000"] == 1.0
    assert growth["is_met"] in {True, False}
    assert set(document["exponents"]) >= {"search, p50", "disk", "opening", "load, seconds"}
    assert 0.3 < document["exponents"]["disk"] < 1.7
    assert list(document["agents"]) == ["1", "40"]
    for found in document["agents"].values():
        assert found["failure"] == ""
        assert found["one"]["recall"] > 0.95  # of the agent's own observations, not of all
        assert 0 < found["opened_s"] <= found["answered_s"]
        assert found["disk"] > 0
    assert "durable put" in text


def test_curve_refuses_more_agents_than_observations(tmp_path: Path) -> None:
    """Before anything is measured, and by the name of the option."""
    result = _invoke("bench", "curve", "--n", "1000", "--agents", "1,2000", "--out", str(tmp_path))
    assert result.exit_code == 2
    assert "--agents" in result.stderr


def test_curve_tells_the_memory_what_it_may_use(tmp_path: Path) -> None:
    """The process that fills the store opens it with that much, and the command says so."""
    text, document = bench(
        "curve", tmp_path, *SMALL, "--n", "1000", "--agents", "none", "--queries", "60",
        "--memory", "0.25",
    )  # fmt: skip
    assert document["sizes"]["1000"]["nt-memory"]["build"]["accounted"]["most"] == 1 << 28
    assert " --memory 0.25 " in document["command"]
    assert "The memory may use 0.25 GiB" in text


@pytest.mark.parametrize("memory", ["0.01", "nan", "inf"])
def test_curve_refuses_a_memory_that_makes_no_sense(memory: str, tmp_path: Path) -> None:
    """Before anything is measured, and by the name of the option."""
    result = _invoke("bench", "curve", "--n", "1000", "--memory", memory, "--out", str(tmp_path))
    assert result.exit_code == 2
    assert "--memory" in result.stderr


def test_filters_measures_the_whole_matrix(tmp_path: Path) -> None:
    """Every kind at every width that differs; at this size nothing may be short or wrong."""
    text, document = bench("filters", tmp_path, *SMALL, "--n", "1000", "--queries", "40")
    cells = document["sizes"]["1000"]["cells"]
    assert len(cells) == 4 * 8  # 0.1 % and 0.01 % are both one row
    assert {cell["rows"] for cell in cells} == {1_000, 500, 250, 100, 50, 20, 10, 1}
    assert all(cell["fewest"] == cell["possible"] for cell in cells)
    assert min(cell["exact_recall"] for cell in cells) >= 0.99  # float16 swaps near ties
    assert min(cell["recall"] for cell in cells) >= 0.95
    assert text.count("| tag, correlated |") == 8


def test_ingest_measures_rounds_and_searches_meanwhile(tmp_path: Path) -> None:
    """Both are filled each round, and searches saw every acknowledged observation."""
    text, document = bench(
        "ingest", tmp_path, *SMALL, "--n", "5000", "--repeats", "2", "--seconds", "1",
        "--queries", "60",
    )  # fmt: skip
    assert len(document["rounds"]) == 2
    assert document["rounds"][1]["nt-memory"]["growing"]["unseen"] == 0
    assert [row["what"].split(",")[0] for row in document["bars"]] == [
        "bulk ingest",
        "ingest at 1",
    ]
    assert "acknowledged and seen" in text


def test_memory_is_told_by_stage(tmp_path: Path) -> None:
    """Filled, searched, with L1 full, and the same after a kill and opening again."""
    text, document = bench("memory", tmp_path, *SMALL, "--n", "5000")
    stages = document["filling"]["stages"] | document["opening"]["stages"]
    assert list(stages) == [
        "empty", "filled", "searched", "hot", "opened", "searched again", "hot again",
    ]  # fmt: skip
    assert stages["hot"]["l1_entries"] == stages["hot again"]["l1_entries"] == 5_000
    assert stages["opened"]["l2_rows"] == 5_000
    assert "opened again after `kill -9`" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vectors", "--n", "10"], "at least 1,000"),
        (["vectors", "--peers", "oracle"], "no such peer: oracle"),
        (["vectors", "--recall", "much"], "--recall: 'much' is not numbers"),
        (["curve", "--n", "1000,many"], "--n: '1000,many' is not numbers"),
        (["memory", "--data", "mine"], "--data must be one of"),
    ],
)
def test_malformed_options_exit_with_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    """What cannot be measured is one line on stderr, and nothing is written."""
    result = _invoke("bench", *arguments, "--out", str(tmp_path / "out"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert not (tmp_path / "out").exists()
