"""What `coordination` found, as tables, and what of it is promised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nt_memory.apps.bench.coordinating import CONTENDED, THREADS, WINDOW
from nt_memory.apps.bench.coordinators import COORDINATORS, FLOOR, OURS, RELAXED
from nt_memory.apps.bench.figures import duration
from nt_memory.apps.bench.machine import version
from nt_memory.apps.bench.report import Row, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nt_memory.apps.bench.coordination import CoordinationOptions

    Results = dict[str, dict[str, Any]]

BAR_S, AIM_S = 1e-3, 50e-6
FEW = 10
"""Receivers up to which the bar of a message is judged: to wake a thousand tasks takes longer."""
_DASH = "–"


def tables_of(results: Results, options: CoordinationOptions) -> list[Table]:
    """A table a kind of work, and one of who is who."""
    return [
        _messages(results, options),
        _threads(results),
        _locks(results, options),
        _proposals(results, options),
        _who_is_who(results),
    ]


def _messages(results: Results, options: CoordinationOptions) -> Table:
    lines: list[list[str]] = []
    for count in options.receivers:
        for who, found in _doing("messages", results):
            point = found.get("messages", {}).get(str(count))
            start = [who, f"{count:,}"]
            if point is None:
                lines.append([*start, _why(found), *[_DASH] * 5])
                continue
            rates = [_rate(point["messages_per_s"]), _rate(point["deliveries_per_s"])]
            lines.append([*start, *_latency(point), duration(point["max"]), *rates])
    notes = [
        "Latency: seconds from before the publish until a receiver's task has the message in hand, over "
        "all receivers. Each message goes to receivers that already wait; the next one once all have it.",
        f"Rates: {WINDOW} messages under way at a time, so that nobody drops any.",
        "blinker's receivers are functions called by the publisher, not tasks: it is what a plain call "
        "costs.",
    ]
    head = ("who", "receivers", "p50", "p95", "p99", "max", "messages/s", "received/s")
    return Table("Messages to tasks", head, lines, notes)


def _threads(results: Results) -> Table:
    lines: list[list[str]] = []
    for who, found in _doing("threads", results):
        point = found.get("threads")
        if point is None:
            lines.append([who, _why(found), *[_DASH] * 4])
            continue
        lines.append(
            [who, *_latency(point), duration(point["max"]), _rate(point["messages_per_s"])]
        )
    notes = [
        f"One thread publishes, {THREADS} others receive; the next message is sent once all have it. "
        "nt-memory by `open_sync`: each call goes through its event loop, a thread of its own."
    ]
    head = ("who", "p50", "p95", "p99", "max", "messages/s")
    return Table("Messages to threads", head, lines, notes)


def _locks(results: Results, options: CoordinationOptions) -> Table:
    lines: list[list[str]] = []
    for who, found in _doing("locks", results):
        alone, contended = found.get("alone"), found.get("contended")
        first = [who, *([_DASH] * 3 if alone is None else _alone(alone))]
        if contended is None:
            lines.append([*first, _why(found), *[_DASH] * 8])
        else:
            lines.append([*first, *_contended(contended)])
    head = (
        "who",
        "alone, pairs/s",
        "p50",
        "p99",
        "contended, sections/s",
        "wait p50",
        "p95",
        "p99",
        "max",
        "Jain",
        "fewest to most",
        "overtaken",
        "lost updates",
    )
    notes = [
        "Alone: acquire and release by one task. Contended: "
        f"{options.contenders} tasks, each of which wants the lock again at once, for "
        f"{CONTENDED * options.seconds:g} s, over a counter that is read, left for a turn of the loop "
        "and written.",
        "Jain's index of how often each task got it: 1 if all alike, 1/n if one always. Overtaken: the "
        "most grants to others that asked later, while one waited; 0 is first come, first served.",
    ]
    return Table("Locks", head, lines, notes)


def _alone(found: dict[str, Any]) -> list[str]:
    return [_rate(found["pairs_per_s"]), duration(found["p50"]), duration(found["p99"])]


def _contended(found: dict[str, Any]) -> list[str]:
    return [
        _rate(found["sections_per_s"]),
        *_latency(found),
        duration(found["max"]),
        f"{found['jain']:.3f}",
        f"{found['fewest']:,} to {found['most']:,}",
        f"{found['most_overtaken']:,}",
        f"{found['lost']:,}",
    ]


def _proposals(results: Results, options: CoordinationOptions) -> Table:
    lines: list[list[str]] = []
    for count in options.voters:
        for who, found in _doing("proposals", results):
            point = found.get("proposals", {}).get(str(count))
            start = [who, f"{count:,}"]
            if point is None:
                lines.append([*start, _why(found), *[_DASH] * 4])
                continue
            all_votes = duration(point["acknowledged"]["p50"])
            lines.append([*start, *_latency(point), all_votes, _rate(point["votes_per_s"])])
    notes = [
        "From the call that submits to the moment somebody who waits knows the decision; all vote at "
        "once, two thirds decide. Every proposal and vote is an entry.",
        "None of the others has votes.",
    ]
    head = ("who", "voters", "p50", "p95", "p99", "all votes acknowledged, p50", "votes/s")
    return Table("Proposals, from submission to decision", head, lines, notes)


def _who_is_who(results: Results) -> Table:
    lines: list[list[str]] = []
    for who in results:
        about = COORDINATORS[who].about
        server = results[who].get("messages", {}).get("server", "")
        named = f"{who} {version(about.package)}" if about.package else who
        lines.append(
            [
                f"{named}, {server}" if server else named,
                about.messages or _DASH,
                about.locks or _DASH,
                about.lacks,
            ]
        )
    notes = [
        "Nothing of the others is on disk or survives its process or server; this memory's locks and "
        "votes are, and do. A lock without a fence cannot stop a holder that was paused past its lease.",
    ]
    return Table("Who is who", ("who", "messages", "lock", "what it does not do"), lines, notes)


def bars_of(results: Results, options: CoordinationOptions) -> list[Row]:
    """Every promise that the run measured."""
    ours = results[OURS]
    rows = [
        _message_row(count, ours["messages"]["messages"][str(count)], results)
        for count in options.receivers
        if str(count) in ours["messages"].get("messages", {})
    ]
    for who in (OURS, RELAXED):
        contended = results[who]["locks"].get("contended")
        if contended is not None:
            rows.append(_fair_row(who, contended, options))
    return rows


def _message_row(count: int, point: dict[str, float], results: Results) -> Row:
    floor = results.get(FLOOR, {}).get("messages", {}).get("messages", {}).get(str(count))
    beside = f"; {point['p99'] / floor['p99']:.1f}x asyncio's queues" if floor else ""
    is_judged = count <= FEW
    return Row(
        f"message between agents in one process, {count:,} receiving",
        f"p50 {duration(point['p50'])}, p99 {duration(point['p99'])}{beside}",
        "p99 < 1 ms" if is_judged else "",
        "p50 < 50 µs" if is_judged else "",
        point["p99"] < BAR_S if is_judged else None,
        dict(point),
    )


def _fair_row(who: str, found: dict[str, Any], options: CoordinationOptions) -> Row:
    return Row(
        f"{options.contenders} contenders for one lock, {who}",
        f"{found['lost']:,} updates lost; overtaken {found['most_overtaken']:,} times at most",
        "none lost, none overtaken",
        "",
        found["lost"] == 0 and found["most_overtaken"] == 0,
        {name: float(found[name]) for name in ("lost", "most_overtaken", "jain")},
    )


def _doing(work: str, results: Results) -> Iterator[tuple[str, dict[str, Any]]]:
    for who, works in results.items():
        if work in works:
            yield who, works[work]


def _why(found: dict[str, Any]) -> str:
    return str(found.get("failure") or "not measured")


def _latency(found: dict[str, Any]) -> list[str]:
    return [duration(found[name]) for name in ("p50", "p95", "p99")]


def _rate(per_s: float) -> str:
    return f"{per_s:,.0f}"
