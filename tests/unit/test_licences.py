"""The licence check refuses what it should: what a list of wanted words would let through."""

from __future__ import annotations

import importlib.util
import tomllib
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

_SOURCE = Path(__file__).parents[2] / "tools" / "licences.py"


@pytest.fixture(scope="module")
def licences() -> Any:
    spec = importlib.util.spec_from_file_location("licences", _SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("(MIT OR Apache-2.0) AND BSD-3-Clause", True),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("AGPL-3.0-or-later", False),
        ("Elastic-2.0", False),
        ("unknown", False),
        ("MIT but only on Sundays", False),
        ("", False),
    ],
)
def test_expressions_are_read_as_choices_and_sums(
    licences: Any, licence: str, allowed: bool
) -> None:
    """Of an OR one part has to be allowed, of an AND each; what cannot be read is not allowed."""
    assert licences.is_allowed(licence) is allowed


def test_several_classifiers_are_a_sum(licences: Any) -> None:
    """A package that names two licences may mean both; it is not enough that one is allowed."""
    metadata = Message()
    metadata["Name"] = "two"
    metadata["Classifier"] = "License :: OSI Approved :: MIT License"
    metadata["Classifier"] = "License :: OSI Approved :: GNU General Public License v3 (GPLv3)"
    said = licences.licence_of(SimpleNamespace(metadata=metadata))
    assert "MIT" in said
    assert not licences.is_allowed(said)


def test_what_users_get_is_followed_through_extras(licences: Any) -> None:
    """The libraries of extras count, and what they need in turn; our own tools do not."""
    found = licences.shipped()
    assert {"numpy", "lmdb", "faiss-cpu", "fastapi", "starlette", "httpx", "h11"} <= found
    assert not found & {"pytest", "codespell", "mypy", "hypothesis"}


def test_every_extra_is_a_tool_or_documented(licences: Any) -> None:
    """A new extra is either counted among what users get, with a word on what for, or said to be ours."""
    root = _SOURCE.parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"])
    assert extras >= licences.NOT_SHIPPED
    page = (root / "docs" / "reference" / "package.md").read_text()
    assert [extra for extra in extras - licences.NOT_SHIPPED if f"`{extra}`" not in page] == []
