"""Three million vectors of a hundred agents in a gigabyte: slower where cold, and right.

    make stress TEST_ARGS="tests/stress/test_many_partitions.py -s"                      8 minutes
    PARTITIONS_BUILT=100 make stress TEST_ARGS="tests/stress/test_many_partitions.py -s" hours

Every agent has 30,000 vectors of 384 values and a graph of its own in files of its own. Only some
of the graphs are built, the others are copies of those: what is tried is serving them.
"""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

from nt_memory.tiers.vectors import NEVER, VectorFiles, VectorTier

pytestmark = [pytest.mark.stress, pytest.mark.timeout(6 * 3600)]

AGENTS = int(os.environ.get("PARTITIONS", "100"))
BUILT = int(os.environ.get("PARTITIONS_BUILT", "3"))
ROWS, DIM, MORE = 30_000, 384, 600
MAX_MEMORY = 1 << 30
NOW = 1 << 40


def clustered(seed: int, rows: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(seed % BUILT).standard_normal((30, DIM), np.float32)
    vectors = centres[random.integers(0, len(centres), rows)]
    vectors += 0.7 * random.standard_normal(vectors.shape, np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("<f2")


def columns(first: int, count: int) -> dict[str, np.ndarray]:
    known = np.arange(first, first + count)
    return {"from_us": known, "until_us": np.full(count, NEVER), "revision": known}


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise AssertionError


def open_tier(path: Path) -> tuple[VectorFiles, VectorTier]:
    files = VectorFiles(path / "vectors")
    # As `MemorySystem` divides the default of a gigabyte.
    max_bytes = MAX_MEMORY * 3 // 4
    return files, VectorTier(
        files, path / "vectors", max_bytes=max_bytes, is_deterministic=False, threads=2
    )


def build(path: Path) -> None:
    """Rows and graphs of all agents, on disk."""
    files, tier = open_tier(path)
    for agent in range(BUILT):
        files.write(agent, DIM, 0, clustered(agent, ROWS).tobytes())
        tier.append(agent, DIM, **columns(0, ROWS))
    assert tier.wait_indexed(3600)
    tier.save()
    assert tier.stats.failures == 0
    tier.close()
    files.close()
    made = sorted((path / "vectors").iterdir())
    for agent in range(BUILT, AGENTS):
        for file in made:
            rest = file.name.removeprefix(str(agent % BUILT))
            if file.name != rest:
                shutil.copyfile(file, file.with_name(f"{agent}{rest}"))


def recall(tier: VectorTier, agent: int, vectors: np.ndarray, seed: int) -> float:
    queries = clustered(agent % BUILT + BUILT * (1000 + seed), 5).astype("f4")
    found = tier.search([agent], queries, 10, time_us=NOW, revision=NOW)
    shared = 0
    for query, candidates in zip(queries, found, strict=True):
        best = np.argpartition(-(vectors @ query), 10)[:10]
        shared += len(set(best.tolist()) & set(candidates.row.tolist()))
    return shared / (10 * len(queries))


def test_a_hundred_agents_fit_in_a_gigabyte(tmp_path: Path) -> None:
    """Searching all of them, one by one, together, and while rows arrive, never needs more."""
    build(tmp_path)
    vectors = [clustered(agent, ROWS).astype("f4") for agent in range(BUILT)]
    extra = [clustered(BUILT * 77 + agent, MORE) for agent in range(BUILT)]
    own = sum(each.nbytes for each in vectors)  # the test's, not the tier's
    files, tier = open_tier(tmp_path)
    most = 0

    def look() -> None:
        nonlocal most
        most = max(most, anonymous_bytes() - own)
        assert most < MAX_MEMORY

    for agent in range(AGENTS):
        attached = columns(0, ROWS)
        tier.attach(agent, DIM, until_revision=np.full(ROWS, NEVER), **attached)
    recalls = []
    for turn in range(2):
        for agent in np.random.default_rng(turn).permutation(AGENTS).tolist():
            recalls.append(recall(tier, agent, vectors[agent % BUILT], turn))
            look()
    query = clustered(BUILT * 5, 1).astype("f4")
    together = tier.search(range(AGENTS), query, 50, time_us=NOW, revision=NOW)[0]
    exact = tier.search(range(AGENTS), query, 50, time_us=NOW, revision=NOW, exact=True)[0]
    shared = set(zip(together.partition.tolist(), together.row.tolist(), strict=True))
    shared &= set(zip(exact.partition.tolist(), exact.row.tolist(), strict=True))
    assert len(shared) >= 0.95 * 50
    look()
    for step in range(0, MORE, 200):
        for agent in range(AGENTS):
            part = extra[agent % BUILT][step : step + 200]
            files.write(agent, DIM, ROWS + step, part.tobytes())
            tier.append(agent, DIM, **columns(ROWS + step, 200))
            wide = np.concatenate(
                [vectors[agent % BUILT], extra[agent % BUILT][: step + 200].astype("f4")]
            )
            recalls.append(recall(tier, agent, wide, 10 + step))
            look()
    assert tier.wait_indexed(1800)
    look()
    stats = tier.stats
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{AGENTS} agents, {stats.rows:,} rows: at most {most / 2**20:.0f} MB anonymous, recall "
        f"{np.mean(recalls):.3f} (least of 5 queries {min(recalls):.2f}), {peak >> 10} MB resident "
        f"at most, mapped pages included; {stats}"
    )
    assert np.mean(recalls) >= 0.95
    assert stats.failures == 0
    assert stats.mapped_bytes > 0
    tier.close()
    files.close()
