"""What all documents have in common."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from nt_memory.apps.cli.rendering import to_plain


class Document(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Anything that is printed."""


_D = TypeVar("_D", bound=Document)


def to_builtins(doc: msgspec.Struct) -> Any:
    """A document as plain values."""
    return to_plain(msgspec.to_builtins(doc))


def taken_from(kind: type[_D], source: Any, **more: Any) -> _D:
    """A document of the fields that it shares with a dataclass, and of some more.

    What the dataclass has besides is left out, so that one that grows breaks nothing.
    """
    given = {
        name: getattr(source, name)
        for name in kind.__struct_fields__
        if name not in more and hasattr(source, name)
    }
    return kind(**given, **more)
