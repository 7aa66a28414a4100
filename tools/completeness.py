"""Are the types of all public names known? What `pyright --verifytypes` says, cut down to what to mend.

python tools/completeness.py [BIN]      BIN: where the `python` is that has the package; by default this one's

One name without a type makes all that mention it incomplete, so pyright's own list is ten times as long
as what there is to do. Exit code 1 if anything is incomplete, or if next to nothing was looked at.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

LEAST = 5_000
"""Fewer symbols than this, and pyright did not look at the package that was meant."""
_DERIVED = ("partially unknown", "No docstring")


def complaints(told: dict[str, Any]) -> list[str]:
    """What pyright's JSON form says is incomplete, one line each; the causes first, if it names any."""
    symbols = told["symbols"]
    if len(symbols) < LEAST:
        return [f"only {len(symbols)} symbols found: is nt_memory installed beside pyright?"]
    unknown = [symbol for symbol in symbols if not symbol["isTypeKnown"]]
    causes = [
        f"{symbol['name']}: {' '.join(said['message'].split())}"
        for symbol in unknown
        for said in symbol["diagnostics"]
        if not any(word in said["message"] for word in _DERIVED)
    ]
    return causes or [symbol["name"] for symbol in unknown]


def main() -> int:
    here = Path(sys.executable).parent
    there = Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else here
    # It looks for the package beside the first `python` on PATH, whatever --pythonpath says.
    found = subprocess.run(
        [here / "pyright", "--ignoreexternal", "--verifytypes", "nt_memory", "--outputjson"],
        env=os.environ | {"PATH": f"{there}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    if not found.stdout.startswith("{"):
        print(found.stdout, found.stderr, file=sys.stderr)
        return 1
    told = json.loads(found.stdout)["typeCompleteness"]
    wrong = complaints(told)
    print(
        "\n".join([*wrong, f"{told['completenessScore']:.1%} of {len(told['symbols']):,} symbols"])
    )
    return 1 if wrong or told["completenessScore"] < 1 else 0


if __name__ == "__main__":
    sys.exit(main())
