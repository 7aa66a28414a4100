"""What a command ends with: one table of exit codes, and what is said on stderr.

Scripts can rely on the codes. 1 and 2 mean what they mean everywhere; those above tell apart what a
script would treat differently: wait and repeat, repair, ask for a right, free space.
"""

from __future__ import annotations

import errno
import re
from enum import IntEnum
from pathlib import Path

from nt_memory import errors

MAX_CHARS = 2_000
SIGNALLED = 128
"""A command that a signal ends exits with this and the signal's number, as shells have it."""


class Exit(IntEnum):
    """Exit codes of `nt-memory`; their meanings are in `MEANINGS`."""

    OK = 0
    FAILED = 1
    USAGE = 2
    IN_USE = 3
    DAMAGED = 4
    DENIED = 5
    TIMEOUT = 6
    NO_STORE = 7
    UNSUPPORTED = 8
    FULL = 9
    LOST = 10
    UNREACHABLE = 11
    STORAGE = 12
    INTERRUPTED = 130
    PIPE = 141
    TERMINATED = 143

    @property
    def word(self) -> str:
        """Its name, to read."""
        return self.name.lower().replace("_", " ")


MEANINGS = {
    Exit.OK: "done",
    Exit.FAILED: "what was asked for is not so: no such key, a conflict, a quota, a failed check",
    Exit.USAGE: "the command line, or what it names, is malformed",
    Exit.IN_USE: "another process has the store open for writing",
    Exit.DAMAGED: "the store, or what is imported, is damaged",
    Exit.DENIED: "a policy, or the file system, does not allow it",
    Exit.TIMEOUT: "it did not happen in the time that was given",
    Exit.NO_STORE: "there is no store, or it is none that this version opens with these settings",
    Exit.UNSUPPORTED: "this cannot be done with such a store, or needs a part that is not installed",
    Exit.FULL: "no space is left",
    Exit.LOST: "a lock was lost, or the write's fence is stale",
    Exit.UNREACHABLE: "a server cannot be reached",
    Exit.STORAGE: "reading or writing files failed",
    Exit.INTERRUPTED: "interrupted with Ctrl-C",
    Exit.PIPE: "whoever read the output has gone; nothing is said about it",
    Exit.TERMINATED: "ended by SIGTERM",
}

# The first that fits counts, so what is special comes before what is general.
_BY_ERROR: tuple[tuple[tuple[type[Exception], ...], Exit], ...] = (
    ((errors.StoreInUseError,), Exit.IN_USE),
    (
        (errors.PermissionDeniedError, errors.StorePermissionError, PermissionError),
        Exit.DENIED,
    ),
    ((errors.CorruptionError,), Exit.DAMAGED),
    (
        (
            errors.NoStoreError,
            errors.ForeignStoreError,
            errors.FormatVersionError,
            errors.ConfigMismatchError,
        ),
        Exit.NO_STORE,
    ),
    ((errors.StorageFullError,), Exit.FULL),
    ((errors.UnsupportedError,), Exit.UNSUPPORTED),
    ((errors.LockLostError, errors.StaleFenceError), Exit.LOST),
    (
        (
            errors.DisconnectedError,
            errors.EmbedderUnavailableError,
            errors.VectorServerUnavailableError,
            ConnectionError,
        ),
        Exit.UNREACHABLE,
    ),
    ((TimeoutError,), Exit.TIMEOUT),
    ((errors.InvalidInputError,), Exit.USAGE),
    ((errors.StorageError,), Exit.STORAGE),
    (
        (errors.NtMemoryError, FileNotFoundError, FileExistsError, IsADirectoryError),
        Exit.FAILED,
    ),
    ((NotADirectoryError,), Exit.FAILED),
    ((OSError,), Exit.STORAGE),
)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


class NotThereError(errors.NtMemoryError):
    """What a command was asked for is not there."""


class UnreachableError(errors.NtMemoryError, ConnectionError):
    """A server is not there, does not answer, or is another kind of server."""

    retryable = True


class NothingCameError(errors.NtMemoryError, TimeoutError):
    """What a command waited for did not come in time."""


def code_of(error: Exception) -> Exit:
    """The exit code of an error that a command ends with."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return Exit.FULL
    for kinds, code in _BY_ERROR:
        if isinstance(error, kinds):
            return code
    return Exit.FAILED


IN_USE = (
    "only one process may write: stop that one, or wait for it with --wait SECONDS; commands that only "
    "read work beside it"
)
DAMAGED = "nt-memory verify shows all of it, nt-memory repair mends it"


def explained(error: Exception, *, in_use: str = IN_USE, damaged: str = DAMAGED) -> str:
    """An error on one line, without credentials, and what can be done about it.

    Args:
        error: What went wrong.
        in_use: What to do when another process has the store.
        damaged: What to do when something is damaged.
    """
    text = " ".join(str(error).split())
    # What a server says of itself is anybody's text: no escapes for the terminal, and no flood.
    text = "".join(one if one.isprintable() else "?" for one in text)
    if len(text) > MAX_CHARS:
        text = f"{text[:MAX_CHARS]}…"
    if isinstance(error, errors.StoreInUseError):
        text += f"{_named(error.pid)}; {in_use}"
    elif isinstance(error, errors.CorruptionError):
        text += f"; {damaged}"
    return without_credentials(text)


def without_credentials(text: str) -> str:
    """A text in which no URL shows a user or a password."""
    return _CREDENTIALS.sub("***@", text)


def _named(pid: int | None) -> str:
    """What that process is called; not its arguments, which may hold what nobody else should see."""
    if pid is None:
        return ""
    try:
        return f" ({Path(f'/proc/{pid}/comm').read_text().strip()})"
    except (OSError, UnicodeDecodeError):
        return ""  # not Linux, or gone
