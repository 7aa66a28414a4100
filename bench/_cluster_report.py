"""What a cluster's benchmark found, as Markdown and JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from _harness import duration

from nt_memory.apps.bench.machine import described

if TYPE_CHECKING:
    from pathlib import Path

PUTS = ("put, 1 writer", "put, 64 writers", "put, 2 x 64 writers")
ACROSS = {
    "changes": "put here to readable there",
    "messages": "publish here to received there",
}
LOCAL = {"get": "local get, hot", "search": "local search, k = 10"}
NOTES = """\
*Put*: acknowledged, and visible to whoever wrote it. In a cluster that is after the stream has stored it and this node has
applied it; at Redis and PostgreSQL, after the server has. *2 x 64*: two processes of 64 writers each, together. *Readable there*:
another process reads it from its own replica through a pin, or, of the others, by asking the server once it was told
of the change (keyspace notification, NOTIFY). *Default*: NATS syncs every two minutes, so what is acknowledged can be lost with
the power, on one server, or on most of three at once. Redis' append-only file is synced before each answer, PostgreSQL's log
at each commit.

What the others do not do here: keep earlier versions, serve reads without asking the server, or replicate. What a cluster
does not do: answer faster than the disk, with `always`.
"""


def write_report(found: dict[str, Any], where: dict[str, object], command: str, out: Path) -> str:
    """Write `<date>-cluster.json` and `.md`; the latter's text."""
    out.mkdir(parents=True, exist_ok=True)
    stem = f"{str(where['date'])[:10]}-cluster"
    text = "\n".join([f"# {stem}", "", f"`{command}`", "", *described(where), "", render(found)])
    (out / f"{stem}.md").write_text(text)
    document = {"machine": where, "command": command, **found}
    (out / f"{stem}.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return text


def render(found: dict[str, Any]) -> str:
    """The tables."""
    columns: dict[str, dict[str, Any]] = found["columns"]
    lines = [f"Servers: {', '.join(found['servers'])}."]
    lines += [f"Missing, and so not measured: {what}." for what in found["missing"]]
    lines += ["", "| p50 / p99 | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [_line(name, [_put(one.get(name)) for one in columns.values()]) for name in PUTS]
    for key, name in (ACROSS | LOCAL).items():
        lines.append(_line(name, [_span(one.get(key)) for one in columns.values()]))
    lines += ["", NOTES, "| | " + " | ".join(_clusters(columns)) + " |"]
    lines.append("|---" * (len(_clusters(columns)) + 1) + "|")
    of = list(_clusters(columns).values())
    lines += [
        _line(
            "join from the stream's beginning",
            [
                f"{duration(one['join']['seconds'])} for {one['join']['entries']:,} entries, with "
                f"{one['join']['observations']:,} observations"
                for one in of
            ],
        ),
        _line("processor time of a node that follows, an entry", [_us(one, "node") for one in of]),
        _line("processor time of all servers, an entry", [_us(one, "servers") for one in of]),
        _line("bytes in the stream, an entry", [f"{one['costs']['bytes']:.0f}" for one in of]),
        _line(
            "entries a message, 64 writers",
            [f"{one['costs']['entries_a_message']:.0f}" for one in of],
        ),
        _line(
            "longest time without an acknowledged put when the leader is killed",
            [
                duration(one["leader loss"]["seconds"]) if "leader loss" in one else "–"
                for one in of
            ],
        ),
        "",
    ]
    return "\n".join(lines)


def _clusters(columns: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: one for name, one in columns.items() if "join" in one}


def _line(name: str, cells: list[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"


def _span(one: dict[str, float] | None) -> str:
    return "–" if one is None else f"{duration(one['p50'])} / {duration(one['p99'])}"


def _put(one: dict[str, float] | None) -> str:
    return "–" if one is None else f"{one['a_second']:,.0f}/s; {_span(one)}"


def _us(one: dict[str, Any], whose: str) -> str:
    return f"{one['costs'][f'{whose}_cpu_us']:.0f} µs"
