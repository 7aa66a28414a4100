"""nats-py's client, and what servers say no by.

nats-py takes whatever error a server sends, but for a refused subject, for the end of the client.
That is what servers send whose configuration no longer has this node's credentials, or that are
about to stop; here it is a reason to reconnect, like any other. And an attempt that fails is ended here,
which nats-py leaves to chance: its reader would take what the next one is told, for seconds.
"""

from __future__ import annotations

import re
from typing import Any, Final

import nats.errors
from nats.aio.client import Client

from nt_memory.errors import PermissionDeniedError

REFUSED: Final = re.compile(
    r"authorization violation|authentication (?:expired|revoked)", re.IGNORECASE
)
"""Of credentials; a server that is slow says `Authentication Timeout`."""
IN_PROCESS: Final = 10158
"""A message of that id was taken, and no majority has stored it yet. Who has lost its majority says so for ever."""
NO_LEADER: Final = (500, 503)
NOT_STORED: Final = 10077
"""The leader's own store says no."""
MOVE_S: Final = 6.0
"""A server that is of no use for so long may be parted from the others, and not from this node."""
FORGET_S: Final = 30.0
"""Two failures that are farther apart have nothing to do with each other."""
_PERMISSIONS: Final = "permissions violation"


class RefusedError(PermissionDeniedError):
    """The servers do not let this node in any more; it goes on trying."""


class SteadyClient(Client):
    """A client that reconnects, whatever a server said before it hung up."""

    async def _process_err(self, err_msg: str) -> None:
        if _PERMISSIONS in err_msg.lower():
            await super()._process_err(err_msg)
            return
        error = nats.errors.Error("nats: " + err_msg.strip("'"))
        await self._error_cb(error)
        await self._process_op_err(error)

    async def _process_connect_init(self) -> None:
        # What an attempt that failed leaves running would read from the next one's connection.
        self._end_attempt()
        try:
            await super()._process_connect_init()
            self._check_answered()
        except BaseException:
            self._end_attempt()
            if self._transport is not None:
                self._transport.close()  # type: ignore[no-untyped-call]
            raise

    def _check_answered(self) -> None:
        if not self.is_connected:  # the server hung up before it said why: nats-py would go on
            raise ConnectionResetError("the server hung up")

    def _end_attempt(self) -> None:
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None:
                task.cancel()


class ApiError(Exception):
    """JetStream refuses.

    Attributes:
        code: As of HTTP.
        number: Which error it is.
    """

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error.get("description", "")))
        self.code: int = int(error.get("code", 0))
        self.number: int = int(error.get("err_code", 0))

    @property
    def is_of_no_use(self) -> bool:
        """Whether a majority may be missing: no leader is known, or the one that is stores nothing."""
        return self.number == IN_PROCESS or (self.code in NO_LEADER and self.number != NOT_STORED)


class Patience:
    """For how long a server that is connected has done nothing that takes a majority.

    It may be parted from the others and not from this node. One that led then may go on answering what it
    has, and only what it is asked to store shows it.
    """

    def __init__(self) -> None:
        self._since_ns = self._last_ns = 0

    def renew(self) -> None:
        """It has done something."""
        self._since_ns = self._last_ns = 0

    def is_over(self, now_ns: int) -> bool:
        """It has failed to, now; whether it has for `MOVE_S`. After that the time begins anew."""
        if not self._last_ns or now_ns - self._last_ns > FORGET_S * 1e9:
            self._since_ns = now_ns
        self._last_ns = now_ns
        if now_ns - self._since_ns <= MOVE_S * 1e9:
            return False
        self.renew()
        return True


def unanswered(error: Exception) -> str:
    """Why there was no answer of the servers' streams, in words."""
    if isinstance(error, nats.errors.NoRespondersError):
        return "no server keeps the streams: too few run, or their disks are full"
    return f"no answer: {str(error) or type(error).__name__}"
