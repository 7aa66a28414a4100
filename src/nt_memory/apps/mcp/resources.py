"""Resources: agents, their trajectories and their patterns, for hosts that let people pick context."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mcp import UriTemplate
from mcp_types import (
    ListResourcesResult,
    ListResourceTemplatesResult,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextResourceContents,
)

from nt_memory.apps.cli.rendering import to_plain
from nt_memory.apps.mcp.paging import page_of, place_of
from nt_memory.apps.mcp.tools.learning import to_shown
from nt_memory.apps.mcp.tools.state import to_entry
from nt_memory.apps.mcp.tools.trajectories import decisions_of, to_judged
from nt_memory.errors import InvalidInputError, UnknownTrajectoryError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nt_memory.apps.mcp.desk import Turn

    Reader = Callable[[Turn, str], Awaitable[dict[str, Any]]]

SCHEME = "nt-memory://"
AGENTS = f"{SCHEME}agents"
PAGE_AGENTS = 50
SHOWN = 50
_JSON = "application/json"


async def _agents(turn: Turn, _: str) -> dict[str, Any]:
    names = await turn.memory.agents()
    return {"you": turn.desk.agent or None, "agents": names[:1_000], "count": len(names)}


async def _agent(turn: Turn, agent: str) -> dict[str, Any]:
    usage = turn.memory.usage(agent)
    entries: list[dict[str, Any]] = []
    async for record in turn.memory.scan(agent):
        if len(entries) == SHOWN:
            break
        entries.append(to_entry(record).model_dump(mode="json"))
    counted = {"keys": usage.keys, "bytes": usage.bytes, "vectors": usage.vectors}
    return {"agent": agent, "usage": counted, "first_keys": entries}


async def _trajectories(turn: Turn, agent: str) -> dict[str, Any]:
    found = await decisions_of(turn, await turn.memory.bank.recent(agent, SHOWN), None)
    return {"agent": agent, "newest": [one.model_dump(mode="json") for one in found]}


async def _patterns(turn: Turn, agent: str) -> dict[str, Any]:
    found = await turn.memory.bank.patterns(agent)
    shown = [to_shown(one).model_dump(mode="json") for one in found[:SHOWN]]
    return {"agent": agent, "patterns": shown, "count": len(found)}


async def _trajectory(turn: Turn, trajectory_id: str) -> dict[str, Any]:
    bank = turn.memory.bank
    found = await bank.trajectory(trajectory_id)
    if found is None:
        raise UnknownTrajectoryError(f"no trajectory {trajectory_id!r} is known")
    verdicts = await bank.judge(trajectory_id)
    return {
        "trajectory_id": found.id,
        "agent": found.agent_id,
        "is_complete": found.is_complete,
        "score": found.score(),
        "observations": [to_plain(one.data) for one in found.observations],
        "actions": [
            {"action_type": one.doc.action_type, "parameters": to_plain(one.parameters)}
            for one in found.actions
        ],
        "verdicts": [to_judged(one).model_dump(mode="json") for one in verdicts],
    }


# An agent's name has no reserved characters; a trajectory's id may have levels.
_TEMPLATES: tuple[tuple[UriTemplate, str, str, Reader], ...] = tuple(
    (UriTemplate.parse(SCHEME + path), name, description, reader)
    for path, name, description, reader in (
        ("agents/{agent}", "agent", "What an agent has stored: its first keys.", _agent),
        (
            "agents/{agent}/trajectories",
            "trajectories",
            "An agent's newest decisions, with outcomes and verdicts.",
            _trajectories,
        ),
        ("agents/{agent}/patterns", "patterns", "What an agent's decisions taught.", _patterns),
        ("trajectories/{+trajectory_id}", "trajectory", "One trajectory, whole.", _trajectory),
    )
)
_OF_AGENT = tuple(one for one in _TEMPLATES if "agent" in one[0].variable_names)


async def list_resources(turn: Turn, cursor: str | None) -> ListResourcesResult:
    """The list of agents, and three resources of each of them, some agents a page.

    Raises:
        InvalidInputError: a malformed cursor.
    """
    place = place_of(cursor, turn.memory.revision)
    page, following = page_of(await turn.memory.agents(), place, PAGE_AGENTS, str)
    resources = [
        Resource(uri=template.expand({"agent": agent}), name=f"{agent}: {name}",
                 description=description, mime_type=_JSON)
        for agent in page
        for template, name, description, _ in _OF_AGENT
    ]  # fmt: skip
    if cursor is None:
        described = "Who has stored something."
        first = Resource(uri=AGENTS, name="agents", description=described, mime_type=_JSON)
        resources.insert(0, first)
    return ListResourcesResult(resources=resources, next_cursor=following)


def list_templates() -> ListResourceTemplatesResult:
    """How the URIs of resources are made."""
    return ListResourceTemplatesResult(
        resource_templates=[
            ResourceTemplate(
                uri_template=str(template),
                name=name,
                description=description,
                mime_type=_JSON,
            )
            for template, name, description, _ in _TEMPLATES
        ]
    )


async def read_resource(turn: Turn, uri: str) -> ReadResourceResult:
    """What a resource holds now, as JSON.

    Raises:
        InvalidInputError: there is no such resource.
        NtMemoryError: the memory refused.
    """
    if uri == AGENTS:
        return _contents(uri, await _agents(turn, ""))
    for template, _, _, reader in _TEMPLATES:
        matched = template.match(uri)
        if matched is not None:
            (name,) = matched.values()
            return _contents(uri, await reader(turn, str(name)))
    raise InvalidInputError(f"there is no resource {uri[:200]!r}; {AGENTS} is where to begin")


def _contents(uri: str, found: dict[str, Any]) -> ReadResourceResult:
    text = json.dumps(found, ensure_ascii=False)
    return ReadResourceResult(contents=[TextResourceContents(uri=uri, text=text, mime_type=_JSON)])
