"""Whether the bank tells skill from luck: its statistics on worlds whose truth is known.

    python bench/bank_truth.py [--worlds 400] [--seed N] [--only noise uplift ...]

Worlds are drawn afresh each time, and the seed is printed, so that a figure out of its bar can be looked
into. Bars are for 400 worlds: a share of 10 % lies below 52 of them with a chance of 97.5 %, one of 95 %
between 371 and 389 with the same chance on both sides. For other numbers of worlds they are scaled.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from _harness import machine
from _worlds import (
    OVERLAP,
    draw_decisions,
    draw_features,
    draw_panel,
    draw_world,
    flip_coins,
)

from nt_memory.reasoningbank.dependence import (
    choose_lag,
    daily_mean,
    freedom_of,
    long_run_variances,
    student_tails,
)
from nt_memory.reasoningbank.drift import first_alarm, refer
from nt_memory.reasoningbank.promotion import measure_clusters, promoted
from nt_memory.reasoningbank.uplift import Trials, estimate
from nt_memory.reasoningbank.votes import Voter, weigh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _worlds import World
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Q = 0.1
MIN_BLOCKS = 100
YEAR = 252
NEARLY_ALIKE = 0.6


@dataclass(frozen=True)
class Finding:
    """One figure beside what it must keep to.

    Attributes:
        what: Of what.
        figure: What was found.
        low: At least this.
        high: At most this.
        is_control: A statistic known to be bad, which must miss its bar.
    """

    what: str
    figure: float
    low: float = -math.inf
    high: float = math.inf
    is_control: bool = False

    @property
    def is_kept(self) -> bool:
        """Whether the bar was kept; for a control, whether it was missed."""
        return (self.low <= self.figure <= self.high) != self.is_control


def most(worlds: int, share: float = Q) -> float:
    """So many worlds at most, of which each may count with a chance of `share`."""
    return 52.0 if worlds == 400 and share == Q else _binomial(worlds, share, 0.975)


def between(worlds: int, share: float = 0.95) -> tuple[float, float]:
    """So many worlds, of which each should count with a chance of `share`."""
    if worlds == 400 and share == 0.95:
        return 371.0, 389.0
    return _binomial(worlds, share, 0.025), _binomial(worlds, share, 0.975)


def _binomial(n: int, share: float, probability: float) -> float:
    """Quantile of the number of successes."""
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        + k * math.log(share) + (n - k) * math.log1p(-share)
        for k in range(n + 1)
    ]  # fmt: skip
    upto = np.cumsum(np.exp(logs))
    return float(np.searchsorted(upto, probability))


def p_values(world: World) -> Floats:
    """The bank's, for each situation of a world."""
    return measure_clusters(
        world.label.ravel(), world.at.ravel(), world.cell.ravel(), OVERLAP
    ).p_value


def naive_p_values(world: World) -> Floats:
    """Known to be bad: a fifth of the values, as if they were independent."""
    found: list[float] = []
    for cell in np.unique(world.cell):
        values = world.label[world.cell == cell]
        error = np.std(world.label) / math.sqrt(max(len(values) / OVERLAP, 1.0))
        found.append(2.0 * (1.0 - NormalDist().cdf(abs(float(np.mean(values))) / error)))
    return np.array(found)


def noise(rng: np.random.Generator, worlds: int) -> Iterator[Finding]:
    """Worlds in which nothing means anything."""
    for days in (500, 1_000, 2_000):
        any_of, naive = 0, 0
        for _ in range(worlds):
            world = draw_world(rng, days)
            any_of += bool(promoted(p_values(world), Q, 1).any())
            naive += bool(promoted(naive_p_values(world), Q, 1).any())
        yield Finding(f"noise, {days} days: worlds with a promotion", any_of, 0, most(worlds))
        if days == 1_000:
            yield Finding("  the same by n/5", naive, 0, most(worlds), is_control=True)


def skill(rng: np.random.Generator, worlds: int) -> Iterator[Finding]:
    """Agents as good as their baseline: does the interval of their skill say so?"""
    for days in (120, 250, 500, 1_000):
        held, naive = 0, 0
        for _ in range(worlds):
            values = draw_panel(rng, days, 20)
            at = np.repeat(np.arange(days) * 86_400_000_000, 20)
            mean = daily_mean(values.ravel(), at, OVERLAP)
            held += mean.low <= 0.0 <= mean.high
            error = float(np.std(values)) / math.sqrt(values.size / OVERLAP)
            naive += abs(mean.value) <= 1.96 * error
        yield Finding(f"skill, {days} days: intervals that cover zero", held, *between(worlds))
        if days == 500:
            yield Finding("  the same by n/5", naive, *between(worlds), is_control=True)


def flippers(rng: np.random.Generator, worlds: int) -> Iterator[Finding]:
    """The best of a thousand coin-flippers must not be taken for skilled."""
    any_of, naive = 0, 0
    for _ in range(worlds):
        gains = flip_coins(rng, 1_000, 1_000)
        mean = gains.mean(axis=0)
        lag = choose_lag(len(gains), OVERLAP)
        freedom, shrinkage = freedom_of(np.full(gains.shape[1], len(gains) / (lag + 1.0)))
        error = np.sqrt(long_run_variances(gains - mean, lag) / shrinkage) / len(gains)
        p = student_tails(mean / error, freedom)
        any_of += bool(promoted(p, Q, 1).any())
        naive += bool(p.min() <= Q)
    yield Finding("coin-flippers: worlds with a promotion of 1,000", any_of, 0, most(worlds))
    yield Finding("  the same without correction", naive, 0, most(worlds), is_control=True)


def choose_cell(world: World) -> int | None:
    """The situation that occurs in fewest blocks of five days, but in enough of them."""
    blocks = np.arange(len(world.cell)) // OVERLAP
    counts = [
        len(np.unique(blocks[(world.cell == cell).any(axis=1)]))
        for cell in range(world.cell.max() + 1)
    ]
    enough = [(count, cell) for cell, count in enumerate(counts) if count >= MIN_BLOCKS]
    return min(enough)[1] if enough else None


def power(rng: np.random.Generator, worlds: int) -> Iterator[Finding]:
    """An effect in one situation: is it found, at the first of four looks?"""
    for size, low in ((0.5, 0.9), (0.3, -math.inf)):
        tried = found = 0
        while tried < worlds:
            world = draw_world(rng, 2_000)
            cell = choose_cell(world)
            if cell is None:
                continue
            tried += 1
            p = p_values(world.with_effect(cell, size))
            found += bool(promoted(p, Q, 4)[cell])
        yield Finding(f"effect of {size} sd: share promoted", found / tried, low)


def breaks(rng: np.random.Generator, worlds: int) -> Iterator[Finding]:
    """A pattern of every day, promoted on two years: does its end show, and only its end?"""
    late: list[float] = []
    alarms, years, learning = 0, 0.0, 2 * YEAR
    watched = 5 * YEAR
    for _ in range(worlds):
        held = draw_panel(rng, learning + watched, 20).mean(axis=1) + 0.5
        reference = refer(held[:learning], float(np.mean(held[:learning])), OVERLAP)
        if reference is None:
            raise RuntimeError("two years of days do not vary")
        alarm = first_alarm(held[learning:], reference)
        alarms += alarm is not None
        years += (watched if alarm is None else alarm + 1) / YEAR
        broken = held.copy()
        broken[learning + 40 :] -= 0.5
        found = first_alarm(broken[learning:], reference)
        # An alarm before the break is false, and counted above.
        if found is None or found >= 40:
            late.append(math.inf if found is None else found - 40 + 1)
    yield Finding(
        "break of 0.5 sd: median days until it is detected", float(np.median(late)), 0, 60
    )
    yield Finding("no break: false alarms a pattern-year", alarms / years, 0, 0.2)


def uplift(rng: np.random.Generator, worlds: int) -> Iterator[Finding]:
    """Advice that helps, or harms, by a tenth."""
    for size in (0.1, -0.1):
        for withhold in (0.5, 0.2):
            held = right = 0
            for _ in range(worlds):
                drawn = draw_decisions(rng, size, withhold=withhold)
                trials = Trials(
                    drawn.loss, drawn.baseline_loss, drawn.baseline, drawn.is_shown,
                    drawn.propensity, drawn.unit,
                )  # fmt: skip
                said = estimate("a", trials)
                held += said.low <= drawn.truth <= said.high
                right += said.value * size > 0.0
            name = f"uplift of {size:+.0%}, {withhold:.0%} withheld"
            yield Finding(f"{name}: intervals that hold it", held, *between(worlds))
            yield Finding(f"{name}: share with the right sign", right / worlds, 0.8)


def clones(rng: np.random.Generator, worlds: int) -> Iterator[Finding]:
    """Ten exact clones of one agent among five others.

    Tails are heavy: about once in twenty thousand worlds one day outweighs all others, and the six err as one. Then
    there are no others to be among, and another world is drawn.
    """
    worst, day = 0.0, np.arange(500)
    for _ in range(worlds):
        losses = np.abs(draw_panel(rng, len(day), 6)).T
        while np.max(np.corrcoef(losses) - np.eye(len(losses))) > NEARLY_ALIKE:
            losses = np.abs(draw_panel(rng, len(day), 6)).T
        apart = (losses - losses.mean(axis=1, keepdims=True)) / losses.std(axis=1, keepdims=True)
        voters = [Voter(1.2, True, day, one) for one in apart]  # noqa: FBT003
        alone = weigh(voters)
        many = weigh([voters[0]] * 9 + voters)
        worst = max(worst, abs(sum(many[:10]) / alone[0] - 1.0))
        others = np.array(many[10:]) / np.array(alone[1:])
        worst = max(worst, float(np.max(np.abs(others - 1.0))))
    yield Finding("ten clones: farthest from one vote", worst, 0, 0.01)


def lopsided(rng: np.random.Generator, worlds: int) -> Iterator[Finding]:
    """Labels that are 1 once in five days and else 0, about which nothing is to be known, at many looks.

    The 32 situations of one series are tested as one look of 100 declared, so that p-values of 3e-5 decide. At
    that rate four worlds of 400 with a promotion come once in a thousand runs.
    """
    any_of, alone = 0, 0
    for _ in range(worlds):
        feature = draw_features(rng, 2_000, 1, 2)[:, 0]
        middles = feature[rng.choice(len(feature), 32, replace=False)]
        apart = np.sum((feature[:, None] - middles) ** 2, axis=2)
        cell = np.argmin(apart, axis=1)
        label = (rng.random(len(feature)) < 0.2).astype(np.float64)
        at = np.arange(len(feature)) * 86_400_000_000
        any_of += bool(promoted(measure_clusters(label, at, cell, 1).p_value, Q, 100).any())
        alone += bool(promoted(own_p_values(label, cell), Q, 100).any())
    yield Finding(
        "one label of five, 100 looks: worlds with a promotion", any_of, 0, 3.0 * worlds / 400
    )
    yield Finding(
        "  the same by each situation's own spread", alone, 0, 3.0 * worlds / 400, is_control=True
    )


def own_p_values(label: Floats, cell: NDArray[np.int64]) -> Floats:
    """Known to be bad: Welch's test, where a situation in which nothing happened seems to be known exactly."""
    found: list[float] = []
    for one in range(int(cell.max()) + 1):
        mine, rest = label[cell == one], label[cell != one]
        if len(mine) < 12:
            continue
        squared = np.var(mine, ddof=1) / len(mine) + np.var(rest, ddof=1) / len(rest)
        t = abs(float(np.mean(mine) - np.mean(rest))) / math.sqrt(squared)
        found.append(2.0 * float(student_tails(np.array([t]), np.array([len(mine) - 1.0]))[0]))
    return np.array(found)


SECTIONS: dict[str, Callable[[np.random.Generator, int], Iterator[Finding]]] = {
    "noise": noise,
    "skill": skill,
    "flippers": flippers,
    "power": power,
    "breaks": breaks,
    "uplift": uplift,
    "clones": clones,
    "lopsided": lopsided,
}


def show(finding: Finding) -> None:
    """Print a figure beside its bar."""
    bars = [f">= {finding.low:g}"] if math.isfinite(finding.low) and finding.low > 0 else []
    bars += [f"<= {finding.high:g}"] if math.isfinite(finding.high) else []
    bar = " and ".join(bars)
    if finding.is_control and bar:
        bar = f"must miss {bar}"
    verdict = "" if not bar else "kept" if finding.is_kept else "MISSED"
    print(f"{finding.what:58s} {finding.figure:8.4g}  {bar:24s} {verdict}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, default=400)
    parser.add_argument("--seed", type=int, help="of an earlier run; by default a fresh one")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    chosen = parser.parse_args()
    seed = np.random.SeedSequence().entropy if chosen.seed is None else chosen.seed
    where = machine(".")
    print(f"{where['date']}, {where['cpu']}, commit {where['commit']}, "
          f"numpy {np.__version__}, {chosen.worlds} worlds, seed {seed}")  # fmt: skip
    is_kept = True
    for name in chosen.only:
        # One stream a section, so that a section can be run again alone.
        stream = np.random.SeedSequence(seed, spawn_key=(list(SECTIONS).index(name),))
        start = time.perf_counter()
        for finding in SECTIONS[name](np.random.default_rng(stream), chosen.worlds):
            show(finding)
            is_kept &= finding.is_kept
        print(f"  {name} took {time.perf_counter() - start:.0f} s", flush=True)
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
