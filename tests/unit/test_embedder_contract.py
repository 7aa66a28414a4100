"""What holds for every embedder: it leaves the event loop, and a missing extra says what to do."""

from __future__ import annotations

import asyncio
import sys
import threading

import numpy as np
import pytest

from nt_memory.config import secret_from_env
from nt_memory.embedders import (
    AsyncEmbedder,
    HashingTextEmbedder,
    SentenceTransformersEmbedder,
    aembed,
)
from nt_memory.embedders.texts import check_vectors
from nt_memory.errors import DimensionError, EmbeddingError, UnsupportedError


class Doubling:
    """An embedder of numbers, of somebody's own."""

    version = "doubling/1"
    dim = 2

    def __init__(self) -> None:
        self.thread = threading.current_thread()

    def embed(self, given: list[float], /) -> np.ndarray:
        self.thread = threading.current_thread()
        return np.array([[number, 2.0 * number] for number in given])


def test_any_embedder_is_used_off_the_event_loop() -> None:
    """`aembed` takes what has the three members, and computes on another thread."""
    embedder = Doubling()
    assert not isinstance(embedder, AsyncEmbedder)
    assert asyncio.run(aembed(embedder, [1.0, 3.0])).tolist() == [[1.0, 2.0], [3.0, 6.0]]
    assert embedder.thread is not threading.current_thread()
    text = HashingTextEmbedder()
    assert asyncio.run(aembed(text, ["one"])).tobytes() == text.embed(["one"]).tobytes()


def test_a_missing_library_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package imports without the extra; making one says what to install."""
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'nt-memory\[sentence-transformers\]'"):
        SentenceTransformersEmbedder("anything")


@pytest.mark.parametrize(
    ("found", "error"),
    [
        ([[1.0, 2.0]], EmbeddingError),
        ([1.0, 2.0], EmbeddingError),
        ([[1.0, 2.0, 3.0]] * 2, DimensionError),
        ([[1.0, 2.0], [0.0, 0.0]], EmbeddingError),
        ([[1.0, 2.0], [np.nan, 1.0]], EmbeddingError),
        ([[1.0, 2.0], [1e39, 1.0]], EmbeddingError),
    ],
)
def test_what_a_model_returns_is_checked(found: object, error: type[Exception]) -> None:
    """Another number or dimension, zeros, NaN and what float32 cannot hold never reach a memory."""
    with pytest.raises(error):
        check_vectors(found, 2, 2, "model")  # type: ignore[arg-type]
    assert check_vectors([[1.0, 2.0], [3.0, 4.0]], 2, 2, "model").dtype == np.float32


def test_secrets_come_without_the_blanks_of_a_file() -> None:
    """A trailing newline is not part of a key, and an empty variable is none."""
    assert secret_from_env("KEY", {"KEY": " abc\n"}) == "abc"
    assert secret_from_env("KEY", {"KEY": " "}) is None
    assert secret_from_env("KEY", {}) is None
