"""What an agent is told when something went wrong: what it was, and what it can do about it.

A refusal of the memory is an answer of the tool, which the model reads, never an error of the
protocol, which only the host sees. What nobody expected is logged whole, and told without any of it.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from mcp_types import CallToolResult, TextContent

from nt_memory import errors

if TYPE_CHECKING:
    from pydantic import ValidationError

logger: logging.Logger = logging.getLogger(__name__)

# The most special comes first.
_HINTS: tuple[tuple[type[errors.NtMemoryError], str], ...] = (
    (errors.DimensionError, "Give what this agent's others were made with: text, or that length."),
    (errors.EmbedderUnavailableError, "Try again in a moment, or give `embedding`."),
    (errors.VectorServerUnavailableError, "Search again in a moment; state can be recalled "
     "meanwhile."),
    (errors.EmbeddingError, "Give a list of finite numbers that are not all zero."),
    (errors.InvalidTimeError, "Give a time with its offset, such as 2026-03-02T16:00:00-05:00."),
    (errors.TrajectoryError, "list_trajectories shows what is recorded; define_action_type says "
     "what an action type predicts."),
    (errors.LookAheadError, "This is a backtest: leave as_of out, or take an earlier one."),
    (errors.TrimmedError, "That far back is no longer kept: take a later as_of, or a new cursor."),
    (errors.ConflictError, "Somebody else changed it: recall it, then decide again, with "
     "`expect` = `current`."),
    (errors.QuotaError, "Forget what is no longer needed, or ask an operator for a larger quota."),
    (errors.StaleFenceError, "You no longer have the lock: acquire it again, recall what it "
     "protects, and start over."),
    (errors.LockLostError, "You no longer have the lock: acquire it again, recall what it "
     "protects, and start over."),
    (errors.LockTimeoutError, "Somebody else has it: wait longer with timeout_s, or do something "
     "else first."),
    (errors.ReentrantLockError, "You have it already, or wait for it: go on with that fence, or "
     "release it. list_locks shows it."),
    (errors.UnknownProposalError, "list_proposals shows their ids."),
    (errors.NotRegisteredError, "register_voter makes you a voter of later proposals."),
    (errors.VoteChangedError, "A vote stands; make a new proposal if things have changed."),
    (errors.ProposalTimeoutError, "It stays open: wait again, or go on and look later."),
    (errors.UnknownTrajectoryError, "list_trajectories shows their ids."),
    (errors.PermissionDeniedError, "Your policy forbids it: ask an operator, or keep to what it "
     "allows."),
    (errors.StorageFullError, "The disk is full: an operator has to make room. Reading works."),
    (errors.ReadOnlyError, "This server only reads."),
    (errors.StorageError, "An operator has to look at the store."),
    (errors.ClosedError, "The server is stopping."),
)  # fmt: skip


def refusal(error: errors.NtMemoryError) -> CallToolResult:
    """What an agent is told of a refusal."""
    hint = next((text for kind, text in _HINTS if isinstance(error, kind)), None)
    details = {name: _plain(value) for name, value in vars(error).items() if _is_plain(value)}
    return _told(type(error).__name__, str(error), hint, is_retryable=error.retryable, **details)


def malformed(tool: str, error: ValidationError) -> CallToolResult:
    """What an agent is told of arguments that do not fit."""
    problems = [
        f"{'.'.join(str(part) for part in one['loc']) or 'arguments'}: {one['msg']}"
        for one in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return _told("InvalidArguments", f"{tool}: {'; '.join(problems)}", None, is_retryable=False)


def unexpected(tool: str, error: Exception) -> CallToolResult:
    """What an agent is told of a mistake of ours; the log has it whole."""
    logger.error("%s failed", tool, exc_info=error)
    return _told(
        "InternalError",
        f"{tool} failed; it is in the server's log",
        "Whether it happened is not known: look before you repeat it.",
        is_retryable=False,
    )


def _told(
    kind: str, message: str, hint: str | None, *, is_retryable: bool, **details: Any
) -> CallToolResult:
    error = {"type": kind, "message": message, "is_retryable": is_retryable, **details}
    if hint is not None:
        error["hint"] = hint
    told = {"error": error}
    text = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
    content = TextContent(type="text", text=text)
    return CallToolResult(content=[content], structured_content=told, is_error=True)


def _is_plain(value: object) -> bool:
    return isinstance(value, int | float | str | tuple)


def _plain(value: Any) -> Any:
    return [str(one) for one in value] if isinstance(value, tuple) else value
