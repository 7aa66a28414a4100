"""What a crash leaves: time to open it, memory it takes, disk it fills."""

from __future__ import annotations

import time

from _harness import Options, Row, clustered, disk_bytes, duration, rss_anon_bytes
from _search import WHOLE, indexed, store_config

from nt_memory import MemorySystem


async def reopen(options: Options) -> list[Row]:
    """Open the store that `search` left behind when it was killed."""
    config = store_config(options)
    query = clustered(1, options.dim, options.seed + 3)[0]
    before = rss_anon_bytes()
    start = time.perf_counter()
    memory = await MemorySystem.open(config)
    opened_s = time.perf_counter() - start
    hits = await memory.search_similar("agent_1", query)
    answered_s = time.perf_counter() - start
    assert len(hits) == 10  # noqa: S101 - else the figures mean nothing
    await indexed(memory)
    indexed_s = time.perf_counter() - start
    for _ in range(20):
        await memory.search_similar("agent_1", query)
    anonymous = rss_anon_bytes() - before
    rows_held = memory.stats().l2.entries
    await memory.close()  # leaves the index snapshots that the disk row counts
    disk = disk_bytes(config.storage_path) / rows_held
    return [
        Row(
            f"resident anonymous memory, {rows_held:,} observations with embeddings",
            f"{anonymous / 1e6:,.0f} MB above an empty process",
            "< 1 GB at 1M",
            "< 700 MB",
            anonymous < 1e9 if rows_held >= WHOLE else None,
            {"bytes": anonymous, "rows": rows_held},
        ),
        Row(
            f"disk per observation ({options.dim}-d, 100-byte payload), journal and index "
            "snapshot included",
            f"{disk:,.0f} bytes",
            "< 4 KB",
            "< 2.5 KB",
            disk < 4_000,
            {"bytes": disk, "rows": rows_held},
        ),
        Row(
            f"reopen after a crash with {rows_held:,} observations",
            f"first answer after {duration(answered_s)} (open {duration(opened_s)}); graph whole "
            f"after {duration(indexed_s)}",
            "< 15 s at 1M",
            "< 5 s",
            answered_s < 15 if rows_held >= WHOLE else None,
            {"opened_s": opened_s, "answered_s": answered_s, "indexed_s": indexed_s},
        ),
    ]
