"""How faiss is loaded: its threads sleep when they have nothing to do, and nothing else is changed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

IDLE = """
import os, time
import numpy as np
from nt_memory.tiers.vectors.index import Graph
graph = Graph(64, 1)
rows = np.random.default_rng(0).standard_normal((3000, 64)).astype(np.float32)
graph.add(rows, threads=2)
begun = time.process_time()
time.sleep(0.05)
print(time.process_time() - begun)
"""
LEFT = """
import os
from nt_memory.tiers.vectors import library
print(library.faiss.__version__, sorted(name for name in os.environ if name.startswith("OMP_")))
"""


def said_by(program, **variables):
    environment = {name: text for name, text in os.environ.items() if "OMP" not in name}
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env=environment | variables,
        check=True,
        capture_output=True,
        text=True,
    )
    return ran.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="another OpenMP")
def test_threads_of_an_add_do_not_spin_after_it():
    """By default each burns 9 ms: a whole processor where observations come in every 10 ms."""
    assert float(said_by(IDLE)) < 0.003


@pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="needs two processors"
)
def test_who_says_how_threads_wait_is_obeyed():
    assert float(said_by(IDLE, OMP_WAIT_POLICY="active")) > 0.02


def test_the_environment_is_as_it_was():
    """What others read when they are loaded, or in processes begun later, is theirs."""
    assert said_by(LEFT).endswith("[]")
    assert said_by(LEFT, OMP_WAIT_POLICY="active").endswith("['OMP_WAIT_POLICY']")
