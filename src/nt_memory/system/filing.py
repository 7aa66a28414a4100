"""Large values on their way into value files, off the event loop, and out of them again."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from msgspec import structs

from nt_memory.codec import is_filed
from nt_memory.codec.filed import read_reference
from nt_memory.errors import ClosedError, CorruptionError, ReadOnlyError, TrimmedError
from nt_memory.system.guarding import Guard
from nt_memory.system.reads import to_record
from nt_memory.tiers.layout import name_of, version_key
from nt_memory.transport.values import ValueFiles

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence
    from pathlib import Path

    from nt_memory.codec import Draft
    from nt_memory.entries import Stored, Write
    from nt_memory.records import Record
    from nt_memory.system.engine import Engine


class Filing:
    """The large values that an engine is writing.

    Args:
        engine: Whose.
        directory: Where its value files are.

    Attributes:
        files: The value files.
    """

    def __init__(self, engine: Engine, directory: Path) -> None:
        self._engine = engine
        self.files: ValueFiles = ValueFiles(directory)
        self._under_way: dict[asyncio.Future[bytes | None], threading.Event] = {}
        self._is_closed = False

    @asynccontextmanager
    async def filed(self, drafts: Sequence[Draft]) -> AsyncGenerator[list[bytes]]:
        """Write drafts to their files; gives what to store, which stays valid inside the block.

        The drafts' arrays are read-only from the call until they have been read. Cancelled, it
        leaves nothing behind; what it had written already is left to the next sweep.

        Raises:
            ReadOnlyError, ClosedError: nothing can be written.
            StorageFullError: no space is left; nothing is left behind.
            StorageError: a file could not be written.
        """
        self._engine.check_usable()
        if self._engine.is_read_only:
            raise ReadOnlyError("this memory was opened read-only")
        guards = [Guard(draft.arrays) for draft in drafts]
        values: list[bytes] = []
        try:
            for draft, guard in zip(drafts, guards, strict=True):
                values.append(await self._write(draft, guard))
            yield values
        finally:
            for guard in guards:
                guard.release()
            for value in values:
                self._unpin(value)

    async def submit(
        self, write: Write, drafts: Mapping[int, Draft], request_id: str | None
    ) -> Any:
        """`Engine.submit` a write, once the values of some of its operations are filed.

        Args:
            write: The write; the values given below are put into it.
            drafts: Values by the number of their operation.
            request_id: As of `Engine.submit`.

        Raises:
            As `filed` and `Engine.submit`.
        """
        if request_id is None:
            self._engine.writing.check_rights(write)  # before anything is written
        async with self.filed(list(drafts.values())) as values:
            ops = list(write.ops)
            for number, value in zip(drafts, values, strict=True):
                ops[number] = structs.replace(ops[number], value=value)
            return await self._engine.submit(structs.replace(write, ops=tuple(ops)), request_id)

    async def settle(self) -> None:
        """Give up what is being written, and wait until nobody writes."""
        self._is_closed = True
        for stop in self._under_way.values():
            stop.set()
        if self._under_way:
            await asyncio.wait(list(self._under_way))

    async def _write(self, draft: Draft, guard: Guard) -> bytes:
        if self._is_closed:
            raise ClosedError("the memory is closing")
        stop = threading.Event()
        work = asyncio.ensure_future(
            asyncio.to_thread(
                self.files.write,
                draft,
                compresses=self._engine.config.enable_compression,
                is_stopped=stop.is_set,
                on_read=guard.release,
            )
        )
        self._under_way[work] = stop
        work.add_done_callback(self._under_way.pop)
        try:
            value = await asyncio.shield(work)
        except asyncio.CancelledError:
            # Set before the arrays are let go, so that what is read of them later is not used.
            stop.set()
            work.add_done_callback(self._forget)
            raise
        if value is None:
            raise ClosedError("the memory was closed while a value was being written")
        return value

    def _forget(self, work: asyncio.Future[bytes | None]) -> None:
        """What a cancelled call was writing came to an end."""
        if not work.cancelled() and work.exception() is None:
            self._unpin(work.result())

    def _unpin(self, value: bytes | None) -> None:
        if value is not None and is_filed(value):
            self.files.unpin(read_reference(value).digest)


async def record_of(engine: Engine, stored: Stored) -> Record:
    """The public form of a version that is not a delete; what lies in a file is read off the loop.

    Raises:
        CorruptionError: its value fails the checksum, or its file is missing.
        TrimmedError: the writer that this follows has dropped the version, and its file. What is
            visible here has moved on, past that.
    """
    value = stored.value
    if value is None or not is_filed(value):
        return to_record(stored, engine.values)
    try:
        # Pinned before the first wait: until then no sweep can know less than this snapshot does.
        with engine.values.keep([value]):
            return await asyncio.to_thread(to_record, stored, engine.values)
    except CorruptionError as error:
        if engine.is_read_only and await _is_dropped(engine, stored):
            raise TrimmedError(
                f"{stored.agent}/{stored.key}: revision {stored.revision} is no longer kept",
                oldest=engine.snapshot.log_floor + 1,
            ) from error
        raise


async def _is_dropped(engine: Engine, stored: Stored) -> bool:
    """Whether the writer no longer has a version that a follower still saw.

    Pins do not reach into another process: one that was stopped for a while sees what was, until it
    looks again.
    """
    await engine.catch_up()
    name = name_of(stored.space, stored.agent, stored.key)
    return engine.snapshot.version(version_key(name, stored.known_at, stored.revision)) is None
