"""Whether the licence of everything this package brings, and is made with, is one we allow.

Reads what is installed here: licence expressions (PEP 639) where a package states one, else its
classifiers, else its free text. An "A OR B" is allowed if one of them is, an "A AND B" if both are,
which a list of wanted words cannot tell apart. Exit code 1 for anything that is not allowed.

    python tools/licences.py            # the check
    python tools/licences.py --table    # and the table of it
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from typing import NamedTuple

from license_expression import ExpressionError, get_spdx_licensing
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PRODUCT = "nt-memory"
NOT_SHIPPED = {
    *("dev", "docs", "bench", "bench-vectors", "bench-coordination", "screenshots", "models"),
    *("mutation", "supply", "bench-prices", "bench-cluster"),
}
"""Extras with tools for whoever works on the package; the others are for its users."""

ALLOWED = {
    *(
        "MIT",
        "MIT-0",
        "MIT-CMU",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "Apache-2.0",
        "ISC",
        "0BSD",
        "Zlib",
    ),
    *("PSF-2.0", "Python-2.0", "CC0-1.0", "Unlicense", "HPND", "BSL-1.0"),
    "OLDAP-2.8",  # lmdb: as BSD, with OpenLDAP's name for it
    "MPL-2.0",  # binds changes of its own files only, and we change none
    "LLVM-exception",
}
"""What may come along with an installation: nothing that binds the code that uses it."""

TOOLS_ONLY = {
    "codespell": "GPL-2.0-only",  # a command that reads our files; nothing of it is in the package
}
"""Tools under other licences, which no user's installation has."""

_CLASSIFIERS = {
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "ISC License (ISCL)": "ISC",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "Zero-Clause BSD (0BSD)": "0BSD",
}
_SPELT = {
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache 2": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "New BSD": "BSD-3-Clause",
    "ISC license": "ISC",
    "MIT License": "MIT",
    "The MIT License": "MIT",
    "PSF": "PSF-2.0",
}
_READ_BY_HAND = {
    "apsw": "Zlib",  # "any OSI approved licence": its LICENSE offers this one
    "hnswlib": "Apache-2.0",  # states nothing: its LICENSE
    "sqlite-vec": "MIT OR Apache-2.0",  # states both, with a comma
    "axe-playwright-python": "MIT AND MPL-2.0",  # states nothing: its LICENSE, and axe-core inside it
}
_licensing = get_spdx_licensing()


class Finding(NamedTuple):
    """One installed package."""

    name: str
    version: str
    licence: str
    is_shipped: bool
    is_allowed: bool


def licence_of(installed: Distribution) -> str:
    """An SPDX expression, or what the package says where that is none."""
    metadata = installed.metadata
    name = canonicalize_name(metadata["Name"])
    stated = metadata.get("License-Expression") or _READ_BY_HAND.get(name)
    if stated:
        return stated
    ends = [
        line.rpartition(" :: ")[2]
        for line in metadata.get_all("Classifier", [])
        if line.startswith("License ::") and not line.endswith((":: OSI Approved", "DFSG approved"))
    ]
    known = sorted({_CLASSIFIERS.get(end, end) for end in ends})
    if known:
        # Several classifiers do not say whether one may choose: all of them have to be allowed.
        return " AND ".join(known)
    text = (metadata.get("License") or "").strip().partition("\n")[0]
    return _SPELT.get(text, text) or "unknown"


def is_allowed(licence: str) -> bool:
    """Whether every choice that the expression leaves open ends at an allowed licence, or can.

    Raises nothing: what is no expression is not allowed.
    """
    try:
        parsed = _licensing.parse(licence.replace(" WITH LLVM-exception", ""), validate=True)
    except ExpressionError:
        return False
    if parsed is None:
        return False
    return _holds(parsed)


def _holds(part: object) -> bool:
    operands = getattr(part, "args", ())
    if not operands:
        return getattr(part, "key", "") in ALLOWED
    test = any if type(part).__name__ == "OR" else all
    return test(_holds(operand) for operand in operands)


def shipped() -> set[str]:
    """Names of what `pip install nt-memory`, with any of its users' extras, can bring."""
    found: set[str] = set()
    extras = set(distribution(PRODUCT).metadata.get_all("Provides-Extra", [])) - NOT_SHIPPED
    todo = [(PRODUCT, frozenset({"", *extras}))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        name, wanted = todo.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        found.add(name)
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # for another platform, or an extra that is not installed here
        for line in requires:
            one = Requirement(line)
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in wanted):
                todo.append((canonicalize_name(one.name), frozenset({"", *one.extras})))
    return found


def findings() -> list[Finding]:
    """Everything that is installed here, by name."""
    of_users = shipped()
    found: dict[str, Finding] = {}
    for installed in distributions():
        name = canonicalize_name(installed.metadata["Name"])
        licence, is_shipped = licence_of(installed), name in of_users
        allowed = is_allowed(licence) or (not is_shipped and TOOLS_ONLY.get(name) == licence)
        found[name] = Finding(name, installed.version, licence, is_shipped, allowed)
    return [found[name] for name in sorted(found)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", action="store_true")
    every = findings()
    if parser.parse_args().table:
        print("| package | version | licence | comes with the package |")
        print("|---|---|---|---|")
        for one in every:
            print(f"| {one.name} | {one.version} | {one.licence} | {'yes' * one.is_shipped} |")
    refused = [one for one in every if not one.is_allowed]
    for one in refused:
        where = "comes with the package" if one.is_shipped else "a tool"
        print(f"not allowed: {one.name} {one.version}: {one.licence} ({where})", file=sys.stderr)
    n_shipped = sum(one.is_shipped for one in every)
    print(f"{len(every)} packages, {n_shipped} of which users can get; {len(refused)} not allowed")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
