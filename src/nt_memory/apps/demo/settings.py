"""How the demo forecasts. Chosen on ten tickers and the years to 2014, then frozen.

The numbers behind each choice are in `docs/decisions/0002-forecast-settings.md`;
`bench/choose_settings.py` computes them again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nt_memory.reasoningbank.conformal import DEFAULT_DECAY, DEFAULT_GAIN, DEFAULT_GAMMA

if TYPE_CHECKING:
    from nt_memory.reasoningbank.recall import Functional


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one forecasting memory.

    Attributes:
        neighbours: Past situations recalled for one forecast.
        base: What the recalled outcomes correct: the linear forecast, or "none" for outcomes as such.
        functional: Centre of the recalled values.
        is_weighted: Whether the embedder weighs features by a regression's coefficients.
        constant: What the embedder appends before the memory normalises.
        level: Coverage of the issued intervals.
        gamma: Step of the adaptive interval, one state for the whole swarm; 0 never adapts.
        decay: What is left of the adaptive bias after a day, one state for the whole swarm.
        gain: Share of the day's mean error that is added to the bias; 0 never adapts.
        first_day: First day that is remembered, or traded when starting empty, counted in sessions
            from the first price.
        min_memories: Fewest recalled situations to issue a forecast from memory.
    """

    neighbours: int = 300
    base: Literal["linear", "none"] = "linear"
    functional: Functional = "mean"
    is_weighted: bool = False
    constant: float = 5.0
    level: float = 0.8
    gamma: float = DEFAULT_GAMMA
    decay: float = DEFAULT_DECAY
    gain: float = DEFAULT_GAIN
    first_day: int = 504
    min_memories: int = 50


CHOSEN = Settings()
