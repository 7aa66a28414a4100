"""Copies of large values and entries that nobody needs any more, and their removal.

When may a copy go? A node that counts on one publishes a message that does within `SETTLED_US` of its
being stored (`blobs`). Every message that is left in the stream is younger than the oldest snapshot
that is kept. So of the copies that were stored that much before it, none is named by a message that
anybody has still to follow: they are needed by the snapshots, or by nobody. Each snapshot holds the
list of those it needs.

Whatever goes on at the same time does no harm. Snapshots that others enter meanwhile follow from those
that are kept, so what they need besides was stored later. If they take the place of one whose list is
just being read, and its pieces with it, the newer catalogue is gone by. Two who remove at once go by
rules that agree. A copy is purged only up to the place that was found here, so nothing newer is touched. And it
goes after the stream was trimmed, so a node that was held up and misses one can tell why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nt_memory.codec.filed import REFERENCE_BYTES, read_reference
from nt_memory.errors import CorruptionError, InvalidNameError
from nt_memory.transport.nats.asking import Asking
from nt_memory.transport.nats.blobs import Blobs
from nt_memory.transport.nats.publishing import PATIENCE_S
from nt_memory.transport.nats.subjects import name_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from nt_memory.transport.nats.catalogue import Manifest
    from nt_memory.transport.nats.link import Link
    from nt_memory.transport.nats.snapshots import Shelf

VALUES: Final = "values"
"""Name of the file of a snapshot that lists the value files it needs: their references."""
SETTLED_US: Final = 24 * 3600 * 1_000_000
"""Far longer than a node counts on a copy, and tries to publish what does; and than clocks differ."""
_LEVELS: Final = 7


class Leftovers:
    """Removes what nobody needs. Its calls block; from any thread but the link's.

    Args:
        link: The connection, the operator's.
        shelf: The swarm's snapshots.
        scratch: A directory for files that are checked.
    """

    def __init__(self, link: Link, shelf: Shelf, scratch: Path) -> None:
        self._subjects = link.subjects
        self._shelf = shelf
        self._scratch = scratch
        self._ask = Asking(link, PATIENCE_S)
        self._blobs = Blobs(link)

    def remove(self) -> int:
        """Remove all copies that no snapshot needs, and of those that one needs all but one.

        Returns:
            How many were removed. 0 also if a snapshot does not say what it needs, as one of an older
            version.

        Raises:
            DisconnectedError: no server answers.
            PermissionDeniedError: this node may not.
            CorruptionError: the list of a snapshot that is kept is damaged: then nothing is removed.

        Cost: a message for every copy; those of which there are several are read.
        """
        snapshots, needed = self._kept()
        if needed is None or not snapshots:
            return 0
        before_us = min(min(one.recorded_at, one.created_at) for one in snapshots) - SETTLED_US
        end = self._first_since(before_us)
        if end <= 1:  # a purge without a sequence would be one of everything
            return 0
        groups: dict[str, set[str]] = {}
        for subject in self._stored():
            stem, _, copy = _without_part(subject).rpartition(".")
            groups.setdefault(stem, set()).add(copy)
        return sum(
            self._purge(f"{stem}.{copy}", end)
            for stem, copies in sorted(groups.items())
            for copy in sorted(self._spare(stem, copies, needed))
        )

    def _kept(self) -> tuple[tuple[Manifest, ...], dict[str, bytes] | None]:
        """The snapshots that are kept, and what they need."""
        while True:
            snapshots = self._shelf.listed().snapshots
            try:
                return snapshots, self._needed(snapshots)
            except CorruptionError:
                if self._shelf.listed().snapshots == snapshots:
                    raise

    def _needed(self, snapshots: tuple[Manifest, ...]) -> dict[str, bytes] | None:
        """References to the value files that snapshots need, by digest; None: one does not say."""
        found: dict[str, bytes] = {}
        for one in snapshots:
            part = next((part for part in one.parts if part.name == VALUES), None)
            if part is None:
                return None
            listed = self._scratch / VALUES
            self._shelf.fetch(one, part, listed)
            found.update((read_reference(ref).name, ref) for ref in read_list(listed))
        return found

    def _spare(self, stem: str, copies: set[str], needed: dict[str, bytes]) -> set[str]:
        """Of the copies of one blob, those that may go, if they are old enough.

        One that stays is the first that is whole. So of two who remove at once neither takes the one
        that the other leaves: whoever sees more copies leaves one that is whole as well.
        """
        author, digest = _spelled(stem)
        reference = needed.get(digest)
        if reference is None or author is None:
            return copies
        if len(copies) == 1:
            return set()
        kept = self._blobs.first_whole(author, reference, self._scratch, bool)
        return set() if kept is None else copies - {kept}

    def _purge(self, stem: str, end: int) -> bool:
        """Remove a copy's pieces that are before a place in their stream; whether there were any."""
        pieces = stem if stem.count(".") >= _LEVELS - 1 else f"{stem}.*"
        body = {"filter": pieces, "seq": end}
        done = self._ask.api(f"STREAM.PURGE.{self._subjects.values}", body)
        return int(done.get("purged", 0)) > 0

    def _stored(self) -> Iterable[str]:
        """The subjects under which pieces are stored."""
        stream, offset = self._subjects.values, 0
        while True:
            body = {"subjects_filter": self._subjects.all_values, "offset": offset}
            answer = self._ask.api(f"STREAM.INFO.{stream}", body)
            names = answer["state"].get("subjects") or {}
            yield from names
            offset += len(names)
            if not names or offset >= int(answer.get("total", 0)):
                return

    def _first_since(self, time_us: int) -> int:
        """Place in their stream of the first piece that was stored at a time or later."""
        state = self._ask.api(f"STREAM.INFO.{self._subjects.values}", {})["state"]
        low, high = int(state["first_seq"]), int(state["last_seq"]) + 1
        while low < high:
            middle = (low + high) // 2
            body = {"seq": middle, "next_by_subj": self._subjects.all_values}
            found = self._ask.message(self._subjects.values, body)
            if found is None or found.stored_at >= time_us:
                high = middle
            else:
                low = found.sequence + 1
        return low


def _without_part(subject: str) -> str:
    """A piece's subject without its part; whoever stores under one that is no piece's leaves a copy, too."""
    return subject.rpartition(".")[0] if subject.count(".") == _LEVELS - 1 else subject


def _spelled(stem: str) -> tuple[str | None, str]:
    """Author and digest of `ntm.<swarm>.value.<author>.<digest>`; None: nobody spells so."""
    levels = stem.split(".")
    if len(levels) != _LEVELS - 2:
        return None, ""
    try:
        author = "" if levels[3].startswith("_") else name_of(levels[3])
        return author, name_of(levels[4])
    except InvalidNameError:
        return None, ""


def write_list(path: Path, references: Iterable[bytes]) -> None:
    """Write the list of value files that a snapshot needs.

    Raises:
        OSError: it could not be written.
    """
    path.write_bytes(b"".join(sorted(set(references))))


def read_list(path: Path) -> list[bytes]:
    """What `write_list` wrote."""
    data = path.read_bytes()
    return [data[first : first + REFERENCE_BYTES] for first in range(0, len(data), REFERENCE_BYTES)]
