"""`nt-memory demo` as a user runs it: what it writes, what it refuses, and how it is stopped."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

import nt_memory
from nt_memory import MemorySystem
from nt_memory.apps.cli.main import app
from nt_memory.apps.demo.run import STORE

if TYPE_CHECKING:
    from click.testing import Result

RUNNER = CliRunner()
COMMAND = (sys.executable, "-c", "from nt_memory.apps.cli.main import main; main()")
PATIENCE_S = 30.0

METHODS = {
    "memory",
    "har",
    "har_long",
    "linear",
    "ewma",
    "ewma_cal",
    "last_week",
    "placebo_permuted",
    "placebo_random",
}


def environment() -> dict[str, str]:
    """Of a child that runs this source."""
    source = str(Path(nt_memory.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": source, "TERM": "xterm", "COLUMNS": "100"}


def invoke(*arguments: object) -> Result:
    """Run the command in this process; a traceback would be an exception other than SystemExit."""
    result = RUNNER.invoke(app, ["demo", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def without_timings(path: Path) -> str:
    """The figures that do not depend on the machine, in their order."""
    document = json.loads(path.read_text())
    for name in ("latency_us", "memory", "seconds"):
        del document[name]
    return json.dumps(document)


@pytest.fixture(scope="module")
def prices(synthetic: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 640 days, of which the last 32 are in 2003."""
    path: Path = synthetic.write_prices(
        tmp_path_factory.mktemp("prices") / "p.csv", synthetic.prices(640)
    )
    return path


def test_a_run_writes_report_forecasts_and_figures(prices: Path, tmp_path: Path) -> None:
    """Exit code 0, the summary on stdout, and the files it promises; another process agrees."""
    options = ("--prices", prices, "--years", "1", "--out")
    ran = subprocess.run(
        [*COMMAND, "demo", *map(str, options), tmp_path / "a", "--figures", tmp_path / "a.json"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "index.html" in ran.stdout
    assert "Traceback" not in ran.stderr
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        STORE,
        "forecasts.csv",
        "index.html",
    }
    with (tmp_path / "a/forecasts.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["date", "ticker", "predicted", "low", "high", "actual"]
    assert len(rows) == 4 * 32
    assert [bool(row["actual"]) for row in rows] == [True] * 4 * 27 + [False] * 4 * 5
    document = json.loads((tmp_path / "a.json").read_text())
    assert set(document["forecast"]) >= METHODS
    for name in METHODS:
        assert set(document["forecast"][name]) >= {"mae", "rmse", "r2", "qlike", "n"}
    assert set(document["forecast"]["memory"]) >= {
        "coverage",
        "coverage_by_year",
        "interval_score",
    }
    assert set(document["ratio"]) >= METHODS - {"memory"}
    assert set(document["ratio"]["har_long"]) == {"value", "low", "high"}
    assert set(document["books"]) == {"memory", "ewma_cal", "linear", "equal_weight"}
    assert set(document["latency_us"]["advise"]) == {"n", "p50", "p99"}
    assert set(document["memory"]) >= {"rss_anon_mb", "l2_mb", "l3_mb"}
    assert set(document["counts"]) >= {
        "observations",
        "trajectories",
        "verdicts",
        "proposals",
        "rejected",
        "grants",
        "messages",
    }
    assert document["seconds"] > 0

    assert invoke(*options, tmp_path / "b", "--figures", tmp_path / "b.json").exit_code == 0
    forecasts = [(tmp_path / name / "forecasts.csv").read_bytes() for name in ("a", "b")]
    assert forecasts[0] == forecasts[1]
    assert without_timings(tmp_path / "a.json") == without_timings(tmp_path / "b.json")


@pytest.mark.parametrize(
    ("options", "days"),
    [(("--no-past", "--years=1"), 32), (("--quick",), 32), (("--full",), 136)],
    ids=["no-past", "quick", "full"],
)
def test_the_forms_of_the_demo_run(
    prices: Path, tmp_path: Path, options: tuple[str, ...], days: int
) -> None:
    """Each way to run it ends well, even over a few days, and writes a report."""
    out = tmp_path / "report"
    result = invoke(*options, "--prices", prices, "--out", out, "--figures", tmp_path / "f.json")
    assert result.exit_code == 0, result.stderr
    assert json.loads((tmp_path / "f.json").read_text())["run"]["days"] == days
    assert (out / "index.html").stat().st_size > 1_000
    assert len((out / "forecasts.csv").read_text().splitlines()) == 1 + 4 * days


# --- refusals ---------------------------------------------------------------------------------

HEADER = "Date,AAA,BBB,CCC,D.D"


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (9, "2000-09-01,1,2,3,4", "line 9, column 1: date 2000-09-01 comes after"),
        (3, "2000-09-01,1,2,3,4", "line 3, column 1: date 2000-09-01 is there twice"),
        (7, "07/09/2000,1,2,3,4", "line 7, column 1: '07/09/2000' is not a date"),
        (7, "2000-09-08,1,2,x,4", "line 7, column 4 (CCC): 'x' is not a number"),
        (7, "2000-09-08,1,2,3,0", "line 7, column 5 (D.D): '0' is not a positive"),
        (7, "2000-09-08,-1,2,3,4", "line 7, column 2 (AAA): '-1' is not a positive"),
        (7, "2000-09-08,1,nan,3,4", "line 7, column 3 (BBB): 'nan' is not a positive"),
        (7, "2000-09-08,1,2,,4", "line 7, column 4 (CCC): the price is missing"),
        (7, "2000-09-08,1,2,3", "line 7, column 5: 4 fields where the header has 5"),
        (1, "Date,AAA", "line 1, column 2: a date column and at least two tickers"),
        (1, "Date,AAA,BBB,AAA,D.D", "line 1, column 4: ticker 'AAA' is named twice"),
        (1, "Date,AAA,risk,CCC,D.D", "column 3: 'risk' is the name of an agent"),
    ],
)
def test_malformed_prices_are_refused(
    prices: Path, tmp_path: Path, line: int, text: str, message: str
) -> None:
    """Exit code 2, one line on stderr that names line and column, and nothing is left behind."""
    lines = prices.read_text().splitlines()
    lines[line - 1] = text
    refused(tmp_path, "\n".join(lines), message)


def test_prices_that_are_too_few_are_refused(prices: Path, tmp_path: Path) -> None:
    """599 days, or none, are refused likewise."""
    lines = prices.read_text().splitlines()
    refused(tmp_path, "\n".join(lines[:600]), "line 600: ends after 599 days; at least 600")
    refused(tmp_path, HEADER, "line 1: ends after 0 days")
    refused(tmp_path, "", "the file is empty")


def test_prices_that_never_move_are_refused(prices: Path, tmp_path: Path) -> None:
    """There is nothing to forecast, and that is said instead of dividing by it."""
    days = [line.split(",")[0] for line in prices.read_text().splitlines()[1:]]
    refused(tmp_path, "\n".join([HEADER, *(f"{day},1,2,3,4" for day in days)]), "never varies")


def refused(folder: Path, text: str, message: str) -> None:
    """Assert that a price file is refused and nothing made."""
    (folder / "bad.csv").write_text(text)
    result = invoke(
        "--prices", folder / "bad.csv", "--out", folder / "report", "--figures", folder / "f.json"
    )
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("nt-memory: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == ["bad.csv"]


@pytest.mark.parametrize(
    ("name", "code"), [("report", 2), ("report/memory", 7), ("report/memory/notes.txt", 7)]
)
def test_what_is_in_the_way_is_refused_and_kept(
    prices: Path, tmp_path: Path, name: str, code: int
) -> None:
    """A file at --out or at its memory, or another program's directory there, is left alone."""
    theirs = tmp_path / name
    theirs.parent.mkdir(parents=True, exist_ok=True)
    theirs.write_text("theirs")
    result = invoke("--prices", prices, "--out", tmp_path / "report")
    assert (result.exit_code, result.stdout) == (code, "")
    assert str(tmp_path / "report") in result.stderr
    assert result.stderr.count("\n") == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [theirs]
    assert theirs.read_text() == "theirs"


# --- Ctrl-C -----------------------------------------------------------------------------------


def test_ctrl_c_ends_with_a_partial_report(synthetic: Any, tmp_path: Path) -> None:
    """On a terminal: a bar moves; Ctrl-C gives exit code 130 and a report of the days so far."""
    prices = synthetic.write_prices(tmp_path / "p.csv", synthetic.prices(2_000))
    out = tmp_path / "report"
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "demo", "--full", "--prices", prices, "--out", out],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    assert process.stdout is not None
    shown = b""
    try:
        while b"trade" not in shown:
            assert select.select([ours], [], [], PATIENCE_S)[0], "nothing is shown"
            shown += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        shown += read_to_end(ours)
        said = process.stdout.read().decode()
        assert process.wait(PATIENCE_S) == 130, shown.decode()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        os.close(ours)
    assert b"Traceback" not in shown
    assert "index.html" in said
    days = (len((out / "forecasts.csv").read_text().splitlines()) - 1) // 4
    assert 1 <= days < 1_496
    assert (out / "index.html").stat().st_size > 1_000

    async def last_day() -> Any:
        async with MemorySystem.open(out / STORE) as memory:
            return await memory.get("AAA", "forecast")

    written = (out / "forecasts.csv").read_text().splitlines()[-1]
    assert asyncio.run(last_day())["day"] == written.split(",")[0]


def read_to_end(terminal: int) -> bytes:
    """What is still shown until the other end is closed."""
    shown = b""
    while True:
        try:
            assert select.select([terminal], [], [], PATIENCE_S)[0], "it does not end"
            chunk = os.read(terminal, 4096)
        except OSError:  # how Linux says that nobody has the other end open
            return shown
        if not chunk:
            return shown
        shown += chunk
