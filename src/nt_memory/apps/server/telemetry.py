"""What the server and its memory do, in numbers, as Prometheus reads them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from nt_memory.errors import NtMemoryError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client.core import Metric

    from nt_memory import MemoryStats, MemorySystem
    from nt_memory.clock import Clock

MAX_SKILL_AGENTS = 200
_SKILL_EVERY_NS = 30_000_000_000
_METHODS = frozenset({"GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "PATCH", "WEBSOCKET"})
_BUCKETS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
_KEY = "/v1/state/{agent}/{key:path}"
TIMED: dict[str, tuple[tuple[str, str], ...]] = {
    "get": (("GET", _KEY),),
    "put": (("PUT", _KEY), ("DELETE", _KEY), ("POST", "/v1/transactions")),
    "observe": (("POST", "/v1/observations/{agent}"), ("POST", "/v1/observations/{agent}/batch")),
    "search": (("POST", "/v1/search"),),
    "advise": (("POST", "/v1/advice"),),
    "vote": (("POST", "/v1/votes"), ("POST", "/v1/proposals")),
}
"""Routes whose latencies a page shows, by what they do; `(method, route)`."""


class Telemetry:
    """The metrics of one server.

    Args:
        memory: Whose counters to show.
        clock: For how old the bank's figures are.
    """

    def __init__(self, memory: MemorySystem, clock: Clock) -> None:
        self._memory = memory
        self._clock = clock
        self._skill_ns: int | None = None
        self.registry: CollectorRegistry = CollectorRegistry()
        self._requests = Counter(
            "nt_memory_http_requests",
            "Requests answered, by route.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "nt_memory_http_request_seconds",
            "How long requests took, by route; streams are not in it.",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.streams: Gauge = Gauge(
            "nt_memory_http_streams", "Open streams.", ("kind",), registry=self.registry
        )
        self._skill = Gauge(
            "nt_memory_verdict_skill",
            "Mean of baseline loss minus loss over an agent's judged forecasts.",
            ("agent", "action_type"),
            registry=self.registry,
        )
        self._judged = Gauge(
            "nt_memory_verdicts",
            "Judged forecasts behind the skill.",
            ("agent", "action_type"),
            registry=self.registry,
        )
        self.registry.register(StatsCollector(memory))

    def note(
        self, method: str, route: str, status: int, seconds: float, *, is_stream: bool
    ) -> None:
        """A request was answered."""
        method = method if method in _METHODS else "OTHER"
        self._requests.labels(method, route, str(status)).inc()
        if not is_stream:
            self._seconds.labels(method, route).observe(seconds)

    def latencies(self, wanted: Mapping[str, Iterable[tuple[str, str]]]) -> dict[str, Any]:
        """How long requests took since the server started, by groups of routes.

        Returns:
            `bounds`, the upper end of each bucket in seconds, and by group `counts`, one a bucket and
            one more for what took longer, with `sum` in seconds. Groups without requests are left out.
        """
        found: dict[str, Any] = {}
        counted = self._buckets()
        for name, routes in wanted.items():
            some = [counted[route] for route in routes if route in counted]
            if some:
                found[name] = {
                    "counts": [
                        int(sum(column)) for column in zip(*(one[0] for one in some), strict=True)
                    ],
                    "sum": sum(one[1] for one in some),
                }
        return {"bounds": list(_BUCKETS), "groups": found}

    def _buckets(self) -> dict[tuple[str, str], tuple[list[float], float]]:
        """By method and route: requests in each bucket, those beyond the last too, and seconds."""
        up_to: dict[tuple[str, str], list[float]] = {}
        sums: dict[tuple[str, str], float] = {}
        for metric in self._seconds.collect():
            for sample in metric.samples:
                route = sample.labels["method"], sample.labels["route"]
                if sample.name.endswith("_bucket"):
                    up_to.setdefault(route, []).append(sample.value)
                elif sample.name.endswith("_sum"):
                    sums[route] = sample.value
        return {
            route: ([now - before for before, now in pairwise([0.0, *counts])], sums[route])
            for route, counts in up_to.items()
        }

    async def text(self) -> bytes:
        """All metrics, in Prometheus' text format.

        Cost: about 2 ms; more at most twice a minute, when the bank is asked for its skill.
        """
        await self._refresh_skill()
        return generate_latest(self.registry)

    async def _refresh_skill(self) -> None:
        now = self._clock.monotonic_ns()
        if self._skill_ns is not None and now - self._skill_ns < _SKILL_EVERY_NS:
            return
        self._skill_ns = now
        self._skill.clear()
        self._judged.clear()
        for agent in (await self._memory.agents())[:MAX_SKILL_AGENTS]:
            try:
                found = await self._memory.bank.calibration(agent)
            except NtMemoryError:
                continue  # a backtest that has not started knows nothing of anybody yet
            for one in found:
                if one.n and one.skill.value == one.skill.value:
                    self._skill.labels(agent, one.action_type).set(one.skill.value)
                    self._judged.labels(agent, one.action_type).set(one.n)


class StatsCollector:
    """The counters of `MemorySystem.stats`, read when they are asked for."""

    def __init__(self, memory: MemorySystem) -> None:
        self._memory = memory

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now; none once the memory is closed."""
        try:
            stats = self._memory.stats()
        except NtMemoryError:
            return
        yield from _tiers(stats)
        yield from _gauges(stats)
        yield from _counters(stats)


def _tiers(stats: MemoryStats) -> Iterator[Metric]:
    tiers = (("l1", stats.l1), ("l2", stats.l2))
    gauges = (
        ("entries", "Records in L1, rows of vectors in L2."),
        ("bytes", "Anonymous memory."),
    )
    counters = (
        ("hits", "Reads that found it there."),
        ("misses", "Reads that did not."),
        ("evictions", "What was put out to make room."),
    )
    for name, text in gauges:
        family = GaugeMetricFamily(f"nt_memory_tier_{name}", text, labels=["tier"])
        for tier, counted in tiers:
            family.add_metric([tier], getattr(counted, name))
        yield family
    for name, text in counters:
        counter = CounterMetricFamily(f"nt_memory_tier_{name}", text, labels=["tier"])
        for tier, counted in tiers:
            counter.add_metric([tier], getattr(counted, name))
        yield counter


def _gauges(stats: MemoryStats) -> Iterator[Metric]:
    for name, text, value in (
        ("revision", "What is visible here.", stats.revision),
        ("lag_entries", "Entries recorded and not yet visible here.", stats.lag),
        ("journal_pending_bytes", "Bytes waiting for the journal.", stats.pending_bytes),
        ("vectors_pending", "Vectors that are not indexed yet.", stats.l2.pending),
        ("vectors_undelivered", "Entries that agentdb_url has not got.", stats.l2_undelivered),
        ("vectors_refused", "Observations that it did not take.", stats.l2_refused),
        ("delivery_failed", "1 if the last delivery to it failed.", bool(stats.l2_failure)),
        ("vector_graphs", "Graphs at hand.", stats.l2.graphs),
        ("vector_mapped_bytes", "Bytes of index files read in place.", stats.l2.mapped_bytes),
        ("filter_bytes", "Memory of the tables of filters.", stats.l2_filter_bytes),
        ("l3_bytes", "Bytes of the views on disk.", stats.l3_bytes),
        ("journal_bytes", "Bytes of the journal on disk.", stats.journal_bytes),
        ("value_bytes", "Bytes of the value files on disk.", stats.value_bytes),
        ("pins", "Live pins.", stats.pins),
        ("locks", "Locks held.", stats.locks),
        ("subscribers", "Open subscriptions.", stats.subscribers),
        ("clock_jump_seconds", "How far the wall clock has moved away.", stats.clock_jump_s),
        ("compaction_failed", "1 if the last compaction failed.", bool(stats.compaction_failure)),
    ):
        yield GaugeMetricFamily(f"nt_memory_{name}", text, value=float(value))


def _counters(stats: MemoryStats) -> Iterator[Metric]:
    for name, text, value in (
        ("messages", "Messages published.", stats.messages),
        ("denied", "Calls that a policy refused.", stats.denied),
        ("compactions", "Compactions finished.", stats.compactions),
        ("vector_loads", "Indexes mapped, read or begun.", stats.l2.loads),
        ("vector_merges", "Graphs made of others.", stats.l2.merges),
        ("vector_written_bytes", "Bytes of index snapshots written.", stats.l2.written_bytes),
    ):
        yield CounterMetricFamily(f"nt_memory_{name}", text, value=float(value))
