"""What a server refuses, as the errors that the memory raises in process."""

from __future__ import annotations

from typing import Any

from nt_memory import errors
from nt_memory.apps.cli.exits import UnreachableError
from nt_memory.apps.cli.remote.address import TOKEN, TOKEN_FILE

_ATTRIBUTES = ("current", "oldest", "expected", "got", "limit", "used", "wanted", "maximum")
_BY_STATUS: dict[int, type[errors.NtMemoryError]] = {
    400: errors.InvalidInputError,
    401: errors.PermissionDeniedError,
    403: errors.PermissionDeniedError,
    408: UnreachableError,
    413: errors.ValueTooLargeError,
    429: UnreachableError,
    502: UnreachableError,
    503: UnreachableError,
    504: UnreachableError,
}


class AbsentError(errors.NtMemoryError):
    """The server has nothing under that name; what asked says what that means."""


def error_of(problem: dict[str, Any]) -> errors.NtMemoryError:
    """The error that a problem document tells of."""
    status, detail = problem.get("status"), str(problem.get("detail", "no reason given"))
    kind = getattr(errors, str(problem.get("title")), None)
    if isinstance(kind, type) and issubclass(kind, errors.NtMemoryError):
        return _made(kind, detail, problem)
    if status == 404:
        return AbsentError(detail)
    if status == 401:
        detail += f"; give it by {TOKEN}, or its file's name by {TOKEN_FILE}"
    found = _BY_STATUS.get(status) if isinstance(status, int) else None
    return (found or errors.NtMemoryError)(detail)


def _made(
    kind: type[errors.NtMemoryError], detail: str, problem: dict[str, Any]
) -> errors.NtMemoryError:
    """An error of this kind; what its constructor asks for may be missing in what a server sent."""
    error = kind.__new__(kind, detail)
    error.args = (detail,)
    defaults = {"pid": None, "host": None, "oldest": 1, "current": 0, "expected": 0, "got": 0}
    for name, value in {**defaults, **{n: problem[n] for n in _ATTRIBUTES if n in problem}}.items():
        setattr(error, name, value)
    return error
