"""The recorded session in the documentation is one that can still be had."""

from __future__ import annotations

import runpy
import shutil
import socket
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool():
    """The script that records it."""
    return runpy.run_path(str(ROOT / "tools" / "terminal_session.py"), run_name="session")


def test_the_page_is_what_the_script_records(tool):
    """Its commands are those of the script, in order: changing one means recording again."""
    page = (ROOT / "docs" / "tutorial" / "first-session.md").read_text()
    wanted = [
        step.command.splitlines()[0] + (" &" if step.how == "serve" else "")
        for step in tool["STEPS"]
    ]
    assert tool["commands_on"](page) == wanted
    assert "Traceback" not in page
    assert str(Path.home()) not in page.replace("/root/.", "")


@pytest.mark.timeout(300)  # two dozen processes
def test_its_quick_commands_still_run(tool, finished, tmp_path):
    """In order, over the store of a demo, then over its server; each with exit code 0."""
    for program in ("bash", "curl", "jq"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    shutil.copytree(finished.store, tmp_path / tool["STORE"])
    ticker = min(finished.plan.panel.tickers)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ran = 0
    with tool["session"](tmp_path, port) as terminal:
        for step in tool["STEPS"]:
            if step.how not in {"quick", "serve"}:
                continue
            own = tool["Step"](step.command.replace("AAPL", ticker), how=step.how)
            code, shown = terminal.run(own)
            assert code == 0, f"{step.command}\n{shown}"
            assert "Traceback" not in shown
            ran += 1
    assert ran > 15


def test_what_a_terminal_shows_in_the_end_is_what_is_kept(tool):
    """Lines written over, colours and cursor movements leave what a reader would see."""
    assert tool["plain"]("a\x1b[31mb\x1b[0m\r\n10 %\r20 %\r\n\r\n") == "ab\n20 %"
