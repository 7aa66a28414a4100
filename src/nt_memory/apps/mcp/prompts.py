"""Prompts: what a person asks for by name, filled with what the memory knows."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from mcp_types import (
    GetPromptResult,
    ListPromptsResult,
    Prompt,
    PromptArgument,
    PromptMessage,
    TextContent,
)

from nt_memory.apps.cli.rendering import to_plain
from nt_memory.apps.mcp.tools.learning import Advise
from nt_memory.apps.mcp.tools.trajectories import decisions_of
from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from nt_memory.apps.mcp.desk import Turn
    from nt_memory.apps.mcp.tools.trajectories import Decision
    from nt_memory.reasoningbank.calibration import Calibration

MAX_REVIEWED = 50

REVIEW = Prompt(
    name="review_my_last_decisions",
    title="Review my last decisions",
    description="Looks at the newest decisions with their verdicts: what went well, what did not, "
    "what to do differently.",
    arguments=[
        PromptArgument(name="agent", description="Whose; by default your own.", required=False),
        PromptArgument(name="action_type", description="Only of this type.", required=False),
        PromptArgument(name="count", description="How many; default 10.", required=False),
    ],
)
DECIDE = Prompt(
    name="before_i_decide",
    title="Before I decide",
    description="Says what similar past situations led to, and asks for a decision to be recorded.",
    arguments=[
        PromptArgument(name="situation", description="In words.", required=True),
        PromptArgument(name="action_type", description="Which kind of action.", required=False),
    ],
)
PROMPTS = {prompt.name: prompt for prompt in (REVIEW, DECIDE)}


def list_prompts() -> ListPromptsResult:
    """All prompts; they fit on one page."""
    return ListPromptsResult(prompts=list(PROMPTS.values()))


async def get_prompt(turn: Turn, name: str, given: dict[str, str]) -> GetPromptResult:
    """A prompt, filled.

    Raises:
        InvalidInputError: there is no such prompt, or an argument is missing or unknown.
        NtMemoryError: the memory refused.
    """
    prompt = PROMPTS.get(name)
    if prompt is None:
        raise InvalidInputError(f"there is no prompt {name!r}; there are {', '.join(PROMPTS)}")
    arguments = prompt.arguments or []
    unknown = set(given) - {argument.name for argument in arguments}
    missing = [one.name for one in arguments if one.required and not given.get(one.name)]
    if unknown or missing:
        raise InvalidInputError(
            f"{name}: missing {', '.join(missing) or 'nothing'}; "
            f"unknown {', '.join(sorted(unknown)) or 'nothing'}"
        )
    text = await (_review(turn, given) if prompt is REVIEW else _before(turn, given))
    message = PromptMessage(role="user", content=TextContent(type="text", text=text))
    return GetPromptResult(description=prompt.description, messages=[message])


async def _review(turn: Turn, given: dict[str, str]) -> str:
    agent = turn.whose(given.get("agent"))
    count = given.get("count", "10")
    if not (count.isascii() and count.isdigit() and 1 <= int(count) <= MAX_REVIEWED):
        raise InvalidInputError(f"count must be 1 to {MAX_REVIEWED}, not {count!r}")
    bank = turn.memory.bank
    action_type = given.get("action_type") or None
    found = await bank.recent(agent, int(count), action_type=action_type)
    decisions = await decisions_of(turn, found, None)
    if not decisions:
        return f"{agent} has recorded no decisions yet. Say so, and how record_decision is used."
    lines = [_line(number, one) for number, one in enumerate(decisions, 1)]
    calibration = await bank.calibration(agent, action_type=action_type)
    known = [json.dumps(_shown(one), ensure_ascii=False) for one in calibration]
    return "\n".join(
        [
            f"Review the last {len(decisions)} decisions of {agent}, newest first.",
            "",
            *lines,
            "",
            "Calibration so far:",
            *(known or ["nothing is judged yet"]),
            "",
            "1. Which were good decisions, judged by what was known when they were made?",
            "2. Where do errors have a direction, a size or a situation in common?",
            "3. Do the intervals cover what they claim? Is there skill over the baseline?",
            "4. Name at most three changes to how you decide, each with the decisions that show it.",
            "Quote trajectory ids. A handful of outcomes proves little: say where that is so.",
        ]
    )


def _line(number: int, one: Decision) -> str:
    shown = one.model_dump(mode="json", exclude_none=True, exclude={"verdict", "agent"})
    verdict = "no outcome yet" if one.verdict is None else one.verdict.feedback or one.verdict.kind
    return f"{number}. {json.dumps(shown, ensure_ascii=False)}\n   verdict: {verdict}"


def _shown(calibration: Calibration) -> dict[str, Any]:
    found = {one.name: to_plain(getattr(calibration, one.name)) for one in fields(calibration)}
    return {name: value for name, value in found.items() if isinstance(value, int | float | str)}


async def _before(turn: Turn, given: dict[str, str]) -> str:
    situation = given["situation"]
    asked = Advise(text=situation, action_type=given.get("action_type") or None)
    advice = await asked.run(turn)
    return "\n".join(
        [
            f"The situation: {situation}",
            "",
            f"What similar past decisions say ({advice.advice_id}): {advice.said}",
            "",
            "Decide. State what you expect as a number with an interval, and what would prove you "
            "wrong. Then call record_decision with the situation as text, your prediction, and this "
            "advice_id if you acted on it. Where nothing similar is known, say so.",
        ]
    )
