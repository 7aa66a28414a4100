"""A pattern: what a cluster of similar situations led to. A statistic, not a story."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from nt_memory import codec
from nt_memory.reasoningbank.wire import unpack_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from nt_memory.entries import Stored
    from nt_memory.reasoningbank.advice import MemoryRef


GRID = (0.005, 0.01, 0.025, *(place / 20 for place in range(1, 20)), 0.975, 0.99, 0.995)
"""Probabilities at which a promoted pattern keeps its quantiles."""
BYTES_A_MEMORY = 160
"""What an action and its outcome take in the bank's columns, besides two bytes a vector component."""


class Replaced(NamedTuple):
    """What a pattern stands for in advice.

    Attributes:
        memories: Situations that are neither searched nor read.
        memory_bytes: What they take in memory: half-precision vectors and columns.
        pattern_bytes: What the pattern takes instead, as it is stored.
    """

    memories: int
    memory_bytes: int
    pattern_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Pattern:
    """What one cluster of an agent's situations led to.

    Attributes:
        id: Its name: action type, distillation and number.
        agent: Whose situations.
        action_type: Of which actions.
        unit: Of the outcomes.
        centroid: Middle of the cluster, a unit vector, shape (dim,).
        radius: Chord distance from it that holds nine tenths of the situations.
        n: Situations.
        n_effective: Independent outcomes they are worth.
        outcome_mean: Mean outcome.
        outcome_error: Its standard error, counting dependence.
        outcome_quantiles: Outcomes at probabilities 0.1, 0.25, 0.5, 0.75 and 0.9.
        success_rate: Share of forecasts whose loss was below their baseline's; None without any.
        success_low: Lower end of its 95 % interval.
        success_high: Upper end.
        failures: Forecasts that lost to their baseline.
        failure_error: Their mean error (predicted minus actual); None without any.
        failed: The worst of them, worst first: trajectory ids.
        as_of_us: Known by when, microseconds.
        p_value: Of the hypothesis that what came there is what comes elsewhere, two-sided; None where it
            was not tested: only a look tests, and only patterns of enough separate stretches of days.
        is_promoted: Whether it passed the look's test, and has not been retired since.
        surprise: What was tested: "outcome minus baseline" where every situation froze a baseline, else
            "outcome".
        effect: Mean of it in these situations minus elsewhere, the agent's of this action type.
        effect_error: Its standard error, counting dependence; None where it cannot be said.
        elsewhere: Mean of it elsewhere.
        stretches: Separate stretches of days with such situations.
        promoted_at_us: When the look that promoted it was; None: none did.
        retired_at_us: When it was found not to hold any more; None: it was not.
        against: Evidence against it since, as a share of what retires it.
        variance: Long-run variance of the daily mean of what was tested, which that rests on.
        grid: What was tested at the probabilities `GRID`; empty unless it was promoted.
        summary: The situations in the words of the definition's features.
        contrast: In which of them forecasts failed, in the same words.
        worked: Trajectory ids of the best forecasts, best first.
        trust: In [0, 1]: no more than that of the least trusted agent in its lineage.
        lineage: Agents whose memories it rests on, by name: its own, and those whose memories the
            advice rested on that its actions acted on.
    """

    id: str
    agent: str
    action_type: str
    unit: str
    centroid: NDArray[np.float32]
    radius: float
    n: int
    n_effective: float
    outcome_mean: float
    outcome_error: float
    outcome_quantiles: tuple[float, ...]
    success_rate: float | None
    success_low: float | None
    success_high: float | None
    failures: int
    failure_error: float | None
    failed: tuple[str, ...]
    as_of_us: int
    sources_packed: tuple[tuple[int, int, bytes], ...]
    resolve: Callable[[NDArray[np.int64], NDArray[np.int64]], list[MemoryRef]]
    p_value: float | None = None
    is_promoted: bool = False
    surprise: str = ""
    effect: float | None = None
    effect_error: float | None = None
    elsewhere: float | None = None
    stretches: int = 0
    promoted_at_us: int | None = None
    retired_at_us: int | None = None
    against: float = 0.0
    variance: float | None = None
    grid: tuple[float, ...] = ()
    summary: str = ""
    contrast: str = ""
    worked: tuple[str, ...] = ()
    trust: float = 1.0
    lineage: tuple[str, ...] = ()

    @property
    def sources(self) -> list[MemoryRef]:
        """The actions it was drawn from. Cost: about a microsecond each."""
        return self.resolve(*unpack_rows(self.sources_packed))

    def replaced(self) -> Replaced:
        """What advice from this pattern does without."""
        memories = self.n * (2 * len(self.centroid) + BYTES_A_MEMORY)
        return Replaced(self.n, memories, len(codec.encode(self.to_doc())))

    @property
    def is_in_force(self) -> bool:
        """Whether it was not retired."""
        return self.retired_at_us is None

    def describe(self) -> str:
        """The pattern in words, made from its numbers."""
        low, high = self.outcome_quantiles[0], self.outcome_quantiles[-1]
        text = (
            f"{self.n} such situations of {self.agent} (worth {self.n_effective:.0f}) came to "
            f"{self.outcome_mean:.4g} {self.unit}".rstrip()
            + f" on average, mostly {low:.4g} to {high:.4g}"
        )
        if self.success_rate is not None:
            text += f"; {self.success_rate:.0%} of the forecasts beat their baseline"
        said = [text, self._tested(), self.contrast]
        if self.summary:
            said.insert(0, self.summary[0].upper() + self.summary[1:])
        return " ".join(f"{one.rstrip('.')}." for one in said if one)

    def _tested(self) -> str:
        if self.promoted_at_us is None or self.effect is None:
            return ""
        state = "No longer holds" if self.retired_at_us is not None else "Held up when tested"
        return (
            f"{state}: {self.surprise} {self.effect:+.3g} against elsewhere, "
            f"from {self.stretches} separate stretches of days"
        )

    def to_doc(self) -> dict[str, Any]:
        """Its stored form; whose it is and of which type is in the key."""
        hidden = {"agent", "action_type", "resolve"}
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in hidden}


def decode_patterns(
    stored: Stored, resolve: Callable[[NDArray[np.int64], NDArray[np.int64]], list[MemoryRef]]
) -> tuple[Pattern, ...]:
    """The patterns in a stored set; fields that came later have their defaults."""
    return tuple(
        Pattern(
            agent=stored.agent,
            action_type=stored.key,
            resolve=resolve,
            **{name: _plain(value) for name, value in one.items()},
        )
        for one in codec.decode(stored.value or b"")
    )


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
