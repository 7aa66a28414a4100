"""What the processes of a swarm under chaos were told, held against what is there in the end.

Everything that contradicts a promise becomes a sentence in `Verdict.violations`, under what it is about:

- *lost*: an acknowledged write that is not there, is there twice, or that nobody made;
- *order*: a history of a key or a lock that no single key or lock could have given;
- *grants*: two that held a lease at once, or a fence that was granted twice;
- *fences*: a write that was accepted under a fence that was not current, by the entries' own times;
- *decisions*: a proposal that was decided two ways, or otherwise than its votes say;
- *replicas*: nodes that hold different rows at one revision;
- *messages*: one that came twice, or after a later one of its sender.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from chaos_child import LEASE_S, LEASES, SHARED

from nt_memory.testing.linearizability import UNKNOWN, Operation, check
from nt_memory.testing.models import KeyModel, LockModel

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


class Call(NamedTuple):
    """A call as one process wrote it down; `result` is `UNKNOWN` if it was never told."""

    by: str
    on: str
    do: list[Any]
    result: Any
    called: float
    returned: float


class Stored(NamedTuple):
    """A version of a key as it is in the end."""

    value: Any
    revision: int
    recorded_us: float


@dataclass
class Found:
    """What a node that joined afterwards holds.

    Attributes:
        versions: Of each key, oldest first.
        proposals: Records by id.
        times: Entry time of each revision, seconds.
    """

    versions: dict[str, list[Stored]] = field(default_factory=dict)
    proposals: dict[str, Any] = field(default_factory=dict)
    times: dict[int, float] = field(default_factory=dict)


@dataclass
class Verdict:
    """What was found.

    Attributes:
        violations: Sentences, by what they are about.
        counts: How much was judged.
    """

    violations: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def all(self) -> list[str]:
        return [f"{about}: {said}" for about, some in self.violations.items() for said in some]

    def blame(self, about: str, said: Iterable[str]) -> None:
        self.violations[about].extend(said)


def read_history(path: Path) -> list[Call]:
    """The calls of one process. What it had begun when it ended has no result."""
    begun: dict[str, dict[str, Any]] = {}
    ended: dict[str, dict[str, Any]] = {}
    with path.open() as lines:
        for text in lines:
            line = json.loads(text)
            (begun if "do" in line else ended)[line["n"]] = line
    calls: list[Call] = []
    for number, line in begun.items():
        end = ended.get(number, {})
        result = end.get("result") if "result" in end else UNKNOWN
        by = number.split("/")[0]
        returned = end["at"] if "result" in end else math.inf
        calls.append(Call(by, line["on"], line["do"], result, line["at"], returned))
    return calls


def judge(calls: list[Call], found: Found) -> Verdict:
    """Hold what was told against what is there."""
    verdict = Verdict()
    by_target: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        by_target[call.on].append(call)
        known = "unknown" if call.result is UNKNOWN else "told"
        verdict.counts[f"{call.do[0]} {known}"] += 1
        if isinstance(call.result, list) and call.do[0] != "get":
            verdict.counts[f"{call.do[0]} {call.result[0]}"] += 1
    for target, some in by_target.items():
        verbs = {call.do[0] for call in some}
        if verbs & {"put", "get"}:
            stored = found.versions.get(target, [])
            verdict.blame("lost", _judge_writes(target, some, "put", stored))
            verdict.blame("order", _judge_key(target, some, stored))
        elif "acquire" in verbs:
            verdict.blame("order", _judge_lock(target, some))
        elif "lease" in verbs:
            stored = found.versions.get(f"under/{target}", [])
            verdict.blame("lost", _judge_writes(target, some, "fenced", stored))
            verdict.blame("grants", _judge_grants(target, some))
            verdict.blame("fences", _judge_fences(target, some, stored, found.times))
        else:
            verdict.blame("decisions", _judge_decision(target, some, found.proposals.get(target)))
    return verdict


def _judge_writes(target: str, calls: list[Call], verb: str, stored: list[Stored]) -> Iterator[str]:
    """Acknowledged is there, once, under the revision that was told; nothing else is."""
    places: dict[str, list[int]] = defaultdict(list)
    for version in stored:
        places[json.dumps(version.value, sort_keys=True)].append(version.revision)
    for call in calls:
        if call.do[0] != verb:
            continue
        revisions = places.pop(json.dumps(call.do[1], sort_keys=True), [])
        if len(revisions) > 1:
            yield f"{target}: {call.do[1]} is there {len(revisions)} times, at {revisions}"
        if isinstance(call.result, int) and call.result not in revisions:
            yield f"{target}: {call.do[1]} was acknowledged as {call.result}, and is at {revisions}"
        if isinstance(call.result, list) and revisions:
            yield f"{target}: {call.do[1]} was refused ({call.result}), and is at {revisions}"
    for value, revisions in places.items():
        yield f"{target}: nobody wrote {value}, which is at {revisions}"


def _judge_key(target: str, calls: list[Call], stored: list[Stored]) -> Iterator[str]:
    """Linearizable. What became of writes that nobody was told of is read from what is there."""
    revisions = {version.value: version.revision for version in stored}
    operations: list[Operation] = []
    for call in calls:
        result = tuple(call.result) if isinstance(call.result, list) else call.result
        if result is UNKNOWN:
            if call.do[0] == "get" or call.do[1] not in revisions:
                continue
            result = revisions[call.do[1]]
        operations.append(Operation(target, tuple(call.do), result, call.called, call.returned))
    yield from (violation.explain() for violation in check(operations, KeyModel()))


def _judge_lock(target: str, calls: list[Call]) -> Iterator[str]:
    operations: list[Operation] = []

    def note(do: tuple[Any, ...], result: Any, call: Call) -> None:
        operations.append(Operation(target, do, result, call.called, call.returned))

    for call in calls:
        if call.do[0] == "release":
            note(tuple(call.do), call.result, call)
        elif isinstance(call.result, int):
            note(("acquire",), call.result, call)
        elif call.result == ["timeout"] and call.do[1] == 0.0:
            note(("acquire",), ("timeout",), call)
        else:
            # It may have held the lock, until it was withdrawn or for good; so may one that was granted
            # in the moment when it gave up waiting.
            note(("acquire",), UNKNOWN, call)
            note(("release", None), UNKNOWN, call)
    yield from (violation.explain() for violation in check(operations, LockModel()))


def _judge_grants(target: str, calls: list[Call]) -> Iterator[str]:
    """Nobody's lease, by the time that its holder may count on, overlaps another's."""
    given = {call.do[1]: call.called for call in calls if call.do[0] == "give"}
    granted = [call for call in calls if call.do[0] == "lease" and isinstance(call.result, int)]
    for fence, times in Counter(call.result for call in granted).items():
        if times > 1:
            yield f"{target}: fence {fence} was granted {times} times"
    held: list[tuple[float, float, int, str]] = []
    for call in granted:
        end = min(call.called + LEASE_S, given.get(call.result, math.inf))
        if call.returned < end:
            held.append((call.returned, end, call.result, call.by))
    for one, other in itertools.pairwise(sorted(held)):
        if other[0] < one[1]:
            yield f"{target}: {one[3]} held it until {one[1]:.3f}, {other[3]} from {other[0]:.3f}"
        if other[2] <= one[2]:
            yield f"{target}: fence {other[2]} was granted after {one[2]}"


def _judge_fences(
    target: str, calls: list[Call], stored: list[Stored], times: dict[int, float]
) -> Iterator[str]:
    """Every write that is there was made while its grant, which is the entry of its fence, was current."""
    grants = sorted(
        {call.result for call in calls if call.do[0] == "lease" and isinstance(call.result, int)}
        | {version.value["fence"] for version in stored}
    )
    for version in stored:
        fence = version.value["fence"]
        later = [grant for grant in grants if fence < grant < version.revision]
        if later:
            yield f"{target}: {version} was accepted after a grant of {later[0]}"
        if version.recorded_us > times.get(fence, -math.inf) + LEASE_S:
            yield f"{target}: {version} was accepted when its lease was over ({times.get(fence)})"
    released = {
        call.do[1]: call.returned for call in calls if call.do[0] == "give" and call.result is True
    }
    for call in calls:
        if call.do[0] == "fenced" and isinstance(call.result, int):
            fence = call.do[1]["fence"]
            if released.get(fence, math.inf) < call.called:
                yield f"{target}: {call.do[1]} was accepted after its lock was given back"


def _judge_decision(target: str, calls: list[Call], record: Any) -> Iterator[str]:
    """Decided once, as everybody was told, and as the votes that were acknowledged say."""
    told = {call.result for call in calls if call.result in ("approved", "rejected")}
    if record is None:
        if told or any(call.result == "pending" for call in calls):
            yield f"{target}: was told of, and is not there"
        return
    final = record["result"]
    if told - {final}:
        yield f"{target}: was told to be {sorted(told)}, and is {final}"
    yes = sum(approve for _, approve in record["votes"])
    if (final == "approved") != (yes >= record["needed"]):
        yield f"{target}: {final} by {yes} of {record['needed']} that are needed"
    yield from _judge_votes(target, calls, record["votes"])


def _judge_votes(target: str, calls: list[Call], votes: list[tuple[str, bool]]) -> Iterator[str]:
    voters = Counter(voter for voter, _ in votes)
    if any(times > 1 for times in voters.values()):
        yield f"{target}: somebody has voted twice: {voters}"
    cast = [call for call in calls if call.do[0] == "vote" and call.result != "unknown"]
    for call in cast:
        # One that came after the decision changes nothing, and is told the decision.
        if call.result == "pending" and call.by not in voters:
            yield f"{target}: the vote of {call.by} was acknowledged, and is not there"
    said = {(call.by, call.do[1]) for call in cast}
    for vote in votes:
        if vote not in said:
            yield f"{target}: nobody cast the vote {vote}"


async def look(memory: Any) -> Found:
    """What a node holds of all that the processes work on."""
    found = Found()
    # Large values tell by themselves whether they are what was written.
    keys = [record.key async for record in memory.scan(SHARED) if "large/" not in record.key]
    wanted = {f"under/lease{n}" for n in range(LEASES)} | set(keys)
    for key in wanted:
        versions = [
            Stored(thawed(record.value), record.revision, record.recorded_at.timestamp())
            async for record in memory.history(SHARED, key)
        ]
        if versions:
            found.versions[key] = sorted(versions, key=lambda version: version.revision)
    for record in await memory.consensus.list_proposals():
        voters = len(record.electorate)
        found.proposals[record.id] = {
            "result": type(record.result).__name__.lower(),
            "votes": [(vote.voter, vote.approve) for vote in record.votes],
            "needed": -(-voters // 2),
        }
    last = memory.revision
    async for entry in memory.tail():
        found.times[entry.revision] = entry.recorded_at.timestamp()
        if entry.revision >= last:
            break
    return found


def thawed(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value
