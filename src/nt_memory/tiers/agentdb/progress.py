"""How far a store has delivered its observations to a server: a small file in the store's directory.

It may be older than the truth, after a crash, since what it says was delivered is delivered again
without harm. It is never newer: it is written after the server's answers.
"""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

import msgspec

FILE = "agentdb.json"


class Progress(msgspec.Struct):
    """How far.

    Attributes:
        url: To which server.
        store: Names the deliveries of this store to it, in all its collections. Another one means other
            collections: so it is drawn anew when they have to be filled from the beginning.
        revision: All entries up to this one were delivered, but for what `scanned` says.
        scanned: A first delivery has come so far, the name in the views as hexadecimal; None: it is over.
        agents: Whose observations were delivered.
    """

    url: str
    store: str
    revision: int = 0
    scanned: str | None = ""
    agents: list[str] = msgspec.field(default_factory=list)

    @classmethod
    def begin(cls, url: str, revision: int) -> Progress:
        """Nothing was delivered; what comes after `revision` will be after all that was before."""
        return cls(url, secrets.token_hex(8), revision)

    @classmethod
    def load(cls, directory: Path, url: str) -> Progress | None:
        """What a store's file says of a server; None if it says nothing, or nothing that can be read."""
        try:
            found = msgspec.json.decode((directory / FILE).read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError):
            return None
        return found if found.url == url else None

    def save(self, directory: Path) -> None:
        """Write it, whole or not at all.

        Raises:
            OSError: it could not be written.
        """
        new = directory / f"{FILE}.new"
        try:
            new.write_bytes(msgspec.json.encode(self))
            new.replace(directory / FILE)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink()
            raise
