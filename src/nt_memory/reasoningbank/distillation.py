"""Distilling patterns: clusters of similar situations, described, tested at looks, and watched.

Situations are clustered on their frozen embeddings alone; clusters never see outcomes, so that an
outcome cannot choose the company it is judged in. One stored version holds all patterns of an agent
and action type, so a distillation replaces the one before as a whole; patterns that were promoted are
carried along, tested against what came since, until they are retired.

Describing is free. Testing is not: each look at the data is a chance to be fooled, so a definition
declares in advance how many looks there will be, of whomever, and each spends its share of the tolerated
false promotions. Of a look all patterns are tested together, those of all agents it takes in: the best
of a thousand coin-flippers is then one of a thousand.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from nt_memory import codec
from nt_memory.entries import PATTERN, WriteOp
from nt_memory.errors import InvalidInputError
from nt_memory.reasoningbank.backing import SWARM
from nt_memory.reasoningbank.describing import (
    Material,
    describe_all,
    surprises,
)
from nt_memory.reasoningbank.drift import refer
from nt_memory.reasoningbank.judging import judge_entries
from nt_memory.reasoningbank.pattern import GRID, Pattern, decode_patterns
from nt_memory.reasoningbank.promotion import Q, day_means, measure_clusters, promoted
from nt_memory.reasoningbank.shelf import shelve
from nt_memory.reasoningbank.sources import Sources
from nt_memory.reasoningbank.watching import keep, watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from nt_memory.reasoningbank.advice import MemoryRef
    from nt_memory.reasoningbank.backing import Backing, KMeans
    from nt_memory.reasoningbank.drafting import Drafting
    from nt_memory.reasoningbank.judging import History
    from nt_memory.reasoningbank.memories import Memories
    from nt_memory.reasoningbank.promotion import ClusterEffects
    from nt_memory.reasoningbank.question import Question
    from nt_memory.reasoningbank.shelf import Shelf
    from nt_memory.timeline import Moment

MIN_SITUATIONS = 50
PER_PATTERN = 50
MAX_PATTERNS = 64
MAX_SHELVES = 64


class LookDoc(msgspec.Struct, frozen=True, array_like=True):
    """One look at an action type, as it is stored.

    Attributes:
        time_us: Known by when.
        share: Of the tolerated false promotions that it spent.
        agents: How many agents' patterns it tested.
    """

    time_us: int
    share: float
    agents: int


_looks = msgspec.msgpack.Decoder(tuple[LookDoc, ...])


class Draft(NamedTuple):
    """A set of patterns that is being made.

    Attributes:
        agent: Whose.
        action_type: Of which.
        material: What it is drawn from.
        patterns: The descriptions, by cluster.
        clusters: Which cluster each is.
        tests: Of each cluster, if this is a look.
    """

    agent: str
    action_type: str
    material: Material
    patterns: list[Pattern]
    clusters: list[int]
    tests: ClusterEffects | None


class PatternBook:
    """Distils, stores and finds patterns.

    Args:
        backing: Vectors.
        memories: The columns, and the stored patterns.
        resolve: Names rows.
        kmeans: Clusters vectors.
        seed: Of the clustering.
    """

    def __init__(
        self,
        backing: Backing,
        memories: Memories,
        resolve: Callable[[NDArray[np.int64], NDArray[np.int64]], list[MemoryRef]],
        *,
        kmeans: KMeans,
        seed: int,
    ) -> None:
        self._backing = backing
        self._kmeans = kmeans
        self._memories = memories
        self._resolve = resolve
        self._seed = seed
        self._sources = Sources(backing, memories)
        self._decoded: dict[tuple[str, str, int], tuple[Pattern, ...]] = {}
        self._shelves: dict[tuple[tuple[str, ...], str, int], Shelf] = {}

    # --- distilling -------------------------------------------------------------------------

    async def distil(
        self,
        agents: Sequence[str],
        moment: Moment,
        drafting: Drafting,
        *,
        action_type: str | None = None,
        is_look: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[WriteOp]:
        """Cluster agents' situations whose outcome counts at a moment; what to write.

        Raises:
            InvalidInputError: it is a look, and an action type's looks are spent.
        """
        names = sorted(self._memories.tables) if action_type is None else [action_type]
        for name in names if is_look else ():
            self._check_looks(name, moment)
        work = [(name, agent) for name in names for agent in agents]
        tell = progress or _tell_nobody
        drafts: dict[str, list[Draft]] = {}
        for done, (name, agent) in enumerate(work):
            tell(done, len(work))
            draft = await self._draft(agent, name, moment, drafting, is_look=is_look)
            if draft is not None:
                drafts.setdefault(name, []).append(draft)
        ops: list[WriteOp] = []
        for name, some in drafts.items():
            ops += await self._finish(name, some, moment, is_look=is_look)
        tell(len(work), len(work))
        return ops

    async def _draft(
        self, agent: str, name: str, moment: Moment, drafting: Drafting, *, is_look: bool
    ) -> Draft | None:
        table = self._memories.tables.get(name)
        lane = None if table is None else table.lanes.get(agent)
        if table is None or lane is None or lane.partition < 0:
            return None
        definition = self._memories.definition(name, moment)
        view = table.view(moment)
        mask = view.mask(lane, self._memories.family(definition)).lend()
        rows = np.flatnonzero(mask)
        if len(rows) < MIN_SITUATIONS:
            return None
        entries = lane.entry_of_row.array[rows]
        actual, known = view.value[entries], view.known[entries]
        found = await asyncio.to_thread(
            judge_entries, table, lane, definition, entries, actual, known
        )
        vectors = self._backing.vectors(lane.partition, rows)
        k = min(MAX_PATTERNS, max(1, len(rows) // PER_PATTERN))
        said = f"{moment.time_us} {moment.revision} {k} {self._seed} {found.horizon_days}"
        _, values = surprises(found)
        cluster, tests = await drafting.worked_out(
            f"{name}\0{agent}",
            (said.encode(), rows, vectors, values, found.at),
            lambda: self._kmeans(vectors, k, self._seed)[1],
            (lambda cluster: _test(found, cluster)) if is_look else None,
        )
        material = Material(found, rows, vectors, cluster, moment)
        described = await asyncio.to_thread(describe_all, material)
        sources = await self._sources.of(lane, table, entries, cluster, agent, moment)
        clusters = np.unique(cluster).tolist()
        patterns = [
            Pattern(agent=agent, action_type=name, resolve=self._resolve, **one, **sources[number])
            for number, one in zip(clusters, described, strict=True)
        ]
        return Draft(agent, name, material, patterns, clusters, tests)

    async def _finish(
        self, name: str, drafts: Sequence[Draft], moment: Moment, *, is_look: bool
    ) -> list[WriteOp]:
        """What to write of some agents' sets of one action type, tested together if it is a look."""
        chosen: list[set[int]] = [set() for _ in drafts]
        if is_look:
            definition = self._memories.definition(name, moment)
            looks = 1 if definition is None else definition.looks
            every = [
                (place, number, draft.tests.p_value[number])
                for place, draft in enumerate(drafts)
                if draft.tests is not None
                for number in draft.clusters
            ]
            passed = promoted([one[2] for one in every], Q, looks)
            for (place, number, _), is_passed in zip(every, passed.tolist(), strict=True):
                if is_passed:
                    chosen[place].add(number)
        ops: list[WriteOp] = []
        for draft, numbers in zip(drafts, chosen, strict=True):
            before = self._set_at(draft.agent, name, moment)
            patterns = await asyncio.to_thread(_complete, draft, numbers, before)
            value = codec.encode([one.to_doc() for one in patterns])
            ops.append(WriteOp(PATTERN, draft.agent, name, value, moment.time_us))
        if is_look:
            ops.append(self._spend(name, len(drafts), moment))
        return ops

    # --- looks ------------------------------------------------------------------------------

    def looks(self, action_type: str, moment: Moment) -> tuple[LookDoc, ...]:
        """The looks that were taken at an action type, as a moment shows them, oldest first."""
        versions = self._memories.patterns.get((SWARM, action_type))
        stored = None if versions is None else versions.at(moment)
        return () if stored is None else _looks.decode(stored.value or b"")

    def _check_looks(self, action_type: str, moment: Moment) -> None:
        definition = self._memories.definition(action_type, moment)
        spent = sum(one.share for one in self.looks(action_type, moment))
        share = Q / (1 if definition is None else definition.looks)
        if spent + share > Q * (1.0 + 1e-9):
            taken = len(self.looks(action_type, moment))
            raise InvalidInputError(
                f"all {taken} looks declared for {action_type!r} are taken; describing needs none"
            )

    def _spend(self, action_type: str, agents: int, moment: Moment) -> WriteOp:
        """The look that was just taken; refused if another was taken meanwhile."""
        versions = self._memories.patterns.get((SWARM, action_type))
        stored = None if versions is None else versions.at(moment)
        definition = self._memories.definition(action_type, moment)
        share = Q / (1 if definition is None else definition.looks)
        taken = (*self.looks(action_type, moment), LookDoc(moment.time_us, share, agents))
        return WriteOp(
            PATTERN,
            SWARM,
            action_type,
            msgspec.msgpack.encode(taken),
            moment.time_us,
            expect=0 if stored is None else stored.revision,
        )

    # --- reading ----------------------------------------------------------------------------

    def at(self, agent: str, moment: Moment) -> list[Pattern]:
        """An agent's patterns that a moment shows, by action type and number."""
        found: list[Pattern] = []
        for owner, name in sorted(self._memories.patterns):
            if owner == agent:
                found.extend(self._set_at(agent, name, moment))
        return found

    def nearest(self, question: Question) -> tuple[Pattern, ...]:
        """The patterns of the agents asked that lie nearest to a question, nearest first.

        Those that do not hold any more are left out.
        """
        if not self._memories.patterns:
            return ()
        return self._shelf(question).nearest(question)

    def covering(self, question: Question) -> Pattern | None:
        """The nearest promoted pattern that a question lies within, if it speaks of what is asked.

        With a baseline it has to be one of outcomes against baselines, without one of outcomes.
        """
        return self._shelf(question).covering(question)

    def _shelf(self, question: Question) -> Shelf:
        """The patterns that a question may be about; made anew only when a set of them was."""
        kind, dim = question.action_type, len(question.query)
        revisions: list[int] = []
        for agent in question.agents:
            versions = self._memories.patterns.get((agent, kind))
            stored = None if versions is None else versions.at(question.moment)
            revisions.append(0 if stored is None else stored.revision)
        key = (question.agents, kind, dim)
        shelf = self._shelves.get(key)
        if shelf is None or shelf.revisions != revisions:
            if len(self._shelves) >= MAX_SHELVES:
                self._shelves.clear()
            found = [
                pattern
                for agent in dict.fromkeys(question.agents)
                for pattern in self._set_at(agent, kind, question.moment)
                if len(pattern.centroid) == dim
            ]
            shelf = self._shelves[key] = shelve(revisions, found)
        return shelf

    def _set_at(self, agent: str, action_type: str, moment: Moment) -> tuple[Pattern, ...]:
        versions = self._memories.patterns.get((agent, action_type))
        stored = None if versions is None else versions.at(moment)
        if stored is None:
            return ()
        key = (agent, action_type, stored.revision)
        found = self._decoded.get(key)
        if found is None:
            if len(self._decoded) >= 1024:
                self._decoded.clear()
            found = self._decoded[key] = decode_patterns(stored, self._resolve)
        return found


def _test(found: History, cluster: NDArray[np.int64]) -> ClusterEffects:
    _, values = surprises(found)
    return measure_clusters(values, found.at, cluster, found.horizon_days)


def _tell_nobody(done: int, of: int) -> None:
    del done, of


def _complete(draft: Draft, chosen: set[int], before: Sequence[Pattern]) -> list[Pattern]:
    """A set as it is stored: what is new, and what was promoted before."""
    fresh = draft.patterns
    if draft.tests is not None:
        fresh = [
            _with_test(pattern, draft, draft.tests, number, is_promoted=number in chosen)
            for pattern, number in zip(draft.patterns, draft.clusters, strict=True)
        ]
    watched = watch([one for one in before if one.is_promoted], draft.material)
    return [*fresh, *keep(watched, [one for one in fresh if one.is_promoted])]


def _with_test(
    pattern: Pattern, draft: Draft, tests: ClusterEffects, number: int, *, is_promoted: bool
) -> Pattern:
    name, values = surprises(draft.material.found)
    found = draft.material.found
    inside = draft.material.cluster == number
    elsewhere = float(np.mean(values[~inside])) if not inside.all() else None
    numbers: dict[str, Any] = {
        "surprise": name,
        "effect": _finite(tests.effect[number]),
        "effect_error": _finite(tests.error[number]),
        "elsewhere": elsewhere,
        "p_value": _finite(tests.p_value[number]),
        "stretches": int(tests.stretches[number]),
    }
    if is_promoted and elsewhere is not None:
        means = day_means(values[inside], found.at[inside])
        reference = refer(means, float(tests.effect[number]), found.horizon_days)
        is_promoted = reference is not None
        numbers["variance"] = None if reference is None else reference.variance
    if is_promoted:
        numbers["promoted_at_us"] = draft.material.moment.time_us
        numbers["grid"] = tuple(np.quantile(values[inside], GRID).tolist())
    return replace(pattern, is_promoted=is_promoted, **numbers)


def _finite(value: float) -> float | None:
    number = float(value)
    return number if np.isfinite(number) else None
