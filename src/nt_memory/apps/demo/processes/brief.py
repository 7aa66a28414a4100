"""What each process of the swarm is handed: prices, situations and baselines, and how to connect."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nt_memory.apps.demo.books import Rule
from nt_memory.apps.demo.target import HORIZON
from nt_memory.clock import to_datetime, to_us

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from nt_memory.apps.demo.plan import Plan

    Floats = NDArray[np.float64]

ARRAYS = "arrays.npz"
WORDS = "brief.json"


@dataclass(frozen=True, slots=True)
class Way:
    """How a process reaches the swarm.

    Attributes:
        url: Of the servers, the swarm's name in it.
        swarm: The swarm's name.
        keys: Directory of the agents' seeds, `<agent>.nk`.
        storage: `storage_path` of every process.
    """

    url: str
    swarm: str
    keys: str
    storage: str


@dataclass(frozen=True, slots=True, eq=False)
class Brief:
    """The traded days, as `Plan` has them. Row 0 is the first traded day.

    Attributes:
        way: How to connect.
        agents: The analysts, one a ticker.
        dates: Of the traded days and the `HORIZON` before them, which may have outcomes coming.
        close_us: Their closes, microseconds.
        situations: Embeddings of the traded days, shape (n_days, n_tickers, dim).
        base: What memory corrects, shape (n_days, n_tickers).
        outcomes: Of `dates`, shape (HORIZON + n_days, n_tickers).
        has_forecast: Whether a forecast was tracked, and so is to be judged, same shape.
        prices: Of the traded days and `window + 1` before them.
        cost_bps: Cost of a trade.
        rule: How the book is sized.
    """

    way: Way
    agents: Sequence[str]
    dates: Sequence[date]
    close_us: NDArray[np.int64]
    situations: Floats
    base: Floats
    outcomes: Floats
    has_forecast: NDArray[np.bool_]
    prices: Floats
    cost_bps: float
    rule: Rule

    @property
    def n_days(self) -> int:
        """Traded days."""
        return len(self.base)

    def day(self, row: int) -> str:
        """The date of a row, from -HORIZON on."""
        return self.dates[row + HORIZON].isoformat()

    def close(self, row: int) -> datetime:
        """The close of a row, from -HORIZON on."""
        return to_datetime(int(self.close_us[row + HORIZON]))

    def close_prices(self, row: int) -> Floats:
        """Closes of a traded day."""
        found: Floats = self.prices[len(self.prices) - self.n_days + row]
        return found

    def moves(self, row: int) -> Floats:
        """Log returns of the last `rule.window` days and one more, up to a traded day."""
        at = len(self.prices) - self.n_days + row
        first = max(0, at - self.rule.window - 1)
        moved: Floats = np.diff(np.log(self.prices[first : at + 1]), axis=0)
        return moved

    def save(self, directory: Path) -> None:
        """Write it where processes can read it."""
        words = {
            "way": asdict(self.way),
            "agents": list(self.agents),
            "dates": [one.isoformat() for one in self.dates],
            "cost_bps": self.cost_bps,
            "rule": asdict(self.rule),
        }
        (directory / WORDS).write_text(json.dumps(words), encoding="utf-8")
        np.savez(
            directory / ARRAYS,
            close_us=self.close_us,
            situations=self.situations,
            base=self.base,
            outcomes=self.outcomes,
            has_forecast=self.has_forecast,
            prices=self.prices,
        )

    @classmethod
    def load(cls, directory: Path) -> Brief:
        """Read what `save` wrote. JSON and plain arrays: every bit comes back, and nothing runs."""
        words = json.loads((directory / WORDS).read_text(encoding="utf-8"))
        with np.load(directory / ARRAYS, allow_pickle=False) as arrays:
            return cls(
                way=Way(**words["way"]),
                agents=words["agents"],
                dates=[date.fromisoformat(one) for one in words["dates"]],
                cost_bps=words["cost_bps"],
                rule=Rule(**words["rule"]),
                **{name: arrays[name] for name in arrays.files},
            )


def brief_of(plan: Plan, way: Way, rule: Rule, cost_bps: float) -> Brief:
    """The part of a plan that processes need."""
    start, first = plan.start, plan.start - HORIZON
    before = max(0, start - rule.window - 1)
    linear = plan.baselines.forecasts["linear"]
    has_forecast = np.isfinite(linear[first:])
    has_forecast[: max(0, plan.first_day - first)] = False
    return Brief(
        way=way,
        agents=plan.agents,
        dates=plan.panel.dates[first:],
        close_us=np.array([to_us(one) for one in plan.closes[first:]], dtype=np.int64),
        situations=plan.situations[start:],
        base=np.stack([plan.base(day) for day in range(start, plan.panel.n_days)]),
        outcomes=plan.baselines.outcomes[first:],
        has_forecast=has_forecast,
        prices=plan.panel.prices[before:],
        cost_bps=cost_bps,
        rule=rule,
    )
