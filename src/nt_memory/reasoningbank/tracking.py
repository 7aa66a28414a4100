"""From a built trajectory to what is written, and back. What was tracked is never rewritten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from nt_memory import codec
from nt_memory.entries import ACTION, OUTCOME, TRAJECTORY, Stored, WriteOp
from nt_memory.errors import ConflictError, TrajectoryError, UnknownTrajectoryError
from nt_memory.reasoningbank.backing import SWARM
from nt_memory.reasoningbank.trajectory import (
    Action,
    Observation,
    OutcomeOf,
    Trajectory,
    has_claim,
    real,
)
from nt_memory.reasoningbank.wire import (
    ActionDoc,
    OutcomeDoc,
    OwnerDoc,
    action_key,
    decode_action,
    decode_outcome,
    decode_owner,
    encode,
)

if TYPE_CHECKING:
    from nt_memory.reasoningbank.backing import Backing
    from nt_memory.reasoningbank.memories import Memories, Place
    from nt_memory.timeline import Moment

SITUATION = "situation/"


class PlannedOutcome(NamedTuple):
    """An outcome about to be recorded.

    Attributes:
        agent: Whose action.
        key: Its key.
        place: Where it is among the memories.
        op: What to write; None if it is recorded already.
    """

    agent: str
    key: str
    place: Place | None
    op: WriteOp | None


class Tracker:
    """Plans the writes of trajectories and outcomes.

    Args:
        backing: What is stored already.
        memories: Definitions.
    """

    def __init__(self, backing: Backing, memories: Memories) -> None:
        self._backing = backing
        self._memories = memories

    def owner(self, trajectory_id: str, moment: Moment) -> str | None:
        """Whose trajectory it is; "" if it was forgotten, None if it is unknown."""
        stored = self._backing.read(TRAJECTORY, SWARM, trajectory_id, moment)
        return None if stored is None or stored.value is None else decode_owner(stored.value).agent

    def known_owner(self, trajectory_id: str, moment: Moment) -> str:
        """Whose trajectory it is.

        Raises:
            UnknownTrajectoryError: nobody's at that moment.
        """
        agent = self.owner(trajectory_id, moment)
        if not agent:
            raise UnknownTrajectoryError(f"no trajectory {trajectory_id!r} is known")
        return agent

    # --- tracking ---------------------------------------------------------------------------

    def plan(self, trajectory: Trajectory, moment: Moment) -> list[WriteOp]:
        """What tracking a trajectory writes; nothing if it was tracked as it is.

        Raises:
            TrajectoryError: the id is another agent's or was forgotten, something tracked was
                changed, or a prediction's action type is not defined.
        """
        agent = self.owner(trajectory.id, moment)
        if agent is None:
            return self._plan_new(trajectory, moment)
        if agent != trajectory.agent_id:
            whose = "was forgotten" if not agent else f"belongs to {agent}"
            raise TrajectoryError(f"trajectory {trajectory.id} {whose}")
        stored = self._backing.read(TRAJECTORY, agent, trajectory.id, moment)
        if stored is None or stored.value is None:
            raise UnknownTrajectoryError(f"no trajectory {trajectory.id!r} is known")
        return self._plan_more(trajectory, stored, moment)

    def _plan_new(self, trajectory: Trajectory, moment: Moment) -> list[WriteOp]:
        known = _latest(trajectory, 0, 0)
        document = codec.encode(_document(trajectory))
        owner = encode(OwnerDoc(trajectory.agent_id))
        return [
            WriteOp(TRAJECTORY, SWARM, trajectory.id, owner, known, expect=0),
            WriteOp(TRAJECTORY, trajectory.agent_id, trajectory.id, document, known),
            *self._action_ops(trajectory, 0, moment),
            *self._outcome_ops(trajectory, 0, moment),
        ]

    def _plan_more(self, trajectory: Trajectory, stored: Stored, moment: Moment) -> list[WriteOp]:
        old = codec.decode(stored.value or b"")
        new = _document(trajectory)
        seen, done = len(old["observations"]), len(old["actions"])
        self._check_kept(trajectory, old, new, moment)
        new["is_complete"] = old["is_complete"] or new["is_complete"]
        if old.get("is_abandoned", False):
            new["is_abandoned"] = True
        ops = self._outcome_ops(trajectory, done, moment)
        encoded = codec.encode(new)
        if encoded != codec.encode(old):
            known = _latest(trajectory, seen, done)
            if known is not None and known < stored.known_at:
                known = None
            document = WriteOp(
                TRAJECTORY,
                trajectory.agent_id,
                trajectory.id,
                encoded,
                known,
                expect=stored.revision,
            )
            ops = [document, *self._action_ops(trajectory, done, moment), *ops]
        return ops

    def _check_kept(
        self, trajectory: Trajectory, old: dict[str, Any], new: dict[str, Any], moment: Moment
    ) -> None:
        if list(old.get("tags", ())) != new.get("tags", []):
            raise TrajectoryError(f"tags of {trajectory.id} that were tracked cannot change")
        for part in ("observations", "actions"):
            kept = len(old[part])
            if codec.encode(new[part][:kept]) != codec.encode(list(old[part])):
                raise TrajectoryError(f"{part} of {trajectory.id} that were tracked cannot change")
            if old["is_complete"] and len(new[part]) > kept:
                raise TrajectoryError(f"trajectory {trajectory.id} is complete")
        for index in range(len(old["actions"])):
            stored = self._action(trajectory.agent_id, trajectory.id, index, moment)
            before = decode_action(stored.value or b"")
            after = trajectory.actions[index].doc
            if msgspec.structs.replace(after, definition=before.definition) != before:
                raise TrajectoryError(
                    f"action {index} of {trajectory.id} was tracked and cannot change"
                )

    def _action_ops(self, trajectory: Trajectory, first: int, moment: Moment) -> list[WriteOp]:
        ops: list[WriteOp] = []
        for index, action in enumerate(trajectory.actions[first:], first):
            doc = action.doc
            definition = self._memories.definition(doc.action_type, moment)
            if definition is None and has_claim(doc):
                raise TrajectoryError(
                    f"define action type {doc.action_type!r} before tracking its predictions"
                )
            revision = 0 if definition is None else definition.revision
            vector = action.situation
            ops.append(
                WriteOp(
                    ACTION,
                    trajectory.agent_id,
                    action_key(trajectory.id, index),
                    encode(msgspec.structs.replace(doc, definition=revision)),
                    doc.at,
                    expect=0,
                    vector=None if vector is None else vector.astype("<f2").tobytes(),
                    partition="" if vector is None else SITUATION + doc.action_type,
                    tags=trajectory.tags,
                )
            )
        return ops

    def _outcome_ops(self, trajectory: Trajectory, tracked: int, moment: Moment) -> list[WriteOp]:
        ops: list[WriteOp] = []
        for outcome in trajectory.outcomes:
            key = action_key(trajectory.id, outcome.action)
            taken: int | None = trajectory.actions[outcome.action].doc.at
            if outcome.action < tracked:
                stored = self._backing.read(OUTCOME, trajectory.agent_id, key, moment)
                if stored is not None:
                    if decode_outcome(stored.value or b"").value != outcome.value:
                        raise TrajectoryError(f"{key} has another outcome: record a revision of it")
                    continue
                if taken is None:
                    taken = self._action(
                        trajectory.agent_id, trajectory.id, outcome.action, moment
                    ).known_at
            doc = trajectory.actions[outcome.action].doc
            self._check_time(doc, taken, outcome.at, moment, key)
            ops.append(_outcome_op(trajectory.agent_id, key, outcome.value, outcome.at, expect=0))
        return ops

    # --- outcomes ---------------------------------------------------------------------------

    def plan_outcome(
        self,
        trajectory_id: str,
        value: float,
        *,
        action: int | None,
        known_at: int | None,
        revision_of: int | None,
        moment: Moment,
    ) -> PlannedOutcome:
        """What recording an outcome writes; nothing if it is recorded already.

        Raises:
            UnknownTrajectoryError: no such trajectory.
            TrajectoryError: no such action; the outcome would be known before the action, its
                horizon or what it revises; or there is another outcome and no `revision_of`.
            ConflictError: `revision_of` is not the current outcome's revision.
        """
        agent = self.known_owner(trajectory_id, moment)
        index = self._last_action(agent, trajectory_id, moment) if action is None else action
        key = action_key(trajectory_id, index)
        stored = self._action(agent, trajectory_id, index, moment)
        doc = decode_action(stored.value or b"")
        place = self._memories.place(stored, doc)
        taken = stored.known_at if doc.at is None else doc.at
        number = real(value, "an outcome")
        self._check_time(doc, taken, known_at, moment, key)
        before = self._backing.read(OUTCOME, agent, key, moment)
        current = 0 if before is None else before.revision
        if revision_of is not None and revision_of != current:
            raise ConflictError(f"{key}: the outcome is of revision {current}", current=current)
        if before is not None and revision_of is None:
            if decode_outcome(before.value or b"").value == number:
                return PlannedOutcome(agent, key, place, None)
            raise TrajectoryError(f"{key} has an outcome: pass its revision as revision_of")
        if before is not None and known_at is not None and known_at < before.known_at:
            raise TrajectoryError("a revision cannot be known before what it revises")
        op = _outcome_op(agent, key, number, known_at, expect=current)
        return PlannedOutcome(agent, key, place, op)

    def recorded(
        self, trajectory_id: str, action: int | None, revision: int | None, moment: Moment
    ) -> PlannedOutcome | None:
        """The outcome that an earlier request recorded, with nothing to write; None if it did not.

        Args:
            trajectory_id: Which trajectory.
            action: Which action; None: the one that was the last then.
            revision: Of the earlier request's entry; None if that had nothing to write.
            moment: Now.

        Raises:
            UnknownTrajectoryError: no such trajectory, or no more.
        """
        agent = self.known_owner(trajectory_id, moment)
        then = moment if revision is None else moment._replace(revision=revision)
        last = max(0, self.count_actions(agent, trajectory_id, then) - 1)
        indexes = range(last, -1, -1) if action is None else (action,)
        read, index = self._backing.read, last if action is None else action
        for number in indexes:
            found = read(OUTCOME, agent, action_key(trajectory_id, number), then)
            if found is not None and found.revision == revision:
                index = number
                break
        # Of one that was there already when it was asked, nothing was written.
        key = action_key(trajectory_id, index)
        is_there = any(read(OUTCOME, agent, key, when) is not None for when in (then, moment))
        return PlannedOutcome(agent, key, None, None) if is_there else None

    def _check_time(
        self, doc: ActionDoc, taken: int | None, known_at: int | None, moment: Moment, key: str
    ) -> None:
        now = moment.time_us
        known = now if known_at is None else known_at
        taken = now if taken is None else taken
        if known < taken:
            raise TrajectoryError(f"{key}: an outcome cannot be known before its action")
        definition = self._memories.definition_at(doc.action_type, doc.definition)
        if definition is None:
            definition = self._memories.definition(doc.action_type, moment)
        if definition is not None and taken + definition.horizon_us > known:
            raise TrajectoryError(
                f"{key}: its outcome is not complete before its horizon has passed"
            )

    def _action(self, agent: str, trajectory_id: str, index: int, moment: Moment) -> Stored:
        stored = self._backing.read(ACTION, agent, action_key(trajectory_id, index), moment)
        if stored is None:
            raise TrajectoryError(f"trajectory {trajectory_id} has no action {index}")
        return stored

    def _last_action(self, agent: str, trajectory_id: str, moment: Moment) -> int:
        # Most trajectories have one action; only the others need their document.
        if self._backing.read(ACTION, agent, action_key(trajectory_id, 1), moment) is None:
            return 0
        return self.count_actions(agent, trajectory_id, moment) - 1

    def count_actions(self, agent: str, trajectory_id: str, moment: Moment) -> int:
        """How many actions a moment shows of a trajectory."""
        stored = self._backing.read(TRAJECTORY, agent, trajectory_id, moment)
        return 0 if stored is None else len(codec.decode(stored.value or b"")["actions"])

    # --- reading ----------------------------------------------------------------------------

    def load(self, agent: str, stored: Stored, moment: Moment) -> Trajectory:
        """The trajectory of a stored document, with the outcomes a moment shows."""
        document = codec.decode(stored.value or b"")
        observations = [Observation(*one) for one in document["observations"]]
        actions: list[Action] = []
        outcomes: list[OutcomeOf] = []
        for index, parameters in enumerate(document["actions"]):
            key = action_key(stored.key, index)
            found = self._backing.read(ACTION, agent, key, moment)
            if found is None:
                break
            actions.append(Action(decode_action(found.value or b""), parameters))
            result = self._backing.read(OUTCOME, agent, key, moment)
            if result is not None:
                value = decode_outcome(result.value or b"").value
                outcomes.append(OutcomeOf(index, value, result.known_at))
        trajectory = Trajectory.restore(
            agent, stored.key, observations, actions, outcomes, document.get("tags", ())
        )
        if document.get("is_abandoned", False):
            return trajectory.abandon()
        return trajectory.complete() if document["is_complete"] else trajectory

    def plan_forget(self, trajectory_id: str, moment: Moment) -> list[WriteOp]:
        """What forgetting a trajectory writes: deletes, and that its id is spent."""
        agent = self.known_owner(trajectory_id, moment)
        ops = [
            WriteOp(TRAJECTORY, SWARM, trajectory_id, encode(OwnerDoc(""))),
            WriteOp(TRAJECTORY, agent, trajectory_id, None),
        ]
        for index in range(self.count_actions(agent, trajectory_id, moment)):
            key = action_key(trajectory_id, index)
            ops.append(WriteOp(ACTION, agent, key, None))
            if self._backing.read(OUTCOME, agent, key, moment) is not None:
                ops.append(WriteOp(OUTCOME, agent, key, None))
        return ops


def _document(trajectory: Trajectory) -> dict[str, Any]:
    document: dict[str, Any] = {
        "observations": [(one.data, one.embedding, one.at) for one in trajectory.observations],
        "actions": [action.parameters for action in trajectory.actions],
        "is_complete": trajectory.is_complete,
    }
    # Only where they say something: most trajectories have neither.
    if trajectory.is_abandoned:
        document["is_abandoned"] = True
    if trajectory.tags:
        document["tags"] = list(trajectory.tags)
    return document


def _latest(trajectory: Trajectory, seen: int, done: int) -> int | None:
    """When the newest step became known; None (now) if any of them is not dated."""
    times = [one.at for one in trajectory.observations[seen:]]
    times += [action.doc.at for action in trajectory.actions[done:]]
    dated = [at for at in times if at is not None]
    return max(dated) if dated and len(dated) == len(times) else None


def _outcome_op(
    agent: str, key: str, value: float, known_at: int | None, *, expect: int
) -> WriteOp:
    return WriteOp(OUTCOME, agent, key, encode(OutcomeDoc(value)), known_at, expect=expect)
