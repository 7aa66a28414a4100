"""`nt-memory search` and `observe`: what resembles a situation, and remembering one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nt_memory.apps.cli import printing
from nt_memory.apps.cli.commands import Family
from nt_memory.apps.cli.inputs import parse_as_of, parse_json, with_embedding
from nt_memory.apps.cli.options import (
    Acting,
    Agent,
    Agents,
    AsJson,
    AsOfText,
    Fence,
    Like,
    Store,
    Text,
    Ttl,
    Vector,
    Wait,
)
from nt_memory.apps.cli.running import over_store

if TYPE_CHECKING:
    from nt_memory import Hit
    from nt_memory.apps.cli.asking import Memory

Tags = Annotated[
    list[str] | None, typer.Option("--tag", metavar="TAG", help="A label; may be repeated.")
]


def search(
    agents: Agents,
    *,
    vector: Vector = None,
    text: Text = None,
    like: Like = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", metavar="K", help="How many.")] = 10,
    tag: Tags = None,
    where: Annotated[
        str | None,
        typer.Option(metavar="JSON", help='Only data that passes, such as {"symbol": "AAPL"}.'),
    ] = None,
    as_of: AsOfText = None,
    exact: Annotated[bool, typer.Option("--exact", help="Scan instead of searching.")] = False,
    store: Store = None,
    acting: Acting = None,
    json: AsJson = False,
) -> None:
    """Print the observations most similar to an embedding, best first."""
    passes = None if where is None else parse_json(where, "--where")

    async def body(memory: Memory) -> None:
        async def use(embedding: Any) -> list[Hit]:
            return await memory.search_similar(
                agents,
                embedding,
                top_k,
                as_of=parse_as_of(as_of),
                tags=tag or None,
                where=passes,
                exact=exact,
            )

        _print_hits(await with_embedding(memory, agents[0], (vector, text, like), use), json)

    over_store(body, store, acting=acting)


def observe(
    agent: Agent,
    data: Annotated[str, typer.Argument(help="JSON to remember with it.")] = "null",
    *,
    vector: Vector = None,
    text: Text = None,
    key: Annotated[str | None, typer.Option(help="Its key; made up when left out.")] = None,
    tag: Tags = None,
    ttl: Ttl = None,
    fence: Fence = None,
    store: Store = None,
    acting: Acting = None,
    wait: Wait = 0.0,
    json: AsJson = False,
) -> None:
    """Remember something with the situation it belongs to, and print its key."""
    parsed = parse_json(data, "DATA")

    async def body(memory: Memory) -> None:
        from nt_memory.apps.cli import documents  # noqa: PLC0415 - numpy

        async def use(embedding: Any) -> str:
            return await memory.observe(
                agent, embedding, parsed, key=key, tags=tag or (), ttl=ttl, fence=fence
            )

        name = await with_embedding(memory, agent, (vector, text, None), use)
        if json:
            printing.document(documents.Observed(agent=agent, key=name))
        else:
            printing.line(name)

    over_store(body, store, writes=True, acting=acting, wait=wait)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = Family(app, "Similarity")
    family.add(
        search,
        "search agent_1 --vector '[0.9, 0.1, 0.4]' -k 3",
        'search agent_1 agent_2 --like obs/2026-03-02 --where \'{"symbol": "AAPL"}\'',
        "search desk_1 --text 'chip maker cuts its outlook' --tag news --json",
        document="Hit",
        streams=True,
    )
    family.add(
        observe,
        "observe agent_1 '{\"outcome\": \"fell\"}' --vector '[0.9, 0.1, 0.4]' --tag crash",
        "observe desk_1 --text 'chip maker cuts its outlook' --tag news",
        "observe agent_1 --vector @situation.npy --key today",
        document="Observed",
    )


def _print_hits(hits: list[Hit], as_json: bool) -> None:  # noqa: FBT001 - private
    from nt_memory.apps.cli import documents  # noqa: PLC0415 - numpy
    from nt_memory.apps.cli.rendering import to_plain, value_line  # noqa: PLC0415

    if as_json:
        for hit in hits:
            printing.document(
                documents.Hit(
                    agent=hit.agent,
                    key=hit.key,
                    score=hit.score,
                    data=to_plain(hit.data),
                    known_at=hit.known_at,
                    revision=hit.revision,
                )
            )
        return
    printing.table(
        ("score", "agent", "key", "known at", "data"),
        [
            (f"{h.score:.4f}", h.agent, h.key, h.known_at.isoformat(), value_line(h.data))
            for h in hits
        ],
    )
