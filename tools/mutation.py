"""Mutation testing of the pure cores: is there a change to them that no test notices?

mutmut writes the mutants; for each, the tests that call the changed function are run, by the loop in
`mutation_loop.py`. This says which files and which fast tests belong together, draws a sample where a
target has more mutants than are worth the time, and writes what came out to `build/mutation/`:

    python tools/mutation.py locks codec      # these targets; all by default
    python tools/mutation.py --report         # the table of what was run so far
    python tools/mutation.py locks --show 3   # the diff of the third survivor

Texts of errors are left alone (`raise` lines): the tests ask which error, not for its wording.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
OUT = ROOT / "build" / "mutation"
BAR = 0.85
SAMPLE = 150
SEED = 20261128


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
            "unit/test_quotas.py",
            "unit/test_observing.py",
            "unit/test_api_coordination.py",
            "unit/test_policies.py",
            "unit/test_retention.py",
            "unit/test_api_state.py",
            "unit/test_repeated_calls.py",
            "unit/test_mixed_batch.py",
            "unit/test_renumbering.py",
            "unit/test_guarantees.py",
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
        ),
        _BANK_TESTS,
    ),
    "as-of": Target(
        ("timeline.py", "tiers/views.py"),
        (
            "unit/test_timeline.py",
            "unit/test_api_time.py",
            "unit/test_time_regressions.py",
            "unit/test_retention.py",
            "unit/test_api_state.py",
        ),
    ),
    "codec": Target(
        ("codec/__init__.py", "codec/lowering.py", "codec/raising.py", "codec/plain.py"),
        ("unit/test_codec.py", "unit/test_codec_plain.py"),
    ),
}

_SHOW = (sys.executable, "-m", "mutmut", "show")

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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], help="all by default")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="mutants a target, at most")
    parser.add_argument("--seed", type=int, default=SEED, help="of the sample")
    parser.add_argument("--report", action="store_true", help="run nothing: print what there is")
    parser.add_argument("--show", type=int, metavar="N", help="run nothing: survivor N of a target")
    options = parser.parse_args()
    names = options.targets or list(TARGETS)
    if options.show is not None:
        print(_read(names[0])["survivors"][options.show]["diff"])
        return 0
    if not options.report:
        OUT.mkdir(parents=True, exist_ok=True)
        for name in names:
            examine(name, sample=options.sample, seed=options.seed)
    return report([name for name in names if (OUT / f"{name}.json").exists()])


def examine(name: str, *, sample: int, seed: int) -> None:
    """Run a target's mutants and write what became of them to `build/mutation/<name>.json`."""
    target = TARGETS[name]
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        place = Path(folder)
        lay_out(place, target)
        _run(place, sys.executable, "-c", _GENERATE)
        every = sorted(_mutants(place))
        chosen = every
        if len(every) > sample:
            chosen = sorted(random.Random(seed).sample(every, sample))  # noqa: S311
        print(f"{name}: {len(chosen)} of {len(every)} mutants, seed {seed}", flush=True)
        ends = _loop(place, name, chosen, target)
        survivors = [
            {"mutant": mutant, "end": end, "diff": _run(place, *_SHOW, mutant)}
            for mutant, end in sorted(ends.items())
            if end in {"passed", "untested"}
        ]
    result = {
        "files": target.files,
        "mutants": len(every),
        "run": len(chosen),
        "seed": seed,
        "killed": len(chosen) - len(survivors),
        "by_timeout": sum(end == "timeout" for end in ends.values()),
        "seconds": round(time.perf_counter() - begun),
        "survivors": survivors,
    }
    (OUT / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


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


def report(names: list[str]) -> int:
    """Print the table; 1 if a target is below the bar."""
    print("| target | files | mutants | run | killed | score |")
    print("|---|---|---|---|---|---|")
    below = 0
    for name in names:
        told = _read(name)
        score = told["killed"] / told["run"]
        below |= score < BAR
        files = ", ".join(f"`{file}`" for file in told["files"])
        print(
            f"| {name} | {files} | {told['mutants']} | {told['run']} | {told['killed']} "
            f"| {score:.1%} |"
        )
    return below


def _mutants(place: Path) -> list[str]:
    return [
        mutant
        for meta in (place / "mutants").rglob("*.meta")
        for mutant in json.loads(meta.read_text())["exit_code_by_key"]
    ]


def _loop(place: Path, name: str, chosen: list[str], target: Target) -> dict[str, str]:
    """What became of each mutant: passed (it survived), untested, killed or timeout."""
    ends = place / "ends.json"
    (place / "chosen.json").write_text(json.dumps(chosen))
    log = _run(
        place / "mutants",
        *(sys.executable, "-m", "pytest", "-q", "-p", "mutation_loop", "-p", "no:cacheprovider"),
        *("--hypothesis-profile=mutation", "-o", "timeout=0"),
        *(f"tests/{test}" for test in target.tests),
        check=False,
        PYTHONPATH=str(ROOT / "tools"),
        MUTATION_CHOSEN=str(place / "chosen.json"),
        MUTATION_ENDS=str(ends),
    )
    (OUT / f"{name}.log").write_text(log)
    found: dict[str, str] = json.loads(ends.read_text()) if ends.exists() else {}
    if len(found) < len(chosen):
        sys.exit(f"{name}: did not run to its end, see {OUT / name}.log\n{log[-2000:]}")
    return found


def _read(name: str) -> dict[str, Any]:
    return json.loads((OUT / f"{name}.json").read_text())  # type: ignore[no-any-return]


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
