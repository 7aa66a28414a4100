"""What an agent's credentials allow: subjects that it may publish and subscribe to.

Servers enforce who speaks and who listens; what an entry may do is judged by every replica when it
is applied. Decision 0022 tells which right rests on which of the two, and what neither can keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nt_memory.errors import InvalidInputError
from nt_memory.namespace import check_agent
from nt_memory.topics import check_not_own, check_pattern
from nt_memory.transport.nats.subjects import Subjects, agent_token

if TYPE_CHECKING:
    from collections.abc import Iterable

Role = Literal["node", "guest"]
"""A node follows the journal, and so reads all of it, and writes in its agent's name. A guest has
messages alone."""

ALL = ("**",)


@dataclass(frozen=True, slots=True)
class Rights:
    """Subjects, with wildcards.

    Attributes:
        publish: What may be published to.
        subscribe: What may be subscribed to. Empty lists would mean no restriction to a server, so
            neither is.
    """

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def rights_of(
    swarm: str,
    agent: str,
    role: Role = "node",
    *,
    publish: Iterable[str] = ALL,
    subscribe: Iterable[str] = ALL,
) -> Rights:
    """What an agent's credentials allow.

    Args:
        swarm: Which swarm.
        agent: In whose name it acts; never the operator, who needs no list.
        role: Of its process.
        publish: Patterns of topics, as of `Policy.publish`.
        subscribe: Patterns of topics, as of `Policy.subscribe`.

    Raises:
        InvalidInputError: there is no such role.
        InvalidNameError: a name or pattern is malformed, or one of the memory's own topics.
    """
    check_agent(swarm)
    check_agent(agent)
    if role not in ("node", "guest"):
        raise InvalidInputError(f"there is no role {role!r}; there are node and guest")
    subjects, me = Subjects(swarm), agent_token(agent)
    spoken = [subjects.messages(_checked(pattern), me) for pattern in publish]
    heard = [subjects.messages(_checked(pattern)) for pattern in subscribe]
    answers = subjects.all_replies
    can_listen = (f"{subjects.inbox(agent)}.>", subjects.replies(agent), *heard)
    if role == "guest":
        return Rights((*spoken, answers), can_listen)
    return Rights(
        (
            subjects.journal(agent),
            subjects.values_of(agent),
            subjects.statement(agent),
            *_following(subjects),
            *spoken,
            answers,
        ),
        (*can_listen, subjects.statements),
    )


def _following(subjects: Subjects) -> tuple[str, ...]:
    """What a push consumer of the journal takes, and nothing by which a stream could be changed.

    No pull consumers and no direct gets: their answers go, with bytes that the asker may have
    stored before, to whatever reply subject it names, another agent's journal included.
    """
    api, stream, values = "$JS.API", subjects.stream, subjects.values
    snapshots = subjects.snapshots
    return (
        f"{api}.STREAM.INFO.{stream}",
        f"{api}.STREAM.INFO.{values}",
        f"{api}.CONSUMER.CREATE.{stream}.*",
        f"{api}.CONSUMER.INFO.{stream}.*",
        f"{api}.CONSUMER.DELETE.{stream}.*",
        f"{api}.STREAM.MSG.GET.{values}",  # answers in JSON, which is no entry and no message
        f"{api}.STREAM.MSG.GET.{stream}",  # where the catalogue of snapshots is
        f"{api}.STREAM.MSG.GET.{snapshots}",
        f"$JS.FC.{stream}.>",
    )


def _checked(pattern: str) -> str:
    return check_pattern(check_not_own(pattern))
