"""Messages faster than some read them, for long: `python bench/flood.py --help`.

One task publishes without a rest, in bursts. Four receivers read on; two read more slowly than
messages come; and, for the five minutes that count, two never read, one of each overflow policy.
Before and after that the same goes on without those two, to compare with. Ends with 0 if

- every receiver got or counted every message: published = received + dropped, each gap in the numbers
  it saw is in `dropped`, and an overflow was raised exactly where there is a gap;
- those that read on lost nothing, and those that never read kept a buffer and lost the rest;
- resident memory is what it was after the first sixth;
- the p99 from publish to receive, and what is published a second, are what they are without those
  that never read, within 10 %.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _harness import duration, machine, rss_anon_bytes
from _judging import Judgement, Series, chart, compare, has_held, judge
from _ledger import Ledger
from soak import RESULTS, spelled

from nt_memory import MemorySystem
from nt_memory.coordination.receivers import Receiver
from nt_memory.errors import BufferOverflowError, ReceiveTimeoutError

POLICIES = ("drop_oldest", "error")
QUICK = 2
"""Of each policy."""
BUFFER = 1024
BURST = 64
"""Messages between two turns of the loop; what those that read on must have room for."""
SLOW_TAKES = 8
SLOW_RESTS_S = 0.005
SAMPLED = 16
"""Of so many messages one is timed."""
SLACK_BYTES = 16 << 20
SLACK_S = 50e-6
SETTLE_S = 0.05
TOPIC = "market/AAPL"


@dataclasses.dataclass
class Reader:
    """A receiver with its books; `kind` is "quick", "slow" or "never"."""

    kind: str
    policy: str
    receiver: Receiver
    ledger: Ledger
    latencies: list[float] = dataclasses.field(default_factory=list)

    async def take(self, timeout: float | None = None) -> None:
        """One message, or the word that some are missing."""
        try:
            message = await self.receiver.recv(timeout)
        except BufferOverflowError:
            self.ledger.told()
            return
        number = message["number"]
        if number % SAMPLED == 0:
            self.latencies.append(time.perf_counter() - message["sent"])
        self.ledger.got(number)

    async def read_on(self) -> None:
        """Without an end; a slow one rests now and then."""
        while True:
            for _ in range(SLOW_TAKES):
                await self.take()
            if self.kind == "slow":
                await asyncio.sleep(SLOW_RESTS_S)

    async def drain(self) -> None:
        """Take what is buffered."""
        with contextlib.suppress(ReceiveTimeoutError):
            while True:
                await self.take(0)


@dataclasses.dataclass
class Flood:
    """One run: stretches without, with, and without those that never read."""

    length_s: float
    control_s: float
    published: int = 0
    series: dict[str, Series] = dataclasses.field(default_factory=dict)
    control: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    flooded: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    books: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    faults: list[str] = dataclasses.field(default_factory=list)
    _stopping: bool = False

    async def run(self, path: Path) -> None:
        """Do it."""
        async with MemorySystem.open(path) as memory:
            readers = [
                await self._reader(memory, kind, policy)
                for kind, count in (("quick", QUICK), ("slow", 1))
                for policy in POLICIES
                for _ in range(count)
            ]
            tasks = [asyncio.create_task(reader.read_on()) for reader in readers]
            publisher = asyncio.create_task(self._publish(memory))
            await self._stretch(self.control_s, readers, self.control)
            never = [await self._reader(memory, "never", policy) for policy in POLICIES]
            await self._stretch(self.length_s, readers, self.flooded, self.series)
            await self._settle(never)
            await self._stretch(self.control_s, readers, self.control)
            self._stopping = True
            await publisher
            await asyncio.sleep(SETTLE_S)  # those that read on may be about to
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            failed = [end for end in ends if isinstance(end, Exception)]
            self.faults += [f"a reader failed: {error!r}" for error in failed]
            await self._settle(readers)

    async def _reader(self, memory: MemorySystem, kind: str, policy: str) -> Reader:
        receiver = await memory.subscribe(TOPIC, buffer=BUFFER, overflow=policy)  # type: ignore[arg-type]
        # Nothing was awaited since that could have published.
        return Reader(kind, policy, receiver, Ledger(self.published, policy == "error"))

    async def _publish(self, memory: MemorySystem) -> None:
        while not self._stopping:
            for _ in range(BURST):
                number = self.published
                self.published += 1
                message = {"number": number, "sent": time.perf_counter(), "symbol": "AAPL"}
                await memory.publish(TOPIC, message)
            await asyncio.sleep(0)

    async def _stretch(
        self,
        length_s: float,
        readers: list[Reader],
        into: dict[str, list[float]],
        series: dict[str, Series] | None = None,
    ) -> None:
        """Let it go on for a while, and sample; memory only where it is to be judged."""
        gap = min(1.0, self.length_s / 60)
        begun, before = time.perf_counter(), self.published
        due = begun
        quick = [reader for reader in readers if reader.kind == "quick"]
        for reader in quick:
            reader.latencies.clear()
        while (due := due + gap) <= begun + length_s:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            latencies = [one for reader in quick for one in reader.latencies]
            for reader in readers:
                reader.latencies.clear()
            figures = {"messages a second": (self.published - before) / gap}
            if latencies:
                p50, p99 = np.percentile(latencies, [50, 99])
                figures |= {"receive, p50": float(p50), "receive, p99": float(p99)}
            before = self.published
            for name, value in figures.items():
                into.setdefault(name, []).append(value)
            if series is not None:
                at = time.perf_counter() - begun
                _add(series, at, "RssAnon", "bytes", rss_anon_bytes(), slack=SLACK_BYTES)
                for name, value in figures.items():
                    unit = "s" if name.startswith("receive") else ""
                    _add(series, at, name, unit, value, is_judged=False)

    async def _settle(self, readers: list[Reader]) -> None:
        """Close the books of some receivers, and the receivers."""
        for reader in readers:
            # Between the two nothing is published: an empty receiver answers without a turn.
            await reader.drain()
            faults = reader.ledger.close(self.published, reader.receiver.dropped)
            await reader.receiver.close()
            who = f"{reader.kind}, {reader.policy}"
            received, dropped = reader.ledger.received, reader.receiver.dropped
            if reader.kind == "quick" and dropped:
                faults.append(f"it reads on, and lost {dropped:,}")
            if reader.kind == "never" and received != min(BUFFER, received + dropped):
                faults.append(f"it never read, and its buffer held {received:,}")
            published = self.published - reader.ledger.first
            self.books.append(
                {"who": who, "published": published, "received": received, "dropped": dropped}
            )
            self.faults += [f"{who}: {fault}" for fault in faults[:3]]

    def judgements(self, *, is_timed: bool) -> list[Judgement]:
        """Memory over the time; times with those that never read against times without."""
        return [
            judge(self.series["RssAnon"], self.length_s),
            *self._compared(is_timed=is_timed),
        ]

    def _compared(self, *, is_timed: bool) -> list[Judgement]:
        found: list[Judgement] = []
        for name in ("receive, p50", "receive, p99"):
            how = Series(
                name, "s", [], is_noisy=True, is_judged=is_timed and name != "receive, p50",
                slack=SLACK_S,
            )  # fmt: skip
            found.append(compare(how, *self._both(name)))
        # Of a rate less is worse, so its inverse is judged.
        how = Series("seconds a message", "s", [], is_noisy=True, is_judged=is_timed)
        without, with_them = self._both("messages a second")
        return [*found, compare(how, 1 / without, 1 / with_them)]

    def _both(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Samples without those that never read, and with them."""
        return np.array(self.control.get(name, [])), np.array(self.flooded.get(name, []))

    def failures(self, judgements: list[Judgement]) -> list[str]:
        """What did not hold, in words."""
        grown = [] if has_held(judgements) else ["memory or times grew"]
        return [*grown, *self.faults]


def _add(
    series: dict[str, Series], at: float, name: str, unit: str, value: float, **how: Any
) -> None:
    series.setdefault(name, Series(name, unit, [], **how)).points.append((at, float(value)))


def report(run: Flood, judgements: list[Judgement], failures: list[str], command: str) -> str:
    """What happened, as Markdown."""
    lines = [
        f"`{command}`",
        "",
        f"**{'It held.' if not failures else 'It did not hold: ' + '; '.join(failures)}**",
        "",
        f"{run.published:,} messages in {run.length_s:.0f} s with receivers that never read and "
        f"{run.control_s:.0f} s before and after it without them; buffers of {BUFFER:,}.",
        "",
        "| receiver, overflow | published | received | dropped | received + dropped |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {one['who']} | {one['published']:,} | {one['received']:,} | {one['dropped']:,} | "
        f"{one['received'] + one['dropped']:,} |"
        for one in run.books
    ]
    lines += [
        "",
        "| what | before | after | ratio | 95 % interval | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for one in judgements:
        verdict = one.verdict if one.is_judged else f"({one.verdict})"
        before, after = spelled(one.before, one.unit), spelled(one.after, one.unit)
        if one.unit == "s":
            before, after = duration(one.before), duration(one.after)
        interval = f"{one.low:.3f} to {one.high:.3f}" if one.low != one.high else ""
        lines.append(
            f"| {one.name} | {before} | {after} | {one.ratio:.3f} | {interval} | {verdict} |"
        )
    lines += [
        "",
        "Memory: the second sixth of the time with receivers that never read, and the last. The "
        "others: without such receivers, and with them.",
        "",
        "```",
    ]
    lines += [f"{series.name:<18} {chart(series)}" for series in run.series.values()]
    return "\n".join([*lines, "```", ""])


def main() -> int:
    """Run, print, write; 0 if it held."""
    arguments = _parser().parse_args()
    length_s = arguments.minutes * 60
    run = Flood(length_s, length_s / 10)
    with tempfile.TemporaryDirectory(dir=arguments.workdir, prefix="nt-flood-") as workdir:
        where = machine(workdir)
        asyncio.run(run.run(Path(workdir) / "store"))
    judgements = run.judgements(is_timed=not arguments.counts_only)
    failures = run.failures(judgements)
    command = f"make flood FLOOD_ARGS='--minutes {arguments.minutes:g}'"
    text = report(run, judgements, failures, command)
    print(text)
    if arguments.name:
        RESULTS.mkdir(exist_ok=True)
        stem = RESULTS / f"{str(where['date'])[:10]}-{arguments.name}"
        document = {
            "machine": where,
            "length_s": run.length_s,
            "control_s": run.control_s,
            "published": run.published,
            "books": run.books,
            "failures": failures,
            "judgements": [dataclasses.asdict(one) | {"ratio": one.ratio} for one in judgements],
            "control": run.control,
            "series": {name: series.points for name, series in run.series.items()},
        }
        stem.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
        stem.with_suffix(".md").write_text(f"# {stem.name}\n\n{text}")
        print(stem.with_suffix(".md"), file=sys.stderr)
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=5.0, help="of receivers that never read (5)"
    )
    parser.add_argument(
        "--counts-only", action="store_true", help="do not judge times: others use the machine too"
    )
    parser.add_argument(
        "--name", default="flood", help='results/<date>-<name>.json and .md; "": write nothing'
    )
    parser.add_argument("--workdir", help="where the store goes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
