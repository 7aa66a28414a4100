"""`nt-memory publish` and `subscribe`: messages, which an embedded store does not carry.

Messages are ephemeral and live inside the process that publishes them. A command is a process of its
own, so over a directory it would always reach nobody and hear nothing. Both commands say so, after
checking what they were given, rather than pretend.
"""

from __future__ import annotations

from typing import Annotated

import typer

from nt_memory.apps.cli.commands import Family
from nt_memory.apps.cli.inputs import parse_json, read_text
from nt_memory.apps.cli.options import AsJson, Limit, Store, Timeout
from nt_memory.apps.cli.running import check_exists, locate
from nt_memory.errors import UnsupportedError
from nt_memory.topics import check_pattern, check_topic

_WHY = "messages live inside the process that publishes them and are not stored, so in {path} "


def publish(
    topic: Annotated[str, typer.Argument(help="Such as agent_1/fills.", show_default=False)],
    message: Annotated[str, typer.Argument(help="JSON; - reads stdin.", show_default=False)],
    *,
    store: Store = None,
    json: AsJson = False,
) -> None:
    """Send a message to subscribers: needs a server, since a store in a directory has none.

    Over a directory it ends with exit code 8. What other processes shall see goes into a key: they
    follow it with watch.
    """
    del json
    check_topic(topic)
    parse_json(read_text(message), "MESSAGE")
    config, _ = locate(store)
    check_exists(config)
    raise UnsupportedError(
        _WHY.format(path=config.storage_path)
        + "nobody would get this one; put it under a key, which other processes watch"
    )


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
    """Print messages as they come: needs a server, since a store in a directory has none.

    Over a directory it ends with exit code 8. What other processes write there is seen with watch, by
    key, and with tail -f, entry by entry.
    """
    del limit, timeout, json
    check_pattern(pattern)
    config, _ = locate(store)
    check_exists(config)
    raise UnsupportedError(
        _WHY.format(path=config.storage_path)
        + "none can be heard from here; watch follows keys, tail -f all that is written"
    )


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = Family(app, "Coordination")
    family.add(
        publish,
        "publish agent_1/fills '{\"AAPL\": 10}'",
        "put agent_1 fills/last '{\"AAPL\": 10}'",
    )
    family.add(subscribe, "subscribe 'agent_1/*'", "watch agent_1 fills/")
