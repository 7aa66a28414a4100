"""LangGraph's PostgresStore over a server of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

from peers.adapters.langgraph_ import NONE, Store
from peers.adapters.servers import HOST, START_S, Server, free_port, program, said

BINARIES = sorted(str(path) for path in Path("/usr/lib/postgresql").glob("*/bin"))
BY_HAND = "apt-get install postgresql"
NO_VECTORS = (
    "its search needs the extension pgvector, which Debian 12 does not have for PostgreSQL 15"
)
USER = "postgres"


class Postgres(Store):
    """State and episodes; no search here."""

    name = "LangGraph PostgresStore"
    packages = ("langgraph-checkpoint-postgres", "psycopg")
    used = "`PostgresStore.from_conn_string(…)` on loopback, then `setup()`; PostgreSQL as `initdb` sets it up"
    acknowledged = "on disk (PostgreSQL's log, fsync)"
    without: ClassVar = {
        "message": NONE,
        "lock": NONE,
        "load": NO_VECTORS,
        "observe": NO_VECTORS,
        "search": NO_VECTORS,
        "search_symbol": NO_VECTORS,
        "lessons": NO_VECTORS,
    }
    as_of: ClassVar = {}

    def version(self) -> str:
        return said([program("postgres", BY_HAND, *BINARIES), "--version"])

    def open(self) -> None:
        server, initdb = (program(one, BY_HAND, *BINARIES) for one in ("postgres", "initdb"))
        user, data = self._owner(), self.directory / "data"
        if not data.exists():
            # --no-sync is about making the directory; the server then syncs as it always does.
            command = [
                initdb,
                "--no-sync",
                "-D",
                str(data),
                "-U",
                "bench",
                "--auth=trust",
                "--no-locale",
                "-E",
                "UTF8",
            ]
            said(command, user=user, group=user, cwd="/")
        port = free_port()
        command = [server, "-D", str(data), "-h", HOST, "-p", str(port), "-k", ""]
        self._server = Server(command, self.directory / "server.log", port, user)
        self._opened = ExitStack()
        self._store = self._connected(port)
        self._store.setup()

    def _connected(self, port: int) -> Any:
        """A server that replays its log takes connections and refuses them."""
        import psycopg  # noqa: PLC0415 - another distribution
        from langgraph.store.postgres import PostgresStore  # noqa: PLC0415

        where = f"postgresql://bench@{HOST}:{port}/postgres"
        deadline = time.monotonic() + START_S
        while True:
            try:
                return self._opened.enter_context(PostgresStore.from_conn_string(where))
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _owner(self) -> str | None:
        """The server refuses to run as root; then the directory is another user's, and those above open."""
        if os.geteuid() != 0:
            return None
        pwd.getpwnam(USER)
        shutil.chown(self.directory, USER, USER)
        for above in _above(self.directory):
            above.chmod(above.stat().st_mode | 0o111)
        return USER

    def close(self) -> None:
        self._opened.close()
        self._server.stop(signal.SIGINT)  # its "fast" shutdown: what is there is written


def _above(directory: Path) -> list[Path]:
    """The directories above that are ours to open: those below the system's temporary one."""
    return [
        one for one in directory.parents if one.stat().st_uid == os.geteuid() and len(one.parts) > 2
    ]
