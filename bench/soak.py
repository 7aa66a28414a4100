"""Mixed load over constant live data, for long: does anything grow? `python bench/soak.py --help`.

Ends with 0 if resident memory, the files and the latencies at the end are within 10 % of those
after the first sixth of the run (five minutes of thirty); how that is judged is said in
`_judging.py`. Files swing with compaction, which runs at fixed times: sizes right after each
compaction are compared with each other, and so are the greatest sizes between two.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _harness import disk_bytes, duration, fdatasync_seconds, machine, rss_anon_bytes
from _judging import Judgement, Series, chart, has_held, judge
from _load import Load
from _mix import LagProbe

from nt_memory import CacheConfig, MemoryConfig, MemorySystem

RESULTS = Path(__file__).with_name("results")
PARTS = ("journal", "base", "views", "vectors")
# Below this a process's memory moves by allocator and thread alone.
SLACK_BYTES = 4 << 20
SLACK_S = 50e-6
COMPACTIONS = 30
DISK = "bare append and fdatasync"
DISK_EVERY_S = 0.05
SAMPLES = 180
LEAST_GAP_S = 4.0


@dataclasses.dataclass
class Soak:
    """One run: what was sampled, by name."""

    length_s: float
    seed: int
    factor: float
    strict: bool = False
    without: tuple[str, ...] = ()
    sizes_only: bool = False
    series: dict[str, Series] = dataclasses.field(default_factory=dict)
    peaks: dict[str, int] = dataclasses.field(default_factory=dict)
    disk: list[float] = dataclasses.field(default_factory=list)
    begun: float = 0.0

    @property
    def sample_s(self) -> float:
        """Seconds between samples: 10 of half an hour."""
        return max(2.0, min(10.0, self.length_s / SAMPLES))

    @property
    def compact_s(self) -> float:
        """Seconds between compactions: 30 of half an hour."""
        return max(LEAST_GAP_S, self.length_s / COMPACTIONS)

    async def run(self, path: Path) -> dict[str, int]:
        """Do it; how often each operation was done.

        Raises:
            Exception: whatever an operation raised.
        """
        cache = CacheConfig(max_entries=2_000)
        async with MemorySystem.open(MemoryConfig(storage_path=path, cache_config=cache)) as memory:
            load = Load(memory, self.factor, self.seed)
            await load.prepare()
            await memory.compact()
            self.begun = time.perf_counter()
            load.start(self.without)
            compacting = asyncio.create_task(self._compact(memory, path))
            probing = asyncio.create_task(self._probe_disk(path.parent))
            with LagProbe(asyncio.get_running_loop(), self.seed) as probe:
                due = self.begun
                while (due := due + self.sample_s) <= self.begun + self.length_s:
                    await asyncio.sleep(max(0.0, due - time.perf_counter()))
                    lag, probe.samples = probe.samples, []
                    disk, self.disk = self.disk, []
                    took = load.take() | {"event-loop lag": lag, DISK: disk}
                    self._sample(memory, path, took)
                    if compacting.done():
                        compacting.result()
            for task in (compacting, probing):
                task.cancel()
            await asyncio.gather(compacting, probing, return_exceptions=True)
            await load.stop()
            return load.counts

    async def _compact(self, memory: MemorySystem, path: Path) -> None:
        due = self.begun
        while True:
            due += self.compact_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            self._measure_files(path)
            for part, peak in self.peaks.items():
                self._add(f"{part}, most between compactions", "bytes", peak)
            self.peaks = {}
            start = time.perf_counter()
            await memory.compact()
            self._add("compact", "s", time.perf_counter() - start, is_judged=False)
            for part, size in self._measure_files(path).items():
                self._add(f"{part}, right after compaction", "bytes", size)

    async def _probe_disk(self, directory: Path) -> None:
        """What the disk does meanwhile, to tell its moods from those of the store."""
        while True:
            self.disk.append(await asyncio.to_thread(fdatasync_seconds, directory, 200, 1))
            await asyncio.sleep(DISK_EVERY_S)

    def _measure_files(self, path: Path) -> dict[str, int]:
        sizes = {part: disk_bytes(path / part) for part in PARTS}
        sizes = {"all files": sum(sizes.values())} | sizes
        for part, size in sizes.items():
            self.peaks[part] = max(size, self.peaks.get(part, 0))
        return sizes

    def _sample(self, memory: MemorySystem, path: Path, took: dict[str, list[float]]) -> None:
        self._measure_files(path)
        self._add("RssAnon", "bytes", rss_anon_bytes(), slack=SLACK_BYTES)
        self._add("RSS, mapped files included", "bytes", _rss_bytes(), is_judged=False)
        self._add("blocks of Python's allocator", "", sys.getallocatedblocks(), slack=20_000)
        self._add("open files", "", len(os.listdir("/proc/self/fd")), slack=8)  # noqa: PTH208
        stats = memory.stats()
        self._add("rows of the vector tier", "", stats.l2.entries, is_judged=False)
        self._add("bytes of the vector tier", "bytes", stats.l2.bytes, is_judged=False)
        self._add("bytes of L1", "bytes", stats.l1.bytes, is_judged=False)
        for name, samples in took.items():
            if samples:
                p50, p99 = np.percentile(samples, [50, 99])
                self._add(f"{name}, p50", "s", float(p50), is_noisy=True, is_judged=False)
                is_judged = not self.sizes_only and name != DISK
                how = {"is_noisy": True, "is_judged": is_judged, "slack": SLACK_S}
                self._add(f"{name}, p99", "s", float(p99), **how)

    def _add(self, name: str, unit: str, value: float, **how: Any) -> None:
        if math.isnan(value):  # none of it was done since the last sample
            return
        found = self.series.setdefault(name, Series(name, unit, [], **how))
        found.points.append((time.perf_counter() - self.begun, float(value)))

    def judgements(self) -> list[Judgement]:
        """What became of each series."""
        return [judge(series, self.length_s) for series in self.series.values()]


def _rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def spelled(value: float, unit: str) -> str:
    """A value of a series, with its unit."""
    if not np.isfinite(value):
        return "-"
    if unit == "s":
        return duration(value)
    return f"{value / 2**20:,.1f} MiB" if unit == "bytes" else f"{value:,.0f}"


def report(soak: Soak, judgements: list[Judgement], where: dict[str, Any], command: str) -> str:
    """The judgements and charts, as Markdown."""
    held = "held" if has_held(judgements, strict=soak.strict) else "did not hold"
    lines = [
        f"`{command}`",
        "",
        f"{where['date']} · {where['cpu']}, {where['cores']} cores, {where['memory_gib']} GiB · "
        f"{where['system']} · Python {where['python']} · commit {where['commit']} · "
        f"fdatasync of 200 bytes {where['fdatasync_us']} µs (median)",
        "",
        f"**It {held}.** Medians of the second sixth of the run ({soak.length_s / 6:.0f} s) and of "
        "the last; a latency grew if the whole 95 % interval of the ratio lies above 1.10, and is "
        "unsure if only the ratio does.",
        "",
        "| what | second sixth | last sixth | ratio | 95 % | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for one in judgements:
        interval = "" if one.low == one.high else f"{one.low:.2f} to {one.high:.2f}"
        verdict = one.verdict if one.is_judged else f"({one.verdict})"
        lines.append(
            f"| {one.name} | {spelled(one.before, one.unit)} | {spelled(one.after, one.unit)} | "
            f"{one.ratio:.3f} | {interval} | {'**grew**' if verdict == 'grew' else verdict} |"
        )
    lines += ["", "From zero to the maximum, over the whole run:", "", "```"]
    width = max(map(len, soak.series))
    for series in soak.series.values():
        top = spelled(max(value for _, value in series.points), series.unit)
        lines.append(f"{series.name:<{width}} {chart(series)} {top}")
    return "\n".join([*lines, "```", ""])


def main() -> int:
    """Run, print, write; 0 if it held."""
    arguments = _parser().parse_args()
    soak = Soak(
        arguments.minutes * 60,
        arguments.seed,
        arguments.factor,
        arguments.strict,
        tuple(arguments.without),
        arguments.sizes_only,
    )
    with tempfile.TemporaryDirectory(dir=arguments.workdir, prefix="nt-soak-") as workdir:
        where = machine(workdir)
        counts = asyncio.run(soak.run(Path(workdir) / "store"))
    judgements = soak.judgements()
    options = f"--minutes {arguments.minutes:g} --factor {arguments.factor:g}"
    if soak.without:
        options += " --without " + " ".join(f'"{name}"' for name in soak.without)
    text = report(soak, judgements, where, f"make soak SOAK_ARGS='{options}'")
    print(text)
    print(", ".join(f"{count:,} {name}" for name, count in counts.items()))
    if arguments.name:
        RESULTS.mkdir(exist_ok=True)
        stem = RESULTS / f"{str(where['date'])[:10]}-{arguments.name}"
        document = {
            "machine": where,
            "length_s": soak.length_s,
            "held": has_held(judgements, strict=soak.strict),
            "counts": counts,
            "judgements": [dataclasses.asdict(one) | {"ratio": one.ratio} for one in judgements],
            "series": {name: series.points for name, series in soak.series.items()},
        }
        stem.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
        stem.with_suffix(".md").write_text(f"# {stem.name}\n\n{text}")
        print(stem.with_suffix(".md"), file=sys.stderr)
    return 0 if has_held(judgements, strict=soak.strict) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (30)")
    parser.add_argument("--factor", type=float, default=1.0, help="times the usual pace (1)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--without", nargs="+", default=[], help="kinds of work to leave out")
    parser.add_argument("--sizes-only", action="store_true", help="judge no latency")
    parser.add_argument("--strict", action="store_true", help="what is unsure fails too")
    parser.add_argument(
        "--name", default="soak", help='results/<date>-<name>.json and .md; "": write nothing'
    )
    parser.add_argument("--workdir", help="where the store goes; put it on the disk to measure")
    return parser


if __name__ == "__main__":
    sys.exit(main())
