"""Rows in groups, by faiss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nt_memory.tiers.vectors.library import faiss
from nt_memory.tiers.vectors.scanners import use_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray


def kmeans(
    vectors: NDArray[np.float32], k: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cluster rows by Euclidean distance, the same way every time.

    Args:
        vectors: Shape (n, dim), n >= 1.
        k: Wanted clusters; no more than n are made.
        seed: Of the initial centroids.

    Returns:
        Centroids, shape (min(k, n), dim), and each row's cluster, shape (n,).

    Cost: 20 rounds over the rows on one thread.
    Source: Lloyd 1982, as implemented by `faiss.Kmeans`; all rows are used, none sampled.
    """
    use_threads(1)
    rows = np.ascontiguousarray(vectors, np.float32)
    k = min(k, len(rows))
    clustering = faiss.Kmeans(
        rows.shape[1],
        k,
        niter=20,
        seed=seed % (2**31 - 1),
        min_points_per_centroid=1,
        max_points_per_centroid=max(1, len(rows)),
    )
    clustering.train(rows)
    _, nearest = clustering.index.search(rows, 1)
    return np.array(clustering.centroids, np.float32), nearest[:, 0].astype(np.int64)
