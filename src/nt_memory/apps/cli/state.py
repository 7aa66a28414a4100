"""`nt-memory get`, `put`, `delete`, `scan` and `history`: keys and their versions."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nt_memory.apps.cli import printing
from nt_memory.apps.cli.commands import Family
from nt_memory.apps.cli.exits import NotThereError
from nt_memory.apps.cli.inputs import parse_as_of, parse_json, read_text
from nt_memory.apps.cli.options import (
    Acting,
    Agent,
    AsJson,
    AsOfText,
    Fence,
    Key,
    Limit,
    Prefix,
    Store,
    Ttl,
    Wait,
)
from nt_memory.apps.cli.running import over_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from nt_memory import Record
    from nt_memory.apps.cli.asking import Memory

Expect = Annotated[
    int | None,
    typer.Option("--expect", metavar="REVISION", help="Only if still at it; 0: only if new."),
]


def get(
    agent: Agent,
    key: Key,
    *,
    as_of: AsOfText = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Text and bytes as they are, without quotes.")
    ] = False,
    store: Store = None,
    acting: Acting = None,
    json: AsJson = False,
) -> None:
    """Print the value of a key; exit code 1 if there is none."""

    async def body(memory: Memory) -> None:
        from nt_memory.apps.cli.records import record_document  # noqa: PLC0415 - numpy
        from nt_memory.apps.cli.rendering import value_line  # noqa: PLC0415

        record = await memory.get_record(agent, key, as_of=parse_as_of(as_of))
        if record is None:
            raise NotThereError(f"{agent} has no {key}")
        if json:
            printing.document(record_document(record))
        elif raw and isinstance(record.value, str | bytes):
            _print_raw(record.value)
        else:
            printing.line(value_line(record.value))

    over_store(body, store, acting=acting)


def put(
    agent: Agent,
    key: Key,
    value: Annotated[str, typer.Argument(help="JSON, or any text with --text; - reads stdin.")],
    *,
    text: Annotated[bool, typer.Option("--text", help="VALUE is a plain string.")] = False,
    ttl: Ttl = None,
    expect: Expect = None,
    fence: Fence = None,
    store: Store = None,
    acting: Acting = None,
    wait: Wait = 0.0,
    json: AsJson = False,
) -> None:
    """Write a key, and print the revision once it is on disk; makes the store when missing."""
    raw = read_text(value)
    parsed = raw if text else parse_json(raw, "VALUE", "; for plain text add --text")

    async def body(memory: Memory) -> None:
        revision = await memory.put(agent, key, parsed, ttl=ttl, expect=expect, fence=fence)
        _print_revision(revision, as_json=json)

    over_store(body, store, writes=True, acting=acting, wait=wait)


def delete(
    agent: Agent,
    key: Key,
    *,
    expect: Expect = None,
    fence: Fence = None,
    store: Store = None,
    acting: Acting = None,
    wait: Wait = 0.0,
    json: AsJson = False,
) -> None:
    """Delete a key or an observation, and print the revision; its past stays. 1: there is none."""

    async def body(memory: Memory) -> None:
        revision = await memory.delete(agent, key, expect=expect, fence=fence)
        if revision is None:
            raise NotThereError(f"{agent} has no {key}")
        _print_revision(revision, as_json=json)

    over_store(body, store, writes=True, acting=acting, wait=wait, must_exist=True)


def scan(
    agent: Agent,
    prefix: Prefix = "",
    *,
    as_of: AsOfText = None,
    limit: Limit = None,
    store: Store = None,
    acting: Acting = None,
    json: AsJson = False,
) -> None:
    """Print an agent's keys and values, by key, one a line."""

    async def body(memory: Memory) -> None:
        records = memory.scan(agent, prefix, as_of=parse_as_of(as_of))
        await _print_records(records, lambda r, value: (r.key, value), limit, as_json=json)

    over_store(body, store, acting=acting)


def history(
    agent: Agent,
    key: Key,
    *,
    limit: Limit = None,
    store: Store = None,
    acting: Acting = None,
    json: AsJson = False,
) -> None:
    """Print every version of a key, newest first: revision, when it was known, value."""

    async def body(memory: Memory) -> None:
        await _print_records(
            memory.history(agent, key),
            lambda r, value: (str(r.revision), r.known_at.isoformat(), value),
            limit,
            as_json=json,
        )

    over_store(body, store, acting=acting)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = Family(app, "State")
    family.add(
        get,
        "get agent_1 position",
        "get agent_1 position --as-of 2026-03-02T16:00:00-05:00",
        "get agent_1 position --json | jq .revision",
        "get agent_1 position --store http://127.0.0.1:3000",
        document="Record",
    )
    family.add(
        put,
        "put agent_1 position '{\"AAPL\": 10}'",
        "put agent_1 note --text 'hold until the close'",
        "put agent_1 book - < book.json",
        "put agent_1 position '{}' --expect 12 --wait 5",
        document="Revision",
    )
    family.add(delete, "delete agent_1 note", document="Revision")
    family.add(
        scan,
        "scan agent_1",
        "scan agent_1 orders/ --json",
        "scan agent_1 --as-of 41",
        document="Record",
        streams=True,
    )
    family.add(
        history,
        "history agent_1 position",
        "history agent_1 position -n 3 --json",
        document="Record",
        streams=True,
    )


async def _print_records(
    records: AsyncIterator[Record],
    cells: Callable[[Record, str], tuple[str, ...]],
    limit: int | None,
    *,
    as_json: bool,
) -> None:
    from nt_memory.apps.cli.records import record_document  # noqa: PLC0415 - numpy
    from nt_memory.apps.cli.rendering import value_line  # noqa: PLC0415

    shown = 0
    async for record in records:
        if as_json:
            printing.document(record_document(record))
        else:
            printing.row(*cells(record, value_line(record.value)))
        shown += 1
        if shown == limit:
            return


def _print_revision(revision: int, *, as_json: bool) -> None:
    if not as_json:
        printing.line(str(revision))
        return
    from nt_memory.apps.cli import documents  # noqa: PLC0415 - only for --json

    printing.document(documents.Revision(revision=revision))


def _print_raw(value: Any) -> None:
    if isinstance(value, bytes):
        sys.stdout.flush()
        sys.stdout.buffer.write(value)
        sys.stdout.buffer.flush()
    else:
        printing.line(value)
