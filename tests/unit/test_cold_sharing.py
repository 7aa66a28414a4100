"""One process, one LMDB environment: opened again beside a write transaction."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
from pathlib import Path
from nt_memory.tiers.cold import ColdTier

directory = Path(sys.argv[1])
writer = ColdTier(directory, max_map_bytes=1 << 24)
batch = writer.begin()
batch.put_number(b"revision", 7)
reader = ColdTier(directory, max_map_bytes=1 << 24, read_only=True)
assert reader.snapshot().number(b"revision") is None
writer.commit(batch)
assert reader.snapshot().number(b"revision") == 7
"""


def test_views_open_again_while_they_are_written(tmp_path) -> None:
    """Opening needs no lock that a write transaction holds, which would stop the whole process."""
    # In a process of its own: if it waits, it waits without ever looking at a signal.
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / "views")], check=True, timeout=30)
