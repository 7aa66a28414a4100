"""What similarity search promises here, and whether a run kept it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nt_memory.apps.bench import observing
from nt_memory.apps.bench.figures import K, duration
from nt_memory.apps.bench.report import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nt_memory.apps.bench.datasets import Dataset

WHOLE = 1_000_000  # rows at which the bars that grow with the store are judged
# Contenders that bars are about; a search has one thread, and so had the scan that the bar was set by.
OURS, SCAN, SCAN_ALONE, RAW, RAW_ALIKE = "nt-memory", "numpy", "numpy-1", "faiss", "faiss-same"


def bars_of(dataset: Dataset, results: dict[str, dict[str, Any]]) -> list[Row]:
    """Every promise that the run measured; empty if this memory did not finish.

    Args:
        dataset: What was measured on.
        results: Of `vectors.measure`, by contender.
    """
    built = results[OURS]["build"]
    if not built.get("points"):
        return []
    again = results[OURS].get("reopen", {})
    return [*_searching(dataset, results, built), *_holding(dataset, results, built, again)]


def _searching(
    dataset: Dataset, results: dict[str, dict[str, Any]], built: dict[str, Any]
) -> Iterator[Row]:
    is_whole = dataset.rows >= WHOLE
    plain = built["points"][0]
    yield search_row(plain, dataset.rows, dataset.dim, is_whole=is_whole)
    if "filtered" in built:
        yield filtered_row(built["filtered"], is_whole=is_whole)
    for scan, threads in ((SCAN_ALONE, "one thread"), (SCAN, "all threads")):
        points = results.get(scan, {}).get("build", {}).get("points", [])
        if points:
            yield scan_row(points[0]["p50"], plain["p50"], threads, is_whole=is_whole)
    if "growing" in built:
        yield growing_row(built["growing"], plain["p95"])


def _holding(
    dataset: Dataset,
    results: dict[str, dict[str, Any]],
    built: dict[str, Any],
    again: dict[str, Any],
) -> Iterator[Row]:
    is_whole = dataset.rows >= WHOLE
    sizes = [size for found in (built, again) if (size := grown(found, "anonymous")) is not None]
    if sizes:
        yield memory_row(max(sizes), dataset.rows, is_whole=is_whole)
    for peer, how in ((RAW, "its defaults"), (RAW_ALIKE, "built as our graphs are")):
        raw = results.get(peer, {}).get("build", {}).get("build_s")
        if raw and "took" in built:
            yield bulk_row(raw, how, built["took"], dataset.rows)
    if "disk" in again and "rows" in again:
        yield disk_row(again["disk"] / again["rows"], dataset.dim)
    if "answered_s" in again:
        yield reopen_row(again, dataset.rows, is_whole=is_whole)


def grown(found: dict[str, Any], kind: str) -> float | None:
    """Bytes of memory that were not there before the contender had anything in it, if known.

    Args:
        found: Figures with "before" and "memory", as `machine.memory_of` gives them.
        kind: "anonymous" or "mapped".
    """
    if not found.get("memory") or not found.get("before"):
        return None
    return max(0.0, float(found["memory"][kind] - found["before"][kind]))


def search_row(took: dict[str, Any], rows: int, dim: int, *, is_whole: bool) -> Row:
    """The plain search."""
    is_met = took["p95"] < 1e-3 and took["recall"] >= 0.95
    return Row(
        f"search, {rows:,} x {dim}, k = {K}, records included",
        f"p50 {duration(took['p50'])}, p95 {duration(took['p95'])} at recall@{K} "
        f"{took['recall']:.3f}",
        "p95 < 1 ms at recall@10 >= 0.95 at 1M",
        "p95 < 0.5 ms at 0.99",
        is_met if is_whole or not is_met else None,
        _numbers(took),
    )


def filtered_row(took: dict[str, Any], *, is_whole: bool) -> Row:
    """The search that a tag on 2 % of the rows narrows."""
    is_met = took["p95"] < 8e-3 and took["recall"] >= 0.95
    return Row(
        f"the same, filtered to 2 % ({took['rows']:,} rows) by a tag",
        f"p50 {duration(took['p50'])}, p95 {duration(took['p95'])} at recall@{K} "
        f"{took['recall']:.3f}",
        "p95 < 8 ms at 0.95 at 1M",
        "p95 < 4 ms at 0.99",
        is_met if is_whole or not is_met else None,
        _numbers(took),
    )


def scan_row(scan_s: float, ours_s: float, threads: str, *, is_whole: bool) -> Row:
    """How many times faster than a linear scan, both at p50."""
    ratio = scan_s / ours_s
    return Row(
        f"the same against a linear scan (numpy float32, {threads})",
        f"{ratio:.{0 if ratio >= 10 else 1}f}x faster at p50 (scan {duration(scan_s)})",
        "150x at 1M",
        "200x",
        ratio >= 150 if is_whole else None,
        {"ratio": ratio, "scan_p50": scan_s},
    )


def memory_row(size: float, rows: int, *, is_whole: bool) -> Row:
    """Anonymous memory, the greater of when it was built and when it was opened again."""
    return Row(
        f"resident anonymous memory, {rows:,} observations with embeddings",
        f"{size / 1e6:,.0f} MB beyond an empty process",
        "< 1 GB at 1M",
        "< 700 MB",
        size < 1e9 if is_whole else None,
        {"bytes": size},
    )


def bulk_row(raw_s: float, how: str, took: dict[str, float], rows: int) -> Row:
    """Filling the memory, against filling the index it is made of, in seconds as of `fill`."""
    indexed_s, durable_s = took["indexed_s"], took["durable_s"]
    ratio = raw_s / indexed_s
    return Row(
        f"bulk ingest, index included, nobody searching, against raw faiss add ({how})",
        f"{ratio:.2f} ({rows / indexed_s:,.0f}/s against {rows / raw_s:,.0f}/s; durable and "
        f"searchable at {rows / durable_s:,.0f}/s)",
        ">= 0.6",
        ">= 0.85",
        ratio >= 0.6,
        {"ratio": ratio, "raw_s": raw_s, "indexed_s": indexed_s, "durable_s": durable_s},
    )


def growing_row(growing: dict[str, Any], idle_p95: float) -> Row:
    """Searches under ingest; one that does not see what was acknowledged breaks it at any speed."""
    ratio = growing["p95"] / idle_p95
    is_kept = growing["rate"] >= 0.9 * observing.INGEST_PER_S
    return Row(
        f"ingest at {observing.INGEST_PER_S:,}/s while searching",
        f"search p95 {duration(growing['p95'])} = {ratio:.2f}x idle, while {growing['rate']:,.0f}/s "
        f"came in; of {growing['checked']:,} just acknowledged, {growing['unseen']:,} were not seen "
        f"and {growing['missed']:,} only by exact search",
        "search p95 <= 2x idle; none unseen",
        "<= 1.3x",
        ratio <= 2 and is_kept and growing["checked"] > 0 and growing["unseen"] == 0,
        _numbers(growing) | {"ratio": ratio},
    )


def disk_row(size: float, dim: int) -> Row:
    """Disk of one observation after a proper end, which leaves the index snapshots."""
    return Row(
        f"disk per observation ({dim}-d, 100-byte payload), journal and index snapshot included",
        f"{size:,.0f} bytes",
        "< 4 KB",
        "< 2.5 KB",
        size < 4_000,
        {"bytes": size},
    )


def reopen_row(again: dict[str, Any], rows: int, *, is_whole: bool) -> Row:
    """What a crash costs."""
    return Row(
        f"reopen after a crash with {rows:,} observations",
        f"first answer after {duration(again['answered_s'])} (open "
        f"{duration(again['opened_s'])}); graph whole after {duration(again['settled_s'])}",
        "< 15 s at 1M",
        "< 5 s",
        again["answered_s"] < 15 if is_whole else None,
        {name: again[name] for name in ("opened_s", "answered_s", "settled_s")},
    )


def _numbers(figures: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in figures.items()}
