"""`nt-memory stats --live`: a dashboard in the terminal, over a store that another process writes.

Each look takes the counters and the last few entries, never all of them: what it costs does not
depend on how fast the store is written.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from nt_memory.apps.cli.asking import arrived
from nt_memory.apps.cli.ballots import standing_line
from nt_memory.apps.cli.rendering import size, value_line
from nt_memory.apps.cli.running import writer_of
from nt_memory.clock import SystemClock
from nt_memory.coordination.proposals import Pending
from nt_memory.errors import TrimmedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from nt_memory import MemoryStats
    from nt_memory.apps.cli.asking import Memory
    from nt_memory.coordination.proposals import ProposalRecord
    from nt_memory.coordination.tokens import LockInfo
    from nt_memory.system.watching import JournalEntry
    from nt_memory.transport.directory import Holder

_KEPT = 60
_ENTRIES = 40
_BARS = " ▁▂▃▄▅▆▇█"


@dataclass(slots=True)
class Look:
    """What there is to see at one moment.

    Attributes:
        path: The store.
        writer: Who has it open for writing.
        stats: Its counters.
        at_ns: When, on a clock that only runs forward.
        entries: The last entries, newest first.
        locks: Locks that somebody holds or waits for.
        proposals: What is not decided.
        agents: How many have stored something.
    """

    path: str
    writer: Holder | None
    stats: MemoryStats
    at_ns: int
    entries: Sequence[JournalEntry] = ()
    locks: Sequence[LockInfo] = ()
    proposals: Sequence[ProposalRecord] = ()
    agents: int = 0


@dataclass(slots=True)
class Course:
    """How many entries a second, look by look."""

    rates: deque[float] = field(default_factory=lambda: deque[float](maxlen=_KEPT))
    _last: tuple[int, int] | None = None

    def add(self, look: Look) -> None:
        """Take one more look into account."""
        if self._last is not None:
            revision, at_ns = self._last
            seconds = max(look.at_ns - at_ns, 1) / 1e9
            self.rates.append((look.stats.revision - revision) / seconds)
        self._last = look.stats.revision, look.at_ns

    def bars(self) -> str:
        """The course as one line of bars, the highest as high as the line."""
        top = max(self.rates, default=0.0) or 1.0
        return "".join(_BARS[round(rate / top * (len(_BARS) - 1))] for rate in self.rates)


async def show(memory: Memory, path: str, interval: float, limit: int | None) -> None:
    """Draw until cancelled, or so many looks long."""
    clock, course, shown = SystemClock(), Course(), 0
    console = Console()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            look = await take_look(memory, path, clock)
            course.add(look)
            live.update(drawn(look, course), refresh=True)
            shown += 1
            if shown == limit:
                return
            await clock.sleep(interval)


async def take_look(memory: Memory, path: str, clock: SystemClock) -> Look:
    """What there is to see now."""
    return Look(
        path=path,
        writer=writer_of(path),
        stats=await arrived(memory.stats()),
        at_ns=clock.monotonic_ns(),
        entries=await _last_entries(memory),
        locks=await arrived(memory.list_locks()),
        proposals=[
            one
            for one in await memory.consensus.list_proposals()
            if isinstance(one.result, Pending)
        ],
        agents=len(await memory.agents()),
    )


def drawn(look: Look, course: Course) -> RenderableType:
    """The dashboard, as large as the terminal."""
    layout = Layout()
    layout.split_column(
        Layout(_headline(look, course), size=4),
        Layout(name="middle", size=12),
        Layout(Panel(_entries(look), title="last entries", title_align="left")),
    )
    layout["middle"].split_row(
        Layout(Panel(_sizes(look), title="store", title_align="left")),
        Layout(Panel(_locks(look), title="locks", title_align="left")),
        Layout(Panel(_proposals(look), title="open proposals", title_align="left")),
    )
    return layout


def _headline(look: Look, course: Course) -> RenderableType:
    if "://" in look.path:
        writer = Text("a server writes", style="green")
    elif look.writer is None:
        writer = Text("nobody writes", style="yellow")
    else:
        writer = Text(f"written by process {look.writer.pid} on {look.writer.host}", style="green")
    rate = f"{course.rates[-1]:,.0f} entries/s " if course.rates else ""
    return Group(
        Text.assemble((look.path, "bold"), "  ", writer),
        Text(f"revision {look.stats.revision:,}  {look.agents:,} agents  {rate}"),
        Text(course.bars(), style="cyan"),
    )


def _sizes(look: Look) -> RenderableType:
    found = look.stats
    table = Table.grid(padding=(0, 2))
    rows: list[tuple[str, str]] = [
        ("journal", size(found.journal_bytes)),
        ("views", size(found.l3_bytes)),
        ("value files", size(found.value_bytes)),
        ("vectors", f"{found.l2.entries:,} in {found.l2.graphs} graphs"),
        ("not indexed yet", f"{found.l2_pending:,}"),
        ("clock moved by", f"{found.clock_jump_s:.3f} s"),
    ]
    for name, text in rows:
        table.add_row(Text(name, style="dim"), Text(text))
    return table


def _locks(look: Look) -> RenderableType:
    if not look.locks:
        return Text("none", style="dim")
    table = Table.grid(padding=(0, 2))
    for info in look.locks:
        waiting = f", {len(info.waiters)} wait" if info.waiters else ""
        table.add_row(
            Text(info.resource, style="bold"),
            Text(info.holder or "nobody"),
            Text(f"{info.lease_left:.0f} s{waiting}", style="dim"),
        )
    return table


def _proposals(look: Look) -> RenderableType:
    if not look.proposals:
        return Text("none", style="dim")
    table = Table.grid(padding=(0, 2))
    for one in look.proposals:
        table.add_row(
            Text(one.id, style="bold"),
            Text(f"{len(one.votes)}/{len(one.electorate)} voted"),
            Text(standing_line(one.result), style="dim"),
        )
    return table


def _entries(look: Look) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for entry in look.entries:
        what = ", ".join(f"{c.kind} {c.agent}/{c.key}" for c in entry.changes)
        table.add_row(
            Text(f"{entry.revision:,}", style="dim"),
            Text(f"{entry.recorded_at:%H:%M:%S.%f}"[:-3]),
            Text(entry.kind, style="cyan"),
            Text(entry.actor),
            Text(what or (value_line(dict(entry.detail)) if entry.detail else ""), no_wrap=True),
        )
    return table


async def _last_entries(memory: Memory) -> list[JournalEntry]:
    """The newest entries, newest first; those behind a compaction are gone."""
    until = memory.revision
    after = max(until - _ENTRIES, 0)
    found: list[JournalEntry] = []
    try:
        found = await _entries_between(memory, after, until)
    except TrimmedError as error:
        if error.oldest <= until:
            found = await _entries_between(memory, error.oldest - 1, until)
    return found[::-1]


async def _entries_between(memory: Memory, after: int, until: int) -> list[JournalEntry]:
    found: list[JournalEntry] = []
    if after >= until:
        return found
    async for entry in memory.tail(after):
        found.append(entry)
        if entry.revision >= until:
            break
    return found
