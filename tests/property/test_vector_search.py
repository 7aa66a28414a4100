"""Vector search against an exact numpy model, under any order of writes, searches and reopening."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from nt_memory.tiers.vectors import NEVER, Candidates, Tuning, VectorFiles, VectorTier, probe

DIM = 8
TUNING = Tuning(scan_values=DIM * 60, batch=16, seed=3, arrange=8, publish=8, seal=40)
PARTITIONS = (1, 4)


class Model:
    """What the tier should know, as plain lists."""

    def __init__(self) -> None:
        self.vectors: dict[int, np.ndarray] = {p: np.empty((0, DIM), "<f2") for p in PARTITIONS}
        self.rows: dict[int, list[list[int]]] = {p: [] for p in PARTITIONS}

    def columns(self, partition: int) -> np.ndarray:
        return np.array(self.rows[partition], np.int64).reshape(-1, 4)

    def visible(self, partition: int, time_us: int, revision: int, allow) -> np.ndarray:
        from_us, until_us, until_revision, recorded = self.columns(partition).T
        seen = (recorded <= revision) & (from_us <= time_us)
        seen &= (until_us > time_us) | (until_revision > revision)
        if allow is not None:
            mask = np.zeros(len(seen), bool)
            given = allow.get(partition, np.empty(0, bool))[: len(seen)]
            mask[: len(given)] = given
            seen &= mask
        return np.flatnonzero(seen)

    def best(self, query, k: int, time_us: int, revision: int, allow) -> list[tuple]:
        """(score, partition, row) of the true top k and exact ties, best first."""
        found = []
        for partition in PARTITIONS:
            rows = self.visible(partition, time_us, revision, allow)
            stored = self.vectors[partition][rows].astype(float)
            lengths = np.sqrt(np.square(stored).sum(axis=1))
            scores = np.clip((stored * query.astype(float)).sum(axis=1) / lengths, -1, 1)
            found += [(-score, partition, row) for score, row in zip(scores, rows, strict=True)]
        found.sort()
        if len(found) > k:
            found = [hit for hit in found if hit[0] <= found[k - 1][0]]
        return [(-score, partition, int(row)) for score, partition, row in found]


def as_hits(found: Candidates) -> list[tuple]:
    return list(
        zip(found.score.tolist(), found.partition.tolist(), found.row.tolist(), strict=True)
    )


class SearchMachine(RuleBasedStateMachine):
    """Appends, ends, reopens and unloads, with searches compared in between."""

    is_deterministic = False

    @initialize(seed=st.integers(0, 2**32 - 1), rows=st.sampled_from([500, 90, 0]))
    def open_new(self, seed: int, rows: int) -> None:
        self.random = np.random.default_rng(seed)
        self.directory = Path(tempfile.mkdtemp())
        self.model = Model()
        self.now = self.revision = 0
        self.found_rows = self.true_rows = 0
        self._open()
        if rows:
            self.append(PARTITIONS[0], rows, is_late=False, is_mortal=False)

    def _open(self) -> None:
        self.files = VectorFiles(self.directory / "rows")
        self.tier = VectorTier(
            self.files,
            self.directory / "graphs",
            max_bytes=1 << 30,
            is_deterministic=self.is_deterministic,
            tuning=TUNING,
        )
        for partition in PARTITIONS:
            from_us, until_us, until_revision, revision = self.model.columns(partition).T
            if len(revision):
                self.tier.attach(
                    partition,
                    DIM,
                    from_us=from_us,
                    until_us=until_us,
                    until_revision=until_revision,
                    revision=revision,
                )

    def _shut(self) -> None:
        self.tier.close()
        self.files.close()

    @rule(
        partition=st.sampled_from(PARTITIONS),
        count=st.sampled_from([1, 2, 15, 16, 60, 250]),
        is_late=st.booleans(),
        is_mortal=st.booleans(),
    )
    def append(self, partition: int, count: int, is_late: bool, is_mortal: bool) -> None:
        vectors = self.random.standard_normal((count, DIM))
        if count % 5 == 0:
            vectors[max(0, count - 6) :] = vectors[0]  # exact ties
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("<f2")
        self.revision += 1
        self.now += 10
        known = (
            self.random.integers(0, self.now + 1, count) if is_late else np.full(count, self.now)
        )
        until = np.full(count, NEVER)
        if is_mortal:
            until[::2] = known[::2] + self.random.integers(1, 40, len(until[::2]))
        first = len(self.model.rows[partition])
        self.files.write(partition, DIM, first, vectors.tobytes())
        revision = np.full(count, self.revision)
        self.tier.append(partition, DIM, from_us=known, until_us=until, revision=revision)
        held = np.concatenate([self.model.vectors[partition], vectors])
        self.model.vectors[partition] = held
        for a, b in zip(known.tolist(), until.tolist(), strict=True):
            born = self.revision if b < NEVER else NEVER
            self.model.rows[partition].append([a, b, born, self.revision])

    @rule(
        partition=st.sampled_from(PARTITIONS),
        pick=st.integers(0, 10**6),
        count=st.sampled_from([1, 9, 80]),
    )
    def end(self, partition: int, pick: int, count: int) -> None:
        rows = self.model.rows[partition]
        for step in range(count if rows else 0):
            self.revision += 1
            row = (pick + step * 7) % len(rows)
            until = int(self.random.integers(rows[row][0], self.now + 20))
            self.tier.end(partition, row, until, self.revision)
            rows[row][1:3] = [until, self.revision]

    @rule(partition=st.sampled_from(PARTITIONS))
    def end_many(self, partition: int) -> None:
        rows = self.model.rows[partition]
        is_live = self.random.random(len(rows)) < 0.4
        for row in np.flatnonzero(is_live).tolist():
            self.revision += 1
            until = max(self.now, rows[row][0])
            self.tier.end(partition, row, until, self.revision)
            rows[row][1:3] = [until, self.revision]
        self.append(partition, 1, is_late=False, is_mortal=False)
        self.let_indexer_finish()

    @rule(is_saved=st.booleans())
    def reopen(self, is_saved: bool) -> None:
        if is_saved:
            self.tier.save()
        self._shut()
        self._open()

    @rule(pick=st.integers(0, 10**6), kind=st.sampled_from(["flip", "cut", "gone", "renamed"]))
    def damage(self, pick: int, kind: str) -> None:
        self._shut()
        found = sorted((self.directory / "graphs").glob("*.hnsw"))
        found = [path for path in found if path.stat().st_size]
        if found:
            path = found[pick % len(found)]
            data = bytearray(path.read_bytes())
            if kind == "flip":
                data[pick % len(data)] ^= 1 << pick % 8
                path.write_bytes(data)
            elif kind == "cut":
                path.write_bytes(data[: pick % len(data)])
            elif kind == "gone":
                path.unlink()
            else:
                path.rename(found[(pick + 1) % len(found)])
        self._open()

    @rule(partition=st.sampled_from(PARTITIONS))
    def unload(self, partition: int) -> None:
        self.tier.unload(partition)

    @rule()
    def let_indexer_finish(self) -> None:
        assert self.tier.wait_indexed(30)
        assert self.tier.stats.failures == 0

    @rule(
        k=st.sampled_from([10, 1, 3, 40]),
        exact=st.booleans(),
        back=st.sampled_from([0, 0, 1, 3]),
        share=st.sampled_from([None, None, 0.9, 0.4, 0.05]),
    )
    def search(self, k: int, exact: bool, back: int, share: float | None) -> None:
        moment = {
            "time_us": max(0, self.now - 12 * back),
            "revision": max(0, self.revision - back),
        }
        allow = None
        if share is not None:
            allow = {
                p: self.random.random(max(0, len(self.model.rows[p]) - back)) < share
                for p in PARTITIONS[: 2 - back % 2]
            }
        queries = self.random.standard_normal((3, DIM)).astype("f4")
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        found = self.tier.search(PARTITIONS, queries, k, allow=allow, exact=exact, **moment)
        for query, candidates in zip(queries, found, strict=True):
            hits = as_hits(candidates)
            every = self.model.best(query, 10**6, moment["time_us"], moment["revision"], allow)
            truth = [hit for hit in every if hit[0] >= every[min(k, len(every)) - 1][0]]
            assert {hit[1:] for hit in hits} <= {hit[1:] for hit in every}
            if exact:
                assert [hit[1:] for hit in hits] == [hit[1:] for hit in truth]
                assert [hit[0] for hit in hits] == pytest.approx([hit[0] for hit in truth])
            else:
                self._check_approximate(hits, truth, k)
            for partition, row, is_ambiguous in zip(
                candidates.partition, candidates.row, candidates.is_ambiguous, strict=True
            ):
                _, until, until_revision, _ = self.model.rows[partition][row]
                ended_later = until <= moment["time_us"] and until_revision > moment["revision"]
                assert bool(is_ambiguous) == ended_later

    @rule(k=st.sampled_from([10, 1, 40]), share=st.sampled_from([None, 0.6, 0.1]))
    def search_now(self, k: int, share: float | None) -> None:
        self.search(k, exact=False, back=0, share=share)

    def _check_approximate(self, hits: list[tuple], truth: list[tuple], k: int) -> None:
        assert len(hits) >= min(k, len(truth))
        assert len({hit[1:] for hit in hits}) == len(hits)
        # A row as near as the last true one is as good; ties may be told apart either way.
        last = truth[-1][0] - 1e-9 if truth else 0.0
        self.true_rows += min(k, len(truth))
        self.found_rows += min(k, sum(hit[0] >= last for hit in hits))

    @invariant()
    def recall_holds(self) -> None:
        assert self.found_rows >= 0.95 * self.true_rows

    def teardown(self) -> None:
        if hasattr(self, "tier"):
            self._shut()
            shutil.rmtree(self.directory)


class BacktestSearchMachine(SearchMachine):
    """The same on a backtest timeline."""

    is_deterministic = True


@pytest.mark.timeout(180)
@pytest.mark.parametrize("machine", [SearchMachine, BacktestSearchMachine])
def test_search_equals_an_exact_model(
    machine: type[SearchMachine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact search is exact; approximate search has recall 0.95 and never fewer hits."""
    # Small partitions must take every path that large ones take.
    monkeypatch.setattr(probe, "_GATHER", 16)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
