"""The market-window embedder: fitted once, frozen, the same bytes alone and in bulk."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nt_memory.embedders import FEATURES, HISTORY, MarketWindowEmbedder, market_features
from nt_memory.errors import InvalidInputError


def walk(n_days: int, n_tickers: int, seed: int = 0) -> np.ndarray:
    moves = np.random.default_rng(seed).normal(scale=0.02, size=(n_days, n_tickers))
    return 50.0 * np.exp(np.cumsum(moves, axis=0))


PRICES = walk(420, 4)
EMBEDDER = MarketWindowEmbedder.fit(PRICES[:380])


@settings(max_examples=15, deadline=None)
@given(st.integers(HISTORY, 420), st.integers(0, 100))
def test_one_window_and_the_whole_panel_agree_to_the_byte(end: int, spare: int) -> None:
    """Embedding live and embedding in bulk are the same, whatever history is kept."""
    start = max(end - HISTORY - spare, 0)
    alone = EMBEDDER.embed(PRICES[start:end])
    assert alone.tobytes() == EMBEDDER.embed_panel(PRICES)[end - 1].tobytes()


@pytest.mark.parametrize("n_tickers", [1, 3, 20])
def test_later_prices_change_no_byte(n_tickers: int) -> None:
    """A situation depends on the closes up to its day only, garbage later or not."""
    prices = walk(330, n_tickers, seed=3)
    garbage = prices.copy()
    garbage[300:] = 1e9 * np.random.default_rng(1).random((30, n_tickers)) + 1e-9
    whole = market_features(prices)[:300]
    assert whole.tobytes() == market_features(garbage)[:300].tobytes()
    assert whole.tobytes() == market_features(prices[:300]).tobytes()


def test_features_are_what_they_are_called() -> None:
    """Each feature equals its definition, computed another way."""
    found = dict(zip(FEATURES, market_features(PRICES)[-1, 2], strict=True))
    moves = np.diff(np.log(PRICES), axis=0)
    own, market = moves[:, 2], moves.mean(axis=1)
    for days in (1, 5, 10, 22, 66):
        expected = np.log(max(np.sqrt(252 * np.mean(own[-days:] ** 2)), 0.01))
        assert found[f"log_volatility_{days}"] == pytest.approx(expected)
    for days in (5, 22):
        level = np.log(np.sqrt(252 * np.mean(market[-days:] ** 2)))
        assert found[f"market_log_volatility_{days}"] == pytest.approx(level)
        daily = np.sqrt(np.mean(own[-22:] ** 2))
        expected = own[-days:].sum() / (daily * np.sqrt(days))
        assert found[f"return_{days}_in_volatility"] == pytest.approx(expected)
    expected = np.log(PRICES[-1, 2] / PRICES[-252:, 2].max())
    assert found["log_distance_from_high_252"] == pytest.approx(expected)


def test_the_high_looks_back_exactly_252_closes() -> None:
    """A peak counts on its own day and for 251 days after it, and then no more."""
    prices = np.full((600, 2), 10.0)
    prices[300] = 20.0
    distance = market_features(prices)[:, 0, -1]
    assert distance[300] == 0.0
    assert distance[300 + 251] == pytest.approx(np.log(0.5))
    assert distance[300 + 252] == 0.0


def test_a_price_that_does_not_move_is_finite() -> None:
    """Zero volatility is floored at 1 %: no infinity, no NaN."""
    prices = PRICES.copy()
    prices[:, 1] = 7.0
    features = market_features(prices)[HISTORY - 1 :]
    assert np.isfinite(features).all()
    assert features[-1, 1, 0] == pytest.approx(np.log(0.01))


def test_fit_standardises_and_appends_the_constant() -> None:
    """Over its fit each feature has mean 0 and deviation 1; the last component is the constant."""
    vectors = EMBEDDER.embed_panel(PRICES[:380])[HISTORY - 1 :].reshape(-1, EMBEDDER.dim)
    assert vectors[:, :-1].mean(axis=0) == pytest.approx(np.zeros(10), abs=1e-9)
    assert vectors[:, :-1].std(axis=0) == pytest.approx(np.ones(10))
    assert set(vectors[:, -1]) == {5.0}
    assert EMBEDDER.feature_names == (*FEATURES, "constant")


def test_days_without_history_are_marked() -> None:
    """In bulk the first 251 days are NaN throughout; alone a short window is refused."""
    vectors = EMBEDDER.embed_panel(PRICES)
    assert np.isnan(vectors[: HISTORY - 1]).all()
    assert np.isfinite(vectors[HISTORY - 1 :]).all()
    assert np.isnan(EMBEDDER.embed_panel(PRICES[:10])).all()
    with pytest.raises(InvalidInputError, match="252 closes; the window has 251"):
        EMBEDDER.embed(PRICES[:251])


def test_weights_follow_the_regression() -> None:
    """A feature that explains the outcome weighs most; mean square weight is 1."""
    features = market_features(PRICES)
    outcomes = 3.0 * features[..., 2] + 0.01 * np.random.default_rng(0).normal(size=PRICES.shape)
    weights = MarketWindowEmbedder.fit(PRICES, outcomes).weight
    assert np.argmax(weights) == 2
    assert np.mean(np.square(weights)) == pytest.approx(1.0)


def test_version_names_the_fit_and_storing_keeps_it() -> None:
    """Equal fits share a version, other fits have another, and a stored one embeds the same."""
    stored = MarketWindowEmbedder.from_dict(json.loads(json.dumps(EMBEDDER.to_dict())))
    assert stored.version == EMBEDDER.version == MarketWindowEmbedder.fit(PRICES[:380]).version
    assert MarketWindowEmbedder.fit(PRICES[:381]).version != EMBEDDER.version
    assert MarketWindowEmbedder.fit(PRICES[:380], constant=4.0).version != EMBEDDER.version
    assert stored.embed(PRICES).tobytes() == EMBEDDER.embed(PRICES).tobytes()


def test_an_embedder_is_frozen() -> None:
    """A scaler that drifts would move every memory: it cannot be changed."""
    with pytest.raises(AttributeError):
        EMBEDDER.constant = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("prices", "what"),
    [
        (np.full((300, 2), np.nan), "finite"),
        (np.zeros((300, 2)), "greater than zero"),
        (-np.ones((300, 2)), "greater than zero"),
        (np.ones(300), "shape"),
        (np.ones((300, 0)), "shape"),
        ([["a", "b"]], "numbers"),
    ],
)
def test_malformed_prices_are_refused(prices: object, what: str) -> None:
    """NaN, zero, negative, wrongly shaped and non-numeric prices raise."""
    with pytest.raises(InvalidInputError, match=what):
        EMBEDDER.embed(prices)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=what):
        market_features(prices)  # type: ignore[arg-type]


def test_impossible_fits_are_refused() -> None:
    """Too little data, features that never vary, bad constants and shapes raise."""
    with pytest.raises(InvalidInputError, match="100 situations"):
        MarketWindowEmbedder.fit(PRICES[:260])
    with pytest.raises(InvalidInputError, match="never varies"):
        MarketWindowEmbedder.fit(np.ones((400, 3)))
    with pytest.raises(InvalidInputError, match="constant"):
        MarketWindowEmbedder.fit(PRICES, constant=0.0)
    with pytest.raises(InvalidInputError, match="shape of the prices"):
        MarketWindowEmbedder.fit(PRICES, np.ones((3, 3)))
    with pytest.raises(InvalidInputError, match="known outcomes"):
        MarketWindowEmbedder.fit(PRICES, np.full(PRICES.shape, np.nan))


def test_foreign_descriptions_are_refused() -> None:
    """What another kind, format or width of embedder stored is not read."""
    stored = EMBEDDER.to_dict()
    for change in ({"kind": "text"}, {"format": 2}, {"mean": [1.0]}):
        with pytest.raises(InvalidInputError):
            MarketWindowEmbedder.from_dict({**stored, **change})
