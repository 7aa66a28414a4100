"""Names: `swarm/<agent>/<key>`, built, parsed and validated in one place.

An agent is 1 to 64 of `A-Za-z0-9_.-` and starts with a letter or digit. A key is 1 to 256 bytes of
printable UTF-8; it may have `/` levels, none of them empty, `.` or `..`. Names that pass cannot
contain a NUL or any control character, which is what lets the views use NUL as a separator.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from nt_memory.errors import InvalidInputError, InvalidNameError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

MAX_KEY_BYTES = 256
MAX_LABEL_CHARS = 128
MAX_LABEL_BYTES = 256
MAX_TAGS = 64
_AGENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_ROOT = "swarm"
_MAX_CHAR_BYTES = 4
_PLAIN = frozenset({str})


class Name(NamedTuple):
    """An agent and one of its keys."""

    agent: str
    key: str


def _reason_bad_key(key: object) -> str | None:
    if not isinstance(key, str):
        return f"must be str, not {type(key).__name__}"
    if not key:
        return "is empty"
    if not key.isprintable():
        return "has a control, surrogate or other unprintable character"
    if len(key) > MAX_KEY_BYTES or len(key.encode()) > MAX_KEY_BYTES:
        return f"is longer than {MAX_KEY_BYTES} bytes of UTF-8"
    if any(level in {"", ".", ".."} for level in key.split("/")):
        return "has an empty, '.' or '..' level"
    return None


@lru_cache(maxsize=65_536)
def _is_agent(agent: str) -> bool:
    return _AGENT.fullmatch(agent) is not None


@lru_cache(maxsize=65_536)
def _is_key(key: str) -> bool:
    return _reason_bad_key(key) is None


def _shorten(name: object) -> str:
    text = repr(name)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _plain(name: str) -> str:
    """A `str` and no subclass, such as numpy's, which entries could not spell.

    It is made before a name is judged, of the characters themselves: a subclass may say that it is
    equal to another name, or spell itself differently each time it is asked.
    """
    return name if type(name) is str else str.__str__(name)


def is_agent(name: str) -> bool:
    """Whether a name is one that agents can have; what the swarm shares is kept under others."""
    return _is_agent(name)


def check_agent(agent: str) -> str:
    """Return `agent` if it is a valid agent name.

    Raises:
        InvalidNameError: it is not.
    """
    plain = _plain(agent) if isinstance(agent, str) else ""  # pyright: ignore[reportUnnecessaryIsInstance]
    if not _is_agent(plain):
        raise InvalidNameError(
            f"agent {_shorten(agent)} must be 1 to 64 of A-Z a-z 0-9 _ . - "
            "and start with a letter or digit"
        )
    return plain


def check_key(key: str) -> str:
    """Return `key` if it is a valid key.

    Raises:
        InvalidNameError: it is not; the message says why.
    """
    plain = _plain(key) if isinstance(key, str) else key  # pyright: ignore[reportUnnecessaryIsInstance]
    if not isinstance(plain, str) or not _is_key(plain):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidNameError(f"key {_shorten(key)} {_reason_bad_key(plain)}")
    return plain


def are_keys(keys: Collection[str]) -> bool:
    """Whether `check_key` accepts each of many plain strings; all at once, 20 ns each.

    They are judged joined by `/`: what no key may have, its levels, is what the whole may not have.
    """
    if not keys:
        return True
    text = f"/{'/'.join(keys)}/"
    if not text.isprintable() or any(level in text for level in ("//", "/./", "/../")):
        return False
    longest = max(map(len, keys))
    if longest * _MAX_CHAR_BYTES <= MAX_KEY_BYTES:
        return True
    if text.isascii():
        return longest <= MAX_KEY_BYTES
    return all(len(key.encode()) <= MAX_KEY_BYTES for key in keys)


def check_keys(keys: Iterable[str]) -> list[str]:
    """As `check_key` of each.

    Raises:
        InvalidNameError: one is malformed; the message says which, and why.
    """
    names = list(keys)
    if set(map(type, names)) <= _PLAIN and are_keys(names):
        return names
    return [check_key(name) for name in names]


def check_prefix(prefix: str) -> str:
    """Return `prefix` if some valid key could start with it; the empty prefix matches all.

    Raises:
        InvalidNameError: no key could start with it.
    """
    if isinstance(prefix, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        prefix = _plain(prefix)
    if prefix == "":
        return prefix
    reason = _reason_bad_key(prefix)
    if reason is not None and isinstance(prefix, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        # A prefix may end inside a level, so its last level is completed.
        reason = _reason_bad_key(prefix + "x")
    if reason is not None:
        raise InvalidNameError(f"prefix {_shorten(prefix)} {reason}")
    return prefix


def check_label(label: str, what: str) -> str:
    """Return `label` if it is 1 to 128 printable characters (256 bytes): a lock resource, holder, tag or id.

    Raises:
        InvalidNameError: it is not; the message starts with `what`.
    """
    if isinstance(label, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        label = _plain(label)
    if (
        not isinstance(label, str)  # pyright: ignore[reportUnnecessaryIsInstance]
        or not 0 < len(label) <= MAX_LABEL_CHARS
        or not label.isprintable()
        or len(label.encode()) > MAX_LABEL_BYTES
    ):
        raise InvalidNameError(
            f"{what} {_shorten(label)} must be 1 to {MAX_LABEL_CHARS} printable characters, "
            f"at most {MAX_LABEL_BYTES} bytes of UTF-8"
        )
    return label


class Namespace:
    """The full form of a name, `swarm/<agent>/<key>`."""

    @staticmethod
    def build(agent: str, key: str) -> str:
        """Full form of a name.

        Raises:
            InvalidNameError: the agent or the key is malformed.
        """
        return f"{_ROOT}/{check_agent(agent)}/{check_key(key)}"

    @staticmethod
    def parse(full: str) -> Name:
        """Agent and key of a full form.

        Raises:
            InvalidNameError: it is not `swarm/<agent>/<key>` with both parts valid.
        """
        parts = full.split("/", 2) if isinstance(full, str) else []  # pyright: ignore[reportUnnecessaryIsInstance]
        if len(parts) != 3 or parts[0] != _ROOT:
            raise InvalidNameError(f"name {_shorten(full)} must have the form swarm/<agent>/<key>")
        return Name(check_agent(parts[1]), check_key(parts[2]))

    @staticmethod
    def is_valid(full: str) -> bool:
        """Whether `parse` would accept it."""
        try:
            Namespace.parse(full)
        except InvalidNameError:
            return False
        return True


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Labels as they are stored: each once, in order.

    Raises:
        InvalidInputError: one string, or too many.
        InvalidNameError: one is malformed.
    """
    if isinstance(tags, str):
        raise InvalidInputError("tags must be a collection of strings, not one string")
    found = tuple(sorted({check_label(tag, "tag") for tag in tags}))
    if len(found) > MAX_TAGS:
        raise InvalidInputError(f"at most {MAX_TAGS} tags, got {len(found)}")
    return found
