"""`nt-memory bench coordination`: messages, locks and votes here, beside others, in one run."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nt_memory.apps.bench import processes
from nt_memory.apps.bench.coordination_report import bars_of, tables_of
from nt_memory.apps.bench.coordinators import (
    COORDINATORS,
    OURS,
    PEERS,
    RELAXED,
    Locker,
    Messenger,
    Threaded,
)
from nt_memory.apps.bench.machine import PACKAGES, machine
from nt_memory.apps.bench.report import Findings
from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Told = Callable[[str], None]
    Rounds = dict[str, dict[str, list[dict[str, Any]]]]

JOBS = "nt_memory.apps.bench.coordinating"
WORKS = ("messages", "threads", "locks", "proposals")
MOST = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinationOptions:
    """Options of one run; `nt-memory bench coordination --help` says the same in words.

    Attributes:
        peers: Who is measured beside this memory.
        receivers: How many get each message, each.
        contenders: How many want the lock at once, at least 2.
        voters: How many vote, each.
        seconds: Of each figure.
        repeats: Rounds; each measures everybody once, and of a figure the middle one counts.
        budget_s: A process is ended after so many seconds.
        workdir: Where stores go meanwhile; None: the system's temporary directory.

    Raises:
        InvalidInputError: a number is out of its range, or a name is not one.
    """

    peers: tuple[str, ...] = PEERS
    receivers: tuple[int, ...] = (1, 10, 1_000)
    contenders: int = 50
    voters: tuple[int, ...] = (5, 500)
    seconds: float = 1.0
    repeats: int = 3
    budget_s: float = 120.0
    workdir: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        unknown = [name for name in self.peers if name not in PEERS]
        if unknown:
            raise InvalidInputError(
                f"--peers: no such peer: {', '.join(unknown)}; there are {', '.join(PEERS)}"
            )
        wrong = [
            text
            for is_wrong, text in (
                (not _within(self.receivers), f"--receivers must be from 1 to {MOST:,}"),
                (not _within(self.voters), f"--voters must be from 1 to {MOST:,}"),
                (not 2 <= self.contenders <= MOST, f"--contenders must be from 2 to {MOST:,}"),
                (not self.seconds > 0, "--seconds must be greater than 0"),
                (self.repeats < 1, "--repeats must be at least 1"),
                (not self.budget_s > 0, "--budget must be greater than 0"),
                (
                    self.workdir is not None and not self.workdir.is_dir(),
                    "--workdir is no directory",
                ),
            )
            if is_wrong
        ]
        if wrong:
            raise InvalidInputError(wrong[0])


def _within(counts: Sequence[int]) -> bool:
    return bool(counts) and all(1 <= count <= MOST for count in counts)


def run_coordination(options: CoordinationOptions, told: Told, *, name: str = "") -> Findings:
    """Measure everybody once a round, each kind of work in a process of its own.

    Args:
        options: What and how long.
        told: Takes a line when something begins.
        name: Of the run.
    """
    with tempfile.TemporaryDirectory(dir=options.workdir, prefix="nt-bench-") as workdir:
        where = machine(workdir, _packages(options.peers))
        rounds, is_interrupted = _measured(options, Path(workdir), told)
    results = {
        who: {work: middle(each) for work, each in works.items()} for who, works in rounds.items()
    }
    return Findings(
        name=name or "coordination",
        command=command_of(options),
        where=where,
        tables=tables_of(results, options),
        bars=bars_of(results, options),
        document={"options": asdict(options) | {"workdir": ""}, "rounds": rounds},
        is_interrupted=is_interrupted,
    )


def works_of(who: str) -> Iterator[str]:
    """The kinds of work that somebody can be measured at."""
    kind = COORDINATORS[who]
    if kind.about.messages and issubclass(kind, Messenger):
        yield "messages"
    if kind.about.messages and issubclass(kind, Threaded):
        yield "threads"
    if kind.about.locks and issubclass(kind, Locker):
        yield "locks"
    if who in {OURS, RELAXED}:
        yield "proposals"


def _measured(options: CoordinationOptions, workdir: Path, told: Told) -> tuple[Rounds, bool]:
    """All rounds, or what was done when Ctrl-C came."""
    everybody = (OURS, RELAXED, *options.peers)
    rounds: Rounds = {who: {work: [] for work in works_of(who)} for who in everybody}
    for number in range(options.repeats):
        # By work, so that who is compared is measured right after each other.
        for work in WORKS:
            for who in everybody:
                if work not in rounds[who]:
                    continue
                told(f"round {number + 1} of {options.repeats}: {work}, {who} ...")
                try:
                    found = measure(who, work, options, workdir / f"{number}-{work}-{who}")
                except KeyboardInterrupt:
                    return rounds, True
                rounds[who][work].append(found)
                if found["failure"]:
                    told(f"  {found['failure']}")
    return rounds, False


def measure(who: str, work: str, options: CoordinationOptions, directory: Path) -> dict[str, Any]:
    """One kind of work of one of them, in a process of its own.

    Args:
        who: Its name in `COORDINATORS`.
        work: One of `works_of(who)`.
        options: How many and how long.
        directory: Its own; made here.

    Returns:
        What it found, and "failure": why it did not finish, or nothing.
    """
    asked: dict[str, dict[str, Any]] = {
        "messages": {"receivers": options.receivers},
        "threads": {},
        "locks": {"contenders": options.contenders},
        "proposals": {"voters": options.voters},
    }
    request = {"who": who, "seconds": options.seconds} | asked[work]
    outcome = processes.run(f"{JOBS}:{work}", request, directory, options.budget_s)
    return outcome.figures | {"failure": outcome.failure}


def middle(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each figure the middle one of those rounds that have it; of words the last.

    A work that failed in any round has failed, as in the first of those.
    """
    merged: dict[str, Any] = {}
    for name in dict.fromkeys(name for each in rounds for name in each):
        found = [each[name] for each in rounds if name in each]
        if isinstance(found[0], dict):
            merged[name] = middle(found)
        elif isinstance(found[0], str):
            merged[name] = next(filter(None, found), "") if name == "failure" else found[-1]
        else:
            merged[name] = statistics.median_low(found)
    return merged


def _packages(peers: Sequence[str]) -> list[str]:
    needed = [COORDINATORS[who].about.package for who in peers]
    return list(dict.fromkeys([*PACKAGES, *filter(None, needed), "hiredis"]))


def command_of(options: CoordinationOptions) -> str:
    """What to type for the same run."""
    parts = ["nt-memory bench coordination"]
    if options.peers != PEERS:
        parts.append(f"--peers {','.join(options.peers) or 'none'}")
    parts += [
        f"--receivers {','.join(map(str, options.receivers))}",
        f"--contenders {options.contenders}",
        f"--voters {','.join(map(str, options.voters))}",
        f"--seconds {options.seconds:g} --repeats {options.repeats}",
    ]
    return " ".join(parts)
