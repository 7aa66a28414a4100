"""The memory on real prices: 33 years of 20 stocks, walked forward by `advise` on a backtest timeline.

    make bench-prices                            or: python bench/prices.py --out bench/results
    python bench/prices.py --walks DIR           judge walks that are already there, or leave them there

First the ten tickers and the years to 2014 are walked, and what is still open is chosen on them. Then
everything is walked and judged once: forecasts of volatility against every baseline, intervals, advice
from patterns, next-day direction, labels shifted against their situations, and value at risk. About half
an hour on one core. Needs `nt-memory[bench-prices]`.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from _harness import machine
from _prices_choices import Choices, choose
from _prices_shifted import Look, looks
from _prices_tables import Judge, of_shifted
from _prices_walk import Walked, plan_all, plan_choosing, walk

from nt_memory.apps.bench.report import Findings, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nt_memory.apps.demo.plan import Plan


def walked(name: str, plan: Plan, directory: Path, *, with_direction: bool) -> Walked:
    """What was said on a walk: of an earlier run, or walked now."""
    kept = directory / f"{name}.npz"
    if kept.exists():
        found = Walked.load(kept)
        if np.isfinite(found.seconds):
            return found
    print(f"walking: {name}", flush=True)
    with tempfile.TemporaryDirectory(dir=directory) as store:
        memory = Path(store) / "memory"
        return asyncio.run(walk(plan, memory, kept, with_direction=with_direction))


def chosen_on(plan: Plan, directory: Path, *, with_direction: bool) -> Choices:
    """The choices: of an earlier run, or made now."""
    kept = directory / "choices.json"
    if kept.exists():
        return Choices(**json.loads(kept.read_text()))
    choices = choose(plan, walked("choosing", plan, directory, with_direction=with_direction))
    kept.write_text(json.dumps(dataclasses.asdict(choices)))
    return choices


def look_at_shifted(plan: Plan, directory: Path, seed: int) -> list[Look]:
    """Looks at shifted labels: of an earlier run, or taken now from a place drawn from the seed."""
    kept = directory / "shifted.json"
    if kept.exists():
        return [Look(*one) for one in json.loads(kept.read_text())]
    print("looking at shifted labels", flush=True)
    found = looks(plan, np.random.default_rng(seed))
    kept.write_text(json.dumps(found))
    return found


def of_choices(choices: Choices) -> Table:
    """What was chosen, and by which figures."""
    lines = [[name, f"{figure:.6f}"] for name, figure in choices.tried.items()]
    notes = [
        f"conformalised linear: {choices.linear_window or 'all'} days of errors, step {choices.linear_step}",
        *(
            f"residuals of {name}: {window or 'all'} days"
            for name, window in choices.residuals.items()
        ),
        *(
            f"variance of {name}: corrected by "
            + ("all tickers alike" if prior is None else f"its ticker and {prior:.0f} days of all")
            for name, prior in choices.corrections.items()
        ),
    ]
    title = "Chosen on ten tickers and 1990 to 2014 (interval score, pinball loss and QLIKE, least is best)"
    return Table(title, ["what", "loss"], lines, notes)


def measure_shifted(
    asked: argparse.Namespace, directory: Path, seed: int, command: str
) -> Findings:
    """Look at shifted labels, and nothing else."""
    part = of_shifted(look_at_shifted(plan_all(), directory, seed))
    where: dict[str, object] = dict(machine(str(directory)))
    more = {"seed": seed, "figures": part.figures}
    return Findings(asked.name, command, where, [*part.tables], [*part.bars], more)


def measure(asked: argparse.Namespace, directory: Path, seed: int, command: str) -> Findings:
    """Walk, choose, walk, judge."""
    choosing = plan_choosing(directory)
    with_direction = not asked.without_direction
    choices = chosen_on(choosing, directory, with_direction=with_direction)
    plan = plan_all()
    said = walked("all", plan, directory, with_direction=with_direction)
    judge = Judge(plan, said, choices, seed % 2**32)
    parts = [judge.accuracy(), judge.intervals(), judge.patterns()]
    if with_direction:
        parts.append(judge.direction())
    parts += [judge.value_at_risk(), of_shifted(look_at_shifted(plan, directory, seed))]
    figures = {name: one for part in parts for name, one in part.figures.items()}
    where: dict[str, object] = dict(machine(str(directory)))
    return Findings(
        asked.name,
        command,
        where,
        [*(table for part in parts for table in part.tables), of_choices(choices)],
        [bar for part in parts for bar in part.bars],
        {"seed": seed, "walk_seconds": float(said.seconds), "figures": figures},
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--walks", type=Path, help="directory that keeps what was said on the walks"
    )
    parser.add_argument(
        "--out", type=Path, help="directory of the results; by default only printed"
    )
    parser.add_argument("--seed", type=int, help="of an earlier run; by default a fresh one")
    parser.add_argument("--name", default="prices", help="of the results")
    parser.add_argument(
        "--without-direction", action="store_true", help="forecast volatility alone: half the time"
    )
    parser.add_argument(
        "--only-shifted", action="store_true", help="look at shifted labels alone: two minutes"
    )
    asked = parser.parse_args(arguments)
    seed = int(np.random.SeedSequence().generate_state(1)[0]) if asked.seed is None else asked.seed
    command = f"python bench/prices.py --seed {seed}"
    command += " --without-direction" if asked.without_direction else ""
    command += " --only-shifted" if asked.only_shifted else ""
    if asked.walks is not None:
        asked.walks.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="nt-prices-") as made:
        chosen = measure_shifted if asked.only_shifted else measure
        findings = chosen(asked, asked.walks or Path(made), seed, command)
    print(findings.text())
    if asked.out is not None:
        print("written:", *findings.write(asked.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
