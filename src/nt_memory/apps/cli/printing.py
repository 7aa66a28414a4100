"""What commands print: lines for people and for pipes, JSON for scripts.

A terminal gets tables and colours; anything else plain lines with tabs between, one a row, of any
length, so that `cut`, `grep` and `while read` work.
"""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    import msgspec

# Control characters that JSON does not ask to be escaped, and terminals obey.
_CONTROLS = re.compile(r"[\x7f-\x9f\u2028\u2029]")


def line(text: str) -> None:
    """One line to stdout; flushed at once where somebody watches."""
    sys.stdout.write(f"{text}\n")
    if sys.stdout.isatty():
        sys.stdout.flush()


def note(text: str) -> None:
    """One line to stderr, beside the output."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def spell(plain: Any) -> str:
    """Plain values as JSON on one line."""
    text = json.dumps(plain, ensure_ascii=False)
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def document(doc: msgspec.Struct) -> None:
    """One document of `--json`, on a line."""
    from nt_memory.apps.cli.documents import to_builtins  # noqa: PLC0415 - only for --json

    line(spell(to_builtins(doc)))


def row(*cells: object) -> None:
    """A line with tabs between its cells."""
    line("\t".join(map(str, cells)))


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """A table on a terminal; elsewhere its rows, without the head."""
    if not sys.stdout.isatty():
        for cells in rows:
            row(*(_one_line(cell) for cell in cells))
        return
    from rich import box  # noqa: PLC0415 - slow, and not for pipes
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    shown = Table(*head, box=box.SIMPLE_HEAD, title=title or None, title_justify="left")
    for cells in rows:
        # Not markup: what agents wrote must not style the terminal.
        shown.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in cells))
    Console().print(shown)


def _one_line(cell: object) -> str:
    return str(cell).replace("\t", " ").replace("\n", " ")


def progress() -> Generator[Callable[[str, int, int], None]]:
    """What is being done, on stderr, if that is a terminal. For `contextlib.contextmanager`."""
    from rich.console import Console  # noqa: PLC0415 - slow

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _what, _done, _total: None
        return
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def told(what: str, done: int, total: int) -> None:
            bar.update(task, description=f"{what} {done:,}", completed=done, total=total or None)

        yield told


def named(told: Callable[[str, int, int], None], what: str) -> Callable[[int, int], None]:
    """What `progress` gives, for one thing that is done."""
    return lambda done, total: told(what, done, total)
