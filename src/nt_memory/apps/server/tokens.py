"""Bearer tokens: in whose name a request comes.

A token is `ntm_<id>_<secret>`. The file has one line a token: its id, the agent (`*`: the operator)
and the SHA-256 of the whole token; so who reads the file cannot act as anybody. The secret has 256
random bits, which is why one plain hash will do: there is nothing to guess that a slow one would
protect. The id is no secret: it finds the line, and may be logged.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nt_memory.clock import SystemClock
from nt_memory.errors import InvalidInputError, StorePermissionError
from nt_memory.namespace import check_agent

if TYPE_CHECKING:
    from nt_memory.clock import Clock

OPERATOR = "*"
_TOKEN = re.compile(r"ntm_([0-9a-f]{12})_[A-Za-z0-9_-]{43}", re.ASCII)
_LINE = re.compile(r"([0-9a-f]{12}) (\S{1,64}) ([0-9a-f]{64})", re.ASCII)
_OTHERS = 0o077
_MAX_FILE_BYTES = 1 << 20
_RELOAD_NS = 1_000_000_000
_NOBODY = bytes(32)

logger: logging.Logger = logging.getLogger("nt_memory.server")


class Bearer(NamedTuple):
    """Whose a token is.

    Attributes:
        agent: The agent; empty: the operator.
        token_id: Which token.
    """

    agent: str
    token_id: str


class _Row(NamedTuple):
    bearer: Bearer
    digest: bytes


def add_token(path: Path, agent: str) -> str:
    """Make a token and add it to a file, which is made, for its owner alone, when missing.

    Args:
        path: The file.
        agent: Whose token; `*`: the operator's, who may do anything.

    Returns:
        The token. It is kept nowhere: only its hash goes into the file.

    Raises:
        InvalidNameError: a malformed agent.
        StorePermissionError: others may read or write the file, or it is somebody else's.
        InvalidInputError: it is no file of tokens.
        OSError: it cannot be written.
    """
    if agent != OPERATOR:
        check_agent(agent)
    token_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    token = f"ntm_{token_id}_{secret}"
    line = f"{token_id} {agent} {hashlib.sha256(token.encode()).hexdigest()}\n"
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        _check_file(path, os.fstat(descriptor))
        before = os.read(descriptor, _MAX_FILE_BYTES)
        _parse(path, before)
        if before and not before.endswith(b"\n"):
            line = f"\n{line}"
        os.write(descriptor, line.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return token


class TokenFile:
    """The tokens of a file, read again within a second of its change.

    A file that became unreadable or malformed leaves the tokens as they were, and says so in the
    log: locking everybody out for a slip of an editor would be worse, and what was revoked by a
    sound file stays revoked.

    Raises:
        As `add_token`.
    """

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self._path = path
        self._clock = clock or SystemClock()
        self._looked_ns = self._clock.monotonic_ns()
        self._seen = (0, 0, 0)
        self._rows: dict[str, _Row] = {}
        self._load()

    @property
    def agents(self) -> list[str]:
        """Who has a token, by name; the operator is none of them."""
        self._refresh()
        return sorted({row.bearer.agent for row in self._rows.values()} - {""})

    def find(self, token: str) -> Bearer | None:
        """Whose a token is; None: nobody's."""
        self._refresh()
        match = _TOKEN.fullmatch(token)
        row = self._rows.get(match[1]) if match else None
        # The same work for an id that is not there.
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        is_it = hmac.compare_digest(digest, _NOBODY if row is None else row.digest)
        return row.bearer if row is not None and is_it else None

    def has(self, token_id: str) -> bool:
        """Whether a token is still valid."""
        self._refresh()
        return token_id in self._rows

    def _refresh(self) -> None:
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._looked_ns < _RELOAD_NS:
            return
        self._looked_ns = now_ns
        try:
            found = self._path.stat()
            if (found.st_mtime_ns, found.st_size, found.st_ino) != self._seen:
                self._load()
                logger.info("tokens read again", extra={"fields": {"tokens": len(self._rows)}})
        except (InvalidInputError, OSError, StorePermissionError) as error:
            logger.error(  # noqa: TRY400 - the traceback says nothing more
                "tokens were not read again", extra={"fields": {"reason": str(error)}}
            )

    def _load(self) -> None:
        with self._path.open("rb") as file:
            found = os.fstat(file.fileno())
            _check_file(self._path, found)
            self._rows = _parse(self._path, file.read(_MAX_FILE_BYTES))
        self._seen = (found.st_mtime_ns, found.st_size, found.st_ino)


def _check_file(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise InvalidInputError(f"{path} is no regular file")
    if found.st_mode & _OTHERS:
        raise StorePermissionError(f"{path} is open to others: chmod 600 {path}")
    if found.st_uid not in {0, os.geteuid()}:
        raise StorePermissionError(f"{path} belongs to another user")
    if found.st_size >= _MAX_FILE_BYTES:
        raise InvalidInputError(f"{path} is too large to be a file of tokens")


def _parse(path: Path, data: bytes) -> dict[str, _Row]:
    """The rows of a file; what is wrong with it is said without repeating it."""
    rows: dict[str, _Row] = {}
    for number, raw in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise InvalidInputError(
                f"{path}: line {number} is not `<id> <agent> <sha256>`; "
                "`nt-memory token` adds such lines"
            )
        token_id, agent, digest = match.groups()
        if token_id in rows:
            raise InvalidInputError(f"{path}: line {number} repeats the id {token_id}")
        agent = "" if agent == OPERATOR else check_agent(agent)
        rows[token_id] = _Row(Bearer(agent, token_id), bytes.fromhex(digest))
    return rows
