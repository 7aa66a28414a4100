"""`nt-memory publish` and `subscribe`: messages, which a server carries and a directory does not.

Messages are ephemeral and live inside the process that publishes them. A command is a process of its
own, so over a directory it would always reach nobody and hear nothing. Both commands say so, after
checking what they were given, rather than pretend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nt_memory.apps.cli import printing
from nt_memory.apps.cli.commands import Family
from nt_memory.apps.cli.feeds import show_as_they_come
from nt_memory.apps.cli.inputs import parse_json, read_text
from nt_memory.apps.cli.options import AsJson, Limit, Store, Timeout
from nt_memory.apps.cli.running import check_exists, locate, over_store
from nt_memory.errors import UnsupportedError
from nt_memory.topics import check_pattern, check_topic

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from nt_memory.apps.cli.asking import Came, Memory, Receiving

_WHY = "messages live inside the process that publishes them and are not stored, so in {path} "


def publish(
    topic: Annotated[str, typer.Argument(help="Such as agent_1/fills.", show_default=False)],
    message: Annotated[str, typer.Argument(help="JSON; - reads stdin.", show_default=False)],
    *,
    store: Store = None,
    json: AsJson = False,
) -> None:
    """Send a message through a server, and print how many subscriptions it reached.

    Over a directory it ends with exit code 8. What other processes shall see there goes into a key:
    they follow it with watch.
    """
    check_topic(topic)
    value = parse_json(read_text(message), "MESSAGE")
    _check_carries(
        store, "nobody would get this one; put it under a key, which other processes watch"
    )

    async def body(memory: Memory) -> None:
        reached = await memory.publish(topic, value)
        if json:
            from nt_memory.apps.cli import documents  # noqa: PLC0415 - numpy

            printing.document(documents.Published(topic=topic, reached=reached))
        else:
            printing.line(str(reached))

    over_store(body, store, writes=True)


def subscribe(
    pattern: Annotated[
        str, typer.Argument(help="Such as 'agent_1/*' or '**'.", show_default=False)
    ],
    *,
    limit: Limit = None,
    timeout: Timeout = None,
    store: Store = None,
    json: AsJson = False,
) -> None:
    """Print messages as they come through a server, until Ctrl-C.

    From now on. Ends after --limit messages, or with exit code 6 once --timeout passes without one.
    Over a directory it ends with exit code 8: what other processes write there is seen with watch, by
    key, and with tail -f, entry by entry.
    """
    check_pattern(pattern)
    _check_carries(
        store, "none can be heard from here; watch follows keys, tail -f all that is written"
    )

    async def body(memory: Memory) -> None:
        from nt_memory.apps.cli import documents  # noqa: PLC0415 - numpy
        from nt_memory.apps.cli.rendering import to_plain, value_line  # noqa: PLC0415

        receiver = await memory.subscribe(pattern)
        lost = 0

        def show(came: Came) -> None:
            nonlocal lost
            if receiver.dropped > lost:
                printing.note(
                    f"nt-memory: {receiver.dropped - lost} messages came too fast, and are lost"
                )
                lost = receiver.dropped
            if json:
                value = to_plain(came.value)
                printing.document(
                    documents.Message(topic=came.topic, message=value, dropped=receiver.dropped)
                )
            else:
                printing.row(came.topic, value_line(came.value))

        try:
            await show_as_they_come(_messages(receiver), show, limit, timeout)
        finally:
            await receiver.close()

    over_store(body, store)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = Family(app, "Coordination")
    family.add(
        publish,
        "publish agent_1/fills '{\"AAPL\": 10}' --store http://127.0.0.1:3000",
        "publish agent_1/book - --store http://127.0.0.1:3000 < book.json",
        document="Published",
    )
    family.add(
        subscribe,
        "subscribe 'agent_1/*' --store http://127.0.0.1:3000",
        "subscribe '**' --store http://127.0.0.1:3000 --limit 10 --json",
        document="Message",
        streams=True,
    )


async def _messages(receiver: Receiving) -> AsyncGenerator[Came]:
    while True:
        yield await receiver.recv_message()


def _check_carries(store: str | None, instead: str) -> None:
    """Refuse what carries no messages between processes.

    Raises:
        UnsupportedError: it is a directory; with what to do instead.
    """
    config, _ = locate(store)
    if config.url is None:
        check_exists(config)
        raise UnsupportedError(_WHY.format(path=config.storage_path) + instead)
