"""Write src/nt_memory/system/sync.pyi: the types of the classes that `sync.py` makes at run time.

Each signature and docstring is taken from the source of what is mirrored; `await` disappears, and
handles become their mirrors. `make fmt` runs this; a test fails while the file is out of date.

    .venv/bin/python tools/sync_stub.py [--print]
"""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from nt_memory.system import mirroring, sync

STUB = Path(sync.__file__).with_suffix(".pyi")
MIRRORS = {source.__name__: cls.__name__ for source, cls in mirroring._mirrors.items()}
# What instances have besides: types that no signature says.
ATTRIBUTES = {
    "SyncMemory": {
        "bank": "SyncBank",
        "consensus": "SyncConsensus",
        "elections": "SyncElections",
        "timeline": "SyncTimeline",
    },
    "SyncTerm": {
        "resource": "str",
        "holder": "str",
        "fence": "int",
        "lease": "float",
        "lost": "SyncLossSignal",
    },
    "SyncView": {"as_of": "AsOf"},
    "SyncReceiver": {"pattern": "str", "dropped": "int"},
    "SyncWatch": {"revision": "int"},
    "SyncTail": {"revision": "int"},
    "SyncTransaction": {"revision": "int | None"},
    "SyncLockToken": {
        "resource": "str",
        "holder": "str",
        "fence": "int",
        "lease": "float",
        "lost": "SyncLossSignal",
    },
}
ITEMS = {
    "SyncReceiver": "Any",
    "SyncWatch": "Change",
    "SyncTail": "JournalEntry",
    "SyncCampaign": "SyncTerm",
}
ENTERED = {
    "SyncTransaction": "Self",
    "SyncLockScope": "SyncLockToken",
    "SyncMemory": "Self",
    "SyncCampaign": "Self",
    "SyncReceiver": "Self",
}
HEAD = '''
class Iteration(Generic[_T]):
    """A plain iterator over an asynchronous one."""
    def __iter__(self) -> Self: ...
    def __next__(self) -> _T: ...
    def close(self) -> None:
        """Stop early, and let go of what the iteration holds."""
'''


class _Names(ast.NodeTransformer):
    """Handles become their mirrors; where they are taken, the handle will do as well."""

    def __init__(self, *, is_argument: bool) -> None:
        self._is_argument = is_argument

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id == "AsyncIterator":
            return ast.Name("Iteration")
        if node.id not in MIRRORS:
            return node
        spelled = f"{MIRRORS[node.id]} | {node.id}" if self._is_argument else MIRRORS[node.id]
        return ast.parse(spelled, mode="eval").body


class _Module:
    """The source of one module: its functions and what its names stand for."""

    def __init__(self, module: Any) -> None:
        self._name = module.__name__
        self._tree = ast.parse(inspect.getsource(module))

    def method(self, cls: str, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef:
        (found,) = [n for n in self._tree.body if isinstance(n, ast.ClassDef) and n.name == cls]
        for node in found.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
                return node
        raise LookupError(f"{cls}.{name}")

    def function(self, name: str) -> ast.FunctionDef:
        (found,) = [n for n in self._tree.body if isinstance(n, ast.FunctionDef) and n.name == name]
        return found

    def imports(self, name: str) -> str | None:
        """The line that gives `name` its meaning elsewhere; None for a built-in."""
        for node in ast.walk(self._tree):
            if isinstance(node, ast.ImportFrom) and name in {
                a.asname or a.name for a in node.names
            }:
                return f"from {node.module} import {name}"
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if name == (alias.asname or alias.name):
                        return f"import {ast.unparse(alias)}"
        names = {
            t.id
            for n in self._tree.body
            if isinstance(n, ast.Assign)
            for t in n.targets
            if isinstance(t, ast.Name)
        }
        names |= {n.name for n in self._tree.body if isinstance(n, ast.ClassDef)}
        return f"from {self._name} import {name}" if name in names else None


class _Stub:
    """The text of the stub, as it grows."""

    def __init__(self) -> None:
        self._modules: dict[str, _Module] = {}
        # By name, so that one that has two homes is imported once.
        self._imports = {
            "": "from typing import Any, Generic, Self, TypeVar",
            "Any": "",
            "Self": "",
            "AsOf": "from nt_memory.records import AsOf",
            "Change": "from nt_memory.records import Change",
            "JournalEntry": "from nt_memory.system.watching import JournalEntry",
        }
        self._local = {*MIRRORS.values(), "Iteration"}

    def text(self) -> str:
        classes = [
            HEAD,
            *(self._class(getattr(sync, name)) for name in sync.__all__ if name.startswith("Sync")),
        ]
        opening = self._module(sync).function("open_sync")
        classes.append(self._function(opening, self._module(sync)))
        head = f'"""{sync.__doc__}"""'
        imports = "\n".join(sorted(set(self._imports.values())))
        whole = f'{head}\n\n{imports}\n\n_T = TypeVar("_T")\n\n' + "\n\n".join(classes)
        return _ruff(["check", "--fix", "--quiet", "--select", "I,F401"], _ruff(["format"], whole))

    def _module(self, module: Any) -> _Module:
        return self._modules.setdefault(module.__name__, _Module(module))

    def _class(self, cls: type) -> str:
        (source,) = [s for s, found in mirroring._mirrors.items() if found is cls]
        lines = [f"class {cls.__name__}:", f'    """{cls.__doc__}"""']
        attributes = ATTRIBUTES.get(cls.__name__, {})
        for name, type_ in attributes.items():
            lines.append(f"    @property\n    def {name}(self) -> {type_}: ...")
        for name in sorted(mirroring.public_names(cls) - set(attributes), key=_place(source)):
            owner = cls if name in _own(cls) else _owner(source, name)
            module = self._module(sys.modules[owner.__module__])
            lines.append(
                textwrap.indent(self._function(module.method(owner.__name__, name), module), "    ")
            )
        if cls.__name__ in ITEMS:
            lines.append("    def __iter__(self) -> Self: ...")
            lines.append(f"    def __next__(self) -> {ITEMS[cls.__name__]}: ...")
        if cls.__name__ in ENTERED:
            lines.append(f"    def __enter__(self) -> {ENTERED[cls.__name__]}: ...")
            lines.append("    def __exit__(self, *raised: object) -> None: ...")
        return "\n".join(lines)

    def _function(self, node: Any, module: _Module) -> str:
        arguments, returns = node.args, node.returns
        every = [
            *arguments.posonlyargs,
            *arguments.args,
            *arguments.kwonlyargs,
            arguments.vararg,
            arguments.kwarg,
        ]
        for argument in every:
            if argument is not None and argument.annotation is not None:
                self._need(argument.annotation, module)
                argument.annotation = _Names(is_argument=True).visit(argument.annotation)
        if returns is not None:
            returns = _Names(is_argument=False).visit(returns)
            self._need(returns, module)
        said = ast.get_docstring(node, clean=False)
        body: list[ast.stmt] = [ast.Expr(ast.Constant(said or ...))]
        made = ast.FunctionDef(node.name, arguments, body, self._decorators(node), returns)
        return ast.unparse(ast.fix_missing_locations(made))

    @staticmethod
    def _decorators(node: Any) -> list[ast.expr]:
        return [d for d in node.decorator_list if isinstance(d, ast.Name) and d.id == "property"]

    def _need(self, annotation: ast.expr, module: _Module) -> None:
        for node in ast.walk(annotation):
            if isinstance(node, ast.Name) and node.id not in self._local:
                found = module.imports(node.id)
                if found is not None:
                    self._imports.setdefault(node.id, found)


def _own(cls: type) -> set[str]:
    """Names that a mirror spells out itself."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    body = tree.body[0].body  # type: ignore[attr-defined]
    return {node.name for node in body if isinstance(node, ast.FunctionDef)}


def _owner(source: type, name: str) -> type:
    return next(cls for cls in source.__mro__ if name in vars(cls))


def _place(source: type) -> Any:
    """Sorts names as their sources do: what comes first there comes first."""
    order = [name for cls in source.__mro__ for name in vars(cls)]
    return lambda name: order.index(name) if name in order else -1


def _ruff(command: list[str], text: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(STUB), "-"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


if __name__ == "__main__":
    if "--print" in sys.argv:
        sys.stdout.write(_Stub().text())
    else:
        STUB.write_text(_Stub().text())
