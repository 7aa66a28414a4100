"""Where a server is, and the token it is asked with.

The token comes from the environment or from a file that only its owner can read: what is on a command
line every process of the machine can read. It goes to that server alone, never in clear over a network,
and appears in no message.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from nt_memory.config import MemoryConfig, secret_from_env
from nt_memory.errors import InvalidInputError, StorePermissionError

SCHEMES = ("http://", "https://")
TOKEN, TOKEN_FILE = "NT_MEMORY_TOKEN", "NT_MEMORY_TOKEN_FILE"
_TOKEN = re.compile(r"[!-~]+")
_MAX_TOKEN_CHARS = 4_096


@dataclass(frozen=True, slots=True)
class Address:
    """A server.

    Attributes:
        url: Without credentials, and without a slash at its end.
        headers: What shows who asks; empty without a token.
        is_local: Whether it is on this machine.
    """

    url: str
    headers: dict[str, str] = field(repr=False)
    is_local: bool


def address_of(url: str) -> Address:
    """The server that a URL names, with the token for it.

    Credentials in the URL count before `NT_MEMORY_TOKEN`, and that before the file that
    `NT_MEMORY_TOKEN_FILE` names.

    Raises:
        InvalidInputError: it is no URL of a server; it has credentials and stood on the command line;
            the token is none; the token would be sent in clear.
        StorePermissionError: others can read the file of the token.
        OSError: it cannot be read.
    """
    where, host, user = _parts(url)
    if user is not None and url != MemoryConfig.from_env().url:
        raise InvalidInputError(
            f"{where}: other users see the command line; put the token into {TOKEN}, or its file's "
            f"name into {TOKEN_FILE}"
        )
    headers = _basic(user) if user is not None else _bearer()
    is_local = _is_local(host)
    if headers and where.startswith("http:") and not is_local:
        raise InvalidInputError(
            f"{where}: a token is not sent in clear over a network; use https://"
        )
    return Address(where, headers, is_local)


def _parts(url: str) -> tuple[str, str, str | None]:
    """A URL without credentials, its host, and its credentials."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if not host or parts.query or parts.fragment or any(c <= " " for c in url):
        raise InvalidInputError("--store: not the URL of a server, such as http://127.0.0.1:3000")
    user, at, place = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{place}{parts.path}".rstrip("/"), host, user if at else None


def _basic(user: str) -> dict[str, str]:
    name, _, token = user.partition(":")
    plain = f"{unquote(name)}:{_checked(unquote(token), 'the URL')}"
    return {"authorization": f"Basic {base64.b64encode(plain.encode()).decode()}"}


def _bearer() -> dict[str, str]:
    token, source = secret_from_env(TOKEN), TOKEN
    if token is None and (name := secret_from_env(TOKEN_FILE)) is not None:
        token, source = _read(Path(name)), TOKEN_FILE
    return {} if token is None else {"authorization": f"Bearer {_checked(token, source)}"}


def _read(path: Path) -> str:
    with path.open("rb") as file:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise StorePermissionError(f"{path}: others can read this token; chmod 600 it")
        return file.read(_MAX_TOKEN_CHARS + 2).decode(errors="replace").strip()


def _checked(token: str, source: str) -> str:
    if not _TOKEN.fullmatch(token) or len(token) > _MAX_TOKEN_CHARS:
        raise InvalidInputError(f"{source}: what it gives is no token")
    return token


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
