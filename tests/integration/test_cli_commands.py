"""Every command as a process of its own: what it does, and that its JSON is of its schema."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from nt_memory.apps.cli import documents
from nt_memory.apps.cli.main import LISTED

READS = {
    "get": ("desk_1", "position"),
    "scan": ("desk_1", "seen/"),
    "history": ("desk_1", "position"),
    "tail": ("-n", 5),
    "watch": ("desk_1", "--after", 0, "--limit", 4),
    "search": ("desk_1", "--like", "seen/03", "-k", 3),
    "trajectories": ("desk_1", "-n", 4),
    "patterns": ("desk_1",),
    "advise": ("desk_1", "--vector", "[1, 0.4, 0.5]"),
    "recent": ("desk_1", "-n", 3, "--skip", 1, "--verdict", "incorrect"),
    "calibration": ("desk_1", "--by-regime"),
    "rank": ("desk_2", "desk_1", "--vector", "[1, 0.4, 0.5]", "--action-type", "forecast"),
    "uplift": ("desk_1",),
    "weights": ("desk_1", "desk_2"),
    "lock": (),
    "proposals": (),
    "agents": (),
    "stats": (),
    "verify": (),
    "doctor": (),
}
WRITES = {
    "put": ("desk_1", "position", "[1]"),
    "delete": ("desk_1", "position"),
    "observe": ("desk_1", "[2]", "--vector", "[1, 0, 0]", "--key", "new"),
    "propose": ("desk_1", '{"halt": true}', "--id", "halt"),
    "vote": ("open-1", "desk_2", "yes"),
    "distill": ("desk_1",),
    "repair": (),
    "compact": (),
    "snapshot": ("copy",),
    "export": ("all.jsonl.zst",),
    "import": ("all.jsonl.zst",),
}
OF_THE_MOMENT = {"stats", "doctor", "lock"}
OF_FILES = {"verify", "repair", "compact", "snapshot", "export", "import"}
ELSEWHERE = {
    "serve",
    "mcp",
    "token",
    "up",
    "down",
    "enrol",
    "import agentdb",
    "export agentdb",
    "demo",
    "publish",
    "subscribe",
    "bench vectors",
    "bench curve",
} | {
    "bench filters",
    "bench ingest",
    "bench coordination",
    "bench memory",
}


def test_every_command_is_tested():
    """A command that is added has to be added to one of the tables above."""
    assert set(READS) | set(WRITES) | ELSEWHERE == set(LISTED)


@pytest.mark.parametrize("command", READS)
def test_what_reads_prints_its_schema(cli, read_from, command):
    """Each line of `--json` is a document of the listed type, no field missing or unknown.

    Over a server it is the same document of the same things.
    """
    if isinstance(read_from, str) and command in OF_FILES:
        assert cli(command, *READS[command], store=read_from).code == 8
        return
    found = cli.documents(command, *READS[command], store=read_from)
    assert found
    looks = {
        "get": lambda: found[0].value == {"AAPL": 25} and found[0].known_at.tzinfo is not None,
        "scan": lambda: [one.value["n"] for one in found] == list(range(12)),
        "history": lambda: [one.value for one in found] == [{"AAPL": 25}, {"AAPL": 10}],
        "tail": lambda: len(found) == 5,
        "watch": lambda: [one.kind for one in found] == ["put", "put", "put", "delete"],
        "search": lambda: (len(found), found[0].key) == (3, "seen/03"),
        "trajectories": lambda: [one.id for one in found] == ["t/00", "t/01", "t/02", "t/03"],
        "patterns": lambda: sum(one.n for one in found) == 60,
        "advise": lambda: found[0].memories >= 10 and found[0].low < found[0].high,
        "recent": lambda: len(found) == 3 and found[0].at > found[2].at,
        "calibration": lambda: (
            all(one.regime for one in found) and sum(one.n for one in found) == 60
        ),
        "rank": lambda: (
            [one.agent for one in found] == ["desk_1", "desk_2"]
            and (found[0].n, found[1].skill.value) == (50, None)
        ),
        "uplift": lambda: (found[0].value, found[0].shown, found[0].withheld) == (None, 0, 0),
        "weights": lambda: [one.agent for one in found] == ["desk_1", "desk_2"],
        "lock": lambda: (found[0].resource, found[0].holder) == ("book", "keeper"),
        "proposals": lambda: [one.status for one in found] == ["pending", "approved"],
        "agents": lambda: [one.agent for one in found] == ["desk_1", "desk_2"],
        "stats": lambda: (found[0].l2.entries, found[0].writer) == (72, None),
        "verify": lambda: found[0].is_ok,
        "doctor": lambda: found[0].is_healthy,
    }
    assert looks[command]()


def test_what_writes_prints_its_schema_and_has_happened(cli, written_to, tmp_path):
    """In the order of the table, in one store; what was written is read by another process."""
    own = written_to
    skipped = OF_FILES if isinstance(own, str) else set()
    for command, arguments in ((one, WRITES[one]) for one in WRITES if one not in skipped):
        store = tmp_path / "made" if command == "import" else own
        (found, *more) = cli.documents(command, *arguments, store=store, cwd=tmp_path)
        if command == "put":
            assert cli("get", "desk_1", "position", store=own).out == "[1]\n"
        elif command == "vote":
            assert found.status == "approved"
        elif command == "distill":
            assert sum(one.n for one in (found, *more)) >= 50
        elif command == "repair":
            assert (found.is_repaired, found.lost) == (True, [])
        elif command == "snapshot":
            assert cli("get", "desk_1", "new", store=tmp_path / "copy").out == "[2]\n"
        elif command == "import":
            assert found.is_new
            assert cli("get", "desk_1", "new", store=store).out == "[2]\n"
    assert cli("get", "desk_1", "position", store=own).code == 1
    assert cli("proposals", "halt", store=own).out.startswith("halt: pending")


IN_WORDS = ("get", "watch", "tail", "trajectories", "proposals")


@pytest.mark.timeout(300)  # two dozen processes
def test_words_and_documents_are_the_same_over_a_server(cli, looked_at, looked_at_url):
    """Every byte, but for what is of the moment: counters, seconds left, and where the store is."""
    asked = [(one, *READS[one], "--json") for one in READS if one not in OF_FILES | OF_THE_MOMENT]
    asked += [(one, *READS[one]) for one in IN_WORDS]
    for command in asked:
        running = [cli.start(*command, store=store) for store in (looked_at_url, looked_at)]
        (there, no_error), (here, _) = [one.communicate(timeout=60) for one in running]
        assert (running[0].returncode, running[1].returncode, no_error) == (0, 0, "")
        as_of = re.compile('"as_of": "[^"]*"')  # advice is as of now
        if command[0] == "advise":
            there, here = as_of.sub("", there), as_of.sub("", here)
        assert there == here, command
        assert there, command


def test_every_example_of_the_help_is_a_command_line_that_parses():
    """Examples name commands and options that exist; what they pipe into is not looked at."""
    import shlex

    import typer

    from nt_memory.apps.cli.main import app

    group = typer.main.get_command(app)
    for name, listed in LISTED.items():
        assert listed.examples, name
        for example in listed.examples:
            words = shlex.split(example.split(" | ")[0].split(" < ")[0].split(" >> ")[0])
            assert words.pop(0) == "nt-memory"
            command = group
            while hasattr(command, "commands"):
                two = " ".join(words[:2])
                own = two if two in command.commands else words[0]
                del words[: len(own.split())]
                command = command.commands[own]
            command.make_context(name, words, resilient_parsing=False)


def test_values_are_read_from_stdin_and_files_and_printed_raw(cli, written_to, tmp_path):
    """`-` is stdin, `@` a file; `--raw` is what was stored, without quotes and bytes as bytes."""
    import numpy as np

    own = written_to
    assert cli("put", "a", "k", "-", store=own, stdin='{"big": [1, 2]}').code == 0
    assert cli("get", "a", "k", store=own).out == '{"big": [1, 2]}\n'
    assert cli("put", "a", "t", "-", "--text", store=own, stdin="two\nlines").code == 0
    assert cli("get", "a", "t", "--raw", store=own).out == "two\nlines\n"
    done = subprocess.run(
        [sys.executable, "-m", "nt_memory.apps.cli.main", "get", "desk_2", "raw", "--raw"],
        env={**cli.environment, "NT_MEMORY_URL": str(own)},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"\x00\xff"
    np.save(tmp_path / "v.npy", np.array([1.0, 0.0, 0.0]))
    (tmp_path / "v.json").write_text("[1, 0, 0]")
    for vector in (f"@{tmp_path}/v.npy", f"@{tmp_path}/v.json", "[1,0,0]"):
        assert cli("search", "desk_1", "--vector", vector, "-k", 1, store=own).out.split("\t")[
            2
        ] == ("seen/00")
    cli("observe", "news", '"x"', "--text", "chip maker cuts its outlook", store=own)
    cli("observe", "news", '"y"', "--text", "rain in the north", store=own)
    best = cli.documents("search", "news", "--text", "outlook of chip maker", "-k", 1, store=own)
    assert best[0].data == "x"


def test_filters_and_moments_arrive(cli, read_from):
    """`--tag`, `--where`, `--exact` and `--as-of` do what the calls do."""
    looked_at = read_from
    asked = ("search", "desk_1", "--vector", "[1, 0, 0.1]")
    tagged = cli.documents(*asked, "--tag", "even", "-k", 20, store=looked_at)
    assert [one.data["n"] for one in tagged] == [0, 2, 4, 6, 8, 10]
    where = '{"op": "gt", "field": "n", "value": 9}'
    passed = cli.documents(*asked, "--where", where, "--exact", store=looked_at)
    assert [one.data["n"] for one in passed] == [10, 11]
    first = cli.documents("history", "desk_1", "position", store=looked_at)[-1]
    was = ("get", "desk_1", "position", "--as-of")
    assert cli(*was, first.revision, store=looked_at).out == '{"AAPL": 10}\n'
    assert cli(*was, first.known_at.isoformat(), store=looked_at).out == '{"AAPL": 10}\n'
    assert (
        cli.documents("search", "desk_1", "--like", "seen/00", "--as-of", 3, store=looked_at) == []
    )


def test_one_trajectory_is_told_step_by_step(cli, read_from):
    """With its verdicts, in words and as JSON."""
    looked_at = read_from
    told = cli("trajectories", "desk_1", "t/07", store=looked_at).out
    assert told.startswith("t/07 of desk_1: complete, score ")
    assert [line.split()[0] for line in told.splitlines()[1:]] == ["saw", "did", "came", "judged"]
    (found,) = cli.documents("trajectories", "desk_1", "t/07", store=looked_at)
    assert found.actions[0].predicted == pytest.approx(1 + 7 / 60)
    assert [verdict.action for verdict in found.verdicts] == [0]
    assert cli("trajectories", "desk_2", "t/07", store=looked_at).code == 1


def test_plain_output_has_tabs_and_no_colours(cli, read_from):
    """For cut and grep: one row a line, of any length, whatever COLUMNS says."""
    looked_at = read_from
    for command in ("proposals", "agents", "search", "trajectories", "patterns", "lock", "doctor"):
        arguments = READS[command] if command != "lock" else ("book",)
        narrow = {"env": {"COLUMNS": "20"}}
        said = cli(command, *arguments, store=looked_at, **narrow)
        assert said.code == 0, said.err
        assert said.out, command
        assert "\x1b" not in said.out
        widths = {line.count("\t") for line in said.out.splitlines()}
        assert len(widths) == 1
        assert widths.pop() >= 2


def test_the_demo_prints_its_figures(cli, synthetic, tmp_path):
    """`demo --json` is one JSON document on stdout and nothing else."""
    prices = synthetic.write_prices(tmp_path / "p.csv", synthetic.prices(640))
    said = cli("demo", "--prices", prices, "--years", 1, "--json", cwd=tmp_path)
    assert said.code == 0, said.err
    assert set(json.loads(said.out)["forecast"]) >= {"memory", "linear"}


def test_the_schema_in_the_documentation_is_that_of_the_code():
    """docs/reference/cli.schema.json has the types of all commands, as they are."""
    import runpy
    from pathlib import Path

    root = Path(__file__).parents[2]
    made = runpy.run_path(str(root / "tools" / "cli_reference.py"))
    assert (root / "docs/reference/cli.schema.json").read_text() == made["schema"]()
    assert (root / "docs/reference/cli.md").read_text() == made["page"]()
    named = {listed.document for listed in LISTED.values()} - {""}
    assert named <= set(vars(documents))
