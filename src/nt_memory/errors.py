"""Every error of nt-memory, in one tree under `NtMemoryError`.

`retryable` says whether repeating the same call, unchanged, can succeed later.
"""

from __future__ import annotations

from typing import ClassVar


class NtMemoryError(Exception):
    """Root of all errors raised on purpose by nt-memory."""

    retryable: ClassVar[bool] = False


# --- what the caller passed -------------------------------------------------------------------


class InvalidInputError(NtMemoryError, ValueError):
    """An argument is malformed; nothing was changed."""


class InvalidNameError(InvalidInputError):
    """An agent, key, topic, resource or swarm name breaks the naming rules."""


class InvalidTimeError(InvalidInputError):
    """A time is naive, out of range, or lies in the future of a live timeline."""


class CodecError(InvalidInputError):
    """A value cannot be encoded, or stored bytes cannot be decoded."""


class ValueTooLargeError(CodecError):
    """An encoded value exceeds the size limit."""


class EmbeddingError(InvalidInputError):
    """An embedding is not a finite, non-zero vector of numbers."""


class DimensionError(EmbeddingError):
    """The partition holds vectors of another dimension."""

    def __init__(self, message: str, *, expected: int = 0, got: int = 0) -> None:
        super().__init__(message)
        self.expected = expected
        self.got = got


class EmbedderError(NtMemoryError):
    """A model or an embedding service refused, or answered what makes no sense.

    Attributes:
        status: HTTP status of the answer; None if there was none.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class EmbedderUnavailableError(EmbedderError):
    """An embedding service is busy, over its rate limit or out of reach, after all retries.

    Attributes:
        retry_after: Seconds the service asked to wait; None if it did not say.
    """

    retryable = True

    def __init__(
        self, message: str, *, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, status=status)
        self.retry_after = retry_after


class VectorServerError(NtMemoryError):
    """The server at `agentdb_url` refused, or answered what makes no sense.

    Attributes:
        status: HTTP status of the answer; None if there was none.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class VectorServerUnavailableError(VectorServerError):
    """The server at `agentdb_url` is out of reach or busy. State is read and written meanwhile."""

    retryable = True


class UnsupportedError(NtMemoryError):
    """The chosen backend cannot do this."""


# --- time -------------------------------------------------------------------------------------


class TimelineError(NtMemoryError):
    """The timeline cannot do this: it has not started, would run backwards, or is live."""


class LookAheadError(TimelineError):
    """A backtest tried to read or write past its own now."""


class TrimmedError(NtMemoryError):
    """What was asked for lies before the oldest entry that is still kept."""

    def __init__(self, message: str, *, oldest: int) -> None:
        super().__init__(message)
        self.oldest = oldest


# --- concurrent change ------------------------------------------------------------------------


class ConflictError(NtMemoryError):
    """`expect` did not hold. `current` is the revision found, 0 if there is none."""

    def __init__(self, message: str, *, current: int) -> None:
        super().__init__(message)
        self.current = current


class QuotaError(NtMemoryError):
    """The write would have taken an agent past its quota; nothing was changed.

    Not retryable: nothing frees the agent's share but a delete, retention or a larger quota, so the
    same call again, unchanged, is refused again until somebody sees to that.

    Attributes:
        agent: Whose quota.
        limit: Which: "keys", "bytes" or "vectors".
        used: How much the agent has now.
        wanted: How much more the write needs, net of what it frees.
        maximum: What the quota allows.
    """

    def __init__(
        self,
        message: str,
        *,
        agent: str = "",
        limit: str = "",
        used: int = 0,
        wanted: int = 0,
        maximum: int = 0,
    ) -> None:
        super().__init__(message)
        self.agent = agent
        self.limit = limit
        self.used = used
        self.wanted = wanted
        self.maximum = maximum


class ReembeddingError(NtMemoryError):
    """The agent's observations are being embedded anew already; nothing was changed."""

    retryable = True


class StaleFenceError(NtMemoryError):
    """The write's lock grant is no longer current, or its lease ran out before the write."""


class LockTimeoutError(NtMemoryError, TimeoutError):
    """The lock was not granted in time."""

    retryable = True


class LockLostError(NtMemoryError):
    """The lease ran out, or the lock was taken away, while it was thought to be held."""


class ReentrantLockError(NtMemoryError):
    """The same holder already holds, or already waits for, this lock."""


class ProposalError(NtMemoryError):
    """A proposal, vote or registration breaks the rules of consensus."""


class UnknownProposalError(ProposalError, LookupError):
    """No proposal has this id."""


class NotRegisteredError(ProposalError):
    """The voter does not belong to the proposal's electorate."""


class VoteChangedError(ProposalError):
    """The voter has already voted the other way."""


class ProposalTimeoutError(ProposalError, TimeoutError):
    """The proposal was not decided within the time given to `wait`."""

    retryable = True


class UnknownTrajectoryError(NtMemoryError, LookupError):
    """No trajectory has this id, or it was not known yet at the asked time."""


class TrajectoryError(InvalidInputError):
    """A trajectory or outcome is malformed, or its action type is not defined."""


# --- messages ---------------------------------------------------------------------------------


class ReceiverClosedError(NtMemoryError):
    """The subscription was closed, by its owner or because the memory was closed."""


class BufferOverflowError(NtMemoryError):
    """A subscriber with `overflow="error"` fell behind by more than its buffer."""


class ReceiveTimeoutError(NtMemoryError, TimeoutError):
    """No message arrived in time."""

    retryable = True


class NoResponderError(NtMemoryError):
    """A request reached nobody: no subscription matches its topic."""

    retryable = True


class RequestTimeoutError(NtMemoryError, TimeoutError):
    """Nobody replied to a request in time. Whoever got it may have acted on it all the same."""

    retryable = True


# --- who may do what --------------------------------------------------------------------------


class PermissionDeniedError(NtMemoryError, PermissionError):
    """An agent's policy does not allow what it tried; nothing was changed.

    Attributes:
        agent: Who tried.
        right: Which right was missing: "read", "write", "publish", "subscribe", "lock", "propose",
            "vote" or "operate".
        target: On what.
        patterns: What the policy allows of that right.
    """

    def __init__(
        self,
        message: str,
        *,
        agent: str = "",
        right: str = "",
        target: str = "",
        patterns: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.agent = agent
        self.right = right
        self.target = target
        self.patterns = patterns


# --- the store --------------------------------------------------------------------------------


class StorageError(NtMemoryError):
    """The store failed. After this error the instance accepts no more writes."""


class StorageFullError(StorageError):
    """No space is left. Nothing was written; writes resume when there is space again."""

    retryable = True


class StorePermissionError(StorageError, PermissionError):
    """The directory cannot be read or written by this user."""


class CorruptionError(StorageError):
    """Stored bytes fail their checksum or contradict each other; the message names the place."""


class NoStoreError(StorageError):
    """There is no store at the path, and what was called does not make one."""


class ForeignStoreError(StorageError):
    """The path is a file, or a directory that belongs to another program."""


class FormatVersionError(StorageError):
    """The store was written in a newer format than this version reads."""


class StoreInUseError(StorageError):
    """Another process, or another instance in this one, has the directory open for writing."""

    retryable = True

    def __init__(self, message: str, *, pid: int | None = None, host: str | None = None) -> None:
        super().__init__(message)
        self.pid = pid
        self.host = host


class DisconnectedError(NtMemoryError):
    """A cluster's servers were out of reach, or without a leader, for as long as a call waits.

    Reads go on. A write that raises it may have been stored, or may be stored yet: repeating it is safe
    under the same `request_id`.
    """

    retryable = True


class ConfigMismatchError(StorageError):
    """A setting that belongs to the swarm differs from the one the store was made with."""


class ReadOnlyError(NtMemoryError):
    """A write was tried on a read-only instance or view."""


class ClosedError(NtMemoryError):
    """The memory was closed."""


class WrongLoopError(NtMemoryError):
    """The call came from another event loop, thread or process than the one that opened it."""


def again(error: NtMemoryError) -> NtMemoryError:
    """A fresh exception that says the same: one instance raised twice would collect tracebacks."""
    copy = type(error).__new__(type(error), *error.args)
    copy.args = error.args
    copy.__dict__.update(error.__dict__)
    copy.__cause__ = error.__cause__
    return copy
