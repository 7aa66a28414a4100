"""One random place of a store is damaged: no answer is wrong, the damage is found, and mended.

Each case takes a copy of a store that was closed, or left by a killed process, or has lost its views,
and damages one place of one file. Three copies of that are then worked on, each by a process of its
own, since damage to a mapped file may stop whoever reads it: one is opened and asked everything
there is to ask, one is verified, one is repaired and then asked and verified.

`DAMAGE_CASES` and `DAMAGE_SEED` set how many cases the long test runs, and which; `DAMAGE_REPORT`
names a file for the table of what was found. A failing case prints the seed that repeats it alone:
`DAMAGE_CASES=1 DAMAGE_SEED=<seed>`.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import damage_child
import pytest
from damage_store import NEAR, TOP_K
from damages import Damage, damage

import nt_memory
from nt_memory.errors import CorruptionError, TrimmedError
from nt_memory.transport.segment_reader import SegmentReader
from nt_memory.transport.segments import HEADER_BYTES, list_segments, segment_path, unpack_position

STATES = {"closed": 6, "killed": 4, "without views": 3}
QUICK_SEEDS = range(100, 106)
TRUTH = ("journal", "base", "values")

Answers = dict[str, dict[str, str]]


class Worker:
    """A process that forks one for each request; use with `with`."""

    def __enter__(self) -> Worker:
        source = Path(nt_memory.__file__).parent.parent
        self._process = subprocess.Popen(
            [sys.executable, damage_child.__file__],
            env={**os.environ, "PYTHONPATH": str(source)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def __call__(self, call: str, store: Path, out: Path, **more: Any) -> int:
        """Have a request worked on; the exit code, negative for a signal."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"call": call, "store": str(store), "out": str(out), **more}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@dataclass
class Made:
    """A store to damage copies of, and what it answers."""

    place: Path
    worker: Worker
    plan: dict[str, Any]
    right: Answers = field(default_factory=dict)
    payloads: list[tuple[int, bytes]] = field(default_factory=list)
    cut: dict[int, Answers] = field(default_factory=dict)

    def copy(self, state: str, name: str = "case") -> Path:
        """A copy, in one of the `STATES`."""
        store = self.place / name
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(self.place / ("killed" if state == "killed" else "closed"), store)
        if state == "without views":
            shutil.rmtree(store / "views")
            shutil.rmtree(store / "vectors")
        return store

    def ask(self, store: Path) -> tuple[int, Answers]:
        """How the process that asked ended, and the answers it got until then."""
        out = self.place / "answers"
        code = self.worker("answers", store, out, plan=self.plan)
        return code, dict(json.loads(line) for line in out.read_text().splitlines())

    def run(self, call: str, store: Path) -> tuple[int, dict[str, Any]]:
        """Verify or repair."""
        out = self.place / "result"
        code = self.worker(call, store, out)
        return code, json.loads(out.read_text()) if code == 0 else {}

    def answers_up_to(self, sequence: int) -> Answers:
        """What the store would answer had nothing happened after an entry."""
        if sequence not in self.cut:
            store = self.copy("without views", "cut")
            _cut_journal(store / "journal", sequence)
            code, self.cut[sequence] = self.ask(store)
            assert code == 0
        return self.cut[sequence]


def _cut_journal(journal: Path, sequence: int) -> None:
    for frame in SegmentReader(journal).replay(list_segments(journal)[0] - 1):
        if frame.sequence == sequence + 1:
            first, offset = unpack_position(frame.position)
            os.truncate(segment_path(journal, first), offset)
            for later in [number for number in list_segments(journal) if number > first]:
                segment_path(journal, later).unlink()
            if offset == HEADER_BYTES and len(list_segments(journal)) > 1:
                segment_path(journal, first).unlink()
            return


def make(place: Path, worker: Worker, seed: int, *, with_graph: bool) -> Made:
    """Build a store and one like it, and ask the first everything."""
    plan: dict[str, Any] = {}
    for name, this in (("other", seed + 1), ("", seed)):
        base = place / name
        base.mkdir(parents=True, exist_ok=True)
        build = {"seed": this, "with_graph": with_graph, "unclean": str(base / "killed")}
        assert worker("build", base / "closed", base / "plan", **build) == 0
        plan = json.loads((base / "plan").read_text())
    made = Made(place, worker, plan)
    journal = made.place / "closed" / "journal"
    frames = SegmentReader(journal).replay(list_segments(journal)[0] - 1)
    made.payloads = [(frame.recorded_at, frame.payload) for frame in frames]
    for state in STATES:
        code, found = made.ask(made.copy(state))
        assert code == 0
        if made.right:
            assert differences(made.right, found) == [], state
        made.right = made.right or found
        assert not [name for name, answer in found.items() if "is" not in answer]
    return made


# --- what an answer may be ------------------------------------------------------------------------


def differences(right: Answers, found: Answers) -> list[str]:
    """Answers that are neither the right ones nor an error that says so."""
    return [
        f"{name}: {answer} instead of {right[name]}"[:600]
        for name, answer in found.items()
        if "crash" in answer or ("is" in answer and not _is_right(name, right, found))
    ]


def missing(right: Answers, found: Answers, *, lost: tuple[str, ...] = ()) -> list[str]:
    """Answers that should be there and are not; `lost` is what may stand in their errors."""
    wrong = []
    for name in right:
        answer = found.get(name, {"error": "none"})
        if "error" in answer and any(text in answer["error"] for text in lost):
            continue
        if ("error" in answer) != ("error" in right[name]):
            wrong.append(f"{name}: {answer} instead of {right[name]}"[:600])
    return wrong


def _is_right(name: str, right: Answers, found: Answers) -> bool:
    if not name.startswith("about"):
        return found[name] == right[name]
    # The index may find others, of those that are about as near; each as it was stored.
    near = json.loads(right[name.replace("about", "near")]["is"])
    hits = json.loads(found[name]["is"])
    return len(near) == NEAR and set(hits) <= set(near) and len(set(hits) & set(near[:TOP_K])) >= 3


# --- one case -------------------------------------------------------------------------------------


@dataclass
class Case:
    """What became of one damaged place."""

    seed: int
    state: str
    done: Damage
    outcome: str = ""
    wrong: list[str] = field(default_factory=list)


def judge(made: Made, seed: int) -> Case:
    """Damage one place and see what happens."""
    draw = random.Random(seed)  # noqa: S311 - not for secrets
    state = draw.choices(list(STATES), list(STATES.values()))[0]
    store = made.copy(state)
    case = Case(seed, state, damage(store, made.place / "other" / "closed", draw))
    for name in ("to ask", "to repair"):
        shutil.rmtree(made.place / name, ignore_errors=True)
        shutil.copytree(store, made.place / name)
    readings = _judge_reading(made, case)
    named = _judge_verify(made, case, store)
    _judge_repair(made, case)
    case.outcome = f"{readings}; verify {'names it' if named else 'sees no difference'}"
    return case


def _judge_reading(made: Made, case: Case) -> str:
    code, found = made.ask(made.place / "to ask")
    if code and not _may_stop(code, case):
        case.wrong.append(f"reading ended with {code}")
    right = made.right
    if _may_be_torn(case):
        reach = _reach(made, made.place / "to ask")
        right, found = (_until(each, reach) for each in (made.answers_up_to(reach), found))
    case.wrong += differences(right, found)
    if code:
        # It was killed in the check of its views, and whoever comes next knows.
        _, found = made.ask(made.place / "to ask")
        case.wrong += [f"second try: {text}" for text in differences(right, found)]
        case.wrong += [f"second try: {t}" for t in missing(right, found)]
        return f"stops the process ({signal.Signals(-code).name}), then rebuilt"
    if "error" in found["open"]:
        return f"refused at opening ({found['open']['error'].split(':')[0]})"
    has_error = any("error" in answer for answer in found.values())
    if has_error and case.done.area not in TRUTH:
        case.wrong.append("views can be made anew, and were not")
    return "found on read" if has_error else "every answer right"


def _may_stop(code: int, case: Case) -> bool:
    """Damage to views may end the process, by one of these signals."""
    signals = {-signal.SIGABRT, -signal.SIGBUS, -signal.SIGSEGV}
    return code in signals and case.done.area == "views" and case.state == "killed"


def _may_be_torn(case: Case) -> bool:
    """Whether the damage can look like the end that a crash leaves: nothing says what was there."""
    return case.state == "without views" and case.done.area == "journal"


def _reach(made: Made, store: Path) -> int:
    """The last entry that the journal of a store shares with the undamaged one."""
    journal = store / "journal"
    first = list_segments(made.place / "closed" / "journal")[0]
    sequence = first - 1
    with suppress(CorruptionError, TrimmedError):
        for frame in SegmentReader(journal).replay(first - 1):
            place = frame.sequence - first
            if made.payloads[place : place + 1] != [(frame.recorded_at, frame.payload)]:
                break
            sequence = frame.sequence
    return sequence


def _judge_verify(made: Made, case: Case, store: Path) -> bool:
    code, found = made.run("verify", store)
    if code:
        if not _may_stop(code, case):
            case.wrong.append(f"verify ended with {code}")
        return True
    if "crash" in found:
        case.wrong.append(f"verify: {found['crash']}")
    named = [found["refused"]] if "refused" in found else found.get("damage", [])
    is_harmless = _is_in_reserve(made, case, store) or _is_beside(case, store)
    if not named and _must_be_named(case) and not is_harmless:
        case.wrong.append("verify found nothing")
    where = Path(case.done.name).name if case.done.kind not in {"renamed", "swapped"} else ""
    area = case.done.name.split("/")[0]
    if (
        named
        and case.done.area in TRUTH
        and not any(where in text or area in text for text in named)
    ):
        case.wrong.append(f"verify names something else: {named}")
    return bool(named)


def _is_in_reserve(made: Made, case: Case, store: Path) -> bool:
    """Whether only space behind the last frame was changed, which a killed writer had reserved."""
    was = made.place / ("killed" if case.state == "killed" else "closed") / case.done.name
    now = store / case.done.name
    if case.done.area != "journal" or not now.exists():
        return False
    written = was.read_bytes().rstrip(b"\0")
    return now.read_bytes()[: len(written)] == written


def _is_beside(case: Case, store: Path) -> bool:
    """Whether there is only a file more, under a name that nobody asks for.

    A copy of a value file under another digest, or of the base below the number it has.
    """
    if case.done.kind != "duplicated":
        return False
    newest = max((path.name for path in (store / "base").glob("*.base")), default="")
    is_older = case.done.area == "base" and case.done.name == f"base/{newest}"
    return is_older or case.done.area == "values"


def _must_be_named(case: Case) -> bool:
    area, kind = case.done.area, case.done.kind
    if area == "graph":  # one that is missing, or is another's, is built anew
        return kind not in {"missing", "renamed", "duplicated", "replaced", "swapped"}
    if area in {"views", "vectors"}:
        return case.state == "closed"
    if _may_be_torn(case):
        return False  # `_judge_repair` asks whether it was
    return area in TRUTH


def _judge_repair(made: Made, case: Case) -> None:
    store = made.place / "to repair"
    before = _tree(store)
    code, done = made.run("repair", store)
    if "FormatVersionError" in done.get("refused", ""):
        return  # of FORMAT, which has no checksum: it may be so
    if code or "crash" in done or "refused" in done:
        case.wrong.append(f"repair: {code} {done}")
    elif done["is_repaired"]:
        _judge_repaired(made, case, store, done)
    elif not _may_give_up(case):
        case.wrong.append(f"repair gave up: {done}")
    elif not {data for name, data in before.items() if name.startswith(TRUTH)} <= {
        *_tree(store).values()
    }:
        case.wrong.append("repair gave up, and deleted something")


def _may_give_up(case: Case) -> bool:
    """Without views, a base that is damaged, or not of the same store as the journal behind it."""
    is_foreign = case.done.area == "journal" and case.done.kind in {"replaced", "swapped"}
    return case.state == "without views" and (case.done.area == "base" or is_foreign)


def _judge_repaired(made: Made, case: Case, store: Path, done: dict[str, Any]) -> None:
    lost = " ".join(done["lost"])
    code, found = made.ask(store)
    if code:
        case.wrong.append(f"repaired, but reading it ended with {code}")
    right = made.right
    if case.state == "without views" and case.done.area in {"base", "journal"}:
        reach = _reach(made, store)
        case.wrong += _judge_lost(made, case, reach, done)
        right, found = (_until(each, reach) for each in (made.answers_up_to(reach), found))
    elif case.done.area not in TRUTH and lost:
        case.wrong.append(f"repair says something is lost: {lost}")
    may_lack = ("TrimmedError",) if "the order of the entries" in lost else ()
    file = Path(case.done.name).name
    if case.done.area == "values" and file in lost:
        may_lack = (file,)  # the error of a lost value names its file
    case.wrong += [f"repaired: {text}" for text in differences(right, found)]
    case.wrong += [f"repaired: {text}" for text in missing(right, found, lost=may_lack)]
    code, again = made.run("verify", store)
    if code or again.get("damage") != []:
        case.wrong.append(f"repaired, but not sound: {again}")


def _until(answers: Answers, reach: int) -> Answers:
    """Those to questions about revisions that there still are when the journal was cut."""
    numbers = {name: re.search(r"(?:at|after) (\d+)", name) for name in answers}
    return {
        name: answers[name]
        for name, number in numbers.items()
        if number is None or int(number[1]) < reach
    }


def _judge_lost(made: Made, case: Case, reach: int, done: dict[str, Any]) -> list[str]:
    """Whether repair says exactly which entries are lost."""
    last = list_segments(made.place / "closed" / "journal")[0] - 1 + len(made.payloads)
    said: set[int] = set()
    if done["kept_at"] and (listed := Path(done["kept_at"]) / "lost.jsonl").exists():
        said |= {json.loads(line)["sequence"] for line in listed.read_text().splitlines()}
    for text in done["lost"]:
        if "cannot be read" in text:
            for one in re.finditer(r"(?:from )?(\d+)(?: to (\d+))?( on)?", text.split(":", 1)[1]):
                end = last if one[3] else int(one[2] or one[1])
                said |= set(range(int(one[1]), end + 1))
    lost = set(range(reach + 1, last + 1))
    if not said and lost and _is_torn_tail(made, case, reach):
        return []
    if said & set(range(1, last + 1)) != lost:
        return [f"lost are {_ends(lost)}, and repair says {_ends(said)}: {done}"]
    return []


def _is_torn_tail(made: Made, case: Case, reach: int) -> bool:
    """The one thing nobody can tell, without views, from what a crash leaves.

    The newest segment cut anywhere, or its last batch damaged.
    """
    newest = list_segments(made.place / "closed" / "journal")[-1]
    last = list_segments(made.place / "closed" / "journal")[0] - 1 + len(made.payloads)
    is_newest = case.done.name.endswith(f"{newest:020d}.log")
    is_cut = case.done.kind in {"cut", "missing"}
    return is_newest and (is_cut or reach == last - 1)


def _ends(numbers: set[int]) -> str:
    return f"{min(numbers)} to {max(numbers)} ({len(numbers)})" if numbers else "none"


def _tree(store: Path) -> dict[str, bytes]:
    return {
        path.relative_to(store).as_posix(): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file() and path.name != "LOCK"
    }


def table(cases: list[Case]) -> str:
    """What was found, by part of the store and outcome."""
    counted = Counter((case.done.area, case.state, case.outcome) for case in cases)
    rows = [
        f"| {area} | {state} | {outcome} | {count} |"
        for (area, state, outcome), count in sorted(counted.items())
    ]
    head = ["| damaged | store | outcome | cases |", "|---|---|---|---|"]
    return "\n".join([*head, *rows])


def _assert_none_is_wrong(cases: list[Case]) -> None:
    wrong = [case for case in cases if case.wrong]
    text = "\n".join(
        f"DAMAGE_SEED={case.seed} ({case.state}): {case.done}\n    " + "\n    ".join(case.wrong[:6])
        for case in wrong
    )
    assert not wrong, f"{len(wrong)} of {len(cases)} cases\n{text}"


@pytest.fixture(scope="module")
def worker() -> Any:
    """One for all cases."""
    with Worker() as worker:
        yield worker


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, worker: Worker) -> Made:
    """A store without an index."""
    return make(tmp_path_factory.mktemp("small"), worker, 1, with_graph=False)


@pytest.mark.parametrize("seed", QUICK_SEEDS)
def test_a_damaged_place_is_found_and_mended(small: Made, seed: int) -> None:
    """A few cases of the long test, on every run."""
    _assert_none_is_wrong([judge(small, seed)])


@pytest.mark.stress
def test_random_places(small: Made, worker: Worker, tmp_path: Path) -> None:
    """Every tenth store has an index of 33,000 observations."""
    count = int(os.environ.get("DAMAGE_CASES", "60"))
    first = int(os.environ.get("DAMAGE_SEED", "1"))
    large = make(tmp_path, worker, 3, with_graph=True)
    cases: list[Case] = []
    for seed in range(first, first + count):
        cases.append(judge(small if seed % 10 else large, seed))
        if cases[-1].wrong:
            print(f"\n{cases[-1]}", flush=True)
        if "DAMAGE_REPORT" in os.environ:
            Path(os.environ["DAMAGE_REPORT"]).write_text(table(cases) + "\n")
    print(table(cases))
    _assert_none_is_wrong(cases)
