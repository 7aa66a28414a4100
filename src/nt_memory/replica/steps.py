"""What goes into the deciding of an entry, and what comes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from nt_memory.entries import Entry
    from nt_memory.replica.coordination import Draft
    from nt_memory.replica.follow import Follow
    from nt_memory.replica.writes import Now
    from nt_memory.tiers.layout import ChangeRow
    from nt_memory.tiers.views import WriteBatch


class Effects(NamedTuple):
    """What an accepted entry returns to its caller, and the keys it changed.

    An entry without changes takes no revision and is not logged, unless its `request_id` has to be
    remembered.
    """

    result: Any
    changes: tuple[ChangeRow, ...] = ()
    has_changes: bool = True


class Step(NamedTuple):
    """One entry being decided."""

    batch: WriteBatch
    entry: Entry
    now: Now
    draft: Draft
    follow: Follow


class Prepared(NamedTuple):
    """A batch of frames folded into a transaction that nobody else sees yet."""

    batch: WriteBatch
    follow: Follow

    def discard(self) -> None:
        """Forget it."""
        self.batch.close()
