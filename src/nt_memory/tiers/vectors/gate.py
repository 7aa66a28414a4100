"""Many searches or one change at a time, with neither side kept waiting for ever."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator


class Gate:
    """A readers-writer lock that takes turns. Not re-entrant.

    A waiting writer holds back readers who come after it; when it is done, the readers who waited
    go first. So a stream of searches cannot starve the indexer, nor a stream of small changes the
    searches.
    """

    def __init__(self) -> None:
        self._turn = threading.Condition(threading.Lock())
        self._readers = 0
        self._is_writing = False
        self._waiting_writers = 0
        self._waiting_readers = 0
        self._admitted = 0

    @contextmanager
    def shared(self) -> Generator[None]:
        """Hold it together with other readers."""
        with self._turn:
            if self._is_writing or self._waiting_writers:
                self._wait_to_read()
            self._readers += 1
        try:
            yield
        finally:
            with self._turn:
                self._readers -= 1
                if not self._readers:
                    self._turn.notify_all()

    @contextmanager
    def exclusive(self) -> Generator[None]:
        """Hold it alone."""
        with self._turn:
            self._waiting_writers += 1
            try:
                while self._is_writing or self._readers or self._admitted:
                    self._turn.wait()
            except BaseException:  # an interrupt must not leave the readers waiting for us
                self._turn.notify_all()
                raise
            finally:
                self._waiting_writers -= 1
            self._is_writing = True
        try:
            yield
        finally:
            with self._turn:
                self._is_writing = False
                self._admitted = self._waiting_readers
                self._turn.notify_all()

    def _wait_to_read(self) -> None:
        self._waiting_readers += 1
        try:
            while self._is_writing or (self._waiting_writers and not self._admitted):
                self._turn.wait()
        finally:
            self._waiting_readers -= 1
            # Never more admitted than wait, or a writer would wait for readers who are gone.
            self._admitted = min(self._admitted, self._waiting_readers)
            self._turn.notify_all()
