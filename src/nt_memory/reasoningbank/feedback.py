"""Advice: what the nearest past situations with known outcomes say about this one.

Only memories of the agents asked, whose outcome counts at the moment asked, are ever considered: the
search is given masks of them, and what it returns is looked up in the same view. Everything that
steers the advice, the conformal state and the typical distance included, is computed from that view,
so that the same entries give the same advice after any restart.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from nt_memory.clock import to_datetime
from nt_memory.reasoningbank.advice import Advice, Evidence, Receipt
from nt_memory.reasoningbank.columns import Table, View
from nt_memory.reasoningbank.conformal import (
    AdaptiveAlpha,
    AdaptiveBias,
)
from nt_memory.reasoningbank.evidence import (
    MIN_MEMORIES,
    Found,
    Group,
    default_neighbours,
    doubts,
    keep,
    pattern_doubts,
    recallable_rows,
    success_probability,
    with_baseline,
)
from nt_memory.reasoningbank.pattern import GRID
from nt_memory.reasoningbank.question import Question, Rows
from nt_memory.reasoningbank.recall import distances, recall
from nt_memory.reasoningbank.savings import Meter
from nt_memory.reasoningbank.steering import Steer, Steering

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nt_memory.reasoningbank.backing import Backing, Candidates
    from nt_memory.reasoningbank.distillation import PatternBook
    from nt_memory.reasoningbank.memories import Memories
    from nt_memory.reasoningbank.pattern import Pattern

    Ints = NDArray[np.int64]

FAR = 2.0
"""Abstain beyond this multiple of the distance that 95 % of the memories keep to each other."""
SAMPLE = 64
MAX_PREFIX = 1 << 14


class Advisor:
    """Answers questions from the memories.

    Args:
        backing: For searching.
        memories: The columns.
        patterns: Distilled patterns.
        rows: Names what receipts list.
        seed: Key of the coin that withholds advice.
    """

    def __init__(
        self,
        backing: Backing,
        memories: Memories,
        patterns: PatternBook,
        rows: Rows,
        *,
        seed: int,
    ) -> None:
        self._backing = backing
        self._memories = memories
        self._patterns = patterns
        self._rows = rows
        self._coin_key = seed.to_bytes(16, "little", signed=True)
        self._groups: dict[tuple[object, ...], Group] = {}
        self._steering: dict[tuple[object, ...], Steering] = {}
        self._typical: dict[tuple[object, ...], float] = {}
        self.meter: Meter = Meter()

    async def answer(self, question: Question) -> Advice:
        """Answer a question."""
        start = self._backing.now_ns()
        advice = await self._answer(question)
        self.meter.took(advice, self._backing.now_ns() - start)
        return advice

    async def _answer(self, question: Question) -> Advice:
        if question.withhold > 0.0 and self._coin(question.coin) < question.withhold:
            return self._advice(question, is_withheld=True, expected=question.baseline)
        table = self._memories.tables.get(question.action_type)
        if table is None:
            return self._abstain(question, 0, "nothing is remembered about such actions")
        group = self._group(table, question.agents)
        pattern = self._patterns.covering(question) if question.uses_patterns else None
        if pattern is not None:
            return self._from_pattern(question, pattern, self._steer(group, question))
        view = table.view(question.moment)
        epoch = table.epoch
        allow, known = self._masks(group, view, self._memories.family(question.definition))
        if known < MIN_MEMORIES:
            return self._abstain(question, known, f"only {known} outcomes are known")
        steer = self._steer(group, question)
        k = question.k or default_neighbours(known)
        typical = await self._typical_distance(question, group, view, allow, known, k)
        candidates = await self._backing.search_rows(
            list(allow),
            question.query[None, :],
            k,
            question.moment,
            allow,
            exact=question.is_exact,
        )
        if table.epoch != epoch:
            # An outcome was revised while the search ran: look the moment up again.
            view = table.view(question.moment)
        found = self._look_up(group, view, candidates[0], k)
        if question.baseline is not None:
            found = with_baseline(found)
        return self._conclude(question, table, found, steer, known, typical)

    # --- steps ------------------------------------------------------------------------------

    def _coin(self, unit: str) -> float:
        digest = blake2b(unit.encode(), key=self._coin_key, digest_size=8).digest()
        return int.from_bytes(digest, "little") / 2.0**64

    def _group(self, table: Table, agents: tuple[str, ...]) -> Group:
        key = (table.action_type, agents, table.lanes_with_situations)
        found = self._groups.get(key)
        if found is None:
            if len(self._groups) >= 1024:
                self._groups.clear()
            unique = dict.fromkeys(
                agent
                for agent in agents
                if agent in table.lanes and table.lanes[agent].partition >= 0
            )
            lanes = tuple(table.lanes[name] for name in unique)
            found = self._groups[key] = Group(
                table,
                lanes,
                tuple(lane.number for lane in lanes),
                {lane.partition: lane for lane in lanes},
            )
        return found

    @staticmethod
    def _masks(group: Group, view: View, family: int) -> tuple[dict[int, NDArray[np.bool_]], int]:
        allow: dict[int, NDArray[np.bool_]] = {}
        known = 0
        for lane in group.lanes:
            mask = view.mask(lane, family)
            if mask.count:
                allow[lane.partition] = mask.lend()
                known += mask.count
        return allow, known

    def _steer(self, group: Group, question: Question) -> Steer:
        numbers = group.numbers
        key = (question.action_type, numbers, question.level, question.gamma, question.gain)
        found = self._steering.get(key)
        if found is None:
            if len(self._steering) >= 1024:
                self._steering.clear()
            start = Steer(
                AdaptiveAlpha.start(question.level, question.gamma),
                AdaptiveBias.start(gain=question.gain),
            )
            found = self._steering[key] = Steering(group.table, group.lanes, start)
        return found.at(question.moment)

    async def _typical_distance(
        self,
        question: Question,
        group: Group,
        view: View,
        allow: dict[int, NDArray[np.bool_]],
        known: int,
        k: int,
    ) -> float:
        """95th percentile, over a sample of memories, of their median distance to their neighbours.

        Taken over the memories that first had outcomes, the largest power of two of them, so that
        it does not depend on when it was computed, and is computed again only as memory doubles.
        """
        table = group.table
        size = min(1 << (known.bit_length() - 1), MAX_PREFIX)
        is_present = table.is_present(question.moment)
        scope = (table.epoch,) if is_present else tuple(question.moment)
        family = self._memories.family(question.definition)
        key = (question.action_type, group.numbers, family, size, k, scope)
        found = self._typical.get(key)
        if found is None:
            if len(self._typical) >= 1024:
                self._typical.clear()
            found = self._typical[key] = await self._measure(question, group, allow, size, k)
        return found

    async def _measure(
        self,
        question: Question,
        group: Group,
        allow: dict[int, NDArray[np.bool_]],
        size: int,
        k: int,
    ) -> float:
        partition, row, first = recallable_rows(group, allow)
        order = np.lexsort((row, partition, first))[:size]
        partition, row = partition[order], row[order]
        prefix: dict[int, NDArray[np.bool_]] = {}
        for number, mask in allow.items():
            prefix[number] = np.zeros(len(mask), np.bool_)
            prefix[number][row[partition == number]] = True
        chosen = np.linspace(0, len(row) - 1, min(SAMPLE, len(row))).astype(np.int64)
        queries = np.concatenate(
            [self._backing.vectors(int(partition[one]), row[one : one + 1]) for one in chosen]
        )
        near = await self._backing.search_rows(
            list(prefix), queries, min(k + 1, size), question.moment, prefix, exact=True
        )
        # The nearest is the memory itself.
        medians = [float(np.median(distances(one.score[1:]))) for one in near if len(one.score) > 1]
        return float(np.quantile(medians, 0.95)) if medians else 0.0

    @staticmethod
    def _look_up(group: Group, view: View, candidates: Candidates, k: int) -> Found:
        """Entries and outcomes of the rows found; by partition, not by row, to stay fast."""
        partition, row, score = (
            candidates.partition[:k],
            candidates.row[:k],
            candidates.score[:k],
        )
        order = np.argsort(partition, kind="stable")
        ordered, rows = partition[order], row[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=-1)).tolist()
        entries = np.empty(len(rows), np.int64)
        for start, end in itertools.pairwise([*starts, len(rows)]):
            lane = group.by_partition[int(ordered[start])]
            entries[start:end] = lane.entry_of_row.array.take(rows[start:end])
        entry = np.empty_like(entries)
        entry[order] = entries
        outcome = view.value[entry]
        baseline = group.table.entry["baseline"][entry]
        return keep(Found(partition, row, score, entry, outcome, baseline), np.isfinite(outcome))

    def _conclude(
        self,
        question: Question,
        table: Table,
        found: Found,
        steer: Steer,
        known: int,
        typical: float,
    ) -> Advice:
        alpha, bias = steer.alpha.alpha, steer.bias.bias
        if len(found.row) < min(MIN_MEMORIES, question.k or MIN_MEMORIES):
            return self._abstain(question, known, f"only {len(found.row)} memories can be compared")
        # Best first, so the median is in the middle.
        middle = len(found.score) // 2
        distance = float(distances(found.score[middle : middle + 1])[0])
        if distance > FAR * typical and typical > 0.0:
            reason = f"the nearest situations lie {distance / typical:.1f} times as far as usual"
            return self._abstain(question, known, reason, distance, typical)
        values = found.outcome
        if question.baseline is not None:
            values = values - found.baseline
        said = recall(
            values,
            found.score,
            alpha=alpha,
            baseline=question.baseline or 0.0,
            functional=question.functional,
        )
        success = success_probability(table, found, said)
        return self._advice(
            question,
            receipt=self._receipt(question, found.partition, found.row),
            expected=float(said.expected) + bias,
            low=float(said.low) + bias,
            high=float(said.high) + bias,
            alpha=alpha,
            bias=bias,
            success_probability=success,
            warnings=doubts(said, alpha, question.level, success, distance, typical),
            known=known,
            effective=float(said.effective),
            distance=distance,
            typical_distance=typical,
            patterns=self._patterns.nearest(question),
            evidence=Evidence(table, found.entry, found.score, found.outcome),
        )

    def _from_pattern(self, question: Question, pattern: Pattern, steer: Steer) -> Advice:
        """What a promoted pattern says, from its own numbers."""
        alpha, bias = steer.alpha.alpha, steer.bias.bias
        ends = np.interp((0.5 * alpha, 0.5, 1.0 - 0.5 * alpha), GRID, pattern.grid)
        low, median, high = (ends + (question.baseline or 0.0) + bias).tolist()
        mean = (pattern.elsewhere or 0.0) + (pattern.effect or 0.0)
        expected = mean + (question.baseline or 0.0) + bias
        nothing = np.zeros(0, np.int64)
        name = f"{pattern.agent}/{pattern.id}"
        return self._advice(
            question,
            receipt=replace(self._receipt(question, nothing, nothing), pattern=name),
            expected=median if question.functional == "median" else expected,
            low=low,
            high=high,
            alpha=alpha,
            bias=bias,
            success_probability=pattern.success_rate,
            warnings=pattern_doubts(pattern),
            known=pattern.n,
            effective=pattern.n_effective,
            patterns=(pattern,),
        )

    def _abstain(
        self,
        question: Question,
        known: int,
        reason: str,
        distance: float | None = None,
        typical: float | None = None,
    ) -> Advice:
        return self._advice(
            question,
            expected=question.baseline,
            warnings=(reason,),
            is_abstaining=True,
            known=known,
            distance=distance,
            typical_distance=typical,
        )

    def _advice(
        self, question: Question, *, receipt: Receipt | None = None, **said: object
    ) -> Advice:
        definition = question.definition
        if receipt is None:
            nothing = np.zeros(0, np.int64)
            is_withheld = bool(said.get("is_withheld"))
            receipt = self._receipt(question, nothing, nothing, is_withheld=is_withheld)
        return Advice(
            action_type=question.action_type,
            target="" if definition is None else definition.target,
            unit="" if definition is None else definition.unit,
            functional=question.functional,
            level=question.level,
            as_of=to_datetime(question.moment.time_us),
            baseline=question.baseline,
            receipt=receipt,
            **said,  # type: ignore[arg-type]
        )

    def _receipt(
        self, question: Question, partition: Ints, row: Ints, *, is_withheld: bool = False
    ) -> Receipt:
        return Receipt(
            question.moment.time_us,
            question.moment.revision,
            partition,
            row,
            question.withhold,
            is_withheld,
            question.coin if question.withhold > 0.0 else "",
            self._rows.resolve,
        )
