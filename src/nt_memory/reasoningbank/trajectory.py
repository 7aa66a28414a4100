"""A trajectory: what an agent saw, what it did about it, and how that turned out.

A `Trajectory` only builds; nothing is stored until it is tracked. Tracking the same id again appends
what is new. What was tracked is never rewritten: a forecast that could be changed after the fact
would make every verdict worthless.
"""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from nt_memory.clock import to_us
from nt_memory.errors import EmbeddingError, TrajectoryError
from nt_memory.namespace import check_agent, check_key, check_tags
from nt_memory.reasoningbank.wire import ActionDoc

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from numpy.typing import ArrayLike, NDArray

    from nt_memory.reasoningbank.advice import Advice, Receipt

MAX_ID_BYTES = 240
MAX_ACTIONS = 10_000


def unit_vector(embedding: ArrayLike, what: str = "embedding") -> NDArray[np.float32]:
    """The direction of an embedding, shape (dim,).

    Raises:
        EmbeddingError: not a one-dimensional, finite, non-zero vector of numbers.
    """
    try:
        vector = np.asarray(embedding, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EmbeddingError(f"{what} is not a vector of numbers: {error}") from None
    if vector.ndim != 1 or vector.size == 0:
        raise EmbeddingError(f"{what} must have shape (dim,), not {vector.shape}")
    peak = float(np.max(np.abs(vector)))
    if not math.isfinite(peak):
        raise EmbeddingError(f"{what} has NaN or infinite components")
    if peak == 0.0:
        raise EmbeddingError(f"{what} is zero and has no direction")
    # Scaling by the largest component first keeps the squares finite.
    vector = vector / peak
    return (vector / math.sqrt(float(np.sum(vector * vector)))).astype(np.float32)


def _as_given(embedding: ArrayLike, direction: NDArray[np.float32]) -> NDArray[np.float32]:
    """A checked embedding as float32; its direction, where float32 cannot hold how long it is."""
    with np.errstate(over="ignore", under="ignore"):
        given = np.array(embedding, dtype=np.float64).astype(np.float32)
    peak = float(np.max(np.abs(given)))
    return given if 0.0 < peak < math.inf else direction.copy()


def real(value: object, what: str) -> float:
    """`value` as a finite float; booleans count as 0 and 1.

    Raises:
        TrajectoryError: it is not a finite real number.
    """
    if isinstance(value, bool | int | float | np.bool_ | np.integer | np.floating):
        number = float(value)
        if math.isfinite(number):
            return number
    raise TrajectoryError(f"{what} must be a finite number, not {value!r}")


@dataclass(frozen=True, slots=True)
class Observation:
    """Something seen. `at` in microseconds, None: when tracked; `embedding` as it was given."""

    data: Any
    embedding: NDArray[np.float32] | None = None
    at: int | None = None


@dataclass(frozen=True, slots=True)
class Action:
    """Something done, and what was claimed about it.

    Attributes:
        doc: The claims, as they are stored.
        parameters: What was done, in the caller's terms.
        situation: Unit vector of the situation it was taken in, or None.
    """

    doc: ActionDoc
    parameters: Any = None
    situation: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class OutcomeOf:
    """How one action turned out, known since `at` (microseconds; None: when tracked)."""

    action: int
    value: float
    at: int | None = None


class Trajectory:
    """Builds one trajectory of one agent.

    Args:
        agent_id: Whose.
        id: Its name, unique in the swarm; by default a random one.
        tags: Labels to find its actions by; of a trajectory that was tracked they cannot change.

    Raises:
        InvalidNameError: a name or a tag is malformed.
        InvalidInputError: there are more than 64 tags.
        TrajectoryError: the id is longer than 240 bytes.
    """

    def __init__(
        self,
        agent_id: str,
        *,
        id: str | None = None,  # noqa: A002  the public name
        tags: Iterable[str] = (),
    ) -> None:
        self.agent_id: str = check_agent(agent_id)
        self.id: str = check_key(uuid.uuid4().hex if id is None else id)
        if len(self.id.encode()) > MAX_ID_BYTES:
            raise TrajectoryError(f"a trajectory id may have at most {MAX_ID_BYTES} bytes")
        self._observations: list[Observation] = []
        self._actions: list[Action] = []
        self._outcomes: dict[int, OutcomeOf] = {}
        self._situation: NDArray[np.float32] | None = None
        self._last_at: int | None = None
        self._is_complete = False
        self._is_abandoned = False
        self.tags: tuple[str, ...] = check_tags(tags)

    def __repr__(self) -> str:  # type: ignore[explicit-override]
        status = "complete" if self._is_complete else "open"
        status = "abandoned" if self._is_abandoned else status
        return (
            f"Trajectory({self.agent_id!r}, id={self.id!r}: {len(self._observations)} observations,"
            f" {len(self._actions)} actions, {len(self._outcomes)} outcomes, {status})"
        )

    @property
    def observations(self) -> tuple[Observation, ...]:
        """What was seen, in order."""
        return tuple(self._observations)

    @property
    def actions(self) -> tuple[Action, ...]:
        """What was done, in order."""
        return tuple(self._actions)

    @property
    def outcomes(self) -> tuple[OutcomeOf, ...]:
        """How actions turned out, by action."""
        return tuple(self._outcomes[index] for index in sorted(self._outcomes))

    @property
    def is_complete(self) -> bool:
        """Whether `complete` or `abandon` was called."""
        return self._is_complete

    @property
    def is_abandoned(self) -> bool:
        """Whether `abandon` was called."""
        return self._is_abandoned

    def add_observation(
        self, data: Any, embedding: ArrayLike | None = None, *, at: datetime | None = None
    ) -> Trajectory:
        """Add what was seen.

        Args:
            data: Any value the memory can store.
            embedding: The situation as a vector, shape (dim,), any scale. Later actions are
                remembered under the latest one.
            at: When it was seen; by default when it is tracked.

        Raises:
            EmbeddingError: the embedding is not a finite, non-zero vector.
            TrajectoryError: the trajectory is complete, or `at` lies before an earlier step.
        """
        situation = None if embedding is None else unit_vector(embedding)
        when = self._advance(at)
        given = None
        if embedding is not None and situation is not None:
            given = _as_given(embedding, situation)
            self._situation = situation
        self._observations.append(Observation(data, given, when))
        return self

    def add_action(
        self,
        action_type: str,
        parameters: Any = None,
        predicted_outcome: float | None = None,
        *,
        predicted_interval: tuple[float, float] | None = None,
        level: float = 0.8,
        predicted_quantiles: Mapping[float, float] | None = None,
        probability: float | None = None,
        baseline: float | None = None,
        advice: Advice | Receipt | None = None,
        at: datetime | None = None,
    ) -> Trajectory:
        """Add what was done, and what was expected of it.

        Args:
            action_type: What kind; predictions need it defined before tracking.
            parameters: What was done; any value the memory can store.
            predicted_outcome: Point forecast, in the definition's unit.
            predicted_interval: Interval forecast, (low, high).
            level: Coverage the interval claims, in (0, 1).
            predicted_quantiles: Values by probability, ascending in both.
            probability: Of an outcome above zero, in [0, 1].
            baseline: What the naive forecast said, frozen now.
            advice: The advice it acted on, or its receipt.
            at: When it was done; by default when it is tracked.

        Raises:
            InvalidNameError: the action type is malformed.
            TrajectoryError: a claim is malformed, the trajectory is complete, or `at` lies before
                an earlier step.
        """
        check_key(action_type)
        if len(self._actions) >= MAX_ACTIONS:
            raise TrajectoryError(f"a trajectory holds at most {MAX_ACTIONS} actions")
        low, high = _check_interval(predicted_interval, level)
        claims: dict[str, Any] = {
            "predicted": _optional(predicted_outcome, "predicted_outcome"),
            "low": low,
            "high": high,
            "level": float(level),
            "probability": _check_probability(probability),
            "baseline": _optional(baseline, "baseline"),
            "quantiles": _check_quantiles(predicted_quantiles),
            "receipt": None if advice is None else advice.to_doc(),
        }
        doc = ActionDoc(action_type, self._advance(at), **claims)
        self._actions.append(Action(doc, parameters, self._situation))
        return self

    def add_outcome(
        self, value: float, *, action: int | None = None, at: datetime | None = None
    ) -> Trajectory:
        """Add how an action turned out.

        Args:
            value: In the definition's unit; True and False count as 1 and 0.
            action: Which action, from 0; by default the last one.
            at: Since when it is known; by default since it is tracked.

        Raises:
            TrajectoryError: there is no such action, it has another outcome already, or the outcome
                would be known before the action.
        """
        index = len(self._actions) - 1 if action is None else action
        if not 0 <= index < len(self._actions):
            raise TrajectoryError(f"trajectory {self.id} has no action {index}")
        when = None if at is None else to_us(at)
        done = self._actions[index].doc.at
        if when is not None and done is not None and when < done:
            raise TrajectoryError("an outcome cannot be known before its action")
        outcome = OutcomeOf(index, real(value, "an outcome"), when)
        if self._outcomes.setdefault(index, outcome) != outcome:
            raise TrajectoryError(f"action {index} has an outcome: record a revision of it instead")
        return self

    def complete(self) -> Trajectory:
        """Close it: no more observations or actions. Outcomes may still come."""
        self._is_complete = True
        return self

    def abandon(self) -> Trajectory:
        """Close it because it was given up: what was done counts, what was left undone does not."""
        self._is_complete = self._is_abandoned = True
        return self

    def score(self) -> float | None:
        """How much better than the frozen baselines its forecasts were, in [-1, 1].

        The mean over judged actions of `(b - f) / (b + f)`, with b the baseline's absolute error and
        f the forecast's: 1 is perfect, 0 as good as the baseline, and it is safe at zero. None if no
        action has a forecast, a baseline and an outcome.
        """
        scores: list[float] = []
        for index, outcome in self._outcomes.items():
            doc = self._actions[index].doc
            if doc.predicted is None or doc.baseline is None:
                continue
            ours = abs(outcome.value - doc.predicted)
            naive = abs(outcome.value - doc.baseline)
            scores.append((naive - ours) / (naive + ours) if naive + ours > 0.0 else 0.0)
        return math.fsum(scores) / len(scores) if scores else None

    @classmethod
    def restore(
        cls,
        agent_id: str,
        trajectory_id: str,
        observations: Iterable[Observation],
        actions: Iterable[Action],
        outcomes: Iterable[OutcomeOf],
        tags: Iterable[str] = (),
    ) -> Trajectory:
        """A trajectory as it was tracked; open, so that more can be added."""
        trajectory = cls(agent_id, id=trajectory_id, tags=tags)
        for observation in observations:
            trajectory._observations.append(observation)
            if observation.embedding is not None:
                trajectory._situation = unit_vector(observation.embedding)
        trajectory._actions.extend(actions)
        trajectory._outcomes.update({outcome.action: outcome for outcome in outcomes})
        return trajectory

    def _advance(self, at: datetime | None) -> int | None:
        if self._is_complete:
            raise TrajectoryError(f"trajectory {self.id} is complete")
        if at is None:
            return None
        when = to_us(at)
        if self._last_at is not None and when < self._last_at:
            raise TrajectoryError("a step may not lie before an earlier one")
        self._last_at = when
        return when


def has_claim(doc: ActionDoc) -> bool:
    """Whether the action predicts anything that could be judged."""
    return (
        doc.predicted is not None
        or doc.low is not None
        or doc.probability is not None
        or bool(doc.quantiles)
    )


def _optional(value: float | None, what: str) -> float | None:
    return None if value is None else real(value, what)


def _check_interval(
    interval: tuple[float, float] | None, level: float
) -> tuple[float | None, float | None]:
    if not 0.0 < real(level, "level") < 1.0:
        raise TrajectoryError(f"level must lie between 0 and 1, not {level!r}")
    if interval is None:
        return None, None
    low, high = (real(end, "an interval's end") for end in interval)
    if low > high:
        raise TrajectoryError(f"the interval's low end {low} lies above its high end {high}")
    return low, high


def _check_probability(probability: float | None) -> float | None:
    if probability is None:
        return None
    if not 0.0 <= real(probability, "probability") <= 1.0:
        raise TrajectoryError(f"probability must be in [0, 1], not {probability!r}")
    return float(probability)


def _check_quantiles(quantiles: Mapping[float, float] | None) -> tuple[tuple[float, float], ...]:
    if not quantiles:
        return ()
    pairs = sorted(
        (real(p, "a quantile's probability"), real(v, "a quantile")) for p, v in quantiles.items()
    )
    if not all(0.0 < p < 1.0 for p, _ in pairs):
        raise TrajectoryError("quantile probabilities must lie between 0 and 1")
    if any(left[1] > right[1] for left, right in pairwise(pairs)):
        raise TrajectoryError("quantiles must not fall as their probability rises")
    return tuple(pairs)
