"""The table of exit codes: every error has one, and every code has a meaning."""

from __future__ import annotations

import errno
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import nt_memory
from nt_memory import errors
from nt_memory.apps.cli.exits import MEANINGS, Exit, code_of, explained
from nt_memory.apps.cli.printing import spell

OF_ERRORS = {
    Exit.IN_USE: {"StoreInUseError"},
    Exit.DENIED: {"PermissionDeniedError", "StorePermissionError"},
    Exit.DAMAGED: {"CorruptionError"},
    Exit.NO_STORE: {
        "NoStoreError",
        "ForeignStoreError",
        "FormatVersionError",
        "ConfigMismatchError",
    },
    Exit.FULL: {"StorageFullError"},
    Exit.UNSUPPORTED: {"UnsupportedError"},
    Exit.LOST: {"LockLostError", "StaleFenceError"},
    Exit.UNREACHABLE: {
        "DisconnectedError",
        "EmbedderUnavailableError",
        "VectorServerUnavailableError",
    },
    Exit.TIMEOUT: {
        "LockTimeoutError",
        "ProposalTimeoutError",
        "ReceiveTimeoutError",
        "RequestTimeoutError",
    },
    Exit.USAGE: {
        "InvalidInputError",
        "InvalidNameError",
        "InvalidTimeError",
        "CodecError",
        "ValueTooLargeError",
        "EmbeddingError",
        "DimensionError",
        "TrajectoryError",
    },
    Exit.STORAGE: {"StorageError"},
}


def every_error() -> list[type[errors.NtMemoryError]]:
    """All classes of the tree."""
    found = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    return [kind for kind in found if issubclass(kind, errors.NtMemoryError)]


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_has_the_code_of_the_table(kind):
    """Those that a script would treat differently are told apart; all others are 1."""
    error = kind.__new__(kind)
    wanted = [code for code, names in OF_ERRORS.items() if kind.__name__ in names]
    assert [code_of(error)] == (wanted or [Exit.FAILED])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "full"), Exit.FULL),
        (OSError(errno.EDQUOT, "quota"), Exit.FULL),
        (OSError(errno.EACCES, "no"), Exit.DENIED),
        (OSError(errno.ENOENT, "none"), Exit.FAILED),
        (OSError(errno.EIO, "broken"), Exit.STORAGE),
        (TimeoutError(), Exit.TIMEOUT),
        (ConnectionRefusedError(), Exit.UNREACHABLE),
    ],
)
def test_errors_of_the_system_have_codes_too(error, code):
    """As what they are."""
    assert code_of(error) == code


def test_every_code_has_one_meaning():
    """In the table that help and reference are made from."""
    assert set(MEANINGS) == set(Exit)
    assert len(set(MEANINGS.values())) == len(MEANINGS)


def test_what_is_said_of_an_error_is_one_line_without_credentials():
    """Also where its message has several; a process is named by its name, never by its arguments."""
    assert explained(errors.StorageError("a\n  b")) == "a b"
    said = explained(errors.UnsupportedError("https://me:s3cret@host/x is not reached"))
    assert said == "https://***@host/x is not reached"
    in_use = explained(errors.StoreInUseError("in use by process", pid=os.getpid()))
    assert f"({Path('/proc/self/comm').read_text().strip()})" in in_use
    assert explained(errors.StoreInUseError("in use", pid=None), in_use="go").endswith("; go")
    assert "nt-memory repair" in explained(errors.CorruptionError("views: damaged"))


def test_what_is_printed_cannot_steer_a_terminal():
    """No control character of a value reaches it; what is printed is still JSON."""
    text = spell({"a": "\x1b[31m\x9b2J\x7f\u2028é"})
    assert not any(ord(one) < 32 or 0x7F <= ord(one) < 0xA0 for one in text)
    assert "é" in text


def test_importing_the_package_imports_little():
    """Names are found where they are when asked for: all of them, and none before."""
    script = (
        "import sys, nt_memory\n"
        "assert not {'numpy', 'asyncio', 'faiss', 'lmdb'} & set(sys.modules)\n"
        "for name in nt_memory.__all__:\n"
        "    assert getattr(nt_memory, name) is not None, name\n"
        "assert set(nt_memory.__all__) <= set(dir(nt_memory))\n"
        "assert nt_memory.clock.SystemClock is nt_memory.SystemClock\n"
        "from nt_memory import *\n"
        "assert MemorySystem is nt_memory.MemorySystem\n"
    )
    source = Path(nt_memory.__file__).parent.parent
    subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(source)}, check=True
    )
    with pytest.raises(AttributeError, match="no attribute 'Mispelt'"):
        _ = nt_memory.Mispelt


def test_the_names_that_types_see_are_those_that_are_there():
    """What is imported for type checkers is what is found at run time, from the same places."""
    import ast

    tree = ast.parse(Path(nt_memory.__file__).read_text())
    (checked,) = [node for node in tree.body if isinstance(node, ast.If)][:1]
    seen = {
        alias.name: node.module
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == nt_memory._PLACE_OF
    assert set(seen) == set(nt_memory.__all__)


@pytest.mark.parametrize("name", ["Stats", "Tier", "VectorTier", "Verification", "Repair"])
def test_documents_have_every_field_of_what_they_are_made_of(name):
    """A counter that is added to the memory is added to `--json`; until then nothing breaks."""
    import dataclasses

    from nt_memory.apps.cli import documents
    from nt_memory.records import MemoryStats, TierStats, VectorTierStats
    from nt_memory.system.repairing import Repair
    from nt_memory.system.verify_report import Verification

    sources = {"Stats": MemoryStats, "Tier": TierStats, "VectorTier": VectorTierStats}
    source = {**sources, "Verification": Verification, "Repair": Repair}[name]
    own = {"path", "writer"} if name == "Stats" else {"is_ok"} if name == "Verification" else set()
    fields = {field.name for field in dataclasses.fields(source)}
    assert set(getattr(documents, name).__struct_fields__) == fields | own


def test_a_field_too_many_is_left_out():
    """So that a counter that only newer code has does not break the command."""
    from types import SimpleNamespace

    from nt_memory.apps.cli import documents

    source = SimpleNamespace(entries=1, bytes=2, hits=3, misses=4, evictions=5, newer=6)
    assert documents.taken_from(documents.Tier, source).evictions == 5
