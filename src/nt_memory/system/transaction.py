"""Several puts, observations and deletes as one entry."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Self

import msgspec

from nt_memory.acting import ActingAs, actor
from nt_memory.codec import Draft, compress, draft
from nt_memory.entries import STATE, Fence, Write, WriteOp
from nt_memory.errors import InvalidInputError
from nt_memory.namespace import check_agent, check_key, check_tags
from nt_memory.system.admitting import wait_for_room
from nt_memory.system.arguments import check_expect, to_known_at, to_ttl_us, written
from nt_memory.system.guarding import Guard
from nt_memory.system.units import to_half, to_unit

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime, timedelta

    from numpy.typing import ArrayLike

    from nt_memory.system.engine import Engine


class Transaction:
    """Puts, observations and deletes that happen together or not at all, under one revision.

    Nothing is visible before the `async with` block ends; leaving it by an exception writes
    nothing. Of several changes of one key the last counts.

    Attributes:
        revision: The revision once committed; None before, or if there was nothing to do.
    """

    def __init__(self, engine: Engine, fence: Fence | None, request_id: str | None) -> None:
        self._engine = engine
        self._fence = fence
        self._request_id = request_id
        self._actor = actor()
        self._ops: list[WriteOp] = []
        self._drafts: dict[int, Draft] = {}
        self._guards: list[Guard] = []
        self._is_open = False
        self._is_over = False
        self.revision: int | None = None

    def put(
        self,
        agent: str,
        key: str,
        value: Any,
        *,
        ttl: float | timedelta | None = None,
        known_at: datetime | None = None,
        expect: int | None = None,
    ) -> None:
        """Set a value; arguments and errors as `MemorySystem.put`.

        Arrays in a value of more than 1 MiB stay read-only until the transaction is over.
        """
        self._check_open()
        data = draft(value)
        large: Draft | None = None
        if isinstance(data, Draft):
            large, data = data, b""
        elif self._engine.config.enable_compression:
            data = compress(data)
        self._ops.append(
            WriteOp(
                STATE,
                check_agent(agent),
                check_key(key),
                data,
                to_known_at(known_at),
                to_ttl_us(ttl),
                check_expect(expect),
            )
        )
        if large is not None:
            self._drafts[len(self._ops) - 1] = large
            self._guards.append(Guard(large.arrays))

    def observe(
        self,
        agent: str,
        embedding: ArrayLike,
        data: Any = None,
        *,
        key: str,
        tags: Iterable[str] = (),
        ttl: float | timedelta | None = None,
        known_at: datetime | None = None,
        expect: int | None = None,
    ) -> None:
        """Remember something with its situation; arguments and errors as `MemorySystem.observe`.

        An agent whose index is far behind is waited for when the transaction is committed.
        """
        vector = to_half(to_unit(embedding)).tobytes()
        labels = check_tags(tags)
        self.put(agent, key, data, ttl=ttl, known_at=known_at, expect=expect)
        self._ops[-1] = msgspec.structs.replace(self._ops[-1], vector=vector, tags=labels)

    def delete(
        self,
        agent: str,
        key: str,
        *,
        known_at: datetime | None = None,
        expect: int | None = None,
    ) -> None:
        """Remove a value; arguments and errors as `MemorySystem.delete`."""
        self._check_open()
        self._ops.append(
            WriteOp(
                STATE,
                check_agent(agent),
                check_key(key),
                None,
                to_known_at(known_at),
                expect=check_expect(expect),
            )
        )

    def _check_open(self) -> None:
        if not self._is_open:
            raise InvalidInputError("a transaction takes changes inside its `async with` block")

    async def __aenter__(self) -> Self:
        if self._is_open or self._is_over:
            raise InvalidInputError("a transaction is used once: make another")
        self._is_open = True
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self._is_open, self._is_over = False, True
        try:
            if kind is None and self._ops:
                with ActingAs(self._actor):
                    await self._commit(Write(tuple(self._ops), self._fence))
        finally:
            for guard in self._guards:
                guard.release()

    async def _commit(self, write: Write) -> None:
        engine, request = self._engine, self._request_id
        for agent, rows in Counter(op.agent for op in self._ops if op.vector is not None).items():
            await wait_for_room(engine, agent, rows)
        if self._drafts:
            self.revision = await engine.filing.submit(write, self._drafts, request)
        else:
            self.revision = await engine.submit(write, request)
        if any(op.value is not None for op in write.ops):
            written(self.revision, request)
