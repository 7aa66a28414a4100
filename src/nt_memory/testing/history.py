"""Judge what a store holds after a crash against what it had acknowledged before.

A workload is any number of workers, each with keys of its own, each doing one numbered operation
after another and noting the revision when a call has returned. What an operation writes follows from
its worker and number alone, so afterwards every version that is found can be traced to the operation
that wrote it. Of each worker

- everything acknowledged must be there, under the revision that was acknowledged;
- at most the one operation that was in flight may be there besides;
- an operation that wrote several keys is there with all of them or with none;
- nothing may be there twice, in another order, or without an operation that wrote it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class Found(NamedTuple):
    """One version of a key as it was found."""

    value: Any
    revision: int


class Verdict(NamedTuple):
    """What became of a worker's operations.

    Attributes:
        done: Number of the last operation that took effect; the worker goes on with the next.
        violations: What contradicts the promises, in words; empty if nothing does.
    """

    done: int
    violations: list[str]


def judge_worker(
    writes: Callable[[int], Mapping[str, Any]],
    acknowledged: Mapping[int, int],
    last: int,
    found: Mapping[str, Sequence[Found]],
    current: Mapping[str, Any],
) -> Verdict:
    """Judge one worker's keys.

    Args:
        writes: What the operation of a number, from 0, writes: keys and values, None deletes. No
            two operations write equal values.
        acknowledged: Revisions of acknowledged operations by number, as far as they are known.
        last: Number of the last operation that was acknowledged; -1 if none was.
        found: All versions of each key, oldest first, deletes left out.
        current: The value of each key that has one.
    """
    verdicts: list[Verdict] = []
    for done in (last, last + 1):
        violations = _differences(done, writes, acknowledged, found, current)
        if not violations:
            return Verdict(done, [])
        verdicts.append(Verdict(done, violations))
    return min(verdicts, key=lambda verdict: len(verdict.violations))


def _differences(
    done: int,
    writes: Callable[[int], Mapping[str, Any]],
    acknowledged: Mapping[int, int],
    found: Mapping[str, Sequence[Found]],
    current: Mapping[str, Any],
) -> list[str]:
    """How the store differs from one in which exactly the operations up to `done` took effect."""
    versions: dict[str, list[tuple[int, Any]]] = {}
    present: dict[str, Any] = {}
    for number in range(done + 1):
        for key, value in writes(number).items():
            if value is None:
                present.pop(key, None)
            else:
                present[key] = value
                versions.setdefault(key, []).append((number, value))
    violations: list[str] = []
    revisions: dict[int, set[int]] = {}
    for key in sorted({*versions, *found}):
        violations += _compare(key, versions.get(key, []), found.get(key, ()), revisions)
    violations += _judge_order(revisions, acknowledged)
    differing = [key for key in {*present, *current} if present.get(key) != current.get(key)]
    if differing:
        violations.append(f"the present differs at {', '.join(sorted(differing)[:5])}")
    return violations


def _compare(
    key: str,
    wanted: Sequence[tuple[int, Any]],
    found: Sequence[Found],
    revisions: dict[int, set[int]],
) -> list[str]:
    """One key's versions; notes at which revisions each operation was found."""
    violations: list[str] = []
    left = list(found)
    for number, value in wanted:
        places = [version for version in left if version.value == value]
        left = [version for version in left if version.value != value]
        if not places:
            violations.append(f"{key}: operation {number} is lost")
        if len(places) > 1:
            violations.append(f"{key}: operation {number} is there {len(places)} times")
        revisions.setdefault(number, set()).update(version.revision for version in places)
    violations += [f"{key}: nobody wrote {version.value!r}" for version in left]
    return violations


def _judge_order(revisions: Mapping[int, set[int]], acknowledged: Mapping[int, int]) -> list[str]:
    violations: list[str] = []
    newest = 0
    for number, places in sorted(revisions.items()):
        if not places:
            continue  # lost, and said to be
        if len(places) > 1:
            violations.append(f"operation {number} is split over revisions {sorted(places)}")
        if min(places) <= newest:
            violations.append(f"operation {number} has revision {min(places)}, after {newest}")
        if acknowledged.get(number, min(places)) not in places:
            violations.append(
                f"operation {number} was acknowledged as {acknowledged[number]}, "
                f"and has revision {min(places)}"
            )
        newest = max(places)
    return violations
