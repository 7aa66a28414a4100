"""The commands of every how-to page work, in the order of the page."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "how-to").glob("*.md"))
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _blocks(page: Path) -> list[tuple[str, str]]:
    return _BLOCK.findall(page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_shell_block_of_a_how_to_runs(page: Path, tmp_path: Path) -> None:
    """In one empty directory, each with exit code 0. (Python blocks: `test_readme.py`.)"""
    script = "\n".join(code for language, code in _blocks(page) if language == "sh")
    binaries = Path(sys.executable).parent
    done = subprocess.run(
        ["sh", "-ex", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_of_a_how_to_can_be_run(page: Path) -> None:
    """There is none in a language that no test runs or reads; pictures are plain text."""
    assert PAGES
    allowed = {"sh", "python", "console", "yaml", "text"}
    assert {language for language, _ in _blocks(page)} <= allowed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_runs_until_it_is_stopped_is_spelled_rightly(page: Path) -> None:
    """Commands that a test cannot wait for, or that need a server, exist with all their options."""
    joined = "\n".join(code for language, code in _blocks(page) if language == "console")
    for line in joined.replace("\\\n", " ").splitlines():
        if line.startswith("nt-memory "):
            command = [*shlex.split(line, comments=True)[1:], "--help"]
            binary = Path(sys.executable).parent / "nt-memory"
            done = subprocess.run([binary, *command], capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{line}: {done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_configuration_of_other_programs_can_be_read(page: Path) -> None:
    """YAML is YAML."""
    for language, code in _blocks(page):
        if language == "yaml":
            assert yaml.safe_load(code)
