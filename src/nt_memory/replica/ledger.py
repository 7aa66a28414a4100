"""What proves that two replicas are the same: a digest of all that their entries did, entry by entry.

Each entry's digest is one of the digest before it, of the entry's bytes and time, and of what it did:
whether it was accepted or what refused it, the revision after it, and the rows that it wrote of
versions, locks, electorate and ballots. So two replicas whose digests are equal at one entry have
decided alike up to there; and once they differ they differ for good, so the first entry that was taken
otherwise is found by halving. Numbers that a compaction may choose, of vector rows, are not in it.

Kept of a replica that follows a stream, and of no other: nothing else has anybody to be compared with.
The newest is in the views, and in every snapshot of them; some more are held in memory.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from nt_memory.tiers.views import Snapshot, WriteBatch
    from nt_memory.transport.ports import Frame

HELD: Final = 1 << 16
"""So many entries' digests are held: 512 KiB."""
SHORT_BYTES: Final = 8
"""What is held and exchanged of a digest: enough, for what nobody forges but itself."""
_DIGEST_BYTES: Final = 16
_META: Final = b"meta"
_LEDGER: Final = b"ledger"
_NUMBERS = struct.Struct("<qqq")
_AFTER = b"\0"


class Ring:
    """The short digests of the newest entries. Written by one thread, read by any.

    Attributes:
        last: Sequence of the newest; 0: there is none.
        first: Of the oldest ever put in; older ones than `last - HELD` are gone all the same.
    """

    def __init__(self) -> None:
        self._digests = array("Q", bytes(HELD * SHORT_BYTES))
        self.first: int = 0
        self.last: int = 0

    def put(self, sequence: int, digest: bytes) -> None:
        """Add the next one; or, where some are applied once more, what is there already."""
        self.first = self.first or sequence
        self._digests[sequence % HELD] = int.from_bytes(digest[:SHORT_BYTES], "little")
        self.last = sequence

    def at(self, sequence: int) -> int | None:
        """The digest after an entry; None: it is not held."""
        if not self.oldest <= sequence <= self.last:
            return None
        found = self._digests[sequence % HELD]
        return found if sequence >= self.oldest else None  # not overwritten meanwhile

    @property
    def oldest(self) -> int:
        """Sequence of the oldest that is held."""
        # One less than there is room for: the place of the next may be half way to it.
        return max(self.first, self.last - HELD + 2, 1)

    def span(self) -> tuple[int, array[int]]:
        """All that is held: the oldest's sequence, and the digests from there on."""
        while True:
            oldest, last = self.oldest, self.last
            found = array("Q", (self._digests[n % HELD] for n in range(oldest, last + 1)))
            if self.oldest <= oldest or not found:
                return oldest, found
            if (gone := self.oldest - oldest) < len(found):
                return oldest + gone, found[gone:]


class Ledger:
    """The digest of a replica, entry by entry.

    Args:
        views: As they are.
        sequence: Of the last entry in them.

    Attributes:
        digest: After the last entry; None: none is kept.
        ring: The newest ones.
    """

    def __init__(self, views: Snapshot, sequence: int) -> None:
        self.digest = views.get(_META, _LEDGER)
        self.ring: Ring = Ring()
        if self.digest is not None:
            self.ring.put(sequence, self.digest)

    def begin(self) -> None:
        """Keep one from the next entry on. All replicas must call it at the same entry."""
        self.digest = bytes(_DIGEST_BYTES)

    def note(self, frame: Frame, revision: int, refusal: str, trace: list[bytes]) -> None:
        """An entry was applied.

        Args:
            frame: It.
            revision: After it.
            refusal: What it was refused with; empty: it was accepted.
            trace: What it wrote.

        Cost: about 2 us, and a nanosecond a byte.
        """
        assert self.digest is not None  # noqa: S101 - or nobody would call it
        hasher = hashlib.blake2b(self.digest, digest_size=_DIGEST_BYTES)
        hasher.update(_NUMBERS.pack(frame.sequence, frame.recorded_at, revision))
        hasher.update(refusal.encode() + _AFTER)
        hasher.update(frame.payload)
        for written in trace:
            hasher.update(len(written).to_bytes(4, "little"))
            hasher.update(written)
        self.digest = hasher.digest()
        self.ring.put(frame.sequence, self.digest)

    def save(self, batch: WriteBatch) -> None:
        """Write the digest into the views."""
        if self.digest is not None:
            batch.put(_META, _LEDGER, self.digest)

    def end(self, batch: WriteBatch) -> None:
        """Keep none any more: from here on the replica goes its own way."""
        self.digest = None
        batch.delete(_META, _LEDGER)


def begin_ledger(batch: WriteBatch) -> None:
    """Have a digest in the views from now on: what all replicas begin with."""
    batch.put(_META, _LEDGER, bytes(_DIGEST_BYTES))
