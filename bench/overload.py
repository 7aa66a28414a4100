"""Writers faster than the disk, for long: `python bench/overload.py --help`.

512 writers, each with 24 puts in flight, write without a rest against the real disk, most of it
small values and some large ones, while the store is compacted again and again. Whoever has more to
write than the disk takes must wait, and nothing else may suffer for it. Ends with 0 if

- the queue of entries never held more than its bound, and was in fact full: else it was no overload;
- resident memory and the lag of the event loop at the end are what they were after the first sixth;
- the lag's p99 stayed under 50 ms. The bar for the usual mix is 5 ms; here each batch of the
  journal answers hundreds of writers at once, which all encode their next value before the loop
  turns, so most of the lag is theirs;
- everything that was acknowledged is there in the end.

"Was full" is seen by sampling: nine tenths of the bound at some moment.

A compaction, of 1 to 2 s here, and the rest after it are a cycle of some 8 s, in which the lag goes up
and down. So a window must hold several cycles, and a block of neighbouring samples (`_judging.py`)
must be as long as one, else the interval takes the cycle for growth: that needs six minutes, with a
sample every six seconds. Compactions that take longer and longer show by lag and reads that grow.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _harness import disk_bytes, duration, machine, rss_anon_bytes
from _judging import PARTS, Judgement, Series, chart, has_held, judge
from _mix import LagProbe
from _state import FLAT
from soak import RESULTS, spelled

from nt_memory import CacheConfig, MemoryConfig, MemorySystem

QUEUE_BYTES = 64 << 20
"""What the journal lets wait: entries up to this, and the one that reaches it."""
IN_FLIGHT = 24
LARGE_BYTES = 128 << 10
_LARGE = b"x" * LARGE_BYTES
COMPACT_REST_S = 6.0
"""Between compactions."""
LARGE_EVERY = 16
LAG_LIMIT_S = 50e-3
SLACK_BYTES = 16 << 20
SLACK_S = 500e-6
PROBE_S = 0.005
"""Between looks at the queue: shorter than it takes to fill."""


@dataclasses.dataclass
class Overload:
    """One run: what was sampled, by name."""

    length_s: float
    writers: int
    keep: int
    seed: int = 7
    series: dict[str, Series] = dataclasses.field(default_factory=dict)
    lags: list[float] = dataclasses.field(default_factory=list)
    most_pending: int = 0
    puts: int = 0
    lost: int = 0
    begun: float = 0.0
    _took: list[float] = dataclasses.field(default_factory=list)
    _read: list[float] = dataclasses.field(default_factory=list)
    _stopping: bool = False

    async def run(self, path: Path) -> int:
        """Do it; bytes of the store in the end."""
        config = MemoryConfig(
            storage_path=path,
            history=self.keep,
            enable_compression=False,  # the disk is to be the bottleneck
            cache_config=CacheConfig(max_entries=1_000),
        )
        async with MemorySystem.open(config) as memory:
            self.begun = time.perf_counter()
            lanes = [(writer, lane) for writer in range(self.writers) for lane in range(IN_FLIGHT)]
            tasks = [asyncio.create_task(self._write(memory, *lane)) for lane in lanes]
            others = [
                asyncio.create_task(work(memory))
                for work in (self._look, self._answer, self._compact)
            ]
            with LagProbe(asyncio.get_running_loop(), self.seed) as probe:
                await self._sample_all(memory, path, probe)
            self._stopping = True
            last = await asyncio.gather(*tasks)
            await asyncio.gather(*others)
        async with MemorySystem.open(config) as memory:
            for (writer, lane), count in zip(lanes, last, strict=True):
                found = await memory.get(f"agent_{writer}", f"key_{lane}")
                self.lost += found["order"] != count
        return disk_bytes(path)

    async def _write(self, memory: MemorySystem, writer: int, lane: int) -> int:
        """Put without a rest; the last number acknowledged."""
        agent, key = f"agent_{writer}", f"key_{lane}"
        count = writer + lane  # so that not all large ones come at once
        while True:
            value = FLAT | {"order": count}
            if count % LARGE_EVERY == 0:
                value["note"] = _LARGE
            start = time.perf_counter()
            await memory.put(agent, key, value)
            self._took.append(time.perf_counter() - start)
            self.puts += 1
            if self._stopping:
                return count
            count += 1

    async def _compact(self, memory: MemorySystem) -> None:
        """Without it the journal would fill the disk in the end."""
        while not self._stopping:
            await asyncio.sleep(COMPACT_REST_S)
            start = time.perf_counter()
            await memory.compact()
            self._add("compact", "s", time.perf_counter() - start, is_judged=False)

    async def _look(self, memory: MemorySystem) -> None:
        """Watch how full the queue is."""
        while not self._stopping:
            pending = memory.stats().pending_bytes
            self.most_pending = max(self.most_pending, pending)
            await asyncio.sleep(PROBE_S)

    async def _answer(self, memory: MemorySystem) -> None:
        """A reader among the writers, who must not wait for the disk."""
        count = 0
        while not self._stopping:
            start = time.perf_counter()
            await memory.get(f"agent_{count % self.writers}", "key_0")
            self._read.append(time.perf_counter() - start)
            count += 1
            await asyncio.sleep(PROBE_S)

    async def _sample_all(self, memory: MemorySystem, path: Path, probe: LagProbe) -> None:
        gap = max(1.0, min(10.0, self.length_s / 60))
        due, before = self.begun, 0
        while (due := due + gap) <= self.begun + self.length_s:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            lag, probe.samples = probe.samples, []
            took, self._took = self._took, []
            read, self._read = self._read, []
            if due - self.begun > self.length_s / PARTS:  # twelve thousand first puts at once
                self.lags += lag
            self._add("RssAnon", "bytes", rss_anon_bytes(), slack=SLACK_BYTES)
            self._add("event-loop lag, p99", "s", _p99(lag), is_noisy=True, slack=SLACK_S)
            self._add("read, p99", "s", _p99(read), is_noisy=True, slack=SLACK_S)
            self._add("put, p99", "s", _p99(took), is_noisy=True, is_judged=False)
            self._add("puts a second", "", (self.puts - before) / gap, is_judged=False)
            self._add("queue", "bytes", memory.stats().pending_bytes, is_judged=False)
            self._add("files", "bytes", disk_bytes(path), is_judged=False)
            before = self.puts

    def _add(self, name: str, unit: str, value: float, **how: Any) -> None:
        if math.isnan(value):  # none of it was done since the last sample
            return
        found = self.series.setdefault(name, Series(name, unit, [], **how))
        found.points.append((time.perf_counter() - self.begun, float(value)))

    def failures(self, judgements: list[Judgement]) -> list[str]:
        """What did not hold, in words."""
        lag = _p99(self.lags)
        most = QUEUE_BYTES + 2 * LARGE_BYTES
        said = {
            "memory, lag or reads grew": has_held(judgements),
            f"the lag's p99 was {duration(lag)}": lag < LAG_LIMIT_S,
            f"the queue held {self.most_pending:,} bytes": self.most_pending < most,
            f"it was no overload, the queue held at most {self.most_pending:,} bytes": (
                self.most_pending > 0.9 * QUEUE_BYTES
            ),
            f"{self.lost} keys do not hold what was acknowledged last": self.lost == 0,
        }
        return [what for what, is_held in said.items() if not is_held]


def _p99(samples: list[float]) -> float:
    return float(np.percentile(samples, 99)) if samples else float("nan")


def report(run: Overload, judgements: list[Judgement], failures: list[str], command: str) -> str:
    """What happened, as Markdown."""
    p50, p99 = np.percentile(run.lags, [50, 99])
    lines = [
        f"`{command}`",
        "",
        f"**{'It held.' if not failures else 'It did not hold: ' + '; '.join(failures)}**",
        "",
        f"{run.puts:,} puts by {run.writers} writers, {IN_FLIGHT} at once each, in {run.length_s:.0f} s "
        f"({run.puts / run.length_s:,.0f}/s); the queue held at most {run.most_pending:,} of "
        f"{QUEUE_BYTES:,} bytes; event-loop lag p50 {duration(p50)}, p99 {duration(p99)}, "
        f"max {duration(max(run.lags))}.",
        "",
        "| what | second sixth | last sixth | ratio | verdict |",
        "|---|---|---|---|---|",
    ]
    for one in judgements:
        verdict = one.verdict if one.is_judged else f"({one.verdict})"
        lines.append(
            f"| {one.name} | {spelled(one.before, one.unit)} | {spelled(one.after, one.unit)} | "
            f"{one.ratio:.3f} | {verdict} |"
        )
    lines += ["", "```"]
    lines += [f"{series.name:<20} {chart(series)}" for series in run.series.values()]
    return "\n".join([*lines, "```", ""])


def main() -> int:
    """Run, print, write; 0 if it held."""
    arguments = _parser().parse_args()
    run = Overload(arguments.minutes * 60, arguments.writers, arguments.keep)
    with tempfile.TemporaryDirectory(dir=arguments.workdir, prefix="nt-overload-") as workdir:
        where = machine(workdir)
        size = asyncio.run(run.run(Path(workdir) / "store"))
    judgements = [judge(series, run.length_s) for series in run.series.values()]
    failures = run.failures(judgements)
    options = f"--minutes {arguments.minutes:g} --writers {run.writers} --keep {run.keep}"
    text = report(run, judgements, failures, f"make overload OVERLOAD_ARGS='{options}'")
    print(text)
    if arguments.name:
        RESULTS.mkdir(exist_ok=True)
        stem = RESULTS / f"{str(where['date'])[:10]}-{arguments.name}"
        document = {
            "machine": where,
            "length_s": run.length_s,
            "writers": run.writers,
            "puts": run.puts,
            "most_pending_bytes": run.most_pending,
            "store_bytes": size,
            "failures": failures,
            "judgements": [dataclasses.asdict(one) | {"ratio": one.ratio} for one in judgements],
            "series": {name: series.points for name, series in run.series.items()},
        }
        stem.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
        stem.with_suffix(".md").write_text(f"# {stem.name}\n\n{text}")
        print(stem.with_suffix(".md"), file=sys.stderr)
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (10); 6 at least")
    parser.add_argument("--writers", type=int, default=512, help="how many (512)")
    parser.add_argument("--keep", type=int, default=1, help="superseded versions kept a key (1)")
    parser.add_argument(
        "--name", default="overload", help='results/<date>-<name>.json and .md; "": write nothing'
    )
    parser.add_argument("--workdir", help="where the store goes; put it on the disk to measure")
    return parser


if __name__ == "__main__":
    sys.exit(main())
