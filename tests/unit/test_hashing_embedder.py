"""The hashing text embedder: near for shared wording, the same bytes everywhere, nothing to fit."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nt_memory.embedders import Embedder, HashingTextEmbedder
from nt_memory.embedders.hashing import words_of
from nt_memory.errors import InvalidInputError

EMBEDDER = HashingTextEmbedder()
PAIRS = [
    (
        "Fed raises rates by 25 basis points, signals pause",
        "Federal Reserve raises rates 25 basis points and signals a pause",
    ),
    (
        "Crude slides 4% as OPEC+ output climbs to two-year high",
        "Crude oil slides 4% as output of OPEC+ climbs to a two-year high",
    ),
    (
        "Tesla recalls 120,000 vehicles over door latch defect",
        "Tesla to recall 120,000 vehicels over a door latch defect",
    ),
    (
        "Bank of Japan ends negative interest rates after eight years",
        "BANK OF JAPAN ENDS NEGATIVE INTEREST RATES AFTER EIGHT YEARS!",
    ),
    (
        "Nestlé coupe ses prévisions de croissance pour l’exercice",
        "Nestlé coupe les prévisions de croissance de l’exercice",
    ),
    ("日銀、マイナス金利政策を解除", "日銀がマイナス金利政策の解除を決定"),
]
PINNED = {
    64: "81c47ac829d2b87d",
    384: "7b2ace9ce478a90d",
    512: "e2220be137753c94",
    1000: "c0a7e6c7b3f76081",
}
texts = st.text(st.characters(codec="utf-8"), max_size=60).filter(words_of)


def test_rewordings_are_nearer_than_anything_else() -> None:
    """Each headline's rewrite is its nearest, by a margin no unrelated headline comes near."""
    first = EMBEDDER.embed([a for a, _ in PAIRS])
    second = EMBEDDER.embed([b for _, b in PAIRS])
    scores = first @ second.T
    own = np.diag(scores)
    others = scores[~np.eye(len(PAIRS), dtype=bool)]
    assert own.min() > 0.4
    assert others.max() < 0.25


def test_case_and_compatibility_forms_do_not_count() -> None:
    """The same words in capitals, full-width letters or another composition are the same text."""
    plain, *same = EMBEDDER.embed(["Nestlé Q3", "NESTLÉ  q3\n", "Nestlé Q3", "Ｎｅｓｔｌé Ｑ３"])
    assert all(one.tobytes() == plain.tobytes() for one in same)


def test_numbers_keep_sign_and_percent() -> None:
    """A fall is not a rise: the sign and the percent of a number belong to its word."""
    assert words_of("AAPL -5.2% (1,000) 2020-03-16 3d") == [
        "aapl",
        "-5.2%",
        "1,000",
        "2020",
        "03",
        "16",
        "3d",
    ]
    fell, rose = EMBEDDER.embed(["AAPL -5.2%", "AAPL +5.2%"])
    assert float(fell @ rose) < 0.9


@settings(max_examples=60, deadline=None)
@given(st.lists(texts, min_size=1, max_size=6))
@example(["a", "🚀", "日本", "a b", "x" * 5000])
def test_a_text_has_the_same_bytes_alone_and_in_company(some: list[str]) -> None:
    """A vector depends on its text only, is finite and of length 1."""
    together = EMBEDDER.embed(some)
    for text, vector in zip(some, together, strict=True):
        assert EMBEDDER.embed([text]).tobytes() == vector.tobytes()
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(len(some)), abs=1e-6)


def test_parts_of_a_big_batch_are_put_together_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a batch is cut, by characters or by texts, changes no byte."""
    some = [f"headline {i} of {i % 7} on day {i * i}" for i in range(2500)]
    whole = EMBEDDER.embed(some)
    monkeypatch.setattr("nt_memory.embedders.hashing._PART_CHARACTERS", 100)
    assert EMBEDDER.embed(some[:300]).tobytes() == whole[:300].tobytes()
    monkeypatch.setattr("nt_memory.embedders.hashing._PART_VALUES", 1)
    assert EMBEDDER.embed(some[1020:1030]).tobytes() == whole[1020:1030].tobytes()


def test_bytes_are_those_of_the_first_release() -> None:
    """What is stored today is found tomorrow: the bytes of each dimension are pinned."""
    some = [text for pair in PAIRS for text in pair]
    digests = {
        dim: hashlib.sha256(
            HashingTextEmbedder(dim).embed(some).astype("<f4").tobytes()
        ).hexdigest()
        for dim in (64, 384, 512, 1000)
    }
    assert {dim: digest[:16] for dim, digest in digests.items()} == PINNED


def test_another_process_gives_the_same_bytes() -> None:
    """No seed of the process is in it, unlike in Python's own hash."""
    code = (
        "import sys; from nt_memory.embedders import HashingTextEmbedder;"
        "sys.stdout.buffer.write(HashingTextEmbedder().embed(['rates up', 'rates down']).tobytes())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        env={"PYTHONHASHSEED": "4242", "PYTHONPATH": ":".join(sys.path)},
    )
    assert ran.stdout == EMBEDDER.embed(["rates up", "rates down"]).tobytes()


def test_a_repeated_word_counts_less_each_time() -> None:
    """Counts are taken by their square root: ten times a word is not ten times the weight."""
    once, often, other = EMBEDDER.embed(["gold rally", "gold " * 10 + "rally", "rally"])
    assert float(once @ often) > 0.6
    assert 0.15 < float(often @ other) < float(once @ other)


def test_collisions_cancel_on_average() -> None:
    """Features of unrelated texts meet in one component as often with either sign."""
    draw = np.random.default_rng(5)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    some = ["".join(draw.choice(letters, 12)) for _ in range(300)]
    scores = HashingTextEmbedder(64).embed(some)
    off = (scores @ scores.T)[np.triu_indices(300, 1)]
    assert abs(float(off.mean())) < 0.005
    assert float(off.std()) < 1.3 / np.sqrt(64)


@pytest.mark.parametrize(
    ("some", "what"),
    [
        ("one string", "not one string"),
        (["fine", ""], "text 1 is empty"),
        ([" \n\t"], "text 0 is empty"),
        (["ok", None], "text 1 is a NoneType"),
        (["\ud800 half"], "not valid Unicode"),
    ],
)
def test_what_is_no_text_is_refused(some: object, what: str) -> None:
    """Blank texts resemble nothing and are refused, by place; so is what is no string."""
    with pytest.raises(InvalidInputError, match=what):
        EMBEDDER.embed(some)  # type: ignore[arg-type]


def test_nothing_gives_nothing() -> None:
    """No texts give no vectors, of the right width."""
    assert EMBEDDER.embed([]).shape == (0, 512)


@pytest.mark.parametrize("dim", [63, 65_537, 512.0, True])
def test_impossible_dimensions_are_refused(dim: object) -> None:
    """Too few components, too many, and numbers that are no int."""
    with pytest.raises(InvalidInputError, match="dim must"):
        HashingTextEmbedder(dim)  # type: ignore[arg-type]


def test_storing_keeps_it_and_foreign_descriptions_are_refused() -> None:
    """A stored embedder is the same one; another kind or format is not read."""
    stored = HashingTextEmbedder.from_dict(
        json.loads(json.dumps(HashingTextEmbedder(384).to_dict()))
    )
    assert stored == HashingTextEmbedder(384)
    assert stored.version == "hashing-text/1/384"
    for change in ({"kind": "market-window"}, {"format": 2}):
        with pytest.raises(InvalidInputError):
            HashingTextEmbedder.from_dict({**stored.to_dict(), **change})


def test_it_is_an_embedder() -> None:
    """It has what the protocol asks of an embedder of texts."""
    embedder: Embedder[list[str]] = EMBEDDER
    assert embedder.embed(["one"]).shape == (1, embedder.dim)
