"""Options and arguments that commands share, so that they are spelled alike everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

from nt_memory.apps.cli import completing

Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="DIR|URL",
        envvar="NT_MEMORY_URL",
        help="Directory of the store, or the URL of a server (http://127.0.0.1:3000) or a cluster "
        "(nats://127.0.0.1:4222/default). "
        "[default: NT_MEMORY_STORAGE_PATH, or ./data/memory]",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON, one document a line, with all fields.")
]
Acting = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="AGENT",
        help="In this agent's name, and within its rights.",
        autocompletion=completing.agents,
    ),
]
Wait = Annotated[
    float,
    typer.Option(
        "--wait",
        metavar="SECONDS",
        min=0.0,
        help="Wait this long for a store that another process writes, or a server that starts.",
    ),
]
AsOfText = Annotated[
    str | None,
    typer.Option(
        "--as-of",
        metavar="TIME|REVISION",
        help="What was known then: an ISO 8601 time with its offset, or a revision.",
    ),
]
Fence = Annotated[
    int | None,
    typer.Option(
        "--fence",
        metavar="N",
        help="Only while the lock grant of this number is current.",
        envvar="NT_LOCK_FENCE",
    ),
]
Ttl = Annotated[
    float | None, typer.Option("--ttl", metavar="SECONDS", help="Forget it after this long.")
]
Agent = Annotated[
    str,
    typer.Argument(
        help="Whose memory, such as agent_1.",
        show_default=False,
        autocompletion=completing.agents,
    ),
]
Agents = Annotated[
    list[str],
    typer.Argument(
        metavar="AGENT...",
        help="Whose memories, such as agent_1.",
        show_default=False,
        autocompletion=completing.agents,
    ),
]
Key = Annotated[
    str,
    typer.Argument(
        help="Which key, such as position.",
        show_default=False,
        autocompletion=completing.keys,
    ),
]
Prefix = Annotated[
    str,
    typer.Argument(help="Only keys that start with it.", autocompletion=completing.keys),
]
Vector = Annotated[
    str | None,
    typer.Option(
        "--vector",
        metavar="JSON|@FILE|-",
        help="The embedding: a JSON array, a file of one (or .npy), or - for stdin.",
    ),
]
Text = Annotated[
    str | None,
    typer.Option(
        "--text", help="Embed this text by its wording (HashingTextEmbedder), without a model."
    ),
]
Like = Annotated[
    str | None,
    typer.Option(
        "--like",
        metavar="KEY",
        help="The embedding of an observation of the first AGENT.",
        autocompletion=completing.keys,
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", metavar="SECONDS", min=0.0, help="Give up after this long."),
]
Limit = Annotated[
    int | None, typer.Option("--limit", "-n", metavar="N", min=1, help="At most so many.")
]
