"""Tools over messages between agents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from mcp_types import ToolAnnotations
from pydantic import Field
from typing_extensions import override

from nt_memory.apps.cli.rendering import to_plain
from nt_memory.apps.mcp.desk import MAILBOX_MESSAGES
from nt_memory.apps.mcp.tool import ADDS, Answer, Tool

if TYPE_CHECKING:
    from nt_memory.apps.mcp.desk import Turn

MAX_WAIT_S = 600.0


class Published(Answer):
    """How far a message went."""

    topic: str
    subscriptions: Annotated[int, Field(description="How many got it.")]


class Publish(Tool):
    """Send a message to whoever reads its topic now. Messages are not kept: what others should
    find later, remember."""  # noqa: D205, D209

    called: ClassVar[str] = "publish"
    title: ClassVar[str] = "Publish a message"
    effect: ClassVar[ToolAnnotations] = ADDS
    answers: ClassVar[type[Answer]] = Published

    topic: Annotated[str, Field(description="Levels with / between, such as desk/alerts.")]
    message: Annotated[Any, Field(description="Any JSON value.")]

    @override
    async def run(self, turn: Turn) -> Published:
        reached = await turn.memory.publish(self.topic, self.message)
        return Published(topic=self.topic, subscriptions=reached)


class Read(Answer):
    """One message."""

    topic: str
    message: Any


class Messages(Answer):
    """What came since the last call."""

    messages: list[Read]
    dropped: Annotated[int, Field(description="Lost since the last call: the mailbox was full.")]
    opened_now: Annotated[
        bool, Field(description="The mailbox was opened by this call: nothing came before it.")
    ]


class ReadMessages(Tool):
    """Read what was published under a pattern since you last called this with it. The first call
    opens the mailbox, and what is published from then on waits in it: 1,024 messages, of which the
    oldest are lost first."""  # noqa: D205, D209

    called: ClassVar[str] = "read_messages"
    title: ClassVar[str] = "Read messages"
    effect: ClassVar[ToolAnnotations] = ADDS
    answers: ClassVar[type[Answer]] = Messages

    pattern: Annotated[
        str, Field(description="A topic; * stands for one level, a final ** for the rest.")
    ]
    wait_s: Annotated[
        float, Field(ge=0, le=MAX_WAIT_S, description="How long to wait for the first.")
    ] = 0.0
    limit: Annotated[int, Field(ge=1, le=MAILBOX_MESSAGES)] = 50
    then_close: Annotated[bool, Field(description="Close the mailbox afterwards.")] = False

    @override
    async def run(self, turn: Turn) -> Messages:
        mailbox, is_new = await turn.desk.mailbox(self.pattern)
        asked = mailbox.read(self.limit, self.wait_s)
        found, dropped = await turn.wait(asked, self.wait_s, lambda: f"nothing for {self.pattern}")
        if self.then_close:
            await turn.desk.close_mailbox(self.pattern)
        return Messages(
            messages=[Read(topic=one.topic, message=to_plain(one.value)) for one in found],
            dropped=dropped,
            opened_now=is_new,
        )


TOOLS: tuple[type[Tool], ...] = (Publish, ReadMessages)
