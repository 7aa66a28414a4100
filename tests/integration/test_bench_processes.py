"""A job that is measured runs apart; however it ends, what it had found is kept and the end is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from nt_memory.apps.bench import processes
from nt_memory.apps.bench.loading import MissingError, module
from nt_memory.apps.bench.machine import memory_of

if TYPE_CHECKING:
    from pathlib import Path

JOBS = """
import os, signal, subprocess, sys
from nt_memory.apps.bench.loading import module

def done(report, directory, *, word):
    report(phase="writing", a=1, b=1)
    (directory / "file").write_text(word)
    report(b=2)

def hangs(report, directory):
    helper = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    report(phase="waiting", helper=helper.pid, a=1)
    helper.wait()

def crashes(report, directory):
    report(phase="crashing", a=1)
    os.kill(os.getpid(), signal.SIGSEGV)

def raises(report, directory):
    report(phase="raising", a=1)
    raise ValueError("no good\\nsecond line")

def leaves(report, directory):
    report(phase="leaving")
    print("last words", flush=True)
    os._exit(3)

def is_missing(report, directory):
    module("there_is_no_such_module")

def grows(report, directory):
    held = bytearray(64 << 20)
    held[:: 4096] = b"x" * len(held[:: 4096])
    while not (directory / "seen").exists():
        pass
"""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of jobs that a child can import."""
    (tmp_path / "jobs_of_test.py").write_text(JOBS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "own"


def test_what_a_job_reports_is_found_later_over_earlier(jobs: Path) -> None:
    """Figures and files of a job that finished are there, and there is no failure."""
    outcome = processes.run("jobs_of_test:done", {"word": "x"}, jobs, 60.0)
    assert (outcome.failure, outcome.figures["a"], outcome.figures["b"]) == ("", 1, 2)
    assert (jobs / "file").read_text() == "x"
    assert outcome.seconds > 0


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        ("crashes", "killed by SIGSEGV while crashing"),
        ("raises", "ValueError: no good"),
        ("leaves", "ended with 3 while leaving: last words"),
        ("is_missing", "not installed (No module named 'there_is_no_such_module')"),
        ("is_nowhere", "AttributeError: "),
    ],
)
def test_a_job_that_fails_says_why_in_one_line(jobs: Path, name: str, failure: str) -> None:
    """A crash, an exception, an early exit and a missing package are failures, never exceptions."""
    outcome = processes.run(f"jobs_of_test:{name}", {}, jobs, 60.0)
    assert outcome.failure.startswith(failure)
    assert "\n" not in outcome.failure
    if name in {"crashes", "raises"}:
        assert outcome.figures["a"] == 1


def test_a_job_over_its_budget_ends_with_all_it_started(
    jobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job and its helpers are killed at the budget, and what it had found is kept."""

    def now() -> float:
        """Stands still until the job waits, then is past every budget."""
        found = jobs / processes.FOUND
        return 1e9 if found.exists() and "helper" in found.read_text() else 0.0

    monkeypatch.setattr(processes, "_now", now)
    outcome = processes.run("jobs_of_test:hangs", {}, jobs, 3.0)
    assert outcome.failure == "over its budget of 3 s while waiting"
    assert outcome.figures["a"] == 1
    deadline = time.perf_counter() + 30
    while _is_running(outcome.figures["helper"]):
        assert time.perf_counter() < deadline


def test_a_job_does_not_outlive_who_asked_for_it(jobs: Path) -> None:
    """When the parent is killed, the job and its helpers end too."""
    code = (
        "import sys; from pathlib import Path; from nt_memory.apps.bench import processes; "
        "processes.run('jobs_of_test:hangs', {}, Path(sys.argv[1]), 600.0)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(jobs)])
    deadline = time.perf_counter() + 50
    found = jobs / processes.FOUND
    while not (found.exists() and found.read_text().endswith("}\n")):
        assert time.perf_counter() < deadline
    helper = json.loads(found.read_text().splitlines()[-1])["helper"]
    assert _is_running(helper)
    parent.kill()
    parent.wait()
    while _is_running(helper):
        assert time.perf_counter() < deadline


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return memory_of(pid) is not None  # one that has ended waits for whoever inherited it


def test_the_peak_of_memory_is_seen_from_outside(
    jobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that a job fills counts in its peak, while it runs and without its help."""
    if memory_of() is None:
        pytest.skip("no /proc here")

    def looked_at(process: int) -> dict[str, int] | None:
        """As it is; lets the job end once it was seen to be large."""
        size = memory_of(process)
        if size is not None and size["anonymous"] > 60 << 20:
            (jobs / "seen").touch()
        return size

    monkeypatch.setattr(processes, "memory_of", looked_at)
    outcome = processes.run("jobs_of_test:grows", {}, jobs, 60.0)
    assert (outcome.failure, outcome.peak_anonymous is not None) == ("", True)
    assert outcome.peak_anonymous > 60 << 20


def test_a_second_job_in_one_directory_does_not_find_the_figures_of_the_first(jobs: Path) -> None:
    """Figures are those of the last job, not what an earlier one left."""
    processes.run("jobs_of_test:done", {"word": "x"}, jobs, 60.0)
    assert "b" not in processes.run("jobs_of_test:raises", {}, jobs, 60.0).figures


def test_a_missing_module_names_the_install() -> None:
    """The message says what to install."""
    with pytest.raises(MissingError, match=r"pip install 'nt-memory\[bench-vectors\]'"):
        module("there_is_no_such_module")
