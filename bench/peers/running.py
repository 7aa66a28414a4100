"""Run one peer's processes: the timed calls, a kill in mid-write, and the question about the past."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from nt_memory.transport.files import disk_bytes

HERE = Path(__file__).parents[1]
WRITES_S = 1.0
"""A peer is killed so long after its first acknowledged write."""
MOST_COUNTED = 2_000
SHOWN = 160


@dataclass
class Runner:
    """One peer, by the Python it lives in."""

    name: str
    python: Path
    workload: Path
    directory: Path
    budget_s: float
    found: dict[str, Any] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        """Everything that was found; "missing" or "error" say why something was not."""
        begun = time.perf_counter()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.found["about"] = self._about()
        if not self._failed():
            self._phases()
        if not self._failed():
            self._killed()
        if not self._failed():
            self._task("lookahead", self._own("lookahead"))
        self.found["seconds"] = time.perf_counter() - begun
        shutil.rmtree(self.directory, ignore_errors=True)
        return self.found

    def _failed(self) -> bool:
        return bool(self.found.keys() & {"missing", "error"})

    def _own(self, task: str) -> Path:
        own = self.directory / task
        own.mkdir(parents=True, exist_ok=True)
        return own

    def _about(self) -> dict[str, Any]:
        """What the adapter says of itself, asked in the peer's Python."""
        done = subprocess.run(
            [str(self.python), "-m", "peers.about", self.name],
            env=_environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=self.budget_s,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            self.found["missing"] = last[:SHOWN]
            return {}
        about: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return about

    def _start(self, task: str, own: Path, counts: tuple[int, ...] = ()) -> subprocess.Popen[str]:
        command = [
            str(self.python),
            "-m",
            "peers.child",
            self.name,
            task,
            str(self.workload),
            str(own),
        ]
        with (own / "log.txt").open("ab") as log:
            return subprocess.Popen(
                [*command, *map(str, counts)],
                env=_environment(),
                cwd=own,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def _task(self, task: str, own: Path, counts: tuple[int, ...] = ()) -> None:
        """Run a task to its end."""
        process = self._start(task, own, counts)
        try:
            process.communicate(timeout=self.budget_s)
        except subprocess.TimeoutExpired:
            self.found["error"] = f"{task} took more than {self.budget_s:.0f} s"
        finally:
            _end(process)
        self._read(own, task)

    def _phases(self) -> None:
        """The timed calls; memory is read while the peer waits, disk when it has closed."""
        own = self._own("phases")
        process = self._start("phases", own)
        try:
            line = _line(process, self.budget_s)
            if line == "measured":
                self.found["memory"] = _memory(process.pid)
            elif line is None:
                self.found["over"] = f"more than {self.budget_s:.0f} s"
                return
            process.communicate("\n", timeout=self.budget_s)
            self.found["disk"] = disk_bytes(own / "store")
        except subprocess.TimeoutExpired:
            self.found["error"] = f"closing took more than {self.budget_s:.0f} s"
        finally:
            _end(process)
            self._read(own, "phases")
            shutil.rmtree(own / "store", ignore_errors=True)

    def _killed(self) -> None:
        """Kill the writer and its server, read the last acknowledgements, and count what is there."""
        own = self._own("kill")
        process = self._start("write", own)
        states = rows = 0
        try:
            if _line(process, self.budget_s) == "ready":
                assert process.stdout is not None
                deadline = time.monotonic() + WRITES_S
                # A process that writes all the time is killed wherever it is: between, or in, a call.
                for line in process.stdout:
                    states, rows = _counted(line, states, rows)
                    if time.monotonic() > deadline or states + rows >= MOST_COUNTED:
                        break
        finally:
            rest = _end(process)
        for line in rest.splitlines():  # whole ones: a pipe takes so few bytes at once
            states, rows = _counted(line, states, rows)
        self._read(own, "write", may_end=True)
        if not self._failed():
            self._task("count", own, (states, rows))

    def _read(self, own: Path, task: str, *, may_end: bool = False) -> None:
        path = own / "found.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        gathered: dict[str, Any] = {}
        for line in lines:
            gathered |= json.loads(line)
        path.unlink(missing_ok=True)
        is_done = gathered.pop("is_done", False)
        phase = gathered.pop("phase", task)
        self.found |= gathered
        if not is_done and not may_end and not self._failed() and "over" not in self.found:
            log = (own / "log.txt").read_text(errors="replace").strip().splitlines() or [
                "no message"
            ]
            self.found["error"] = f"ended in {phase}: {log[-1][:SHOWN]}"


def _counted(line: str, states: int, rows: int) -> tuple[int, int]:
    kind, number = line.split()
    return (int(number) + 1, rows) if kind == "state" else (states, int(number) + 1)


def _environment() -> dict[str, str]:
    # One thread for numerics: a search of one agent is one thread's work, in every peer.
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    quiet = {
        "ANONYMIZED_TELEMETRY": "False",
        "MEM0_TELEMETRY": "False",
        "LANGSMITH_TRACING": "false",
    }
    return os.environ | one | quiet | {"PYTHONPATH": str(HERE)}


def _line(process: subprocess.Popen[str], seconds: float) -> str | None:
    """The next line it writes; "" when it has ended, None when the time is over."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(seconds):
            return None
    return process.stdout.readline().strip()


def _family(pid: int) -> list[psutil.Process]:
    """A process and all it started, servers that made sessions of their own included."""
    try:
        top = psutil.Process(pid)
        # The client first: one whose server has gone would say so, as if it had failed by itself.
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _memory(pid: int) -> dict[str, int]:
    """Proportional set size, which counts what several share once; bytes."""
    total = anonymous = 0
    for one in _family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            full = one.memory_full_info()
            total += full.pss
            anonymous += full.uss
    return {"pss": total, "uss": anonymous}


def _end(process: subprocess.Popen[str]) -> str:
    """SIGKILL for it and all it started; what it had still said."""
    family = _family(process.pid)
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    assert process.stdout is not None
    rest = "" if process.stdout.closed else process.stdout.read()
    process.wait()
    psutil.wait_procs(family, timeout=10.0)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None and not pipe.closed:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
    return rest
