"""Key pairs by which users prove who they are: the server is told the public part alone.

A seed is the secret part, in a file that only its owner can read. A server never sees it: the client
signs what the server asks it to (https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/nkey_auth).
"""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, Any

from nt_memory.errors import InvalidInputError, UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

_OWNER_ONLY = 0o600


def make_key(path: Path) -> str:
    """Make a key pair, keep its seed at `path`, which must not exist, and return the public key.

    Raises:
        FileExistsError: there is a file.
        UnsupportedError: the extra is not installed.
    """
    nkeys = _nkeys()
    seed = bytes(nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    with os.fdopen(fd, "wb") as file:
        file.write(seed + b"\n")
        file.flush()
        os.fsync(fd)
    return public_key(path)


def public_key(path: Path) -> str:
    """The public key of the seed at `path`.

    Raises:
        InvalidInputError: it holds no seed of a user.
        UnsupportedError: the extra is not installed.
    """
    nkeys = _nkeys()
    try:
        pair = nkeys.from_seed(bytearray(path.read_bytes().strip()))
        return bytes(pair.public_key).decode()
    except (nkeys.errors.NkeysError, ValueError):
        raise InvalidInputError(f"{path} holds no seed of an nkey") from None


def _nkeys() -> Any:
    try:
        import nkeys  # noqa: PLC0415 - of an extra
    except ModuleNotFoundError:
        raise UnsupportedError("keys need nkeys: pip install 'nt-memory[cluster]'") from None
    return nkeys
