"""Durable puts by many writers, beside the bare disk and beside other stores, in one run.

All take turns in short bursts, so that a slow minute of the machine falls on all of them. The value
is the ten-field flat dict, encoded within the measured time by all but the bare loops, which write
the very bytes that our journal writes for it. Others have a thread a writer, as is natural to them,
nt-memory a task. Only nt-memory keeps the versions it replaces.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

from _harness import Options, Row, duration, percentiles
from _peers import STORES, Burst, append_burst, missing, threads_burst, version_of
from _state import FLAT

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.codec import compress, encode
from nt_memory.entries import STATE, Entry, Write, WriteOp, encode_entry

WRITERS = (1, 16, 64, 256)
ROUNDS = 3
FRAME_BYTES = 32  # what the journal writes around an entry, about
APPEND = "bare append and fdatasync, one thread"
OVERWRITE = "bare overwrite of reserved blocks and fdatasync, one thread"
OURS = "nt-memory"


async def durable(options: Options) -> list[Row]:
    """The rows; every burst lasts a fifth of `options.seconds`."""
    seconds = options.seconds / 5
    bursts: dict[tuple[str, int], Burst] = {}
    failed: dict[tuple[str, int], str] = {}
    absent = {name: why for name, (module, _) in STORES.items() if (why := missing(module))}
    payload = _payload()
    for number in range(ROUNDS):
        directory = Path(options.workdir) / f"durable-{number}"
        directory.mkdir()
        for name, is_reserved in ((APPEND, False), (OVERWRITE, True)):
            path = directory / f"bare-{is_reserved}"
            burst = append_burst(path, payload, seconds, reserved=is_reserved)
            bursts.setdefault((name, 1), Burst()).add(burst)
        for writers in WRITERS:
            ours = await _ours(directory / f"ours-{writers}", writers, seconds)
            bursts.setdefault((OURS, writers), Burst()).add(ours)
            for name in STORES.keys() - absent.keys():
                try:
                    burst = await asyncio.to_thread(_peer, directory, name, writers, seconds)
                except Exception as error:  # noqa: BLE001 - whatever a peer raises is its row
                    failed[name, writers] = repr(error.__cause__ or error)
                else:
                    bursts.setdefault((name, writers), Burst()).add(burst)
        shutil.rmtree(directory)
    return _rows(bursts, failed, absent)


def _payload() -> bytes:
    op = WriteOp(STATE, "agent_1", "key_1", compress(encode(FLAT, compress=False)), None, None)
    return encode_entry(Entry(Write((op,)))) + bytes(FRAME_BYTES)


def _peer(directory: Path, name: str, writers: int, seconds: float) -> Burst:
    module, opened = STORES[name]
    with opened(directory / f"{module}-{writers}", writers) as connect:
        return threads_burst(connect, writers, seconds, FLAT)


async def _ours(path: Path, writers: int, seconds: float) -> Burst:
    async with MemorySystem.open(MemoryConfig(storage_path=path)) as memory:
        samples: list[list[float]] = [[] for _ in range(writers)]

        async def write(number: int, end: float) -> None:
            agent, mine, count = f"agent_{number}", samples[number], 0
            while (start := time.perf_counter()) < end:
                await memory.put(agent, f"key_{count % 50}", FLAT | {"order": count})
                mine.append(time.perf_counter() - start)
                count += 1

        await asyncio.gather(*(memory.put(f"agent_{i}", "key_0", FLAT) for i in range(writers)))
        begun = time.perf_counter()
        await asyncio.gather(*(write(number, begun + seconds) for number in range(writers)))
        return Burst([s for mine in samples for s in mine], time.perf_counter() - begun)


def _rows(
    bursts: dict[tuple[str, int], Burst],
    failed: dict[tuple[str, int], str],
    absent: dict[str, str],
) -> list[Row]:
    bare = bursts[APPEND, 1].rate
    rows = [_bare_row(name, bursts[name, 1]) for name in (APPEND, OVERWRITE)]
    for writers in WRITERS:
        rows.append(_our_row(writers, bursts[OURS, writers], bare, bursts))
        for name, (module, _) in STORES.items():
            what = f"durable put, {_count(writers)}: {name} {version_of(module)}"
            if name in absent:
                rows.append(Row(what, f"skipped: {absent[name]}", "", ""))
            elif (name, writers) not in bursts:
                rows.append(Row(what, f"failed: {failed[name, writers]}", "", ""))
            else:
                burst = bursts[name, writers]
                rows.append(Row(what, _spelled(burst, bare), "", "", None, _figures(burst, bare)))
    return rows


def _bare_row(name: str, burst: Burst) -> Row:
    took = percentiles(burst.samples)
    measured = f"{burst.rate:,.0f}/s; p50 {duration(took['p50'])}, p99 {duration(took['p99'])}"
    return Row(name, measured, "", "", None, took | {"per_s": burst.rate})


def _our_row(writers: int, burst: Burst, bare: float, bursts: dict[tuple[str, int], Burst]) -> Row:
    figures = _figures(burst, bare)
    others = {name: other for (name, n), other in bursts.items() if n == writers and name in STORES}
    for name, other in others.items():
        figures[f"times_{STORES[name][0]}"] = burst.rate / other.rate
    best = max(others, key=lambda name: others[name].rate, default=None)
    measured = _spelled(burst, bare)
    if best is not None:
        measured += f"; {burst.rate / others[best].rate:.2f}x the fastest other, {best}"
    bar, aim, is_met = "", "", None
    if writers == 1:
        bar, aim = "p50 < 1 ms; >= 0.5x the bare append", "p50 0.3 ms"
        is_met = figures["p50"] < 1e-3 and figures["of_bare"] >= 0.5
    elif writers == 64:
        bar, aim, is_met = "> 15k/s", "30k/s", burst.rate > 15_000
    return Row(f"durable put, {_count(writers)}: {OURS}", measured, bar, aim, is_met, figures)


def _count(writers: int) -> str:
    return "1 writer" if writers == 1 else f"{writers} writers"


def _figures(burst: Burst, bare: float) -> dict[str, float]:
    return percentiles(burst.samples) | {"per_s": burst.rate, "of_bare": burst.rate / bare}


def _spelled(burst: Burst, bare: float) -> str:
    took = percentiles(burst.samples)
    return (
        f"{burst.rate:,.0f}/s = {burst.rate / bare:.2f}x the bare append; "
        f"p50 {duration(took['p50'])}, p99 {duration(took['p99'])}"
    )
