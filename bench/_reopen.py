"""What a crash leaves: time to open it, memory it takes, disk it fills."""

from __future__ import annotations

import time
from pathlib import Path

from _harness import Options, Row, disk_bytes, rss_anon_bytes, subspace
from _search import STORE

from nt_memory import MemorySystem
from nt_memory.apps.bench import bars, observing


async def reopen(options: Options) -> list[Row]:
    """Open the store that `search` left behind when it was killed."""
    config = observing.store_config(Path(options.workdir) / STORE)
    query = subspace(1, options.dim, options.seed + 3)[0]
    before = rss_anon_bytes()
    start = time.perf_counter()
    memory = await MemorySystem.open(config)
    opened_s = time.perf_counter() - start
    hits = await memory.search_similar(observing.AGENT, query)
    answered_s = time.perf_counter() - start
    assert len(hits) == 10  # noqa: S101 - else the figures mean nothing
    await observing.indexed(memory)
    settled_s = time.perf_counter() - start
    for _ in range(20):
        await memory.search_similar(observing.AGENT, query)
    anonymous = rss_anon_bytes() - before
    rows_held = memory.stats().l2.entries
    await memory.close()  # leaves the index snapshots that the disk row counts
    is_whole = rows_held >= bars.WHOLE
    again = {"opened_s": opened_s, "answered_s": answered_s, "settled_s": settled_s}
    return [
        bars.memory_row(anonymous, rows_held, is_whole=is_whole),
        bars.disk_row(disk_bytes(config.storage_path) / rows_held, options.dim),
        bars.reopen_row(again, rows_held, is_whole=is_whole),
    ]
