"""What a server is told: where it listens, whom it lets in, and how much it takes."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Settings of one server.

    Attributes:
        host: Address or name to listen on.
        port: Port; 0: any free one.
        tokens: File of bearer tokens; None: whoever reaches the server is the operator.
        certfile: Certificate chain for TLS, PEM.
        keyfile: Its private key; None: it is in `certfile`.
        is_behind_proxy: Somebody else ends TLS before requests come here.
        allowed_hosts: Names, besides loopback's, that a `Host` header may have on loopback.
        max_body_bytes: Largest body of a request.
        max_head_bytes: Longest request line and headers together.
        head_timeout_s: Until a request's headers must have come.
        body_timeout_s: Until its body must have come.
        write_timeout_s: How long a client may read nothing of what it is sent.
        idle_timeout_s: How long a connection is kept for the next request.
        max_connections: Connections at once; more are told to come back.
        max_streams: Streams of messages and changes at once, half of them for one agent.
        heartbeat_s: After how long without an event a stream says that it is there.
        grace_s: How long requests may take to end when the server stops.
    """

    host: str = "127.0.0.1"
    port: int = 3000
    tokens: Path | None = None
    certfile: Path | None = None
    keyfile: Path | None = None
    is_behind_proxy: bool = False
    allowed_hosts: tuple[str, ...] = ()
    max_body_bytes: int = 16 << 20
    max_head_bytes: int = 32 << 10
    head_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    write_timeout_s: float = 30.0
    idle_timeout_s: float = 15.0
    max_connections: int = 512
    max_streams: int = 256
    heartbeat_s: float = 15.0
    grace_s: float = 10.0


def is_loopback(host: str) -> bool:
    """Whether all that a host name stands for is this machine alone.

    Raises:
        InvalidInputError: the name stands for nothing.
    """
    if not host:
        return False  # every address there is
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidInputError(f"--host {host!r}: {error.strerror or error}") from None
    addresses = {str(entry[4][0]).partition("%")[0] for entry in found}
    return all(ipaddress.ip_address(address).is_loopback for address in addresses)


def check_exposure(settings: ServerSettings) -> None:
    """Refuse to be reached from elsewhere by whoever likes, or in the clear.

    Raises:
        InvalidInputError: beyond loopback without tokens; or without TLS, unless a proxy ends it.
    """
    if settings.keyfile is not None and settings.certfile is None:
        raise InvalidInputError("--keyfile needs --certfile")
    if is_loopback(settings.host):
        return
    if settings.tokens is None:
        raise InvalidInputError(
            f"--host {settings.host} can be reached from other machines: it needs --tokens FILE "
            "(`nt-memory token` makes them)"
        )
    if settings.certfile is None and not settings.is_behind_proxy:
        raise InvalidInputError(
            f"--host {settings.host} would send tokens in the clear: it needs --certfile and "
            "--keyfile, or --behind-proxy where something else ends TLS"
        )
