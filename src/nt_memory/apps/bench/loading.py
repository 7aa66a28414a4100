"""Modules that the product itself does not import: each is loaded by name, if it is there."""

from __future__ import annotations

import importlib
from typing import Any


class MissingError(Exception):
    """A package that is measured, or needed for it, is not installed."""


def module(name: str) -> Any:
    """The module of that name.

    Raises:
        MissingError: it is not there, or does not load.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingError(
            f"not installed ({error}): pip install 'nt-memory[bench-vectors]'"
        ) from None
