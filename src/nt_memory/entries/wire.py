"""How everything in an entry is spelled."""

from __future__ import annotations

import msgspec


class Wire(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of everything that is spelled as a msgpack array."""
