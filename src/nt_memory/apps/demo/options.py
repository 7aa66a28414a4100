"""What the demo is asked to do: frozen, and refused when it makes no sense."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from nt_memory.errors import InvalidInputError

MAX_COST_BPS = 1_000.0
MAX_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """Options of one demo run; `nt-memory demo --help` says the same in words.

    Attributes:
        years: Years that are traded, counted from the end of the prices, >= 1. The years before
            them are remembered first.
        full: Trade all years, from an empty memory; `years` then means nothing.
        no_past: Start the traded years with an empty memory, to show what that costs.
        prices: CSV with a date column and one column a ticker; None: the prices that come along.
        cost_bps: Cost of a trade, in hundredths of a percent of what is traded, 0 to 1,000.
        seed: Seed of everything that is drawn.
        out: Directory of the report; made when missing.
        figures: Where the figures also go as JSON, or None.
        quick: A small run under 30 seconds.

    Raises:
        InvalidInputError: a number is out of its range.
    """

    years: int = 8
    full: bool = False
    no_past: bool = False
    prices: Path | None = None
    cost_bps: float = 5.0
    seed: int = 7
    out: Path = Path("demo-report")
    figures: Path | None = None
    quick: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        if self.years < 1:
            raise InvalidInputError(f"--years must be at least 1, not {self.years}")
        if not (math.isfinite(self.cost_bps) and 0 <= self.cost_bps <= MAX_COST_BPS):
            raise InvalidInputError(
                f"--cost-bps must be from 0 to {MAX_COST_BPS:g}, not {self.cost_bps}"
            )
        if not 0 <= self.seed <= MAX_SEED:
            raise InvalidInputError(f"--seed must be from 0 to {MAX_SEED}, not {self.seed}")


def check_paths(options: DemoOptions) -> None:
    """Find out before a run of minutes, not after it, that its input or output cannot be used.

    Raises:
        InvalidInputError: the price file is missing, or an output path is of the wrong kind.
    """
    if options.prices is not None and not options.prices.is_file():
        raise InvalidInputError(f"--prices {options.prices}: there is no such file")
    if options.out.exists() and not options.out.is_dir():
        raise InvalidInputError(f"--out {options.out}: is not a directory")
    if options.figures is not None:
        if options.figures.is_dir():
            raise InvalidInputError(f"--figures {options.figures}: is a directory")
        if not options.figures.absolute().parent.is_dir():
            raise InvalidInputError(f"--figures {options.figures}: its directory does not exist")
