"""What a story is told from, what it is, and where it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol

from nt_memory.clock import to_datetime
from nt_memory.errors import InvalidInputError
from nt_memory.namespace import MAX_KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nt_memory.reasoningbank.pattern import Pattern
    from nt_memory.system.memory import MemorySystem

PREFIX = "stories/"
EXAMPLES = 3
"""Trajectories told of that worked, and of those that failed."""
MAX_TITLE, MAX_DESCRIPTION, MAX_CONTENT = 120, 500, 4_000
MAX_EXAMPLE = 1_000
_NUMBERS = (
    "n",
    "n_effective",
    "unit",
    "outcome_mean",
    "outcome_error",
    "outcome_quantiles",
    "success_rate",
    "success_low",
    "success_high",
    "failures",
    "failure_error",
    "effect",
    "effect_error",
    "p_value",
    "is_promoted",
    "trust",
    "summary",
    "contrast",
)


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a teller is given of one pattern.

    Attributes:
        pattern: Its id.
        agent: Whose.
        action_type: Of which actions.
        said: The pattern in words made from its numbers.
        numbers: The numbers, by name.
        worked: Trajectories whose forecasts were best there: what was seen, done and came, in short.
        failed: The same of the worst.
    """

    pattern: str
    agent: str
    action_type: str
    said: str
    numbers: Mapping[str, Any]
    worked: Sequence[str] = ()
    failed: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Story:
    """A pattern in words.

    Attributes:
        pattern: Id of the pattern.
        title: At most 120 characters.
        description: When it applies; at most 500 characters.
        content: What to do and what to beware of; at most 4,000 characters.
        teller: Who wrote it.
    """

    pattern: str
    title: str
    description: str
    content: str
    teller: str

    def __post_init__(self) -> None:
        """Refuse what is no story.

        Raises:
            InvalidInputError: a part is missing, no text, or too long.
        """
        for name, most in (
            ("title", MAX_TITLE),
            ("description", MAX_DESCRIPTION),
            ("content", MAX_CONTENT),
        ):
            text = getattr(self, name)
            if not isinstance(text, str) or not text.strip() or len(text) > most:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InvalidInputError(f"a story's {name} must be text of 1 to {most} characters")


class StoryTeller(Protocol):
    """Writes stories; `OpenAIStoryTeller` does so with any OpenAI-compatible endpoint."""

    @property
    def name(self) -> str:
        """Who writes: noted with each story."""
        ...

    async def tell(self, facts: Facts) -> Story:
        """The story of one pattern."""
        ...


async def tell_stories(
    memory: MemorySystem,
    agent: str,
    teller: StoryTeller,
    *,
    action_type: str | None = None,
    promoted_only: bool = True,
) -> list[Story]:
    """Have stories written of an agent's patterns, and keep them as the agent's state.

    A pattern that has a story of this teller is left alone, so a call that was cut short is resumed by
    calling again; patterns are not changed, and neither is any advice.

    Args:
        memory: Where the patterns are.
        agent: Whose.
        teller: Who writes.
        action_type: Only of this type.
        promoted_only: Only of patterns that were promoted; others may be luck.

    Returns:
        The stories of those patterns, the ones that were there already included.

    Raises:
        InvalidInputError: the teller wrote something that is no story. Nothing of it is kept.
        And what the teller raises.
    """
    stories: list[Story] = []
    for pattern in await memory.bank.patterns(agent):
        if action_type not in {None, pattern.action_type}:
            continue
        if promoted_only and not pattern.is_promoted:
            continue
        kept = await read_story(memory, agent, pattern.id)
        if kept is None or kept.teller != teller.name:
            kept = await teller.tell(await _facts(memory, pattern))
            if kept.pattern != pattern.id:
                raise InvalidInputError(f"asked for {pattern.id!r}, told of {kept.pattern!r}")
            text = {"title": kept.title, "description": kept.description, "content": kept.content}
            value = {**text, "pattern": pattern.id, "teller": teller.name}
            await memory.put(agent, _key(pattern.id), value)
        stories.append(kept)
    return stories


async def read_story(
    memory: MemorySystem, agent: str, pattern: str, *, as_of: Any = None
) -> Story | None:
    """The story kept of a pattern, by the pattern's id; None if there is none."""
    found = await memory.get(agent, _key(pattern), as_of=as_of)
    return None if found is None else Story(**dict(found))


def _key(pattern: str) -> str:
    key = PREFIX + pattern
    if len(key.encode()) <= MAX_KEY_BYTES:
        return key
    return PREFIX + blake2b(pattern.encode(), digest_size=16).hexdigest()


async def _facts(memory: MemorySystem, pattern: Pattern) -> Facts:
    return Facts(
        pattern=pattern.id,
        agent=pattern.agent,
        action_type=pattern.action_type,
        said=pattern.describe(),
        numbers={name: getattr(pattern, name) for name in _NUMBERS},
        worked=[await _example(memory, one) for one in pattern.worked[:EXAMPLES]],
        failed=[await _example(memory, one) for one in pattern.failed[:EXAMPLES]],
    )


async def _example(memory: MemorySystem, trajectory_id: str) -> str:
    found = await memory.bank.trajectory(trajectory_id)
    if found is None:
        return "forgotten since"
    parts = [f"saw {one.data!r}" for one in found.observations if one.data is not None]
    outcomes = {one.action: one for one in found.outcomes}
    for index, action in enumerate(found.actions):
        doc = action.doc
        parts.append(f"did {doc.action_type} {action.parameters!r}")
        if doc.predicted is not None:
            parts.append(f"predicted {doc.predicted:.4g}, baseline {doc.baseline!r}")
        if index in outcomes:
            at = outcomes[index].at
            when = "" if at is None else f" by {to_datetime(at):%Y-%m-%d}"
            parts.append(f"{outcomes[index].value:.4g} came{when}")
    return "; ".join(parts)[:MAX_EXAMPLE]
