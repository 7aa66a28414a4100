"""The timed calls of one peer, in its own process."""

from __future__ import annotations

import gc
import inspect
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from peers.workload import AGENTS, SYMBOLS, K, agent, position, symbol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from peers.peer import Peer

    Report = Callable[..., None]

LOADED_AT_ONCE = 250
WARM = 20
_now = time.perf_counter


async def awaited(value: Any) -> Any:
    """What a plain or an `async` method answers."""
    return await value if inspect.isawaitable(value) else value


async def timed(
    call: Callable[..., Any], items: Iterable[tuple[Any, ...]], limit_s: float
) -> tuple[list[float], list[Any]]:
    """Call with each of the items, one after another.

    Returns:
        Seconds of each call, and what it answered; the first `WARM` calls are made and not counted.
    """
    samples: list[float] = []
    answers: list[Any] = []
    begun = _now()
    # Two loops: what is awaited for nothing would be seen in the figures of a dict.
    if inspect.iscoroutinefunction(call):
        for item in items:
            start = _now()
            answer = await call(*item)
            end = _now()
            samples.append(end - start)
            answers.append(answer)
            if end - begun > limit_s:
                break
    else:
        for item in items:
            start = _now()
            answer = call(*item)
            end = _now()
            samples.append(end - start)
            answers.append(answer)
            if end - begun > limit_s:
                break
    warm = WARM if len(samples) > 2 * WARM else 0
    return samples[warm:], answers


async def timed_on(
    peer: Peer, kind: str, items: Sequence[tuple[Any, ...]], limit_s: float
) -> tuple[list[float], list[Any]]:
    """`timed`, by the peer itself where it lives in another language and would be timed with a pipe."""
    many = getattr(peer, "timed_calls", None)
    if many is None:
        return await timed(getattr(peer, kind), items, limit_s)
    samples, answers = many(kind, items, limit_s)
    return samples[WARM if len(samples) > 2 * WARM else 0 :], answers


def figures(samples: Sequence[float]) -> dict[str, float]:
    """Percentiles in seconds, calls a second, and how many were made."""
    p50, p99 = np.percentile(np.asarray(samples), [50, 99])
    return {
        "p50": float(p50),
        "p99": float(p99),
        "rate": len(samples) / float(np.sum(samples)),
        "n": len(samples),
    }


def recall(found: Sequence[Sequence[int]], truth: np.ndarray) -> float:
    """Of the true neighbours (-1 is none), what share was among the first `K` found."""
    hit = wanted = 0
    for rows, true in zip(found, truth, strict=False):
        near = {int(row) for row in true if row >= 0}
        hit += len({int(row) for row in rows[:K]} & near)
        wanted += len(near)
    return hit / wanted


async def run(peer: Peer, report: Report) -> None:
    """Every kind of call the peer has something for, in the order an agent would meet them."""
    sizes = peer.workload.sizes
    at = time.time()
    report(phase="opening")
    start = _now()
    await awaited(peer.open())
    report(opened_s=_now() - start, version=peer.version())
    there = await _load(peer, report) if "load" not in peer.without else 0
    put = 0
    if "put" not in peer.without:
        report(phase="put")
        items = [(agent(n), position(n, at)) for n in range(sizes.updates)]
        samples, answers = await timed_on(peer, "put", items, sizes.limit_s)
        report(put=figures(samples))
        put = min(len(answers), AGENTS)
    calls: list[tuple[str, list[tuple[Any, ...]]]] = [
        ("get", [(agent(n * 7 % max(put, 1)),) for n in range(sizes.reads)]),
        ("search", [(n,) for n in range(sizes.searches)]),
        ("search_symbol", [(n, symbol(n % SYMBOLS)) for n in range(sizes.searches)]),
        ("observe", [(sizes.rows + n, at) for n in range(sizes.observations)]),
    ]
    for kind, items in calls:
        if kind in peer.without:
            continue
        report(phase=kind)
        samples, answers = await timed_on(peer, kind, items, sizes.limit_s)
        report(**{kind: figures(samples) | _judged(peer, kind, answers, there)})
    if "decide" not in peer.without:
        await _episodes(peer, report, at)
    for kind, count in (("message", sizes.messages), ("lock", sizes.locks)):
        if kind not in peer.without:
            report(phase=kind)
            samples, _ = await timed_on(peer, kind, [(n,) for n in range(count)], sizes.limit_s)
            report(**{kind: figures(samples)})
    gc.collect()


async def _load(peer: Peer, report: Report) -> int:
    """Load what there is time for; how many rows are there."""
    sizes = peer.workload.sizes
    report(phase="load")
    at, start, there = time.time(), _now(), 0
    while there < sizes.rows and _now() - start < sizes.loading_s:
        stop = min(sizes.rows, there + LOADED_AT_ONCE)
        await awaited(peer.load(there, stop, at))
        there = stop
    await awaited(peer.settle())
    report(load={"rate": there / (_now() - start), "n": there})
    return there


async def _episodes(peer: Peer, report: Report, at: float) -> None:
    """A decision and, later, its outcome are one episode; then what followed in similar situations."""
    sizes = peer.workload.sizes
    first = sizes.rows + sizes.observations
    report(phase="episode")
    items = [(first + n, at) for n in range(sizes.episodes)]
    decided, made = await timed_on(peer, "decide", items, sizes.limit_s)
    known = [(first + n, n % 9 / 8, at) for n in range(len(made))]
    turned_out, _ = await timed_on(peer, "outcome", known, sizes.limit_s)
    both = min(len(decided), len(turned_out))
    report(episode=figures([a + b for a, b in zip(decided[:both], turned_out[:both], strict=True)]))
    if "lessons" in peer.without:
        return
    report(phase="lessons")
    items = [(n,) for n in range(sizes.searches)]
    samples, answers = await timed_on(peer, "lessons", items, sizes.limit_s)
    if not any(answers):
        raise RuntimeError("no decision was found again with an outcome")
    report(lessons=figures(samples))


def _judged(peer: Peer, kind: str, answers: list[Any], there: int) -> dict[str, float]:
    """Recall of searches; and a reading that says nothing would make its time meaningless."""
    if kind == "search":
        return {"recall": recall(answers, peer.workload.truth(there))}
    if kind == "search_symbol":
        return {"recall": recall(answers, peer.workload.truth(there, by_symbol=True))}
    if kind == "get" and any(not answer for answer in answers):
        raise RuntimeError("a state that was put is not there")
    return {}
