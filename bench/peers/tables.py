"""The findings as tables, charts and JSON."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nt_memory.apps.bench.figures import duration
from nt_memory.apps.bench.report import Findings, Table
from nt_memory.apps.demo.charts import Axes, Bar, bar_chart
from peers.adapters import LIMIT, OURS
from peers.workload import AGENTS, SYMBOLS, K

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from peers.workload import Sizes

    Found = Mapping[str, Mapping[str, Any]]

NAME = "peers"
WIDTH = 640
NOTHING = "–"
CHARTS = {
    "put": "State update, acknowledged",
    "observe": "One situation stored, acknowledged",
    "search": "Ten most alike",
    "search_symbol": "Ten most alike of one instrument",
    "episode": "Decision and outcome stored",
    "message": "Message to another task",
    "lock": "Lock taken and given back",
}
# The report's page brings its own; a file that stands alone needs them inside.
STYLE = """
text{font:13px system-ui,sans-serif;fill:#444}.name{font-weight:600;fill:#222}
.grid{stroke:#ddd;fill:none}.reference{stroke:#999;fill:none}
.interval{stroke:#8a8f98;stroke-width:2}.dot{fill:#8a8f98}
.s-ours .interval{stroke:#0b63c5}.s-ours .dot{fill:#0b63c5}
.s-limit .interval,.s-limit .dot{stroke:#b26a00;fill:#b26a00}
@media(prefers-color-scheme:dark){text{fill:#bbb}.name{fill:#eee}.grid{stroke:#444}}
"""


def write(out: Path, command: str, where: dict[str, object], sizes: Sizes, found: Found) -> str:
    """Write `<date>-peers.md` and `.json` and a chart of each kind of call; what is to be read."""
    tables = [_calls(found), _situations(found, sizes), _kept(found), _past(found), _setup(found)]
    document = {"sizes": asdict(sizes), "peers": found}
    findings = Findings(NAME, command, where, [_about(sizes), *tables], [], document)
    _, text = findings.write(out)
    stem = text.with_suffix("")
    drawn = [kind for kind in CHARTS if _draw(stem, kind, found)]
    text.write_text(
        text.read_text()
        + "\n## Charts\n\n"
        + "\n\n".join(f"![{CHARTS[kind]}: p50 to p99]({stem.name}-{kind}.svg)" for kind in drawn)
        + "\n"
    )
    return findings.text()


def _about(sizes: Sizes) -> Table:
    lines = [
        [
            "situations there before",
            f"{sizes.rows:,} of {sizes.dim} dimensions, with about 100 bytes each",
        ],
        [
            "state",
            f"one record of ten fields for each of {AGENTS} agents, updated and read in turn",
        ],
        [
            "search",
            f"the {K} most alike of all; of those of one of {SYMBOLS} instruments; recall against a scan",
        ],
        [
            "episode",
            "a decision in a situation, and later its outcome; then the outcomes in similar ones",
        ],
        ["message, lock", "from one task or thread to another, there; a lock nobody else wants"],
        [
            "given",
            f"one call after another, at most {sizes.limit_s:g} s each kind; numerics on one thread",
        ],
        ["beside it", f"load average of the machine at the end: {os.getloadavg()[0]:.1f}"],
        [
            "embedding",
            "looked up, so it costs nothing: what is measured is the memory, not a model",
        ],
    ]
    return Table("The workload", ("what", "how"), lines)


def _cell(found: Mapping[str, Any], kind: str) -> str:
    if kind in found:
        one = found[kind]
        return f"{duration(one['p50'])} / {duration(one['p99'])}, {_rate(one['rate'])}"
    return _absent(found)


def _absent(found: Mapping[str, Any]) -> str:
    if "missing" in found:
        return "not here"
    if "error" in found or "over" in found:
        return "not reached"
    return NOTHING


def _rate(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"


def _calls(found: Found) -> Table:
    kinds = ("put", "get", "message", "lock")
    return Table(
        "State, messages and locks",
        ("peer", "update p50 / p99, rate", "read", "message", "lock"),
        [[name, *(_cell(one, kind) for kind in kinds)] for name, one in found.items()],
        [
            f"{NOTHING}: the peer has nothing for it, see below. An update is acknowledged when it returns; what "
            "that means differs most of all, see the next tables."
        ],
    )


def _loaded(one: Mapping[str, Any], rows: int) -> str:
    if "load" not in one:
        return _absent(one)
    part = "" if one["load"]["n"] >= rows else f" (**{one['load']['n']:,} in its time**)"
    return _rate(one["load"]["rate"]) + part


def _situations(found: Found, sizes: Sizes) -> Table:
    lines: list[list[str]] = []
    for name, one in found.items():
        line = [name, _loaded(one, sizes.rows), _cell(one, "observe")]
        for kind in ("search", "search_symbol"):
            recall = f", {one[kind]['recall']:.3f}" if kind in one else ""
            line.append(_cell(one, kind) + recall)
        lines.append([*line, _cell(one, "episode"), _cell(one, "lessons")])
    return Table(
        "Situations and episodes",
        (
            "peer",
            "load, indexed",
            "store one",
            f"search, recall@{K}",
            f"search of one instrument, recall@{K}",
            "episode",
            "what followed similar decisions",
        ),
        lines,
        [
            f"What followed: {OURS} answers with a forecast, its interval and a receipt, weighing all it recalls; the "
            "others with the outcomes of the ten most alike.",
            "Load counts until what was loaded is indexed, with nt-memory also until its graph was measured and saved.",
            f"Who had not loaded all in {sizes.loading_s:g} s was searched with those that were there.",
        ],
    )


def _kept(found: Found) -> Table:
    lines = []
    for name, one in found.items():
        memory, disk = one.get("memory"), one.get("disk")
        lines.append(
            [
                name,
                f"{memory['pss'] / 1e6:,.0f} MB" if memory else _absent(one),
                f"{disk / 1e6:,.1f} MB" if disk is not None else _absent(one),
                duration(one["reopened_s"]) if "reopened_s" in one else _absent(one),
                _lost(one, "states"),
                _lost(one, "rows"),
                one["about"].get("acknowledged", ""),
            ]
        )
    return Table(
        "What it takes, and what is left after kill -9 in mid-write",
        (
            "peer",
            "memory",
            "disk, closed",
            "opened again",
            "updates lost, of acknowledged",
            "situations lost, of acknowledged",
            "an acknowledged write is",
        ),
        lines,
        [
            "Memory is the proportional set size of the peer's process and its server, interpreter and libraries "
            "included, after all calls. After the kill each acknowledged write is looked for by a new process.",
        ],
    )


def _lost(one: Mapping[str, Any], what: str) -> str:
    if f"lost_{what}" not in one:
        return _absent(one)
    lost, of = one[f"lost_{what}"], one[what]
    if not of:
        return NOTHING
    return f"**{lost:,} of {of:,}**" if lost else f"0 of {of:,}"


def _past(found: Found) -> Table:
    lines = [
        [name, *(_leak(one, what) for what in ("state", "search", "outcome"))]
        for name, one in found.items()
    ]
    return Table(
        "A question as of t, after more was recorded",
        ("peer", "state then", "alike then", "decision then, without its later outcome"),
        lines,
        [
            "Leaks: the answer holds what was recorded after t. Gone: what was known then cannot be found any more. By "
            "the caller's filter: the caller stores a time beside each record and filters by it; it holds for "
            "records that are never replaced, and for callers who never forget it.",
        ],
    )


def _leak(one: Mapping[str, Any], what: str) -> str:
    if "leaks" not in one or what not in one["leaks"]:
        return _absent(one)
    verdict = one["leaks"][what]
    if verdict == "held":
        how = one["about"]["as_of"].get(what, "")
        return f"held, by {how}" if how and how != "built in" else "held"
    return f"**{verdict}**"


def _setup(found: Found) -> Table:
    lines = []
    for name, one in found.items():
        about = one.get("about", {})
        versions = [f"{package} {number}" for package, number in about.get("versions", {}).items()]
        by_reason: dict[str, list[str]] = {}
        for kind, reason in about.get("without", {}).items():
            by_reason.setdefault(reason, []).append(kind)
        lacks = "; ".join(f"{', '.join(kinds)}: {reason}" for reason, kinds in by_reason.items())
        trouble = one.get("missing") or one.get("error") or one.get("over")
        lines.append(
            [
                name,
                "; ".join(filter(None, [*versions, one.get("version", "")])),
                about.get("used", ""),
                " ".join(filter(None, [lacks, f"**{trouble}**" if trouble else ""])) or NOTHING,
            ]
        )
    return Table("How each was used", ("peer", "versions", "set up", "has nothing for"), lines)


def _named(name: str, one: Mapping[str, Any], most: int) -> str:
    """A peer, and among how many it searched if others had more."""
    there = one.get("load", {}).get("n", most)
    return f"{name}, among {there:,} only" if there < most else name


def _draw(stem: Path, kind: str, found: Found) -> bool:
    """A chart of one kind of call; False where too few have it."""
    most = 0
    if kind.startswith("search"):
        most = max(one["load"]["n"] for one in found.values() if "load" in one)
    bars = [
        Bar(
            {OURS: "ours", LIMIT: "limit"}.get(name, "peer"),
            _named(name, one, most),
            f"{duration(one[kind]['p50'])} to {duration(one[kind]['p99'])}",
            one[kind]["p50"] * 1e6,
            one[kind]["p50"] * 1e6,
            one[kind]["p99"] * 1e6,
        )
        for name, one in sorted(found.items(), key=lambda item: item[1].get(kind, {}).get("p50", 0))
        if kind in one
    ]
    if len(bars) < 2:
        return False
    axes = Axes(CHARTS[kind], x=f"{CHARTS[kind]}: p50 to p99, logarithmic", is_log=True)
    drawn = bar_chart(bars, axes, width=WIDTH)
    head, rest = drawn.split(">", 1)
    head = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    stem.with_name(f"{stem.name}-{kind}.svg").write_text(f"{head}><style>{STYLE}</style>{rest}\n")
    return True
