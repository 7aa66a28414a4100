"""What a distillation has worked out so far, kept beside the store, so that a killed one goes on.

What takes long is finding the clusters and testing them. Both follow from the moment they are of and
from nothing else, so a call that is repeated under its request id takes the moment that the first one
took, and what that had worked out: it ends with the same entry as if nobody had killed it. What was kept
is a matter of time, never of truth: whatever does not belong to exactly these situations is worked out anew.
"""

from __future__ import annotations

import asyncio
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeVar

import msgspec
import numpy as np

from nt_memory.reasoningbank.promotion import ClusterEffects

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from nt_memory.reasoningbank.backing import Drafts
    from nt_memory.timeline import Moment

    Ints = NDArray[np.int64]


_T = TypeVar("_T")


class _Plan(msgspec.Struct, frozen=True, array_like=True):
    """What is distilled: as of when, and a digest of the rest."""

    time_us: int
    revision: int
    digest: bytes


class _Set(msgspec.Struct, frozen=True, array_like=True):
    """Of one agent and action type: a digest of what it is drawn from, and what was worked out.

    Arrays are little-endian: clusters as int16, numbers as float64, stretches as int64.
    """

    digest: bytes
    cluster: bytes
    effect: bytes = b""
    error: bytes = b""
    p_value: bytes = b""
    stretches: bytes = b""

    def tests(self) -> ClusterEffects | None:
        """What was found of each cluster, if they were tested."""
        if not self.stretches:
            return None
        effect, error, p_value = (
            np.frombuffer(one, "<f8").astype(np.float64)
            for one in (self.effect, self.error, self.p_value)
        )
        stretches = np.frombuffer(self.stretches, "<i8").astype(np.int64)
        return ClusterEffects(effect, error, p_value, stretches)


class Drafting:
    """What one distillation keeps; with nowhere to keep it, nothing is kept.

    Args:
        drafts: Where.
        what: The arguments of the call but the moment.
        is_of_now: No moment was asked for: the one that was begun with is gone on with.
    """

    def __init__(self, drafts: Drafts | None, what: Sequence[object], *, is_of_now: bool) -> None:
        self._drafts = drafts
        self._digest = _digest(*(str(one).encode() for one in what))
        self._is_of_now = is_of_now

    async def begin(self, moment: Moment) -> Moment:
        """As of when to distil: what was begun is gone on with, else it begins at `moment`."""
        if self._drafts is None:
            return moment
        drafts = self._drafts
        begun = _read(await asyncio.to_thread(drafts.load, "plan"), _Plan)
        if begun is not None and begun.digest == self._digest:
            then = moment._replace(time_us=begun.time_us, revision=begun.revision)
            is_past = then.time_us <= moment.time_us and then.revision <= moment.revision
            if then == moment or (self._is_of_now and is_past):
                return then
        await self.end()
        plan = msgspec.msgpack.encode(_Plan(moment.time_us, moment.revision, self._digest))
        await asyncio.to_thread(drafts.save, "plan", plan)
        return moment

    async def end(self) -> None:
        """It is done, or cannot be gone on with: what was kept is not wanted any more."""
        if self._drafts is not None:
            await asyncio.to_thread(self._drafts.clear)

    async def worked_out(
        self,
        name: str,
        drawn_from: Sequence[NDArray[np.generic] | bytes],
        find: Callable[[], Ints],
        test: Callable[[Ints], ClusterEffects] | None,
    ) -> tuple[Ints, ClusterEffects | None]:
        """Each situation's cluster and, if wanted, the tests: as kept, or found now, in a thread.

        Args:
            name: Of the set.
            drawn_from: All that they follow from.
            find: Finds the clusters.
            test: Tests them.
        """
        return await asyncio.to_thread(self._work_out, name, drawn_from, find, test)

    def _work_out(
        self,
        name: str,
        drawn_from: Sequence[NDArray[np.generic] | bytes],
        find: Callable[[], Ints],
        test: Callable[[Ints], ClusterEffects] | None,
    ) -> tuple[Ints, ClusterEffects | None]:
        drafts = self._drafts
        if drafts is None:
            cluster = find()
            return cluster, None if test is None else test(cluster)
        digest = _digest(*(one if isinstance(one, bytes) else one.tobytes() for one in drawn_from))
        name = f"set-{_digest(name.encode()).hex()}"
        kept = _read(drafts.load(name), _Set)
        if kept is None or kept.digest != digest:
            kept = _Set(digest, find().astype("<i2").tobytes())
            drafts.save(name, msgspec.msgpack.encode(kept))
        cluster = np.frombuffer(kept.cluster, "<i2").astype(np.int64)
        if test is None:
            return cluster, None
        tests = kept.tests()
        if tests is None:
            tests = test(cluster)
            kept = _Set(
                digest,
                kept.cluster,
                tests.effect.astype("<f8").tobytes(),
                tests.error.astype("<f8").tobytes(),
                tests.p_value.astype("<f8").tobytes(),
                tests.stretches.astype("<i8").tobytes(),
            )
            drafts.save(name, msgspec.msgpack.encode(kept))
        return cluster, tests


def _read(data: bytes | None, kind: type[_T]) -> _T | None:
    """What was kept; None if that is nothing, or of another version."""
    if data is None:
        return None
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except msgspec.MsgspecError:
        return None


def _digest(*parts: bytes) -> bytes:
    found = blake2b(digest_size=16)
    for part in parts:
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.digest()
