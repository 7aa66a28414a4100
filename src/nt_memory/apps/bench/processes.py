"""Run one job in a process of its own: its memory and its threads are nobody else's.

The job writes what it finds as lines of JSON while it goes, so that what it had found is not lost when
its time runs out or it crashes. The parent watches its anonymous memory from outside, which costs the
job nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nt_memory.apps.bench.machine import memory_of

if TYPE_CHECKING:
    from pathlib import Path

LOOK_EVERY_S = 0.1
FOUND = "found.jsonl"
LOG = "output.txt"
JOB = "job.json"
SHOWN_CHARS = 160
_now = time.perf_counter


@dataclass
class Outcome:
    """What a job left behind.

    Attributes:
        figures: Everything it reported, later over earlier.
        failure: Why it did not finish, in a few words; empty if it did.
        peak_anonymous: The most anonymous memory that was seen, bytes; None where it cannot be read.
        seconds: How long it ran.
    """

    figures: dict[str, Any] = field(default_factory=dict[str, Any])
    failure: str = ""
    peak_anonymous: int | None = None
    seconds: float = 0.0


def run(job: str, options: dict[str, Any], directory: Path, budget_s: float) -> Outcome:
    """Run a job and wait for it.

    Args:
        job: "module:function"; it is called with a `child.Report`, its directory, and the options.
        options: Its further arguments, plain JSON.
        directory: Its own; made when missing. What it prints goes to `output.txt` there.
        budget_s: It is killed, with all it started, after so many seconds.
    """
    directory.mkdir(parents=True, exist_ok=True)
    found = directory / FOUND
    found.unlink(missing_ok=True)
    request = directory / JOB
    request.write_text(json.dumps({"job": job, "options": options, "found": str(found)}))
    command = [sys.executable, "-m", "nt_memory.apps.bench.child", str(request)]
    outcome = Outcome()
    begun = _now()
    with (directory / LOG).open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own module
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )
        try:
            in_time = _watch(process, begun + budget_s, outcome)
        finally:
            _end(process)
    outcome.seconds = _now() - begun
    outcome.figures = _read(found)
    if not in_time:
        phase = outcome.figures.get("phase", "starting")
        outcome.failure = f"over its budget of {budget_s:,.0f} s while {phase}"
    elif not outcome.figures.get("is_done"):
        outcome.failure = _why(process.returncode, outcome.figures, directory / LOG)
    return outcome


def _watch(process: subprocess.Popen[bytes], deadline: float, outcome: Outcome) -> bool:
    """Wait for the end, and keep the greatest memory seen; False if the deadline came first."""
    while True:
        try:
            process.wait(timeout=LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            size = memory_of(process.pid)
            if size is not None:
                outcome.peak_anonymous = max(outcome.peak_anonymous or 0, size["anonymous"])
            if _now() > deadline:
                return False
        else:
            return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the job and what it started, unless it has ended by itself."""
    assert process.stdin is not None  # noqa: S101 - it is a pipe, see run()
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    process.stdin.close()


def _read(found: Path) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    if found.exists():
        for line in found.read_text().splitlines():
            try:
                figures.update(json.loads(line))
            except ValueError:
                break  # killed while it wrote
    return figures


def _why(code: int, figures: dict[str, Any], log: Path) -> str:
    if "error" in figures:
        return str(figures["error"])[:SHOWN_CHARS]
    phase = figures.get("phase", "starting")
    if code < 0:
        return f"killed by {signal.Signals(-code).name} while {phase}"
    lines = log.read_text(errors="replace").strip().splitlines()
    last = lines[-1][:SHOWN_CHARS] if lines else "no message"
    return f"ended with {code} while {phase}: {last}"
