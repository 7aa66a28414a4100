"""Whether something grew: samples of a long run, two windows of it compared.

Method. The run is cut in six. The first sixth is for warming up and not looked at (five minutes of
thirty); the second sixth is compared with the last one, by the medians of what was sampled in them.
A series held if the later median is at most 10 % above the earlier.

Sizes are plain numbers: compared as they are. Latencies of single operations are not: on a machine
that others use, a p99 moves by more than 10 % from minute to minute for reasons of its own. So each
latency also gets a 95 % interval for the ratio of its medians, by resampling (Efron 1979) blocks of
`BLOCK` neighbouring samples, as neighbours are alike; it *grew* if the whole interval lies above
1.10, and is *unsure* if only the ratio does. Growth is failure; what is unsure is said, and fails
where it is asked to (`strict`). A sample without a value (an operation that was not done then) is
left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LIMIT = 1.10
PARTS = 6
BLOCK = 3
RESAMPLES = 2_000
LEAST = 4  # samples a window must have
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Series:
    """One thing sampled over time.

    Attributes:
        name: What.
        unit: "bytes", "s" or "".
        points: (seconds since the start, value), in order.
        is_noisy: A latency: judged with its interval.
        is_judged: Whether its growth fails the run; others are printed only.
        slack: Growth that is never held against it, in its unit: less is not measurable.
    """

    name: str
    unit: str
    points: list[tuple[float, float]]
    is_noisy: bool = False
    is_judged: bool = True
    slack: float = 0.0


@dataclass(frozen=True)
class Judgement:
    """How a series did; `verdict` is "held", "unsure", "grew" or "too few samples"."""

    name: str
    unit: str
    before: float
    after: float
    low: float
    high: float
    verdict: str
    is_judged: bool

    @property
    def ratio(self) -> float:
        """Later median over earlier."""
        return self.after / self.before if self.before else math.inf if self.after else 1.0


def judge(series: Series, length_s: float) -> Judgement:
    """Compare a series' second sixth of `length_s` with its last."""
    part = length_s / PARTS
    before = _window(series, part, 2 * part)
    after = _window(series, length_s - part, math.inf)
    return compare(series, before, after)


def compare(series: Series, before: np.ndarray, after: np.ndarray) -> Judgement:
    """Compare two sets of samples of what `series` says; its own points are not looked at."""
    if min(len(before), len(after)) < LEAST:
        nothing = math.nan
        return Judgement(
            series.name, series.unit, nothing, nothing, nothing, nothing, "too few samples",
            series.is_judged,
        )  # fmt: skip
    early, late = float(np.median(before)), float(np.median(after))
    low, high = _interval(before, after) if series.is_noisy else (late / early, late / early)
    if late <= early * LIMIT or late - early <= series.slack:
        verdict = "held"
    elif series.is_noisy and low <= LIMIT:
        verdict = "unsure"
    else:
        verdict = "grew"
    return Judgement(series.name, series.unit, early, late, low, high, verdict, series.is_judged)


def has_held(judgements: list[Judgement], *, strict: bool = False) -> bool:
    """Whether nothing that is judged grew; `strict`: and nothing is unsure.

    A series with too few samples has not been shown to hold.
    """
    bad = {"grew", "too few samples"} | ({"unsure"} if strict else set())
    return not any(one.verdict in bad for one in judgements if one.is_judged)


def chart(series: Series, width: int = 60) -> str:
    """The series as a line of bars, from zero to its maximum; each bar the mean of its stretch."""
    if not series.points:
        return ""
    times, values = np.array(series.points).T
    last, top = times[-1], max(float(values.max()), 1e-12)
    bars = []
    for place in range(width):
        inside = (times >= last * place / width) & (times <= last * (place + 1) / width)
        if not inside.any():
            bars.append(" ")
            continue
        level = float(values[inside].mean()) / top
        bars.append(_BARS[min(len(_BARS) - 1, int(level * len(_BARS)))])
    return "".join(bars)


def _window(series: Series, start: float, stop: float) -> np.ndarray:
    found = [value for at, value in series.points if start <= at < stop and math.isfinite(value)]
    return np.array(found, dtype=np.float64)


def _interval(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    rng = np.random.default_rng(7)
    ratios = _medians(after, rng) / np.maximum(_medians(before, rng), 1e-12)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


def _medians(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Medians of the values resampled by blocks; shape (RESAMPLES,)."""
    count = -(-len(values) // BLOCK)
    starts = rng.integers(0, max(1, len(values) - BLOCK + 1), (RESAMPLES, count))
    places = (starts[:, :, None] + np.arange(BLOCK)).reshape(RESAMPLES, -1)
    return np.median(values[np.minimum(places, len(values) - 1)], axis=1)
