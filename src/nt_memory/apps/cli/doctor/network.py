"""Whether servers that the settings name can be reached, and let this node in."""

from __future__ import annotations

import http.client
import re
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from nt_memory.apps.cli.doctor.checks import Check
from nt_memory.errors import (
    DisconnectedError,
    InvalidInputError,
    NtMemoryError,
    PermissionDeniedError,
)
from nt_memory.transport.nats.address import parse_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nt_memory.apps.cli.doctor.checks import Patient
    from nt_memory.transport.nats.link import Link

PATIENCE_S = 3.0
_CLUSTER = ("nats", "tls")
_MOST_GREETING = 1 << 16
_KEEPS_STREAMS = re.compile(rb'"jetstream": *true')
_PORTS = {"nats": 4222, "tls": 4222, "http": 80, "https": 443}


def check_server(patient: Patient) -> Check:
    """The server, or the servers of a cluster, that stand for the store."""
    return _reached("server", patient.url)


def check_vector_server(patient: Patient) -> Check:
    """The server that L2 is to live on."""
    return _reached("vector server", patient.config.agentdb_url)


def check_credentials(patient: Patient) -> Check:
    """Whether a cluster's servers let this node in. Connects, and subscribes to nothing."""
    name = "credentials"
    joined = _join(patient, name)
    if isinstance(joined, Check):
        return joined
    joined.close()
    who = patient.config.agent or "the operator"
    return Check(name, "ok", f"the servers let this node in, as {who}")


def check_copies(patient: Patient) -> Check:
    """Whether every server that keeps a cluster's journal has all of it. Connects, and changes nothing."""
    from nt_memory.transport.nats.client import ApiError  # noqa: PLC0415 - slow

    name = "copies"
    joined = _join(patient, name)
    if isinstance(joined, Check):
        is_shut_out = joined.status == "fail"  # which `check_credentials` says
        return Check(name, "skip", "this node is not let in") if is_shut_out else joined
    asked = joined.ask_api(f"STREAM.INFO.{joined.subjects.stream}", {})
    try:
        cluster = joined.call(asked, PATIENCE_S).get("cluster") or {}
    except (ApiError, NtMemoryError) as error:
        if isinstance(error, PermissionDeniedError):
            return Check(name, "skip", "this node may not ask")
        if isinstance(error, ApiError) and error.code == http.client.NOT_FOUND:
            return Check(name, "skip", "nobody has opened this swarm yet")
        return Check(name, "fail", str(error), "look at the servers' logs and disks")
    finally:
        joined.close()
    return _judge_copies(name, cluster)


def _join(patient: Patient, name: str) -> Link | Check:
    """A connection to a cluster; or why there is none, as a check."""
    from nt_memory.system.joining import connect  # noqa: PLC0415 - slow

    if urlsplit(patient.url or "").scheme not in _CLUSTER:
        return Check(name, "skip", "no cluster is named")
    if _reached(name, patient.url).status not in {"ok", "warn"}:
        return Check(name, "skip", "no server answers")
    try:
        return connect(replace(patient.config, url=patient.url))
    except DisconnectedError:
        return Check(name, "skip", "no server answers")
    except NtMemoryError as error:
        return Check(name, "fail", str(error), "nkey_file or credentials_file, see nt-memory enrol")


def _judge_copies(name: str, cluster: Mapping[str, Any]) -> Check:
    leader, replicas = cluster.get("leader", "one server"), cluster.get("replicas") or []
    behind = [
        f"{one['name']} is {'away' if one.get('offline') else 'behind'}"
        for one in replicas
        if one.get("offline") or not one.get("current")
    ]
    well = [one["name"] for one in replicas if one.get("current") and not one.get("offline")]
    found = f"all of the journal: {', '.join([leader, *well])}"
    if behind:
        advice = "if one more is lost, writes stop: look at that server's log and disk"
        return Check(name, "warn", f"{'; '.join(behind)}; {found}", advice)
    return Check(name, "ok", found)


def _reached(name: str, url: str | None) -> Check:
    if not url:
        return Check(name, "skip", "none is named")
    scheme = urlsplit(url).scheme
    try:
        servers = parse_url(url)[0] if scheme in _CLUSTER else [url]
        places = [_place(server) for server in servers]
    except (ValueError, InvalidInputError):
        return Check(name, "fail", f"{scheme}://…: not an address", "such as nats://127.0.0.1:4222")
    lost: list[str] = []
    odd: list[str] = []
    well: list[str] = []
    for host, port in places:
        where = f"{scheme}://{host}:{port}"  # without credentials
        try:
            said = _ask(scheme, host, port)
        except (OSError, http.client.HTTPException) as error:
            lost.append(f"{where} cannot be reached: {error}")
        else:
            (odd if said else well).append(f"{where} {said or 'answers'}")
    found = "; ".join(lost + odd + well)
    if lost:
        return Check(
            name,
            "warn" if well else "fail",
            found,
            "is it running, is the port open, does the name resolve from here?",
        )
    if odd:
        advice = "is it the server that you mean, is its disk full, is JetStream on?"
        return Check(name, "warn", found, advice)
    return Check(name, "ok", found)


def _place(url: str) -> tuple[str, int]:
    """Host and port.

    Raises:
        ValueError: it names none.
    """
    parts = urlsplit(url)
    port = parts.port or _PORTS.get(parts.scheme)
    if parts.hostname is None or port is None:
        raise ValueError(parts.scheme)
    return parts.hostname, port


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
    with (
        socket.create_connection((host, port), timeout=PATIENCE_S) as line,
        line.makefile("rb") as heard,
    ):
        greeting = heard.readline(_MOST_GREETING)
    if not greeting.startswith(b"INFO "):
        return "answers, but not as NATS does"
    # A server that could not write keeps no streams until it is started anew, and says so here.
    return "" if _KEEPS_STREAMS.search(greeting) else "answers, but keeps no streams"
