"""Namespaces and keys of LangGraph as keys of the memory, and back.

The item `k` of `("users", "7")` lies under `items/users/7/=k`: so all items of a namespace, those of the
namespaces below it included, share a prefix. `=` begins no label and marks the key. What a key of the
memory cannot have, or what would be ambiguous, is percent-encoded.

An item's vectors lie under `index/<digest of its name>/<number>`, and carry the digests of all prefixes of
their namespace as tags, so that a search below a namespace is a filter by one tag.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from nt_memory.errors import InvalidNameError

if TYPE_CHECKING:
    Labels = tuple[str, ...]

ITEMS = "items/"
INDEX = "index/"
_RESERVED = frozenset("%/=")
_KEY = re.compile(r"/=[^/]*$")


def path_of(namespace: Labels, key: str) -> str:
    """Where an item lies.

    Raises:
        InvalidNameError: a label or the key is not valid Unicode.
    """
    return f"{prefix_of(namespace)}={_escape(key)}"


def prefix_of(namespace: Labels) -> str:
    """What the paths of all items in and below a namespace start with."""
    return ITEMS + "".join(f"{_escape(label)}/" for label in namespace)


def parse_path(path: str) -> tuple[Labels, str]:
    """Namespace and key of an item."""
    *labels, key = path.removeprefix(ITEMS).split("/")
    return tuple(map(unquote, labels)), unquote(key[1:])


def is_path(path: str) -> bool:
    """Whether a key of the memory is one of ours: others may share the agent."""
    return path.startswith(ITEMS) and _KEY.search(path) is not None


def beyond_items(namespace: Labels) -> str:
    """A key after all items of a namespace itself, and before nothing else that follows them."""
    return f"{prefix_of(namespace)}>"


def vector_path(path: str, number: int) -> str:
    """Where an item's vector lies."""
    return f"{vectors_of(path)}{number}"


def vectors_of(path: str) -> str:
    """What the paths of all of an item's vectors start with."""
    return f"{INDEX}{_digest(path)}/"


def tag_of(namespace: Labels) -> str:
    """The tag of everything in and below a namespace."""
    return _digest(prefix_of(namespace))


def tags_of(namespace: Labels) -> list[str]:
    """The tags of an item's vectors: one for its namespace and each above it, the root left out."""
    return [tag_of(namespace[:depth]) for depth in range(1, len(namespace) + 1)]


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _escape(text: str) -> str:
    try:
        return "".join(
            char if char.isprintable() and char not in _RESERVED else quote(char, safe="")
            for char in text
        )
    except UnicodeEncodeError:
        raise InvalidNameError(f"{text[:80]!r} is not valid Unicode") from None
