"""Servers that have given up on a full disk, and when to start them anew.

A server that cannot write keeps no streams from then on. It runs, takes connections and answers, and
does not look whether there is space again: only a start does.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from nt_memory.transport.nats.servers.statements import has_given_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from nt_memory.clock import Clock

ENOUGH_BYTES = 64 << 20
"""So much must be free: what is written to streams comes in blocks of megabytes."""
FIRST_WAIT_S = 30.0
MAX_WAIT_S = 900.0
"""A disk that is not full but broken fails again and again: each start costs the other servers something."""


class Revival:
    """Decides which servers to start anew.

    Args:
        clock: For durations.
        told: Takes a line when a server is found so, and when it is about to be started.
    """

    def __init__(self, clock: Clock, told: Callable[[str], object]) -> None:
        self._clock = clock
        self._told = told
        self._full: set[str] = set()
        self._waits: dict[str, tuple[int, float]] = {}

    def due(
        self, answers: Mapping[str, Mapping[str, Any]], streams: Callable[[str], Path]
    ) -> Iterator[str]:
        """Names of servers to start anew now.

        Args:
            answers: What servers say of their streams; see `statements.ask`.
            streams: Where a server keeps them.
        """
        for name, answer in answers.items():
            if not has_given_up(answer):
                self._full.discard(name)
            elif self._has_space(name, streams(name)) and self._may_start(name):
                self._told(f"server {name} is started anew")
                yield name

    def _has_space(self, name: str, place: Path) -> bool:
        """Whether there is enough; said once if not."""
        try:
            found = os.statvfs(place)
        except OSError as error:
            free, what = 0, f"{place} cannot be looked at ({error.strerror})"
        else:
            free = found.f_bavail * found.f_frsize
            what = f"{free >> 20} MiB are free where {place} is"
        if free < ENOUGH_BYTES and name not in self._full:
            self._full.add(name)
            self._told(
                f"server {name} keeps nothing any more: {what}. "
                f"It is started anew once there are {ENOUGH_BYTES >> 20} MiB"
            )
        return free >= ENOUGH_BYTES

    def _may_start(self, name: str) -> bool:
        """Whether it has not been started anew too lately; from now on it has."""
        now_ns = self._clock.monotonic_ns()
        since_ns, wait_s = self._waits.get(name, (now_ns, 0.0))
        passed_s = (now_ns - since_ns) / 1e9
        if passed_s < wait_s:
            return False
        again_s = FIRST_WAIT_S if passed_s > MAX_WAIT_S else min(2 * wait_s, MAX_WAIT_S)
        self._waits[name] = (now_ns, max(again_s, FIRST_WAIT_S))
        return True
