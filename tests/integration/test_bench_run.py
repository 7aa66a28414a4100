"""`make bench`, as small as it gets: every section runs, and each of its rows is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "bench" / "run.py"
ROWS = [
    "search, 1,500 x 32",
    "filtered to 2 %",
    "against a linear scan",
    "bulk ingest",
    "raw faiss",
    "ingest at 1,500/s while searching",
    "disk per observation",
    "reopen after a crash",
]


@pytest.mark.timeout(240)
def test_searching_and_reopening_are_measured(tmp_path: Path) -> None:
    """The store that the search leaves when it is killed is the one that is opened again."""
    small = ["--n", "1500", "--dim", "32", "--queries", "20", "--seconds", "0.2"]
    done = subprocess.run(
        [
            sys.executable,
            str(RUN),
            *small,
            "--workdir",
            str(tmp_path),
            "--only",
            "search",
            "reopen",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for row in ROWS:
        assert row in done.stdout, done.stdout
    assert not list(tmp_path.iterdir()), "the stores are removed"
