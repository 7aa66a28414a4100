"""The `nt-memory` command, run in this process against a store in a temporary directory."""

from __future__ import annotations

import json
import re
import tomllib
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from typer.testing import CliRunner

from nt_memory.apps.cli.main import app
from nt_memory.apps.cli.rendering import to_plain, value_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

RUNNER = CliRunner()


def invoke(*arguments: object, stdin: str | None = None) -> Result:
    """Run the command; a traceback would be an exception other than SystemExit."""
    result = RUNNER.invoke(app, [str(a) for a in arguments], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with two versions of one key and one version of another."""
    path = tmp_path / "store"
    for key, value in (("position", '{"AAPL": 10}'), ("position", '{"AAPL": 25}'), ("cash", "1.5")):
        assert invoke("put", "agent_1", key, value, "--store", path).exit_code == 0
    return path


def test_version_is_printed() -> None:
    """--version prints the version that pyproject.toml gives, and exits with 0."""
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.stdout == f"nt-memory {pyproject['project']['version']}\n"


def test_put_prints_a_revision_and_get_the_value(store: Path) -> None:
    """What one process put, another gets."""
    result = invoke("put", "agent_1", "position", "[1]", "--store", store)
    assert int(result.stdout) > 0
    assert invoke("get", "agent_1", "position", "--store", store).stdout == "[1]\n"


def test_put_takes_text_and_stdin(store: Path) -> None:
    """--text stores a plain string, - reads the value from stdin."""
    invoke("put", "agent_1", "note", "hold", "--text", "--store", store)
    assert invoke("get", "agent_1", "note", "--store", store).stdout == '"hold"\n'
    invoke("put", "agent_1", "note", "-", "--store", store, stdin='{"a": 1}')
    assert invoke("get", "agent_1", "note", "--store", store).stdout == '{"a": 1}\n'


def test_get_as_json_has_every_field(store: Path) -> None:
    """--json prints the whole record."""
    record = json.loads(invoke("get", "agent_1", "cash", "--store", store, "--json").stdout)
    assert record["value"] == 1.5
    assert set(record) >= {"agent", "key", "revision", "known_at", "recorded_at", "expires_at"}


def test_history_and_as_of_tell_what_was(store: Path) -> None:
    """History lists versions newest first; --as-of takes its revisions and its times."""
    lines = invoke("history", "agent_1", "position", "--store", store).stdout.splitlines()
    revisions, times, values = zip(*(line.split("\t") for line in lines), strict=True)
    assert values == ('{"AAPL": 25}', '{"AAPL": 10}')
    for as_of in (revisions[1], times[1]):
        found = invoke("get", "agent_1", "position", "--as-of", as_of, "--store", store)
        assert found.stdout == '{"AAPL": 10}\n'


def test_scan_lists_by_key_and_prefix(store: Path) -> None:
    """Scan prints keys in order; a prefix narrows it."""
    assert (
        invoke("scan", "agent_1", "--store", store).stdout == 'cash\t1.5\nposition\t{"AAPL": 25}\n'
    )
    assert invoke("scan", "agent_1", "ca", "--store", store).stdout == "cash\t1.5\n"


def test_stats_are_lines_or_json(store: Path) -> None:
    """Stats print one counter a line, and the same as JSON."""
    plain = json.loads(invoke("stats", "--store", store, "--json").stdout)
    assert plain["revision"] >= 3
    lines = invoke("stats", "--store", store).stdout
    assert re.search(rf"^revision +{plain['revision']}$", lines, re.MULTILINE)
    assert "l1.entries" in lines


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["get", "agent_1", "nothing"], 1, "has no nothing"),
        (["get", "agent_1", ".."], 2, "'..'"),
        (["get", "agent_1", "cash", "--as-of", "never"], 2, "neither a revision nor a time"),
        (["get", "agent_1", "cash", "--as-of", "2024-01-01"], 2, "time zone"),
        (["put", "agent_1", "cash", "oops"], 2, "--text"),
        (["put", "agent_1", "cash", "1", "--expect", "0"], 1, "expected revision 0"),
    ],
)
def test_refusals_are_one_line_on_stderr(
    store: Path, arguments: list[str], code: int, message: str
) -> None:
    """An error goes to stderr, without a traceback, under the documented exit code."""
    result = invoke(*arguments, "--store", store)
    assert result.exit_code == code
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.startswith("nt-memory: ")
    assert result.stderr.count("\n") == 1


def test_a_missing_store_is_not_made_by_reading(tmp_path: Path) -> None:
    """Reading where no store is fails with 7 and makes nothing."""
    result = invoke("get", "agent_1", "cash", "--store", tmp_path / "nowhere")
    assert result.exit_code == 7
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--years", "0"], "--years"),
        (["--years", "3", "--full"], "exclude each other"),
        (["--cost-bps", "-1"], "--cost-bps"),
        (["--cost-bps", "nan"], "--cost-bps"),
        (["--seed", "-1"], "--seed"),
        (["--prices", "missing.csv"], "there is no such file"),
        (["--out", "a-file"], "is not a directory"),
        (["--figures", "."], "is a directory"),
        (["--figures", "nowhere/x.json"], "directory does not exist"),
    ],
)
def test_the_demo_refuses_impossible_options(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option the demo cannot use is refused at once, with exit code 2, and makes nothing."""
    monkeypatch.chdir(tmp_path)
    Path("a-file").touch()
    result = invoke("demo", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"]


def test_an_interrupted_demo_exits_with_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C is neither a failure nor a success, and the options arrive as they were given."""
    seen = []

    def stopped(options: object, progress: Callable[[str, int, int], None]) -> object:
        seen.append(options)
        progress("trading", 1, 2)
        return SimpleNamespace(is_interrupted=True)

    def killed(options: object, _progress: object) -> object:
        seen.append(options)
        raise KeyboardInterrupt

    written = []
    monkeypatch.setattr(
        "nt_memory.apps.demo.output.write_all", lambda *found: written.append(found)
    )
    monkeypatch.chdir(tmp_path)
    for run in (stopped, killed):
        monkeypatch.setattr("nt_memory.apps.demo.run.run_demo", run)
        assert invoke("demo", "--quick", "--years", "2", "--no-past").exit_code == 130
    options = seen[0]
    assert seen == [options, options]
    assert len(written) == 1  # what a stopped run found is reported; a killed one found nothing
    assert (options.years, options.quick, options.no_past, options.full) == (2, True, True, False)


def test_values_json_cannot_spell_are_printed_as_text() -> None:
    """Every type the memory stores can be printed, and what is printed is JSON."""
    value = {
        "time": datetime(2024, 1, 2, tzinfo=UTC),
        "exact": Decimal("1.10"),
        "array": np.array([[1, 2], [3, 4]], dtype=np.int8),
        "scalar": np.float32(0.5),
        "raw": b"\x00\xff",
        "tuple": (1, None, True),
        "far": float("inf"),
        3: "number",
    }
    assert json.loads(value_line(value)) == {
        "time": "2024-01-02T00:00:00+00:00",
        "exact": "1.10",
        "array": [[1, 2], [3, 4]],
        "scalar": 0.5,
        "raw": "AP8=",
        "tuple": [1, None, True],
        "far": "inf",
        "3": "number",
    }
    assert to_plain(np.nan) == "nan"
