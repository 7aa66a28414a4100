"""Mutation testing of the pure cores: is there a change to them that no test notices?

mutmut writes the mutants; for each, the tests that call the changed function are run, by the loop in
`mutation_loop.py`. This says which files and which fast tests belong together, draws a sample where a
target has more mutants than are worth the time, and writes what came out to `build/mutation/`, after
each mutant:

    python tools/mutation.py locks codec      # these targets; all by default
    python tools/mutation.py --minutes 5      # no more than that a target; again: goes on from there
    python tools/mutation.py --report         # the table of what was run so far
    python tools/mutation.py locks --show     # what survived, as diffs
    python tools/mutation.py locks --again    # do the tests as they are now notice the survivors?

What was run is kept for as long as the files of the target and its tests stay as they are; `--again`
counts nothing. The order is drawn by the seed, so that the first part of a sample is a sample too.

Survivors that mean the same as the original are listed in `mutation_equivalents.toml`, each with its
reason. They are run like all others, and counted apart.

Texts of errors are left alone (`raise` lines): the tests ask which error, not for its wording.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
OUT = ROOT / "build" / "mutation"
EQUIVALENTS = ROOT / "tools" / "mutation_equivalents.toml"
BAR = 0.85
SAMPLE = 150
SEED = 20261128
_SURVIVED = frozenset({"passed", "untested"})


class Target(NamedTuple):
    """Files that belong together, and the fast tests that answer for them."""

    files: tuple[str, ...]
    tests: tuple[str, ...]
    unmutated: tuple[str, ...] = ()
    """Further patterns of lines to leave alone; each with its reason beside it."""


_BANK_TESTS = (
    "unit/test_bank_statistics.py",
    "unit/test_bank_promotion.py",
    "unit/test_conformal.py",
    "unit/test_recall.py",
    "unit/test_bank_queries.py",
    "unit/test_bank_advice.py",
    "unit/test_statistics_by_definition.py",
    "unit/test_records_by_definition.py",
    "unit/test_patterns_by_definition.py",
)

TARGETS = {
    "apply": Target(
        (
            "replica/writes.py",
            "replica/observing.py",
            "replica/dropping.py",
            "replica/requests.py",
            "replica/retention.py",
            "replica/quotas.py",
            "replica/policies.py",
            "replica/coordination.py",
        ),
        (
            "unit/test_entry_effects.py",
            "unit/test_quotas.py",
            "unit/test_observing.py",
            "unit/test_api_coordination.py",
            "unit/test_policies.py",
            "unit/test_retention.py",
            "unit/test_api_state.py",
            "unit/test_repeated_calls.py",
        ),
    ),
    "locks": Target(
        ("coordination/lock_rules.py",),
        ("unit/test_lock_rules.py",),
    ),
    "consensus": Target(
        ("coordination/ballot_rules.py",),
        ("unit/test_ballot_rules.py",),
    ),
    "verdict": Target(("reasoningbank/verdict.py",), ("unit/test_verdict.py",)),
    "distillation": Target(
        (
            "reasoningbank/dependence.py",
            "reasoningbank/promotion.py",
            "reasoningbank/drift.py",
            "reasoningbank/conformal.py",
            "reasoningbank/recall.py",
            "reasoningbank/watching.py",
            "reasoningbank/calibration.py",
            "reasoningbank/uplift.py",
            "reasoningbank/votes.py",
            "reasoningbank/regimes.py",
            "reasoningbank/describing.py",
            "reasoningbank/evidence.py",
        ),
        _BANK_TESTS,
    ),
    "as-of": Target(
        ("timeline.py", "tiers/views.py"),
        ("unit/test_timeline.py", "unit/test_views.py"),
    ),
    "codec": Target(
        ("codec/__init__.py", "codec/lowering.py", "codec/raising.py", "codec/plain.py"),
        ("unit/test_codec.py", "unit/test_codec_plain.py", "unit/test_codec_parts.py"),
    ),
}

# Run in the scratch folder by the interpreter that has mutmut: writes the mutants, runs none.
_GENERATE = """
import mutmut.__main__ as mutmut
from pathlib import Path
Path("mutants").mkdir(exist_ok=True)
mutmut.set_mutant_under_test("mutant_generation")
mutmut.copy_src_dir()
mutmut.copy_also_copy_files()
mutmut.setup_source_paths()
mutmut.create_mutants(1)
"""


# Likewise: prints the diff of each mutant that it is given.
_DIFFS = """
import json, sys
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.utils.file_utils import walk_mutatable_files
paths = {}
for path in walk_mutatable_files():
    found = SourceFileMutationData(path=path)
    found.load()
    paths |= dict.fromkeys(found.exit_code_by_key, path)
wanted = json.loads(open(sys.argv[1]).read())
diffs = {name: get_diff_for_mutant(name, path=paths[name]) for name in wanted}
open(sys.argv[1], "w").write(json.dumps(diffs))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], help="all by default")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="mutants a target, at most")
    parser.add_argument("--seed", type=int, default=SEED, help="of the sample")
    parser.add_argument("--minutes", type=float, help="a target; what was run by then is kept")
    parser.add_argument("--again", action="store_true", help="run survivors only; counts nothing")
    parser.add_argument("--report", action="store_true", help="run nothing: print what there is")
    parser.add_argument("--show", action="store_true", help="run nothing: print what survived")
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    names = options.targets or list(TARGETS)
    if not options.report and not options.show:
        for name in names:
            if options.again:
                try_again(name, minutes=options.minutes)
            else:
                examine(name, options.sample, options.seed, minutes=options.minutes)
    told = {name: result for name in names if (result := _read(name)) is not None}
    if options.show:
        for result in told.values():
            show(result)
        return 0
    return report(told)


def examine(name: str, sample: int, seed: int, *, minutes: float | None) -> None:
    """Run a target's mutants; what became of them is in `build/mutation/<name>.json`, as it comes."""
    target = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        place = Path(folder)
        lay_out(place, target)
        _run(place, sys.executable, "-c", _GENERATE)
        every = sorted(_mutants(place))
        random.Random(seed).shuffle(every)  # noqa: S311
        order = every[:sample]
        of = {"files": target.files, "mutants": len(every), "seed": seed, "state": state_of(target)}
        before = _read(name)
        ends: dict[str, str] = {}
        if before is not None and all(before[key] == json.loads(json.dumps(of[key])) for key in of):
            ends = before["ends"]
        result = of | {"commit": _commit(), "date": _today(), "order": order, "ends": ends}
        result["diffs"] = _diffs(place, [*order, *(key for key in ends if key not in order)])
        (OUT / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        done = sum(mutant in ends for mutant in order)
        print(f"{name}: {len(order)} of {len(every)} mutants, {done} already run", flush=True)
        if done < len(order):
            _loop(place, name, target, OUT / f"{name}.json", minutes)


def try_again(name: str, *, minutes: float | None) -> None:
    """Run the survivors that are not known as equivalent, and say which are noticed now."""
    before = _read(name)
    if before is None:
        sys.exit(f"{name}: nothing was run yet")
    target = TARGETS[name]
    left = [
        mutant for mutant in survivors(before) if why_same(mutant, before["diffs"][mutant]) is None
    ]
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        place = Path(folder)
        lay_out(place, target)
        _run(place, sys.executable, "-c", _GENERATE)
        if not set(left) <= set(_mutants(place)) or _diffs(place, left) != {
            mutant: before["diffs"][mutant] for mutant in left
        }:
            sys.exit(f"{name}: its files have changed since")
        answer = place / "again.json"
        answer.write_text(json.dumps({"order": left, "ends": {}}))
        _loop(place, name, target, answer, minutes)
        ends = json.loads(answer.read_text())["ends"]
    for mutant in left:
        if ends.get(mutant) in _SURVIVED:
            print(f"\n# {mutant}: still {ends[mutant]}\n{before['diffs'][mutant]}")
    noticed = sum(end not in _SURVIVED for end in ends.values())
    print(f"\n{name}: of {len(left)} survivors {len(ends)} were run again, {noticed} noticed\n")


def state_of(target: Target) -> str:
    """A digest of what decides which mutants there are and what becomes of them.

    Not of the modules that the target's files call: whoever changes those starts anew by hand.
    """
    digest = hashlib.sha256()
    files = [ROOT / "src" / "nt_memory" / file for file in target.files]
    tests = [ROOT / "tests" / test for test in target.tests]
    for path in (*files, *tests, ROOT / "tests" / "conftest.py"):
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def lay_out(place: Path, target: Target) -> None:
    """A copy of what the tests need, with mutmut told what to change in it."""
    skip = shutil.ignore_patterns("__pycache__", "stress", "integration", "contract")
    shutil.copytree(ROOT / "src", place / "src", ignore=skip)
    shutil.copytree(ROOT / "tests", place / "tests", ignore=skip)
    shutil.copytree(ROOT / "bench", place / "bench", ignore=shutil.ignore_patterns("results"))
    settings: dict[str, Any] = {
        "source_paths": ["src"],
        "also_copy": ["bench"],
        "only_mutate": [f"src/nt_memory/{file}" for file in target.files],
        "do_not_mutate_patterns": [r"^\s*raise ", *target.unmutated],
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    ours = (ROOT / "pyproject.toml").read_text()
    (place / "pyproject.toml").write_text(ours + "\n[tool.mutmut]\n" + "\n".join(lines) + "\n")


def survivors(result: dict[str, Any]) -> list[str]:
    """Mutants of the sample that no test noticed, those among them that mean the same included."""
    return [mutant for mutant in result["order"] if result["ends"].get(mutant) in _SURVIVED]


def why_same(mutant: str, diff: str) -> str | None:
    """Why a mutant means the same as the original, if that is listed."""
    function = mutant.rpartition(".")[2].rpartition("__mutmut_")[0]
    name = ".".join(function.split("ǁ")[1:]) or function.removeprefix("x_")
    lines = diff.splitlines()
    was = [line[1:].strip() for line in lines[2:] if line.startswith("-")]
    became = [line[1:].strip() for line in lines[2:] if line.startswith("+")]
    for known in tomllib.loads(EQUIVALENTS.read_text())["same"]:
        others = known["became"] if isinstance(known["became"], list) else [known["became"]]
        if (
            lines[0].endswith(f"src/nt_memory/{known['file']}")
            and known.get("function", name) == name
            and was == [line.strip() for line in known["was"].splitlines()]
            and became in [[line.strip() for line in other.splitlines()] for other in others]
        ):
            return str(known["why"])
    return None


def report(told: dict[str, dict[str, Any]]) -> int:
    """Print the table; 1 if a target is below the bar, or a listed equivalent was noticed."""
    print("| target | mutants | run | noticed | equivalent | survived | score | date | commit |")
    print("|---|---|---|---|---|---|---|---|---|")
    wrong = 0
    for name, result in told.items():
        order, ends, diffs = result["order"], result["ends"], result["diffs"]
        run = [mutant for mutant in order if mutant in ends]
        survived = survivors(result)
        same = [mutant for mutant in survived if why_same(mutant, diffs[mutant]) is not None]
        noticed = len(run) - len(survived)
        score = noticed / max(1, len(run) - len(same))
        of = "" if len(run) == len(order) else f" of {len(order)}"
        print(
            f"| {name} | {result['mutants']} | {len(run)}{of} | {noticed} | {len(same)} "
            f"| {len(survived) - len(same)} | {score:.1%} | {result['date']} | {result['commit']} |"
        )
        listed = [m for m in run if m not in survived and why_same(m, diffs[m]) is not None]
        for mutant in listed:
            print(f"{mutant} is listed as equivalent, but was noticed", file=sys.stderr)
        wrong |= score < BAR or bool(listed)
    return wrong


def show(result: dict[str, Any]) -> None:
    """Print the survivors."""
    for mutant in survivors(result):
        diff = result["diffs"][mutant]
        why = why_same(mutant, diff)
        print(f"\n# {mutant}: {result['ends'][mutant]}{f'; same: {why}' if why else ''}\n{diff}")


def _mutants(place: Path) -> list[str]:
    return [
        mutant
        for meta in (place / "mutants").rglob("*.meta")
        for mutant in json.loads(meta.read_text())["exit_code_by_key"]
    ]


def _diffs(place: Path, mutants: list[str]) -> dict[str, str]:
    wanted = place / "wanted.json"
    wanted.write_text(json.dumps(mutants))
    _run(place, sys.executable, "-c", _DIFFS, str(wanted))
    return json.loads(wanted.read_text())  # type: ignore[no-any-return]


def _loop(place: Path, name: str, target: Target, result: Path, minutes: float | None) -> None:
    """Run what is in the order and has no end yet; each end is written into `result` as it comes."""
    log = _run(
        place / "mutants",
        *(sys.executable, "-m", "pytest", "-q", "-p", "mutation_loop", "-p", "no:cacheprovider"),
        *("--hypothesis-profile=mutation", "-o", "timeout=0"),
        *(f"tests/{test}" for test in target.tests),
        check=False,
        PYTHONPATH=str(ROOT / "tools"),
        MUTATION_RESULT=str(result),
        MUTATION_MINUTES=str(minutes or "inf"),
    )
    (OUT / f"{name}.log").write_text(log)
    told = json.loads(result.read_text())
    if minutes is None and any(mutant not in told["ends"] for mutant in told["order"]):
        sys.exit(f"{name}: did not run to its end, see {OUT / name}.log\n{log[-2000:]}")
    if not told["ends"] and told["order"]:
        sys.exit(f"{name}: nothing was run, see {OUT / name}.log\n{log[-2000:]}")


def _read(name: str) -> dict[str, Any] | None:
    path = OUT / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _commit() -> str:
    """Of the checkout, with a plus where something in it is not committed."""
    commit = _run(ROOT, "git", "rev-parse", "--short=7", "HEAD").strip()
    is_clean = not _run(ROOT, "git", "status", "--porcelain", "src", "tests", "tools").strip()
    return commit if is_clean else f"{commit}+"


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _run(place: Path, *command: str, check: bool = True, **more: str) -> str:
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | more
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        sys.exit(f"{' '.join(command[:4])}…\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout + done.stderr


if __name__ == "__main__":
    sys.exit(main())
