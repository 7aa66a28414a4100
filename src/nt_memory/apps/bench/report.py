"""What a run found, as tables to read and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from nt_memory.apps.bench.machine import described

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One promise: what was measured, in words and as numbers, beside its bar and aim."""

    what: str
    measured: str
    bar: str
    aim: str
    is_met: bool | None = None
    figures: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class Table:
    """A table with a line above it, and notes below."""

    title: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Findings:
    """All that a command found.

    Attributes:
        name: Of the run; part of the file names.
        command: What was typed, or could have been.
        where: What `machine` says.
        tables: To read.
        bars: To judge.
        document: Every figure, plain JSON.
        is_interrupted: It was stopped, and holds what was found until then.
    """

    name: str
    command: str
    where: dict[str, object]
    tables: Sequence[Table]
    bars: Sequence[Row]
    document: dict[str, Any]
    is_interrupted: bool = False

    def text(self) -> str:
        """Markdown that is also aligned for a terminal."""
        parts = [f"`{self.command}`", "\n".join(described(self.where))]
        for table in self.tables:
            parts += [f"## {table.title}", aligned(table.head, table.lines)]
            parts += ["\n".join(f"- {note}" for note in table.notes)] if table.notes else []
        if self.bars:
            parts += ["## Bars", bars_table(self.bars)]
        return "\n\n".join(parts) + "\n"

    def to_document(self) -> dict[str, Any]:
        """Every figure with its bars, as plain JSON."""
        return {
            "command": self.command,
            "machine": self.where,
            **self.document,
            "bars": [asdict(row) for row in self.bars],
        }

    def write(self, directory: Path) -> tuple[Path, Path]:
        """Write `<date>-<name>.json` and `.md`; return both paths."""
        directory.mkdir(parents=True, exist_ok=True)
        stem = f"{str(self.where['date'])[:10]}-{self.name}"
        as_json, as_text = directory / f"{stem}.json", directory / f"{stem}.md"
        document = json.dumps(self.to_document(), indent=2, ensure_ascii=False)
        as_json.write_text(document + "\n")
        as_text.write_text(f"# {stem}\n\n{self.text()}")
        return as_json, as_text


def bars_table(rows: Sequence[Row]) -> str:
    """What is promised, what was measured, and whether it holds; nothing where it cannot be judged."""
    met = {True: "yes", False: "**no**", None: ""}
    return aligned(
        ["what", "measured", "bar", "aim", "bar met"],
        [[row.what, row.measured, row.bar, row.aim, met[row.is_met]] for row in rows],
    )


def aligned(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are padded to one width."""
    cells = [[*head], *([*line] for line in lines)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    shown = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in cells
    ]
    return "\n".join(
        [shown[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *shown[1:]]
    )
