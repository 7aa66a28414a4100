"""Arguments of the public calls, checked and turned into what entries carry."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from nt_memory.clock import to_us
from nt_memory.coordination.tokens import LockToken
from nt_memory.entries import Fence
from nt_memory.errors import InvalidInputError, InvalidTimeError, TrimmedError
from nt_memory.namespace import check_label
from nt_memory.tiers.layout import NEVER_STARTED

if TYPE_CHECKING:
    from nt_memory.system.engine import Engine
    from nt_memory.timeline import AsOfLike, Moment

MAX_REVISION = (1 << 63) - 1
MAX_TTL_S = 100 * 366 * 24 * 3600.0


def to_fence(fence: LockToken | int | None) -> Fence | None:
    """The claim a `fence` argument makes.

    Raises:
        InvalidInputError: it is neither a token, a fence number nor None.
    """
    if fence is None:
        return None
    if isinstance(fence, LockToken):
        return Fence(fence.resource, fence.fence)
    if isinstance(fence, bool) or not isinstance(fence, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInputError(f"fence must be a lock token, not {type(fence).__name__}")
    if not 0 <= fence <= MAX_REVISION:
        raise InvalidInputError(f"fence must be a lock's fence, not {fence}")
    return Fence("", fence)


def to_ttl_us(ttl: float | timedelta | None) -> int | None:
    """Microseconds of a `ttl` argument.

    Raises:
        InvalidTimeError: it is not positive and finite, or over a century.
    """
    if ttl is None:
        return None
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidTimeError(f"ttl must be seconds, not {type(ttl).__name__}")
    if not 0 < seconds <= MAX_TTL_S:
        raise InvalidTimeError(f"ttl must be positive and at most a century, not {ttl!r}")
    return max(1, round(seconds * 1_000_000))


def to_known_at(known_at: datetime | None) -> int | None:
    """Microseconds of a `known_at` argument; raises InvalidTimeError on a naive time."""
    return None if known_at is None else to_us(known_at)


def check_request(request_id: str | None) -> str | None:
    """A valid `request_id` argument; raises InvalidNameError."""
    return None if request_id is None else check_label(request_id, "request_id")


def written(revision: int | None, request_id: str | None) -> int:
    """The revision of what was stored.

    Raises:
        InvalidInputError: nothing was: the id belongs to a delete that found nothing to remove.
    """
    if revision is None:
        raise InvalidInputError(
            f"request_id {request_id!r} was used before, for a delete that found nothing to remove"
        )
    return revision


def check_revision(revision: int, what: str) -> int:
    """A valid revision argument; raises InvalidInputError."""
    is_number = isinstance(revision, int) and not isinstance(revision, bool)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not is_number or not 0 <= revision <= MAX_REVISION:
        raise InvalidInputError(f"{what} must be a revision, not {revision!r}")
    return revision


def check_expect(expect: int | None) -> int | None:
    """A valid `expect` argument; raises InvalidInputError."""
    if expect is not None and (isinstance(expect, bool) or not isinstance(expect, int)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInputError(f"expect must be a revision, not {type(expect).__name__}")
    if expect is not None and not 0 <= expect <= MAX_REVISION:
        raise InvalidInputError(f"expect must be a revision or 0, not {expect}")
    return expect


def resolve(engine: Engine, as_of: AsOfLike | None) -> Moment:
    """The moment an `as_of` argument names."""
    return engine.timeline.resolve(
        as_of, visible=engine.revision, time_at=lambda revision: time_at(engine, revision)
    )


def time_at(engine: Engine, revision: int) -> int:
    """The agents' now right after a revision.

    Raises:
        TrimmedError: it lies before the base.
    """
    snapshot = engine.snapshot
    row = snapshot.log_times(revision)
    if row is not None:
        return row.now_us
    floor = snapshot.log_floor
    if floor > 0 and revision <= floor:
        oldest = floor + 1
        raise TrimmedError(
            f"as_of: revision {revision} lies before the base; the oldest is {oldest}",
            oldest=oldest,
        )
    return NEVER_STARTED
