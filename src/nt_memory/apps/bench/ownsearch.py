"""What only this memory is asked: searches by a rare tag, and searches while observations come in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nt_memory.apps.bench import observing
from nt_memory.apps.bench.figures import K, point, true_neighbours

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nt_memory.apps.bench.child import Report
    from nt_memory.apps.bench.contenders.ours import Memory
    from nt_memory.apps.bench.datasets import Dataset

    Floats = NDArray[np.float32]

NEAR = 0.2  # length of what is added to a stored unit vector to make a new one


def measure_own(
    report: Report, measured: Memory, dataset: Dataset, *, limit_s: float, seconds: float
) -> None:
    """Report the filtered search, the split of ingest, and the search under ingest.

    Args:
        report: Takes "filtered", "took", "growing" and "accounted".
        measured: Filled.
        dataset: What it was filled with.
        limit_s: Timed searches stop after so long.
        seconds: Length of the search under ingest; 0 leaves it out.
    """
    memory, queries = measured.memory, dataset.queries
    rare = np.arange(0, dataset.rows, observing.RARE_EVERY)
    samples, found = measured.runner.run(
        observing.searches(memory, queries, limit_s, tags=(observing.RARE,))
    )
    truth = true_neighbours(dataset.vectors, queries[: len(found)], K, rare)
    stats = memory.stats()
    report(
        took=measured.took,
        filtered=point(samples, found, truth) | {"rows": len(rare)},
        accounted={
            "l1": stats.l1.bytes,
            "l2": stats.l2.bytes,
            "most": measured.config.max_memory_bytes,
        },
    )
    if seconds > 0:
        report.phase("searching while observations come in")
        fresh = near(dataset.vectors, int(observing.INGEST_PER_S * (seconds + 2)), dataset.seed + 1)
        growth = measured.runner.run(
            observing.search_while_growing(memory, queries, fresh, seconds)
        )
        report(growing=growth.figures())


def near(vectors: Floats, count: int, seed: int) -> Floats:
    """New unit vectors, each near a stored one, cosine about 0.98: of any data set alike."""
    random = np.random.default_rng(seed)
    fresh = np.array(vectors[np.sort(random.integers(0, len(vectors), count))])
    random.shuffle(fresh)
    fresh += (
        NEAR / np.float32(fresh.shape[1] ** 0.5) * random.standard_normal(fresh.shape, np.float32)
    )
    fresh /= np.linalg.norm(fresh, axis=1, keepdims=True)
    return fresh
