"""The page of errors lists every error, and says of each what the class says."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import nt_memory.errors
from nt_memory.errors import NtMemoryError

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"
_ROW = re.compile(r"^\| `(\w+)` \| (.+?) \| (yes|no) \| (.+) \|$", re.MULTILINE)


def classes() -> dict[str, type[NtMemoryError]]:
    return {
        name: found
        for name, found in inspect.getmembers(nt_memory.errors, inspect.isclass)
        if issubclass(found, NtMemoryError) and found is not NtMemoryError
    }


def arguments(error: type[NtMemoryError]) -> set[str]:
    """What it is made with beside a message."""
    init = error.__init__
    return set(inspect.signature(init).parameters) if inspect.isfunction(init) else set()


def test_every_error_is_documented() -> None:
    """Whoever meets an error finds it on the page, once, with what to do; and no others are there."""
    rows = _ROW.findall(PAGE.read_text())
    assert sorted(name for name, *_ in rows) == sorted(classes())
    assert all(len(what) > 10 for _, _, _, what in rows)


def test_the_page_says_whether_to_try_again() -> None:
    """Its column is `retryable`."""
    found = {name: again == "yes" for name, _, again, _ in _ROW.findall(PAGE.read_text())}
    assert found == {name: error.retryable for name, error in classes().items()}


def test_the_page_says_what_an_error_carries_and_is() -> None:
    """Attributes of its own, and what else it can be caught as, are in its row."""
    rows = {name: when for name, when, _, _ in _ROW.findall(PAGE.read_text())}
    for name, error in classes().items():
        shown = set(re.findall(r"`(\w+)`", rows[name]))
        (parent,) = (base for base in error.__bases__ if issubclass(base, NtMemoryError))
        own = arguments(error) - arguments(parent)
        # Whose agent it is about the caller knows.
        assert own - {"self", "message", "agent"} <= shown, name
        for base in (TimeoutError, LookupError):
            assert not issubclass(error, base) or base.__name__ in shown, name
