"""Modules that the product itself does not import: each is loaded by name, if it is there."""

from __future__ import annotations

import importlib
from typing import Any


class MissingError(Exception):
    """A package that is measured, or needed for it, is not installed."""


def module(name: str, extra: str = "bench-vectors") -> Any:
    """The module of that name.

    Args:
        name: As it is imported.
        extra: Of nt-memory, which brings it.

    Raises:
        MissingError: it is not there, or does not load.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingError(f"not installed ({error}): pip install 'nt-memory[{extra}]'") from None
