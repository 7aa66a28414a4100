"""What was found on real prices, as tables and bars."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from _prices_choices import volatilities
from _prices_scores import (
    absolute,
    by_block,
    by_month,
    by_quintile,
    by_ticker,
    by_year,
    compare,
    conformal_linear,
    covered,
    interval_losses,
    qlike,
    qlike_of_variance,
    shares,
    up_by_last_return,
)
from _prices_shifted import TAILS
from _prices_walk import LOOK_YEARS, ups_of
from _value_at_risk import (
    LEVELS,
    REJECTED,
    filtered,
    judge,
    normal,
    pinball,
    returns_of,
    violations,
)

from nt_memory.apps.bench.report import Row, Table
from nt_memory.apps.demo.baselines import NAMES
from nt_memory.apps.demo.research import LAST_YEAR, N_TICKERS
from nt_memory.apps.demo.scoring import compared_on
from nt_memory.apps.demo.settings import CHOSEN
from nt_memory.reasoningbank.promotion import Q

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _prices_choices import Choices
    from _prices_shifted import Look
    from _prices_walk import Walked
    from numpy.typing import NDArray

    from nt_memory.apps.demo.plan import Plan

    Floats = NDArray[np.float64]
    Mask = NDArray[np.bool_]


class Part(NamedTuple):
    """Tables, bars and figures of one question."""

    tables: list[Table]
    bars: list[Row]
    figures: dict[str, Any]


class Judge:
    """Judges a walk on the places where the outcome, memory and every baseline are known."""

    def __init__(self, plan: Plan, walked: Walked, choices: Choices, seed: int) -> None:
        self.plan, self.walked, self.choices, self.seed = plan, walked, choices, seed
        self.actual = plan.baselines.outcomes
        said = [walked.expected, walked.low, *plan.baselines.forecasts.values()]
        self.where = compared_on(self.actual, said)
        dates = plan.panel.dates
        self.blocks = {n: m & self.where for n, m in by_block(dates, self.where.shape).items()}
        self.quintiles = by_quintile(plan.baselines.forecasts["ewma"], self.where)
        years = np.array([day.year for day in dates])
        tickers = np.isin(plan.panel.tickers, sorted(plan.panel.tickers)[:N_TICKERS])
        seen = self.where & (years <= LAST_YEAR)[:, None] & tickers
        self.whole = {
            "all": self.where,
            "chosen on": seen,
            "the rest": self.where & ~seen,
        }
        groups = {**self.whole, **self.blocks, **self.quintiles}
        self.groups = {name: mask for name, mask in groups.items() if mask.any()}

    # --- volatility ---------------------------------------------------------------------------

    def accuracy(self) -> Part:
        """MAE and QLIKE against every baseline."""
        walked, forecasts = self.walked, self._baselines()
        absolutes = {n: absolute(self._there(f), self.actual) for n, f in forecasts.items()}
        qlikes = {n: self._qlike(f, n) for n, f in forecasts.items()}
        parts = [
            self._compared(
                "MAE", absolute(walked.expected, self.actual), absolutes, is_judged=True
            ),
            self._compared("QLIKE", self._qlike(walked.expected, "memory"), qlikes, is_judged=True),
        ]
        if np.isfinite(walked.variance[self.where]).all():
            said = qlike_of_variance(self._there(walked.variance), self.actual)
            name = "QLIKE of the variance over the recalled memories, uncorrected,"
            parts.append(self._compared(name, said, qlikes, is_judged=False))
        return Part(
            [table for part in parts for table in part.tables],
            [bar for part in parts for bar in part.bars],
            {name: one for part in parts for name, one in part.figures.items()},
        )

    def _compared(
        self, name: str, mine: Floats, others: Mapping[str, Floats], *, is_judged: bool
    ) -> Part:
        lines, figures, bars = [], {}, []
        for group, mask in self.groups.items():
            found = {n: compare(mine, other, mask, self.seed) for n, other in others.items()}
            mean = float(np.mean(mine[mask]))
            lines.append([group, f"{int(mask.sum()):,}", f"{mean:.4f}", *map(str, found.values())])
            figures[f"{name}, {group}"] = {
                "memory": mean,
                **{n: one.plain for n, one in found.items()},
            }
        table = Table(
            f"{name} of the volatility forecast: memory's over each baseline's",
            ["where", "forecasts", name.split(maxsplit=1)[0], *others], lines,
            ["95 % intervals by resampling blocks of 20 days; below 1 memory is better",
             "fifths by the EWMA volatility known when the forecast was made"],
        )  # fmt: skip
        for n in ("har_long", "ewma_cal", "linear") if is_judged else ():
            one = compare(mine, others[n], self.where, self.seed)
            bars.append(Row(f"{name} over {n}, all years", str(one), "< 1", "", one.value < 1.0))
        return Part([table], bars, figures)

    def _qlike(self, said: Floats, name: str) -> Floats:
        """QLIKE with the correction that was chosen for a forecast."""
        return qlike(self._there(said), self.actual, self.choices.corrections[name])

    def _there(self, said: Floats) -> Floats:
        """A forecast on the places that all are judged on: there it also learns its correction.

        Baselines that began before memory did would otherwise carry along what they learned from days that
        memory was not judged on.
        """
        return np.where(self.where, said, np.nan)

    def _baselines(self) -> dict[str, Floats]:
        return {name: self.plan.baselines.forecasts[name] for name in NAMES}

    def intervals(self) -> Part:
        """Coverage, and the interval score beside that of conformalised linear."""
        walked, actual = self.walked, self.actual
        is_in = covered(walked.low, walked.high, actual)
        tickers = by_ticker(self.plan.panel.tickers, self.where)
        found = {
            "overall": shares(is_in, self.whole),
            "full years": shares(is_in, by_year(self.plan.panel.dates, self.where)),
            "fifths by known volatility": shares(is_in, self.quintiles),
            "tickers": shares(is_in, tickers),
        }
        months = shares(is_in, by_month(self.plan.panel.dates, self.where))
        worst = sorted(months, key=lambda month: months[month])[:3]
        bounds = {"overall": (0.79, 0.81), "full years": (0.76, 0.84),
                  "fifths by known volatility": (0.75, 0.85), "tickers": (0.75, 0.85)}  # fmt: skip
        lines, bars = [], []
        for what, some in found.items():
            low, high = bounds[what]
            judged = {"all": some["all"]} if what == "overall" else some
            outside = [n for n, share in judged.items() if not low <= share <= high]
            text = ", ".join(f"{n} {share:.1%}" for n, share in some.items())
            lines.append([what, text])
            span = f"{min(judged.values()):.1%} to {max(judged.values()):.1%}"
            span += f"; outside: {', '.join(outside)}" if outside else ""
            bars.append(
                Row(
                    f"80 % intervals cover, {what}",
                    span,
                    f"{low:.0%} to {high:.0%}",
                    "",
                    not outside,
                )
            )
        lines.append(["worst months", ", ".join(f"{m} {months[m]:.1%}" for m in worst)])
        tables = [Table("Coverage of memory's 80 % intervals", ["by", "covered"], lines)]
        part = self._interval_scores()
        figures = {"coverage": {**found, "worst months": {m: months[m] for m in worst}}}
        return Part(tables + part.tables, bars + part.bars, figures | part.figures)

    def _interval_scores(self) -> Part:
        low, high = conformal_linear(
            self.plan.baselines.forecasts["linear"], self.actual, CHOSEN.level,
            self.choices.linear_window, self.choices.linear_step, self.plan.start,
        )  # fmt: skip
        mine = interval_losses(self.walked.low, self.walked.high, self.actual, CHOSEN.level)
        theirs = interval_losses(low, high, self.actual, CHOSEN.level)
        is_in = covered(low, high, self.actual)
        groups = self.groups
        found = {name: compare(mine, theirs, mask, self.seed) for name, mask in groups.items()}
        lines = [
            [name, f"{np.nanmean(mine[groups[name]]):.4f}", f"{np.nanmean(theirs[groups[name]]):.4f}",
             str(one), f"{np.nanmean(is_in[groups[name]]):.1%}"]
            for name, one in found.items()
        ]  # fmt: skip
        one = found["all"]
        bar = Row("interval score over conformalised linear's", str(one), "<= 0.99", "", one.value <= 0.99)  # fmt: skip
        table = Table(
            "Interval score at 80 %: memory beside conformalised linear",
            ["where", "memory", "linear", "ratio", "linear covers"],
            lines,
        )
        return Part([table], [bar], {"interval score": {n: o.plain for n, o in found.items()}})

    # --- patterns -----------------------------------------------------------------------------

    def patterns(self) -> Part:
        """Advice from patterns beside advice from recalled memories, where a pattern covers."""
        walked, actual = self.walked, self.actual
        is_by = np.isfinite(walked.pattern_expected) & self.where
        since = np.isfinite(walked.expected) & self.where
        years = np.array([day.year for day in self.plan.panel.dates])
        since &= (years >= LOOK_YEARS[0])[:, None]
        both = np.where(is_by, walked.pattern_expected, walked.expected)
        lines = [
            [f"{year}", *("" if np.isnan(tested) else f"{promoted:.0f} of {tested:.0f}"
                          for promoted, tested in zip(walked.promoted[n], walked.tested[n], strict=True))]
            for n, year in enumerate(LOOK_YEARS)
            if np.isfinite(walked.tested[n, 0])
        ]  # fmt: skip
        looks = Table("Patterns in force after each look", ["look", "volatility", "direction"], lines,
                      ["four looks were declared; each promotes at a false discovery rate of 0.025"])  # fmt: skip
        figures: dict[str, Any] = {"covered": float(is_by.sum() / max(since.sum(), 1))}
        rows = []
        linear = self.plan.baselines.forecasts["linear"]
        pairs = (
            ("MAE", absolute(walked.expected, actual), absolute(walked.pattern_expected, actual),
             absolute(linear, actual), absolute(both, actual)),
            ("QLIKE", self._qlike(walked.expected, "memory"), self._qlike(both, "memory"),
             self._qlike(linear, "linear"), self._qlike(both, "memory")),
            ("interval score", *(interval_losses(lo, hi, actual, CHOSEN.level) for lo, hi in (
                (walked.low, walked.high), (walked.pattern_low, walked.pattern_high))), None,
             interval_losses(np.where(is_by, walked.pattern_low, walked.low),
                             np.where(is_by, walked.pattern_high, walked.high), actual, CHOSEN.level)),
        )  # fmt: skip
        for name, recalled, of_pattern, base, mixed in pairs:
            found = {
                "pattern over recall": compare(of_pattern, recalled, is_by, self.seed),
                "pattern over linear": None if base is None else compare(of_pattern, base, is_by, self.seed),
                "recall over linear": None if base is None else compare(recalled, base, is_by, self.seed),
                "with patterns over without": compare(mixed, recalled, since, self.seed),
            }  # fmt: skip
            rows.append([name, *("" if one is None else str(one) for one in found.values())])
            figures[name] = {n: one.plain for n, one in found.items() if one is not None}
        inside = {
            "recall": covered(walked.low, walked.high, actual)[is_by],
            "pattern": covered(walked.pattern_low, walked.pattern_high, actual)[is_by],
        }
        notes = [f"a pattern covers {int(is_by.sum()):,} of {int(since.sum()):,} forecasts since the first look"]  # fmt: skip
        if is_by.any():
            notes.append("80 % intervals there cover: " + ", ".join(
                f"{n} {float(np.mean(one)):.1%}" for n, one in inside.items()))  # fmt: skip
        table = Table("Advice from patterns, where one covers the situation",
                      ["loss", "pattern over recall", "pattern over linear", "recall over linear",
                       "all advice since the first look, with patterns over without"], rows, notes)  # fmt: skip
        return Part([looks, table], [], {"patterns": figures})

    # --- direction ----------------------------------------------------------------------------

    def direction(self) -> Part:
        """Brier score of the next day's direction against the as-of base rate and AR(1)."""
        walked, prices = self.walked, self.plan.panel.prices
        ups = ups_of(prices)
        scale = np.exp(self.plan.baselines.forecasts["ewma"]) / np.sqrt(252.0)
        last = up_by_last_return(prices, scale, walked.up_base)
        said = {"memory": walked.up, "base rate": walked.up_base, "AR(1)": last,
                "coin": np.where(np.isfinite(walked.up), 0.5, np.nan)}  # fmt: skip
        briers = {name: (one - ups) ** 2 for name, one in said.items()}
        where = compared_on(ups, said.values())
        lines, figures = [], {}
        for name, group in {**self.whole, **self.blocks}.items():
            mask = group & where
            if not mask.any():
                continue
            others = {n: compare(briers["memory"], briers[n], mask, self.seed) for n in ("base rate", "AR(1)")}  # fmt: skip
            means = {n: float(np.mean(one[mask])) for n, one in briers.items()}
            lines.append([name, *(f"{one:.5f}" for one in means.values()), *(
                f"{o.value:.4f} [{o.low:.4f}, {o.high:.4f}]" for o in others.values())])  # fmt: skip
            figures[name] = means | {f"over {n}": o.plain for n, o in others.items()}
        agree = ((walked.up > 0.5) == (ups > 0.5))[where]
        always = (ups > 0.5)[where]
        note = (f"memory calls {float(np.mean(agree)):.2%} of the days right; always calling up would have "
                f"called {float(np.mean(always)):.2%}")  # fmt: skip
        table = Table("Next-day direction: Brier scores", ["where", *briers, "memory over base rate", "over AR(1)"],
                      lines, [note, "AR(1): the sign on the last return, pooled, fitted anew each day"])  # fmt: skip
        return Part([table], [], {"direction": figures})

    # --- value at risk ------------------------------------------------------------------------

    def value_at_risk(self) -> Part:
        """Violations tested, and pinball losses compared."""
        moves = returns_of(self.plan.panel.prices)
        sigmas, mean = volatilities(self.plan, self.walked, moves)
        said = {
            f"{name}, filtered": filtered(moves, sigma, self.choices.residuals[name])
            for name, sigma in sigmas.items()
        }
        said["EWMA, normal"] = normal(sigmas["EWMA"])
        said["GARCH, normal"] = normal(sigmas["GARCH"], mean)
        hits = {name: violations(one, moves) for name, one in said.items()}
        where = np.isfinite(np.stack(list(hits.values()))).all(axis=(0, 1)).all(axis=1)
        names = [*self.plan.panel.tickers, "portfolio"]
        losses = {name: pinball(one, moves) for name, one in said.items()}
        lines, figures, rejections = [], {}, {}
        for name, one in hits.items():
            for number, level in enumerate(LEVELS):
                tests = {
                    n: judge(one[number][where, place], level) for place, n in enumerate(names)
                }
                counts = [
                    sum(getattr(t, kind) < REJECTED for t in tests.values())
                    for kind in ("kupiec", "independence", "both")
                ]
                rejections[name, level] = counts
                mine = compare(losses[name][number], losses["EWMA, filtered"][number],
                               np.broadcast_to(where[:, None], moves.shape), self.seed)  # fmt: skip
                share = float(np.mean(one[number][where, :-1]))
                portfolio = tests["portfolio"]
                lines.append([name, f"{level:.0%}", f"{share:.2%}", f"{portfolio.share:.2%}",
                              *map(str, counts), f"{portfolio.both:.3f}", str(mine)])  # fmt: skip
                figures[f"{name}, {level:.0%}"] = {
                    "series": {n: t._asdict() for n, t in tests.items()},
                    "pinball over EWMA filtered": mine.plain,
                }
        days = int(where.sum())
        table = Table(
            f"One-day value at risk, {len(names) - 1} tickers and their portfolio, {days:,} days",
            ["by", "level", "violated, tickers", "violated, portfolio", "Kupiec rejects",
             "independence rejects", "conditional coverage rejects", "portfolio, p of both",
             "pinball loss over EWMA filtered"], lines,
            [f"rejections at {REJECTED:.0%}, of {len(names)} series"],
        )  # fmt: skip
        return Part([table], self._risk_bars(rejections, figures), {"value at risk": figures})

    @staticmethod
    def _risk_bars(
        rejections: Mapping[tuple[str, float], list[int]], figures: Mapping[str, Any]
    ) -> list[Row]:
        bars = []
        for level in LEVELS:
            one = figures[f"memory, filtered, {level:.0%}"]["pinball over EWMA filtered"]
            bars.append(Row(
                f"pinball loss at {level:.0%} over EWMA filtered's",
                f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]", "<= 1", "", one["value"] <= 1.0,
            ))  # fmt: skip
            mine = sum(rejections["memory, filtered", level][:2])
            for other in ("EWMA, normal", "GARCH, normal", "EWMA, filtered", "GARCH, filtered"):
                theirs = sum(rejections[other, level][:2])
                bars.append(Row(
                    f"Kupiec and Christoffersen rejections at {level:.0%}, memory and {other}",
                    f"{mine} and {theirs}", "no more", "", mine <= theirs,
                ))  # fmt: skip
        return bars


def most_by_chance(looks: int, rate: float = Q) -> int:
    """How many of some looks may promote something: as many as should, and two standard deviations."""
    return math.floor(looks * rate + 2.0 * math.sqrt(looks * rate * (1.0 - rate)))


def of_shifted(looks: list[Look]) -> Part:
    """In how many looks anything was promoted on shifted labels, and whether p-values are what they say."""
    lines = [
        [
            one.what,
            f"{one.shift:,}",
            f"{one.patterns:,}",
            f"{one.least:.1e}",
            str(one.promoted),
            str(one.promoted_of_declared),
        ]
        for one in looks
    ]
    table = Table("Labels shifted along the days", ["target", "by days", "patterns tested", "least p-value", "promoted, a look alone", "promoted, as declared"],
                  lines, [f"each look alone at a false discovery rate of {Q:g}, and as one of {looks[0].declared} declared in advance, all there are; shifts drawn afresh"])  # fmt: skip
    patterns = sum(one.patterns for one in looks)
    kinds = list(dict.fromkeys(one.what for one in looks))
    tails = []
    for place, tail in enumerate(TAILS):
        found = [sum(one.beyond[place] for one in looks if one.what == kind) for kind in kinds]
        of = [sum(one.patterns for one in looks if one.what == kind) for kind in kinds]
        tails.append([
            f"<= {tail:g}",
            *(f"{n:,} of {m:,}; {tail * m:,.1f} by chance" for n, m in zip(found, of, strict=True)),
        ])  # fmt: skip
    size = Table("p-values of shifted labels", ["p-value", *kinds], tails)
    every = sum(one.promoted_of_declared > 0 for one in looks)
    alone = sum(one.promoted > 0 for one in looks)
    bars = [
        Row(f"looks at shifted labels that promoted anything, {looks[0].declared} declared",
            f"{every} of {len(looks)}", "0", "", not every),
        Row("the same, none declared: each look as if it were the only one", f"{alone} of {len(looks)}", "0", "", not alone),
    ]  # fmt: skip
    for kind in kinds:
        mine = [one for one in looks if one.what == kind]
        found, most = sum(one.promoted > 0 for one in mine), most_by_chance(len(mine))
        bars.append(Row(
            f"the same, {kind}: a rate of {Q:g}", f"{found} of {len(mine)}",
            f"<= {most}", f"{Q * len(mine):.0f}", found <= most,
        ))  # fmt: skip
    plain: dict[str, Any] = {"looks": [one._asdict() for one in looks], "patterns": patterns}
    return Part([table, size], bars, {"shifted": plain})
