"""The ReasoningBank behind a server."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
import numpy as np

from nt_memory.apps.cli.documents import lessons
from nt_memory.apps.cli.remote.paths import of_agent, of_name, spell_moment
from nt_memory.apps.cli.remote.reading import read
from nt_memory.apps.cli.remote.refusals import AbsentError
from nt_memory.apps.cli.remote.standings import RemoteStandings
from nt_memory.clock import to_us
from nt_memory.codec.plain import from_plain
from nt_memory.namespace import check_agent
from nt_memory.reasoningbank import Pattern, Trajectory
from nt_memory.reasoningbank.trajectory import Action, Observation, OutcomeOf
from nt_memory.reasoningbank.verdict import Verdict
from nt_memory.reasoningbank.wire import ActionDoc

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nt_memory.apps.cli.asking import Moment
    from nt_memory.apps.cli.remote.client import Client

PAGE = 1_000
MAX_CHARS = 10_000


class RemoteBank(RemoteStandings):
    """The calls of `ReasoningBank` that commands make."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def trajectories(
        self, agent: str, *, limit: int | None = None, as_of: Moment | None = None
    ) -> list[Trajectory]:
        """An agent's trajectories, by id; no more than `limit`."""
        found: list[Trajectory] = []
        query: dict[str, Any] = {
            "agent": check_agent(agent),
            "whole": True,
            "as_of": spell_moment(as_of),
        }
        after: str | None = ""
        while after is not None and (limit is None or len(found) < limit):
            size = PAGE if limit is None else min(PAGE, limit - len(found))
            answer = await self._client.ask(
                "GET", "/trajectories", query={**query, "limit": size, "after": after}
            )
            page = read(answer, _TrajectoryPage)
            found.extend(one.trajectory() for one in page.trajectories)
            after = page.next
        return found

    async def trajectory(
        self, trajectory_id: str, *, as_of: Moment | None = None
    ) -> Trajectory | None:
        """One trajectory, or None."""
        query = {"as_of": spell_moment(as_of)}
        try:
            answer = await self._client.ask(
                "GET", of_name("trajectories", trajectory_id), query=query
            )
        except AbsentError:
            return None
        return read(answer, _Trajectory).trajectory()

    async def judge(self, trajectory: Trajectory) -> list[Verdict]:
        """Verdicts on its actions."""
        answer = await self._client.ask("GET", of_name("verdicts", trajectory.id))
        return read(answer, _Verdicts).verdicts

    async def patterns(self, agent: str, *, as_of: Moment | None = None) -> list[Pattern]:
        """An agent's patterns; where they came from stays on the server."""
        query = {"as_of": spell_moment(as_of)}
        answer = await self._client.ask("GET", of_agent("patterns", agent), query=query)
        return _patterns(answer)

    async def distill(
        self,
        agent: str,
        *,
        as_of: Moment | None = None,
        look: bool = False,
        progress: Callable[[int, int], None] | None = None,
        request_id: str | None = None,
    ) -> list[Pattern]:
        """Make them anew; how far that is a server does not say."""
        del progress
        path, query = (
            f"{of_agent('patterns', agent)}/distill",
            {
                "as_of": spell_moment(as_of),
                "look": look,
            },
        )
        found = await self._client.ask("POST", path, query=query, request_id=request_id)
        return _patterns(found)

    async def advise(
        self,
        agents: Sequence[str],
        embedding: Any,
        *,
        action_type: str | None = None,
        as_of: Moment | None = None,
        level: float = 0.8,
        baseline: float | None = None,
        exact: bool = False,
    ) -> ToldAdvice:
        """What the most similar past situations say."""
        body = {
            "agents": [check_agent(agent) for agent in agents],
            "embedding": plain_vector(embedding),
            "action_type": action_type,
            "as_of": spell_moment(as_of),
            "level": level,
            "baseline": baseline,
            "exact": exact,
            "memories": 0,
            "max_chars": MAX_CHARS,
        }
        return read(await self._client.ask("POST", "/advice", body), ToldAdvice)


class ToldAdvice(lessons.Advice, forbid_unknown_fields=False):
    """Advice as a server tells it, of any version: what was recalled stays there."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as of `Advice`."""
        plain: dict[str, Any] = msgspec.structs.asdict(self)
        del plain["text"]
        return {**plain, "as_of": self.as_of.isoformat()}

    def as_text(self, max_chars: int = 600) -> str:
        """In words, as of `Advice`."""
        text = self.text
        return text if len(text) <= max_chars else text[: max(0, max_chars - 1)] + "…"


def plain_vector(embedding: Any) -> Any:
    """An embedding as JSON has it; what is none is left for the server to refuse."""
    return embedding.tolist() if isinstance(embedding, np.ndarray) else embedding


class _Observation(msgspec.Struct):
    data: Any
    embedding: list[float] | None
    at: datetime | None


class _Action(msgspec.Struct):
    action_type: str
    parameters: Any
    predicted_outcome: float | None
    predicted_interval: tuple[float, float] | None
    level: float
    predicted_quantiles: list[tuple[float, float]]
    probability: float | None
    baseline: float | None
    at: datetime | None

    def action(self) -> Action:
        low, high = self.predicted_interval or (None, None)
        doc = ActionDoc(
            self.action_type,
            _us(self.at),
            predicted=self.predicted_outcome,
            low=low,
            high=high,
            level=self.level,
            probability=self.probability,
            baseline=self.baseline,
            quantiles=tuple(self.predicted_quantiles),
        )
        return Action(doc, from_plain(self.parameters))


class _Outcome(msgspec.Struct):
    action: int
    value: float
    at: datetime | None


class _Trajectory(msgspec.Struct):
    id: str
    agent: str
    observations: list[_Observation]
    actions: list[_Action]
    outcomes: list[_Outcome]
    is_complete: bool

    def trajectory(self) -> Trajectory:
        found = Trajectory.restore(
            self.agent,
            self.id,
            [
                Observation(
                    from_plain(one.data),
                    None if one.embedding is None else np.array(one.embedding, np.float32),
                    _us(one.at),
                )
                for one in self.observations
            ],
            [one.action() for one in self.actions],
            [OutcomeOf(one.action, one.value, _us(one.at)) for one in self.outcomes],
        )
        return found.complete() if self.is_complete else found


class _TrajectoryPage(msgspec.Struct):
    trajectories: list[_Trajectory]
    next: str | None


class _Verdicts(msgspec.Struct):
    verdicts: list[Verdict]


class _Pattern(msgspec.Struct):
    id: str
    agent: str
    action_type: str
    unit: str
    centroid: list[float]
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
    p_value: float | None
    is_promoted: bool
    as_of: datetime

    def pattern(self) -> Pattern:
        same = msgspec.structs.asdict(self)
        as_of, centroid = same.pop("as_of"), np.array(same.pop("centroid"), np.float32)
        return Pattern(
            **same,
            centroid=centroid,
            as_of_us=to_us(as_of),
            sources_packed=(),
            resolve=_not_here,
        )


class _Patterns(msgspec.Struct):
    patterns: list[_Pattern]


def _patterns(answer: Any) -> list[Pattern]:
    return [one.pattern() for one in read(answer, _Patterns).patterns]


def _not_here(*_: object) -> NoReturn:
    raise NotImplementedError("what a pattern was drawn from is known to the server")


def _us(at: datetime | None) -> int | None:
    return None if at is None else to_us(at)
