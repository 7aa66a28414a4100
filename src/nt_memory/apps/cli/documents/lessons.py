"""Documents of what was decided, and what it taught."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from nt_memory.apps.cli.documents.form import Document


class Observation(Document):
    """Something an agent saw; `dim` is 0 without an embedding."""

    data: Any
    dim: int
    at: datetime | None


class Action(Document):
    """Something an agent did, and what it claimed about it."""

    action_type: str
    parameters: Any
    at: datetime | None
    predicted: float | None
    low: float | None
    high: float | None
    level: float
    probability: float | None
    baseline: float | None


class Outcome(Document):
    """How an action turned out."""

    action: int
    value: float
    at: datetime | None


class Verdict(Document):
    """How good an action's claims were."""

    action: int
    kind: str
    predicted: float | None
    actual: float | None
    error: float | None
    skill: float | None
    is_covered: bool | None
    feedback: str


class Trajectory(Document):
    """What an agent saw, did, and how it turned out; verdicts where one trajectory was asked for."""

    id: str
    agent: str
    is_complete: bool
    score: float | None
    observations: list[Observation]
    actions: list[Action]
    outcomes: list[Outcome]
    verdicts: list[Verdict]


class Pattern(Document):
    """What one cluster of an agent's situations led to."""

    id: str
    agent: str
    action_type: str
    unit: str
    radius: float
    n: int
    n_effective: float
    outcome_mean: float
    outcome_error: float
    outcome_quantiles: list[float]
    success_rate: float | None
    success_low: float | None
    success_high: float | None
    failures: int
    failure_error: float | None
    failed: list[str]
    as_of: datetime
    is_promoted: bool


class Advice(Document):
    """What similar past situations say; `memories` is how many it rests on."""

    action_type: str
    target: str
    unit: str
    functional: str
    level: float
    as_of: datetime
    expected: float | None
    low: float | None
    high: float | None
    alpha: float
    bias: float
    baseline: float | None
    success_probability: float | None
    warnings: list[str]
    is_abstaining: bool
    is_withheld: bool
    known: int
    effective: float
    distance: float | None
    typical_distance: float | None
    patterns: list[str]
    memories: int
    text: str


class Decision(Document):
    """An action an agent took."""

    agent: str
    trajectory: str
    action: int
    action_type: str
    at: datetime


class Mean(Document):
    """A mean with its 95 % interval; null where it cannot be said."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    n_effective: float


class Reliability(Document):
    """Probabilities claimed, and the share of them that came true."""

    claimed: float
    observed: float
    n: int


class Calibration(Document):
    """How far forecasts can be trusted; of a `regime`: in situations nearest to that pattern."""

    agent: str
    action_type: str
    regime: str
    level: float
    n: int
    coverage: Mean
    bias: Mean
    loss: Mean
    skill: Mean
    sharpness: Mean
    interval_score: Mean
    brier: Mean
    crps: Mean
    drift: Mean
    reliability: list[Reliability]
    alpha: float
    steps: int


class Rank(Document):
    """How good an agent's forecasts were in situations like one."""

    agent: str
    score: float
    skill: Mean
    n: int
    distance: float | None


class Uplift(Document):
    """What showing advice was worth, in units of the loss; null where it cannot be said."""

    agent: str
    value: float | None
    low: float | None
    high: float | None
    relative: float | None
    shown: int
    withheld: int
    units: int


class Weight(Document):
    """How much an agent's vote should weigh."""

    agent: str
    weight: float
