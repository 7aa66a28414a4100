"""Bugs that are planted into one process of the swarm under chaos, at the seams where they could be made.

Each is what somebody could have written; the judge must find all of them.
"""

from __future__ import annotations

import functools
from typing import Any

from nt_memory.clock import SystemClock
from nt_memory.replica.coordination import Draft
from nt_memory.system.auditing import Audit
from nt_memory.transport.nats.follower import Stored
from nt_memory.transport.nats.journal import NatsJournal, _Arrival
from nt_memory.transport.nats.parcels import Parcel, decode_parcel, encode_parcel
from nt_memory.transport.nats.publishing import ATTEMPT_S, Publishing


def retry_under_a_new_id() -> None:
    """What was not answered is published again as another message, as if it had not been stored."""
    insist, arrived = Publishing._insist, Publishing.arrived
    names: dict[int, set[int]] = {}  # numbers of one message

    def insist_anew(self: Any, subject: str, data: bytes, number: int, sending: Any) -> None:
        parcel = decode_parcel(data, "")
        mine = names[number] = {number}

        def attempt() -> None:
            self._number += 1
            again = self._number
            mine.add(again)
            names[again] = mine
            with self._mutex:
                self._under_way[again] = sending
            headers = {"Nats-Msg-Id": f"{self.session}-{again}"}
            anew = encode_parcel(Parcel(self.session, again, parcel.entries))
            self.link.call(self._store(subject, anew, headers), ATTEMPT_S * 2)

        self._persist(attempt, is_done=lambda: number not in self._under_way)
        sending.is_acknowledged = True

    def arrived_once(self: Any, number: int) -> Any:
        sending = arrived(self, number)
        for other in names.get(number, set()) - {number}:
            with self._mutex:
                self._under_way.pop(other, None)
        return sending

    del insist
    Publishing._insist = insist_anew  # type: ignore[method-assign]
    Publishing.arrived = arrived_once  # type: ignore[method-assign]


def apply_on_publish() -> None:
    """A node applies what it publishes at once, and not in the order of the stream."""
    insist = Publishing._insist

    def apply_first(self: Any, subject: str, data: bytes, number: int, sending: Any) -> None:
        journal: NatsJournal = self._lose.__self__
        if self._fail is not None:  # once it is open
            now = journal._store_clock.now_us()
            stored = Stored(journal._message, now, subject, data, 0)
            journal._submissions.put(data, _Arrival(stored))
        insist(self, subject, data, number, sending)

    Publishing._insist = apply_first  # type: ignore[method-assign]


def lease_by_local_clock() -> None:
    """A node judges leases by its own clock at the time it applies an entry."""
    clock = SystemClock()
    start = Draft.__init__

    @functools.wraps(start)
    def by_local_clock(self: Any, states: Any, views: Any, now: Any) -> None:
        start(self, states, views, now._replace(recorded_at=clock.now_us()))

    Draft.__init__ = by_local_clock  # type: ignore[method-assign]


PLANTS = {
    "new-id": retry_under_a_new_id,
    "on-publish": apply_on_publish,
    "local-clock": lease_by_local_clock,
}


def plant(name: str) -> None:
    """Plant a bug into this process; "" plants none."""
    if name:
        # The node would find out by itself, and stop: here it is the judge that has to find it.
        Audit.is_outvoted = lambda _: False  # type: ignore[method-assign]
        PLANTS[name]()
