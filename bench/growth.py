"""What one stream takes, and how many streams a swarm needs: `python bench/growth.py --help`.

A simulation of what the cluster does, with the costs that `bench/cluster.py` measured: each node packs the
entries that wait into one message and has one under way; the stream's leader stores one message after
the other, and syncs each; every node applies every entry. Writers come by a Poisson process, spread over the
nodes at random.

Not simulated: losing servers, networks that are slow or lossy, processors shared with other work, entries
larger than those measured. What comes out is therefore a bound to plan below, not a promise.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import sys
from collections import deque
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
SETTING = "3 servers, always"
ALONE = ("1 server, always", "1 server, default")
FAST_STORE_S = 1e-4
"""A disk with power-loss protection, beside the one that was measured."""
MESSAGE_BYTES = 256 * 1024
WARM_UP = 0.3
"""Share of the simulated time that does not count."""
TURNS = 20
KEEPS_UP = 0.97
ROOM = 0.6
"""Share of what saturates it that a part should be planned for."""
CARD_BYTES = 1.25e9
"""A network card of 10 Gbit/s."""
CONTROL_SHARE = 0.001
"""Share of entries that are locks and proposals in the split that is computed."""


@dataclass(frozen=True)
class Costs:
    """What was measured, in seconds and bytes.

    Attributes:
        store_s: Storing one message, during which no other can be: what syncing adds to a lone put on
            one server. Three on one machine take processors from each other, which hides it.
        way_s: The rest of a lone put: there and back, and what the servers do meanwhile.
        apply_s: Applying an entry on one node.
        servers_s: Processor time of all servers, an entry, and one node that follows.
        entry_bytes: In the stream.
    """

    store_s: float
    way_s: float
    apply_s: float
    servers_s: float
    entry_bytes: float


@dataclass(frozen=True)
class Outcome:
    """One stream under one load.

    Attributes:
        nodes: That write and follow.
        offered: Entries a second.
        stored: Entries a second that were applied.
        p50_s: From handing in an entry until it is applied where it came from.
        p99_s: Likewise.
        packed: Entries a message.
        store_busy: Share of the time in which the leader stores.
        apply_busy: Share in which a node applies.
        egress_bytes: A second, to all nodes together.
    """

    nodes: int
    offered: float
    stored: float
    p50_s: float
    p99_s: float
    packed: float
    store_busy: float
    apply_busy: float
    egress_bytes: float

    @property
    def keeps_up(self) -> bool:
        """Whether what waits does not grow without end."""
        return self.stored >= KEEPS_UP * self.offered


def costs_of(document: dict[str, Any]) -> Costs:
    """Costs from what `bench/cluster.py` wrote.

    Raises:
        ValueError: on one server a lone put took no longer with syncing than without: the machine was
            not quiet enough.
    """
    synced = document["columns"][SETTING]
    lone = synced["put, 1 writer"]["p50"]
    with_sync, without = (document["columns"][name]["put, 1 writer"]["p50"] for name in ALONE)
    store = with_sync - without
    if not 0 < store < lone:
        raise ValueError("syncing cost nothing in that run: measure again on a quiet machine")
    return Costs(
        store_s=store,
        way_s=lone - store,
        apply_s=synced["costs"]["node_cpu_us"] / 1e6,
        servers_s=synced["costs"]["servers_cpu_us"] / 1e6,
        entry_bytes=synced["costs"]["bytes"],
    )


class _Stream:
    """One stream in simulated time."""

    def __init__(self, costs: Costs, nodes: int, start: float, end: float) -> None:
        self._costs = costs
        self._most = max(1, int(MESSAGE_BYTES // costs.entry_bytes))
        self._window = (start, end)
        self._waiting: list[deque[float]] = [deque() for _ in range(nodes)]
        self._is_under_way = [False] * nodes
        self._stored_until = self._applied_until = 0.0
        self.events: list[tuple[float, int, tuple[float, ...]]] = []
        self.waits: list[float] = []
        self.messages = 0

    def hand_in(self, now: float, node: int) -> None:
        """An entry comes, at a node."""
        self._waiting[node].append(now)
        if not self._is_under_way[node]:
            self._send(now, node)

    def step(self) -> None:
        """What comes next: a message reaches the leader (with entries), or its answer its node."""
        now, node, packed = heapq.heappop(self.events)
        if packed:
            self._store(now, node, packed)
            return
        self._is_under_way[node] = False
        if self._waiting[node]:
            self._send(now, node)

    def _send(self, now: float, node: int) -> None:
        self._is_under_way[node] = True
        queue = self._waiting[node]
        packed = tuple(queue.popleft() for _ in range(min(self._most, len(queue))))
        heapq.heappush(self.events, (now + self._costs.way_s / 2, node, packed))

    def _store(self, now: float, node: int, packed: tuple[float, ...]) -> None:
        costs = self._costs
        self._stored_until = max(now, self._stored_until) + costs.store_s
        arrived = self._stored_until + costs.way_s / 2
        # All nodes apply the same entries in the same order: one of them stands for all.
        self._applied_until = max(arrived, self._applied_until) + len(packed) * costs.apply_s
        heapq.heappush(self.events, (arrived, node, ()))
        if self._window[0] <= self._applied_until <= self._window[1]:
            self.waits += [self._applied_until - one for one in packed]
            self.messages += 1


def simulate(costs: Costs, nodes: int, offered: float, seconds: float, seed: int) -> Outcome:
    """One stream: `nodes` writers together hand in `offered` entries a second, for at least `seconds`.

    Cost: a few microseconds an entry.
    """
    # Nodes that wait for each other settle only after some turns of all of them.
    seconds = max(seconds, TURNS * nodes * costs.store_s)
    draws = np.random.default_rng(seed)
    count = int(offered * seconds)
    arrivals = np.sort(draws.random(count) * seconds).tolist()
    homes = draws.integers(0, nodes, count).tolist()
    start = WARM_UP * seconds
    stream = _Stream(costs, nodes, start, seconds)
    for now, node in zip(arrivals, homes, strict=True):
        while stream.events and stream.events[0][0] < now:
            stream.step()
        stream.hand_in(now, node)
    while stream.events and stream.events[0][0] < seconds:
        stream.step()
    waits = np.array(stream.waits or [math.inf])
    rate = len(stream.waits) / (seconds - start)
    return Outcome(
        nodes=nodes,
        offered=offered,
        stored=rate,
        p50_s=float(np.percentile(waits, 50)),
        p99_s=float(np.percentile(waits, 99)),
        packed=len(stream.waits) / max(1, stream.messages),
        store_busy=stream.messages * costs.store_s / (seconds - start),
        apply_busy=rate * costs.apply_s,
        egress_bytes=rate * costs.entry_bytes * nodes,
    )


def limit(costs: Costs, nodes: int, seconds: float, seed: int) -> float:
    """Most entries a second with which a stream of so many nodes keeps up; by bisection, to 5 %."""
    low, high = 100.0, 1.5 / costs.apply_s
    while high / low > 1.05:
        middle = math.sqrt(low * high)
        if simulate(costs, nodes, middle, seconds, seed).keeps_up:
            low = middle
        else:
            high = middle
    return low


@dataclass(frozen=True)
class Split:
    """A swarm over several streams. Rates a second.

    Attributes:
        nodes: All of them.
        offered: Entries of the whole swarm.
        streams: Of agents' ranges, so that each node follows one at 60 % of what it can.
        nodes_a_stream: That write to and follow each.
        p99_s: Of a put.
        control: Entries of the control stream, which every node follows.
        control_share: Processor time of a node that goes into the control stream.
        control_egress_bytes: From the control stream to all nodes.
        egress_bytes: From the busiest data stream to its nodes.
        server_cores: Processors of all servers together, at what was measured.
        disk_bytes: Written by all servers, three copies.
    """

    nodes: int
    offered: float
    streams: int
    nodes_a_stream: int
    p99_s: float
    control: float
    control_share: float
    control_egress_bytes: float
    egress_bytes: float
    server_cores: float
    disk_bytes: float


def split(costs: Costs, nodes: int, offered: float, seconds: float, seed: int) -> Split:
    """How many streams a load takes, and what each node and server then does.

    Load and nodes are spread evenly; where they are not, the fullest range decides.
    """
    control = CONTROL_SHARE * offered
    streams = 1
    while True:
        each = math.ceil(nodes / streams)
        capacity = limit(costs, each, seconds, seed)
        needed = max(1, math.ceil((offered - control) / (ROOM * capacity)))
        if needed <= streams:
            break
        streams = needed
    one = simulate(costs, each, (offered - control) / streams, seconds, seed)
    return Split(
        nodes=nodes,
        offered=offered,
        streams=streams,
        nodes_a_stream=each,
        p99_s=one.p99_s,
        control=control,
        control_share=control * costs.apply_s,
        control_egress_bytes=control * costs.entry_bytes * nodes,
        egress_bytes=one.egress_bytes,
        server_cores=offered * costs.servers_s,
        disk_bytes=3 * offered * costs.entry_bytes,
    )


LOADS = ((10, 1_000), (10, 10_000), (100, 1_000), (100, 10_000), (1_000, 1_000), (1_000, 10_000))
SPLITS = ((10, 10_000), (100, 100_000), (1_000, 100_000), (1_000, 1_000_000))


def compute(costs: Costs, seconds: float, seed: int) -> dict[str, Any]:
    """All figures of the page."""
    return {
        "costs": asdict(costs),
        "limits": {nodes: limit(costs, nodes, seconds, seed) for nodes in (1, 10, 100, 1_000)},
        "loads": [
            asdict(one) | {"keeps_up": one.keeps_up}
            for one in (simulate(costs, *load, seconds, seed) for load in LOADS)
        ],
        "splits": [asdict(split(costs, *load, seconds, seed)) for load in SPLITS],
    }


def render(found: dict[str, Any]) -> str:
    """The page's tables."""
    costs = found["costs"]
    lines = [
        f"Storing a message {costs['store_s'] * 1e3:.2f} ms, the way there and back "
        f"{costs['way_s'] * 1e3:.2f} ms, applying an entry {costs['apply_s'] * 1e6:.0f} µs, "
        f"{costs['entry_bytes']:.0f} bytes an entry.",
        "",
        "| nodes that write | most entries/s of one stream |",
        "|---|---|",
        *(f"| {int(nodes):,} | {rate:,.0f} |" for nodes, rate in found["limits"].items()),
        "",
        "| nodes | entries/s | put p50 / p99 | entries a message | leader stores | each node applies "
        "| out of the servers |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found["loads"]:
        times = f"{_ms(one['p50_s'])} / {_ms(one['p99_s'])}"
        lines.append(
            f"| {one['nodes']:,} | {one['offered']:,.0f} | "
            f"{times if one['keeps_up'] else 'grows without end'} | {one['packed']:.1f} | "
            f"{one['store_busy']:.0%} | {one['apply_busy']:.0%} | {_mb(one['egress_bytes'])} |"
        )
    lines += [
        "",
        "| nodes | entries/s | streams | nodes each | put p99 | busiest stream sends | control stream: "
        "entries/s, of a node's core, sends | servers: cores, disk |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found["splits"]:
        lines.append(
            f"| {one['nodes']:,} | {one['offered']:,.0f} | {one['streams']} | "
            f"{one['nodes_a_stream']} | {_ms(one['p99_s'])} | {_mb(one['egress_bytes'])} | "
            f"{one['control']:,.0f}, {one['control_share']:.1%}, "
            f"{_mb(one['control_egress_bytes'])} | {one['server_cores']:.1f}, "
            f"{_mb(one['disk_bytes'])} |"
        )
    return "\n".join([*lines, ""])


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f} ms"


def _mb(size: float) -> str:
    return f"{size / 1e6:,.1f} MB/s"


def main() -> None:
    """Compute, print, and write bench/results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measured", type=Path, help="JSON of bench/cluster.py; default: newest")
    parser.add_argument("--seconds", type=float, default=5.0, help="simulated, each time")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    measured = asked.measured or max(RESULTS.glob("*-cluster.json"))
    costs = costs_of(json.loads(measured.read_text()))
    found: dict[str, Any] = {"measured": measured.name}
    parts = []
    for name, one in (("as measured", costs), ("fast disk", replace(costs, store_s=FAST_STORE_S))):
        found[name] = compute(one, asked.seconds, asked.seed)
        parts.append(f"## {name.capitalize()}\n\n{render(found[name])}")
    stem = measured.name.replace("-cluster.json", "-growth")
    command = "python bench/growth.py " + " ".join(sys.argv[1:])
    text = f"# {stem}\n\n`{command.strip()}`, from `{measured.name}`\n\n" + "\n".join(parts)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / f"{stem}.md").write_text(text)
    (asked.out / f"{stem}.json").write_text(json.dumps(found, indent=2) + "\n")
    print(text)


if __name__ == "__main__":
    main()
