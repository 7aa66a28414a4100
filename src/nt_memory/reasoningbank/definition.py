"""What an action type predicts, in which unit and how it is judged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import msgspec

from nt_memory.errors import TrajectoryError

Loss = Literal["absolute", "squared"]
ToleranceKind = Literal["scale", "relative", "absolute"]

DAY_US = 86_400_000_000
MAX_HORIZON = timedelta(days=36_600)
MAX_SESSIONS = 36_600
DEFAULT_LOOKS = 4
MAX_LOOKS = 10_000
MAX_FEATURES = 4_096
_DEFAULT_BOUNDS: dict[str, tuple[float, float]] = {"scale": (1.0, 2.0), "relative": (0.05, 0.25)}


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How large an error may be.

    Attributes:
        kind: What errors are measured in: "scale", the predictor's own earlier errors; "relative",
            the outcome (only for targets with a meaningful zero); "absolute", the target's unit.
        correct: Largest error that still counts as correct.
        very_wrong: Errors above this count as very wrong.
    """

    kind: ToleranceKind = "scale"
    correct: float = 1.0
    very_wrong: float = 2.0

    def __post_init__(self) -> None:
        """Refuse malformed bounds.

        Raises:
            TrajectoryError: unknown kind, or not 0 < correct <= very_wrong < infinity.
        """
        if self.kind not in {"scale", "relative", "absolute"}:
            raise TrajectoryError(f"unknown tolerance {self.kind!r}")
        if not 0.0 < self.correct <= self.very_wrong < math.inf:
            raise TrajectoryError("a tolerance needs 0 < correct <= very_wrong")


@dataclass(frozen=True, slots=True)
class Definition:
    """One version of what an action type predicts.

    Attributes:
        action_type: Its name.
        target: What is predicted, in words.
        unit: Of predictions and outcomes.
        horizon: How long after the action its outcome is complete: sessions, or a timedelta.
        loss: What a forecast pays for its error.
        tolerance: What makes a verdict.
        baseline: Name of the naive forecast that actions freeze with them.
        revision: The entry that defined it; 0: not stored.
        looks: How many times patterns may be tested for promotion, by whomever; each look tolerates
            its share of false promotions.
        features: Names of the embedding's components, the first ones; they describe patterns.
    """

    action_type: str
    target: str
    unit: str
    horizon: int | timedelta
    loss: Loss = "absolute"
    tolerance: Tolerance = Tolerance()
    baseline: str = ""
    revision: int = 0
    looks: int = DEFAULT_LOOKS
    features: tuple[str, ...] = ()

    @property
    def horizon_us(self) -> int:
        """Shortest time after an action at which its outcome can be known; 0 for sessions.

        How long a session lasts is the exchange's matter, so a horizon in sessions is not checked.
        """
        if isinstance(self.horizon, timedelta):
            return self.horizon // timedelta(microseconds=1)
        return 0

    @property
    def horizon_days(self) -> int:
        """Days, or sessions, over which neighbouring outcomes overlap; at least 1."""
        if isinstance(self.horizon, timedelta):
            return max(1, -(-self.horizon_us // DAY_US))
        return self.horizon

    @property
    def functional(self) -> Literal["mean", "median"]:
        """The forecast that the loss rewards."""
        return "mean" if self.loss == "squared" else "median"

    @property
    def family(self) -> tuple[str, str, int, bool]:
        """What outcomes must share to be comparable: target, unit and horizon."""
        if isinstance(self.horizon, timedelta):
            return (self.target, self.unit, self.horizon_us, True)
        return (self.target, self.unit, self.horizon, False)


class DefinitionDoc(msgspec.Struct, frozen=True, array_like=True):
    """A definition as it is stored."""

    target: str
    unit: str
    horizon: int
    is_time: bool
    loss: Loss
    tolerance: tuple[ToleranceKind, float, float]
    baseline: str
    looks: int = DEFAULT_LOOKS
    features: tuple[str, ...] = ()


_decoder = msgspec.msgpack.Decoder(DefinitionDoc)


def encode_definition(definition: Definition) -> bytes:
    """Bytes of a definition, its revision left out: equal definitions have equal bytes."""
    tolerance = definition.tolerance
    target, unit, horizon, is_time = definition.family
    return msgspec.msgpack.encode(
        DefinitionDoc(
            target,
            unit,
            horizon,
            is_time,
            definition.loss,
            (tolerance.kind, tolerance.correct, tolerance.very_wrong),
            definition.baseline,
            definition.looks,
            definition.features,
        )
    )


def decode_definition(action_type: str, value: bytes, revision: int) -> Definition:
    """The definition in `value`."""
    doc = _decoder.decode(value)
    return Definition(
        action_type,
        doc.target,
        doc.unit,
        timedelta(microseconds=doc.horizon) if doc.is_time else doc.horizon,
        doc.loss,
        Tolerance(*doc.tolerance),
        doc.baseline,
        revision,
        doc.looks,
        doc.features,
    )


def check_tolerance(
    tolerance: Tolerance | str | tuple[str, float, float] | None,
) -> Tolerance:
    """A tolerance from its short forms: None, "scale", "relative", or (kind, correct, very_wrong).

    Raises:
        TrajectoryError: none of these, or "absolute" without bounds.
    """
    if tolerance is None:
        return Tolerance()
    if isinstance(tolerance, Tolerance):
        return tolerance
    if isinstance(tolerance, str):
        if tolerance not in _DEFAULT_BOUNDS:
            raise TrajectoryError(f"tolerance {tolerance!r} needs its bounds: (kind, correct, ...)")
        return Tolerance(tolerance, *_DEFAULT_BOUNDS[tolerance])  # type: ignore[arg-type]
    kind, correct, very_wrong = tolerance
    return Tolerance(kind, float(correct), float(very_wrong))  # type: ignore[arg-type]


def check_definition(definition: Definition) -> Definition:
    """Return the definition if it is well formed.

    Raises:
        TrajectoryError: empty target or unit, a horizon that is not positive, an unknown loss, or looks
            or features out of range.
    """
    if not definition.target or not definition.unit:
        raise TrajectoryError("a definition needs a target and a unit")
    horizon = definition.horizon
    if isinstance(horizon, bool) or not isinstance(horizon, int | timedelta):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TrajectoryError("horizon must be a number of sessions or a timedelta")
    is_sane = (
        0 < horizon <= MAX_SESSIONS
        if isinstance(horizon, int)
        else timedelta(0) < horizon <= MAX_HORIZON
    )
    if not is_sane:
        raise TrajectoryError("horizon must be positive and at most a century")
    if definition.loss not in {"absolute", "squared"}:
        raise TrajectoryError(f"unknown loss {definition.loss!r}")
    if isinstance(definition.looks, bool) or not 1 <= definition.looks <= MAX_LOOKS:
        raise TrajectoryError(f"looks must be 1 to {MAX_LOOKS}, not {definition.looks!r}")
    names = definition.features
    if len(names) > MAX_FEATURES or not all(isinstance(one, str) and one for one in names):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TrajectoryError(f"features must be names, at most {MAX_FEATURES} of them")
    return definition
