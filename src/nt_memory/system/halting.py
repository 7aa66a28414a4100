"""Observations that have to wait, for the moment in which their agent gets another embedding.

The last observations before a switch are embedded while no more come, or a swarm that observes faster
than a model embeds would never get there. Reads and searches do not wait, and neither do other agents.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from nt_memory.entries import ObserveMany, Write
from nt_memory.errors import ReembeddingError

if TYPE_CHECKING:
    from collections.abc import Generator

    from nt_memory.entries import Body

_embedded: ContextVar[str] = ContextVar("nt_memory_embedded", default="")
"""Whose observations the code that runs embeds anew: were it to wait for that, it would for ever."""


class Halts:
    """Which agents are being embedded anew, and whose observations wait. Belongs to a loop.

    Attributes:
        under_way: Agents that are being embedded anew here.
    """

    def __init__(self) -> None:
        self.under_way: set[str] = set()
        self._gates: dict[str, asyncio.Future[None]] = {}

    def __bool__(self) -> bool:
        """Whether anybody has to wait."""
        return bool(self._gates)

    @contextmanager
    def halt(self, agent: str) -> Generator[None]:
        """Let observations of an agent wait for the end of this block."""
        gate = self._gates[agent] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            self._gates.pop(agent, None)
            _open(gate)

    @contextmanager
    def embedding(self, agent: str) -> Generator[None]:
        """In this block code of somebody else embeds an agent's observations."""
        token = _embedded.set(agent)
        try:
            yield
        finally:
            _embedded.reset(token)

    async def wait(self, body: Body) -> None:
        """Wait until what an entry observes may be observed.

        Raises:
            ReembeddingError: it was submitted by what it would have to wait for.
        """
        if isinstance(body, ObserveMany):
            observed = {body.agent}
        elif isinstance(body, Write):
            observed = {op.agent for op in body.ops if op.vector is not None and not op.partition}
        else:
            return
        for agent in sorted(observed & self._gates.keys()):
            if _embedded.get() == agent:
                raise ReembeddingError(
                    f"{agent}: `embed` must not observe for the agent whose observations it embeds"
                )
            if (gate := self._gates.get(agent)) is not None:
                await asyncio.shield(gate)

    def end(self) -> None:
        """Nobody waits any longer: the memory is closing."""
        for gate in self._gates.values():
            _open(gate)


def _open(gate: asyncio.Future[None]) -> None:
    if not gate.done():
        gate.set_result(None)
