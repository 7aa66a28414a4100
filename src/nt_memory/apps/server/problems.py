"""Errors as HTTP says them: a status, and a problem document (RFC 9457) without internals."""

from __future__ import annotations

import json
import logging
from typing import Any, ClassVar

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field

from nt_memory import errors

MEDIA_TYPE = "application/problem+json"
_TYPE = "urn:nt-memory:error:"
_MAX_DETAILS = 8

logger: logging.Logger = logging.getLogger("nt_memory.server")

# The most particular class of an error's bases that is here decides.
_STATUS: dict[type[errors.NtMemoryError], int] = {
    errors.NtMemoryError: 500,
    errors.InvalidInputError: 400,
    errors.ValueTooLargeError: 413,
    errors.EmbedderError: 502,
    errors.EmbedderUnavailableError: 503,
    errors.VectorServerError: 502,
    errors.VectorServerUnavailableError: 503,
    errors.DisconnectedError: 503,
    errors.UnsupportedError: 501,
    errors.TimelineError: 409,
    errors.TrimmedError: 410,
    errors.ConflictError: 409,
    errors.QuotaError: 403,
    errors.ReembeddingError: 409,
    errors.StaleFenceError: 409,
    errors.LockTimeoutError: 409,
    errors.LockLostError: 409,
    errors.ReentrantLockError: 409,
    errors.ProposalError: 409,
    errors.UnknownProposalError: 404,
    errors.UnknownTrajectoryError: 404,
    errors.PermissionDeniedError: 403,
    errors.NoResponderError: 409,
    errors.RequestTimeoutError: 409,
    errors.ReadOnlyError: 403,
    errors.ClosedError: 503,
    errors.ReceiverClosedError: 503,
    errors.StorageFullError: 507,
}
_ATTRIBUTES = ("current", "oldest", "expected", "got", "limit", "used", "wanted", "maximum")
_TITLES = {
    400: "MalformedRequest",
    401: "NotAuthenticated",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    408: "RequestTimeout",
    409: "Conflict",
    413: "BodyTooLarge",
    429: "TooManyRequests",
    500: "InternalError",
    503: "Unavailable",
}


class Problem(BaseModel):
    """What went wrong (RFC 9457). `type` ends with the name of the error."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    type: str = Field(description="urn:nt-memory:error:<name>")
    title: str = Field(description="The name of the error.")
    status: int
    detail: str
    retryable: bool = Field(description="Whether the same request can succeed later, unchanged.")


def problem(
    status: int, detail: str, *, title: str = "", retryable: bool = False, **more: Any
) -> dict[str, Any]:
    """The document of a problem."""
    name = title or _TITLES.get(status, "Error")
    return {
        "type": f"{_TYPE}{name}",
        "title": name,
        "status": status,
        "detail": detail,
        "retryable": retryable,
        **more,
    }


def status_of(error: errors.NtMemoryError) -> int:
    """The HTTP status that says what an error says."""
    for kind in type(error).__mro__:
        if kind in _STATUS:
            return _STATUS[kind]
    return 500


def describe(error: errors.NtMemoryError) -> dict[str, Any]:
    """The document of an error of the memory.

    What the store itself failed of is for the operator: messages of it name files.
    """
    status = status_of(error)
    name = type(error).__name__
    if isinstance(error, errors.StorageError):
        logger.error("storage failed", exc_info=error)
        detail = "no space is left" if status == 507 else "the store failed; see the server's log"
        return problem(status, detail, title=name, retryable=error.retryable)
    more = {
        key: value
        for key in _ATTRIBUTES
        if isinstance(value := getattr(error, key, None), int | str) and value != ""
    }
    return problem(status, str(error), title=name, retryable=error.retryable, **more)


def respond(document: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    """A problem as a response; any text may be in it, also what is no valid Unicode."""
    return Response(
        encode(document), document["status"], headers=headers or {}, media_type=MEDIA_TYPE
    )


def encode(document: dict[str, Any]) -> bytes:
    """A problem's bytes: plain ASCII, so that what a client sent can be quoted whatever it was."""
    return json.dumps(document, ensure_ascii=True, allow_nan=False).encode()


async def on_memory_error(_: Request, error: Exception) -> Response:
    """The response to an error of the memory."""
    if not isinstance(error, errors.NtMemoryError):  # pragma: no cover - registered for it alone
        raise error
    headers: dict[str, str] = {}
    retry_after = getattr(error, "retry_after", None)
    if isinstance(retry_after, int | float):
        headers["retry-after"] = str(max(1, round(retry_after)))
    return respond(describe(error), headers)


async def on_malformed(_: Request, error: Exception) -> Response:
    """The response to a request that has not the form it should have; says where, not what."""
    if not isinstance(error, RequestValidationError):  # pragma: no cover - registered for it alone
        raise error
    found = error.errors()
    said = [
        f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}"[:200]
        for one in found[:_MAX_DETAILS]
    ]
    more = len(found) - _MAX_DETAILS
    detail = "; ".join(said) + (f"; and {more} more" if more > 0 else "")
    return respond(problem(400, detail))


async def on_http_error(_: Request, error: Exception) -> Response:
    """The response to what HTTP itself refuses: no such path, no such method, a body too large."""
    status = getattr(error, "status_code", 500)
    detail = str(getattr(error, "detail", "")) or _TITLES.get(status, "error")
    headers = dict(getattr(error, "headers", None) or {})
    return respond(problem(status, detail, retryable=status in {408, 429, 503}), headers)


def refused(status: int, detail: str, **headers: str) -> HTTPException:
    """An error to raise; headers are spelled with underscores."""
    return HTTPException(
        status, detail, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
