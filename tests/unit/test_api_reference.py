"""The reference of the Python API lists what a caller can meet, since only what it lists is promised."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import nt_memory

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "api.md"
ASIDE = {
    "Advice.evidence",
    "Action.doc",
    "Advice.to_doc",
    "Receipt.to_doc",
    "Receipt.from_doc",
    "ReasoningBank.situations",
    "Term.locks",
}
"""What modules hand each other on a public class; the reference does not list it."""


def _listed() -> list[Any]:
    places = re.findall(r"^::: (\S+)$", REFERENCE.read_text(), re.MULTILINE)
    return [
        getattr(importlib.import_module(module), name)
        for module, _, name in (place.rpartition(".") for place in places)
    ]


@functools.cache
def _source(path: str) -> ast.Module:
    return ast.parse(Path(path).read_text())


@functools.cache
def _imported(module: ast.Module) -> dict[str, tuple[str, str]]:
    return {
        alias.asname or alias.name: (str(node.module), alias.name)
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nt_memory")
        for alias in node.names
    }


def _named_in(module: ast.Module, annotation: ast.expr, home: Any) -> set[type]:
    """Our classes that an annotation names, whether its module imports them at run time or not."""
    imported = _imported(module)

    def found(node: ast.AST) -> Any:
        if isinstance(node, ast.Attribute):
            return getattr(found(node.value), node.attr, None)
        if not isinstance(node, ast.Name):
            return None
        if node.id not in imported:
            return getattr(home, node.id, None)
        package, name = imported[node.id]
        inside = getattr(importlib.import_module(package), name, None)
        return inside or importlib.import_module(f"{package}.{name}")

    classes = (found(node) for node in ast.walk(annotation))
    return {
        cls for cls in classes if isinstance(cls, type) and cls.__module__.startswith("nt_memory.")
    }


def _handed_out(cls: type) -> dict[str, set[type]]:
    """By member: our classes that its calls return or its attributes hold."""
    handed: dict[str, set[type]] = {}
    for base in cls.__mro__:
        home = sys.modules[base.__module__]
        if not base.__module__.startswith("nt_memory.") or home.__file__ is None:
            continue
        module = _source(home.__file__)
        for node in module.body:
            if not isinstance(node, ast.ClassDef) or node.name != base.__name__:
                continue
            for member in node.body:
                name, annotation = _member(member)
                if annotation is not None and (name.startswith("__a") or not name.startswith("_")):
                    handed.setdefault(name, set()).update(_named_in(module, annotation, home))
    return handed


def _member(node: ast.stmt) -> tuple[str, ast.expr | None]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return node.name, node.returns
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id, node.annotation
    return "", None


def test_the_reference_lists_what_the_package_offers() -> None:
    """Each name of `import nt_memory` is there."""
    listed = _listed()
    assert [name for name in nt_memory.__all__ if getattr(nt_memory, name) not in listed] == []


def test_the_reference_lists_what_calls_hand_out() -> None:
    """So is each class that a listed one returns or holds: what comes out of a promise is promised."""
    listed = _listed()
    missing: dict[str, str] = {}
    seen = 0
    for cls in listed:
        if isinstance(cls, type):
            for member, classes in _handed_out(cls).items():
                place = f"{cls.__name__}.{member}"
                seen += len(classes)
                missing |= {
                    f"{one.__module__}.{one.__qualname__}": place
                    for one in classes
                    if one not in listed and place not in ASIDE
                }
    assert seen > 100
    assert missing == {}
