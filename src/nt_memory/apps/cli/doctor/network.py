"""Whether servers that the settings name can be reached."""

from __future__ import annotations

import http.client
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from nt_memory.apps.cli.doctor.checks import Check

if TYPE_CHECKING:
    from nt_memory.apps.cli.doctor.checks import Patient

PATIENCE_S = 3.0
_PORTS = {"nats": 4222, "tls": 4222, "http": 80, "https": 443}


def check_server(patient: Patient) -> Check:
    """The server that stands for the store."""
    return _reached("server", patient.url)


def check_vector_server(patient: Patient) -> Check:
    """The server that L2 is to live on."""
    return _reached("vector server", patient.config.agentdb_url)


def _reached(name: str, url: str | None) -> Check:
    if not url:
        return Check(name, "skip", "none is named")
    parts = urlsplit(url)
    try:
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        port = None
    host = parts.hostname
    if host is None or port is None:
        return Check(
            name, "fail", f"{parts.scheme}://…: not an address", "such as nats://127.0.0.1:4222"
        )
    where = f"{parts.scheme}://{host}:{port}"  # without credentials
    try:
        found = _ask(parts.scheme, host, port)
    except (OSError, http.client.HTTPException) as error:
        return Check(
            name,
            "fail",
            f"{where} cannot be reached: {error}",
            "is it running, is the port open, does the name resolve from here?",
        )
    if not found:
        return Check(name, "ok", f"{where} answers")
    return Check(name, "warn", f"{where} {found}", "is it the server that you mean?")


def _ask(scheme: str, host: str, port: int) -> str:
    """What is odd about what answers; empty if nothing is.

    Raises:
        OSError: nothing answers.
    """
    if scheme in {"http", "https"}:
        kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        asked = kind(host, port, timeout=PATIENCE_S)
        try:
            asked.request("GET", "/health")
            status = asked.getresponse().status
        finally:
            asked.close()
        return "" if status < http.client.BAD_REQUEST else f"answers /health with {status}"
    with socket.create_connection((host, port), timeout=PATIENCE_S) as line:
        greeting = line.recv(5)
    return "" if greeting.startswith(b"INFO ") else "answers, but not as NATS does"
