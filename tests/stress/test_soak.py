"""Long load: what is constant stays constant, and a disk that is too slow harms nobody else.

`SOAK_MINUTES` sets the length, 2 by default, and 6 where latencies are judged; `make soak`, `make overload` and `make flood` take the record.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.stress

BENCH = Path(__file__).parents[2] / "bench"
MINUTES = os.environ.get("SOAK_MINUTES", "2")
LATENCY_MINUTES = os.environ.get("SOAK_MINUTES", "6")
REPLACING = ("observe", "replace an observation")


def held(tmp_path: Path, script: str, *options: str, minutes: str = MINUTES) -> tuple[bool, str]:
    """Run a script of the benchmarks for a while; whether it says that all held, and all it said."""
    command = [sys.executable, str(BENCH / script), "--minutes", minutes, "--name", ""]
    done = subprocess.run(
        [*command, "--workdir", str(tmp_path), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode in (0, 1), said
    assert "It held" in said or "It did not hold" in said or "**It" in said, said
    return done.returncode == 0, said


def test_nothing_grows_under_constant_load(tmp_path):
    """Memory and files stay under a mixed load; observations are read, but not replaced.

    Latencies are judged by `make soak`, on a machine that has nothing else to do.
    """
    is_flat, said = held(tmp_path, "soak.py", "--sizes-only", "--without", *REPLACING)
    assert is_flat, said


def test_nothing_grows_while_observations_are_replaced(tmp_path):
    """The same, with observations replaced and deleted all the time."""
    is_flat, said = held(tmp_path, "soak.py", "--sizes-only")
    assert is_flat, said


@pytest.mark.alone
def test_a_disk_that_is_too_slow_makes_writers_wait_and_nothing_else(tmp_path):
    """512 writers against the disk: bounded queue, flat memory and lag, all acknowledged is there."""
    is_flat, said = held(tmp_path, "overload.py", minutes=LATENCY_MINUTES)
    assert is_flat, said


def test_a_receiver_that_never_reads_costs_only_itself(tmp_path):
    """Messages at full rate: flat memory, and each received or counted, whoever reads how fast."""
    is_flat, said = held(tmp_path, "flood.py", "--counts-only")
    assert is_flat, said
