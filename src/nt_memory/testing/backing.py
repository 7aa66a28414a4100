"""An in-memory `Backing`: dictionaries and an exact scan, with the moments of the real thing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.entries import Stored, WriteOp
from nt_memory.errors import ConflictError, DimensionError, LookAheadError
from nt_memory.reasoningbank.backing import Made
from nt_memory.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from nt_memory.clock import Clock
    from nt_memory.timeline import AsOfLike, Moment

Key = tuple[str, str, str]


class Candidates(NamedTuple):
    """See `reasoningbank.backing.Candidates`."""

    partition: NDArray[np.int64]
    row: NDArray[np.int64]
    score: NDArray[np.float64]


class StoredChange(NamedTuple):
    """See `reasoningbank.backing.StoredChange`."""

    kind: str
    stored: Stored


@dataclass(slots=True)
class _Partition:
    dim: int
    vectors: list[NDArray[np.float16]] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    wide: NDArray[np.float32] | None = None

    def matrix(self) -> NDArray[np.float32]:
        if self.wide is None or len(self.wide) < len(self.vectors):
            self.wide = np.stack(self.vectors).astype(np.float32)
        return self.wide


class MemoryDrafts:
    """Keeps unfinished work in a dictionary."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def load(self, name: str) -> bytes | None:
        """See `Drafts.load`."""
        return self.kept.get(name)

    def save(self, name: str, data: bytes) -> None:
        """See `Drafts.save`."""
        self.kept[name] = data

    def clear(self) -> None:
        """See `Drafts.clear`."""
        self.kept.clear()


class _Versions:
    """The versions of one key."""

    def __init__(self, found: Sequence[Stored]) -> None:
        self._found = found

    @property
    def revisions(self) -> NDArray[np.int64]:
        """By which entry each was written."""
        return np.array([one.revision for one in self._found], np.int64)

    def __getitem__(self, place: int) -> Stored:
        """One of them."""
        return self._found[place]


class MemoryBacking:
    """Keeps everything in dictionaries; `follow` callbacks run before `write` returns.

    Args:
        clock: Time of entries, and now.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._timeline = Timeline(clock, is_backtest=False)
        self._versions: dict[Key, list[Stored]] = {}
        self._partitions: list[_Partition] = []
        self._names: dict[tuple[str, str], int] = {}
        self._times: list[int] = [0]
        self._made: dict[str, Made] = {}
        self.kept_drafts: dict[str, MemoryDrafts] = {}
        self.followers: list[Callable[[Sequence[StoredChange]], None]] = []
        self.before_search: Callable[[], None] = lambda: None
        self.searches: int = 0

    @property
    def revision(self) -> int:
        """Revision of the latest write."""
        return len(self._times) - 1

    async def write(self, ops: Sequence[WriteOp], *, request_id: str | None = None) -> int:
        """See `Backing.write`; what was done under a request id is remembered for good."""
        if request_id is None:
            return self.write_now(ops)
        if request_id not in self._made:
            revision = self.write_now(ops)
            self._made[request_id] = Made(revision if ops else None)
        return self._made[request_id].revision or self.revision

    def made(self, request_id: str) -> Made | None:
        """See `Backing.made`."""
        return self._made.get(request_id)

    def drafts(self, request_id: str) -> MemoryDrafts:
        """See `Backing.drafts`; they outlive the banks that stand on this backing."""
        return self.kept_drafts.setdefault(request_id, MemoryDrafts())

    def now_ns(self) -> int:
        """See `Backing.now_ns`."""
        return self._clock.now_us() * 1_000

    def write_now(self, ops: Sequence[WriteOp]) -> int:
        """The same as `write`, for tests that are not in a coroutine."""
        now = self._clock.now_us()
        for op in ops:
            self._check(op, now)
        self._times.append(now)
        changes = [self._apply(op, now) for op in ops]
        for follow in self.followers:
            follow(changes)
        return self.revision

    def _check(self, op: WriteOp, now: int) -> None:
        if op.known_at is not None and op.known_at > now:
            raise LookAheadError(f"known_at {op.known_at} lies past now, {now}")
        current = max(
            self._versions.get((op.space, op.agent, op.key), ()),
            key=lambda one: (one.known_at, one.revision),
            default=None,
        )
        is_there = current is not None and current.value is not None
        found = current.revision if current is not None and is_there else 0
        if op.expect is not None and op.expect != found:
            raise ConflictError(f"{op.key}: expected {op.expect}, found {found}", current=found)
        if op.vector is not None:
            number = self._names.get((op.agent, op.partition))
            dim = len(op.vector) // 2
            if number is not None and self._partitions[number].dim != dim:
                raise DimensionError(f"{op.agent}: not of dimension {dim}", got=dim)

    def _apply(self, op: WriteOp, now: int) -> StoredChange:
        key = (op.space, op.agent, op.key)
        partition, row = -1, -1
        if op.vector is not None:
            vector = np.frombuffer(op.vector, "<f2")
            partition = self._names.setdefault((op.agent, op.partition), len(self._names))
            if partition == len(self._partitions):
                self._partitions.append(_Partition(len(vector)))
            home = self._partitions[partition]
            row = len(home.vectors)
            home.vectors.append(vector)
            home.keys.append(key)
        stored = Stored(
            *key,
            op.value,
            now if op.known_at is None else op.known_at,
            self.revision,
            now,
            partition=partition,
            row=row,
            tags=op.tags,
        )
        self._versions.setdefault(key, []).append(stored)
        return StoredChange("delete" if op.value is None else "put", stored)

    def read(self, space: str, agent: str, key: str, moment: Moment) -> Stored | None:
        """See `Backing.read`."""
        best: Stored | None = None
        for one in self._versions.get((space, agent, key), ()):
            is_shown = one.known_at <= moment.time_us and one.revision <= moment.revision
            if is_shown and (best is None or one.known_at >= best.known_at):
                best = one
        return None if best is None or best.value is None else best

    def scan(
        self, space: str, agent: str | None, moment: Moment, prefix: str = "", *, after: str = ""
    ) -> Iterator[Stored]:
        """See `Backing.scan`."""
        for found, owner, key in sorted(self._versions):
            if found == space and agent in {None, owner} and key.startswith(prefix) and key > after:
                stored = self.read(space, owner, key, moment)
                if stored is not None:
                    yield stored

    def all_versions(self, space: str) -> Iterator[_Versions]:
        """See `Backing.all_versions`."""
        for key in sorted(self._versions):
            if key[0] == space:
                found = sorted(self._versions[key], key=lambda one: (one.known_at, one.revision))
                yield _Versions(found)

    def partition(self, agent: str, partition: str) -> int | None:
        """See `Backing.partition`."""
        return self._names.get((agent, partition))

    def vectors(self, partition: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Backing.vectors`."""
        return self.reader(partition)(rows)

    def reader(self, partition: int) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
        """See `Backing.reader`."""
        matrix = self._partitions[partition].matrix()
        return lambda rows: matrix[rows]

    async def search_rows(
        self,
        partitions: Sequence[int],
        queries: NDArray[np.float32],
        k: int,
        moment: Moment,
        allow: Mapping[int, NDArray[np.bool_]] | None = None,
        *,
        exact: bool = False,
    ) -> list[Candidates]:
        """See `Backing.search_rows`; always exact."""
        del exact
        self.searches += 1
        self.before_search()
        return [self._search(partitions, query, k, moment, allow) for query in queries]

    def _search(
        self,
        partitions: Sequence[int],
        query: NDArray[np.float32],
        k: int,
        moment: Moment,
        allow: Mapping[int, NDArray[np.bool_]] | None,
    ) -> Candidates:
        owners: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
        places: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
        scores: list[NDArray[np.float64]] = [np.zeros(0)]
        for number in partitions:
            home = self._partitions[number]
            if len(query) != home.dim:
                raise DimensionError("wrong dimension", expected=home.dim, got=len(query))
            rows = self._rows(number, moment, allow)
            owners.append(np.full(len(rows), number, np.int64))
            places.append(rows)
            vectors = home.matrix()[rows].astype(np.float64)
            scores.append(np.clip(np.sum(vectors * query, axis=1), -1.0, 1.0))
        owner, place = np.concatenate(owners), np.concatenate(places)
        score = np.concatenate(scores)
        order = np.lexsort((place, owner, -score))[:k]
        return Candidates(owner[order], place[order], score[order])

    def _rows(
        self, number: int, moment: Moment, allow: Mapping[int, NDArray[np.bool_]] | None
    ) -> NDArray[np.int64]:
        keys = self._partitions[number].keys
        rows = range(len(keys)) if allow is None else np.flatnonzero(allow[number]).tolist()
        shown: list[int] = []
        for row in rows:
            stored = self.read(*keys[row], moment)
            if stored is not None and stored.row == row:
                shown.append(row)
        return np.array(shown, np.int64)

    def resolve(self, as_of: AsOfLike | None) -> Moment:
        """See `Backing.resolve`."""
        return self._timeline.resolve(
            as_of, visible=self.revision, time_at=lambda revision: self._times[revision]
        )

    def kmeans(
        self, vectors: NDArray[np.float32], k: int, seed: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """See `Backing.kmeans`: ten rounds of Lloyd's algorithm."""
        chosen = np.random.default_rng(seed).choice(
            len(vectors), min(k, len(vectors)), replace=False
        )
        centroids = vectors[np.sort(chosen)].astype(np.float64)
        nearest = np.zeros(len(vectors), np.int64)
        for _ in range(10):
            apart = ((vectors[:, None, :] - centroids[None, :, :]) ** 2).sum(axis=2)
            nearest = apart.argmin(axis=1)
            for number in range(len(centroids)):
                if (nearest == number).any():
                    centroids[number] = vectors[nearest == number].mean(axis=0)
        return centroids.astype(np.float32), nearest
