"""Where a cluster's servers are, and how a node shows them who it is. Needs no extra."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from nt_memory.errors import InvalidInputError

_SCHEMES: Final = ("nats", "tls")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """How a node shows who it is; none of it is ever logged. Name and password may be in the URL.

    Attributes:
        file: Credentials file, with JWT and seed.
        nkey_file: File with an nkey seed.
        ca_file: Certificates that the servers' are checked against; None: the system's.
        cert_file: This node's certificate.
        key_file: Its key.
    """

    file: str | os.PathLike[str] | None = None
    nkey_file: str | os.PathLike[str] | None = None
    ca_file: str | os.PathLike[str] | None = None
    cert_file: str | os.PathLike[str] | None = None
    key_file: str | os.PathLike[str] | None = None

    def refusal(self, servers: list[str]) -> str:
        """What to tell whom servers do not let in: which credentials those were."""
        shown = self.file or self.nkey_file
        if shown is not None:
            return f"the servers refuse the credentials in {os.fspath(shown)}"
        if "@" in servers[0]:
            return "the servers refuse the name and password in the URL"
        return (
            "the servers want credentials, and none were given: "
            "nkey_file (NT_MEMORY_NKEY_FILE), credentials_file, or name and password in the URL"
        )

    def tls(self, servers: list[str]) -> ssl.SSLContext | None:
        """A context, if anything asks for TLS."""
        if self.ca_file is None and self.cert_file is None and not servers[0].startswith("tls:"):
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except (OSError, ssl.SSLError) as error:
            raise InvalidInputError(f"the certificates cannot be used: {error}") from None
        return context


def parse_url(url: str) -> tuple[list[str], str]:
    """Servers, and the swarm that the path names ("" if it names none).

    Raises:
        InvalidInputError: it is no such URL; the message does not repeat it, for the password's sake.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.netloc or parts.query or parts.fragment:
        raise InvalidInputError(
            "a cluster's URL is nats://host:port[,host:port…][/swarm], or tls://…"
        )
    names, at, hosts = parts.netloc.rpartition("@")
    servers = [
        urlunsplit((parts.scheme, names + at + host, "", "", ""))
        for host in hosts.split(",")
        if host
    ]
    try:
        ports = [urlsplit(server).port for server in servers]
    except ValueError:
        ports = []
    if not ports:
        raise InvalidInputError("a cluster's URL names a server that has no host, or a wrong port")
    return servers, unquote(parts.path.strip("/"))


def show_url(url: str) -> str:
    """A URL without name and password."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
