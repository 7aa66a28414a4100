"""The loop of `tools/mutation.py`: a pytest plugin that runs the tests once for each mutant, forked.

mutmut's own loop starts pytest anew for every mutant, which takes seconds; here the tests are
collected once, and each mutant is a fork of that. The process that forks runs no test itself, so
that no thread of a library is lost in a child. MUTATION_RESULT is the path of a JSON file with the
`order` of the mutants and the `ends` of those that were run; it is replaced after each one, so that
whoever is interrupted loses nothing. After MUTATION_MINUTES no further one is begun.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.state import state
from mutmut.utils.format_utils import mangled_name_from_mutant_name

if TYPE_CHECKING:
    import pytest

CPU_FACTOR = 10
"""A mutant that takes so many times as long as the tests of its function do is a loop."""

_failed: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _failed.append(report.nodeid)


def pytest_runtestloop(session: pytest.Session) -> bool:
    if session.testsfailed:
        raise session.Interrupted("the tests could not be collected")
    until = time.monotonic() + 60.0 * float(os.environ["MUTATION_MINUTES"])
    told: dict[str, Any] = {}
    if _fork(lambda: _baseline(session, told), told, limit_s=600) != "passed":
        raise session.Failed(f"without a mutant: {told or 'the tests do not pass'}")
    if _fork(lambda: _try("fail", session.items, {}), {}, limit_s=600) != "killed":
        raise session.Failed("no test fails where every call does: the mutants are not in use")
    path = Path(os.environ["MUTATION_RESULT"])
    result = json.loads(path.read_text())
    noticed_by: dict[str, int] = {}
    for mutant in result["order"]:
        if mutant in result["ends"]:
            continue
        if time.monotonic() >= until:
            break
        result["ends"][mutant] = _examine(session, mutant, told, noticed_by)
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps(result, indent=1) + "\n")
        beside.replace(path)
    return True


def _examine(
    session: pytest.Session, mutant: str, told: dict[str, Any], noticed_by: dict[str, int]
) -> str:
    """What became of a mutant: passed (it survived), untested, killed or timeout."""
    function = mangled_name_from_mutant_name(mutant)
    names = [name for name in told["took"] if function in told["calls"][name]]
    if not names:
        return "untested"
    # What noticed other mutants is asked first, for its time's worth.
    names.sort(key=lambda name: float(told["took"][name]) / (1 + noticed_by.get(name, 0)))
    items = {item.nodeid: item for item in session.items}
    limit_s = 10 + CPU_FACTOR * sum(told["took"][name] for name in names)
    answer: dict[str, Any] = {}
    end = _fork(
        lambda: _try(mutant, [items[name] for name in names], answer), answer, limit_s=limit_s
    )
    if "by" in answer:
        noticed_by[answer["by"]] = noticed_by.get(answer["by"], 0) + 1
    return end


def _baseline(session: pytest.Session, told: dict[str, Any]) -> bool:
    """Each test alone: does it pass, how long does it take, which functions does it call."""
    told |= {"took": {}, "calls": {}}
    for item in session.items:
        state()._stats.clear()
        set_mutant_under_test("stats")
        begun = time.process_time()
        _run(item)
        told["took"][item.nodeid] = time.process_time() - begun
        told["calls"][item.nodeid] = sorted(state()._stats)
    if _failed:
        told["failed"] = _failed
    return not _failed


def _try(mutant: str, tests: list[pytest.Item], told: dict[str, Any]) -> bool:
    set_mutant_under_test(mutant)
    for item in tests:
        _run(item)
        if _failed:
            told["by"] = item.nodeid
            return False
    return True


def _run(item: pytest.Item) -> None:
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)


def _fork(body: Any, told: dict[str, Any], *, limit_s: float) -> str:
    """Run `body` in a child; what it put into `told` comes back. "passed", "killed" or "timeout".

    The limit is of processor time; of the clock's, ten times as much, for a mutant that waits.
    """
    with tempfile.NamedTemporaryFile() as answer:
        child = os.fork()
        if child == 0:
            limit = int(limit_s) + 1
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            passed = False
            try:
                passed = body()
                Path(answer.name).write_text(json.dumps(told))
            finally:
                os._exit(0 if passed else 1)
        end = _wait(child, limit_s * 10)
        text = Path(answer.name).read_text()
        told |= json.loads(text) if text else {}
    if end is None or os.WIFSIGNALED(end):
        return "timeout"
    return "passed" if os.WEXITSTATUS(end) == 0 else "killed"


def _wait(child: int, limit_s: float) -> int | None:
    until = time.monotonic() + limit_s
    pause_s = 0.002
    while time.monotonic() < until:
        done, end = os.waitpid(child, os.WNOHANG)
        if done:
            return end
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None
