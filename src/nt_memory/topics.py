"""Topics and the patterns that match them.

A topic is 1 to 256 bytes of printable UTF-8 in levels separated by `/`, none of them empty. In a
pattern a level may be `*`, which matches exactly one level, and the last may be `**`, which matches
all that remain, at least one. A topic itself holds no `*`.

Topics whose first level starts with `$` are the memory's own, such as those that replies come
under. Only a pattern whose first level is that very level matches them, so no `**` of an agent
listens in; nor can agents publish or subscribe there. (MQTT 3.1.1, section 4.7.2, has the same rule.)
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from nt_memory.errors import InvalidNameError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_TOPIC_BYTES = 256
OWN = "$"


def _reason_bad(levels: object) -> str | None:
    """What is wrong with a topic or a pattern, wildcards aside."""
    if not isinstance(levels, str):
        return f"must be str, not {type(levels).__name__}"
    if not levels:
        return "is empty"
    if not levels.isprintable():
        return "has a control, surrogate or other unprintable character"
    if len(levels) > MAX_TOPIC_BYTES or len(levels.encode()) > MAX_TOPIC_BYTES:
        return f"is longer than {MAX_TOPIC_BYTES} bytes of UTF-8"
    if "" in levels.split("/"):
        return "has an empty level"
    return None


def check_not_own(name: str) -> str:
    """Return a topic or pattern if agents may use it.

    Raises:
        InvalidNameError: it is one of the memory's own.
    """
    if isinstance(name, str) and name.startswith(OWN):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidNameError(f"topic {_shorten(name)} starts with {OWN}: the memory's own do")
    return name


def _shorten(name: object) -> str:
    text = repr(name)
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_topic(topic: str) -> str:
    """Return `topic` if a message can be published under it.

    Raises:
        InvalidNameError: it is malformed or holds a wildcard; the message says which.
    """
    reason = _reason_bad(topic)
    if reason is None and "*" in topic:
        reason = "has a wildcard; only a subscription may"
    if reason is not None:
        raise InvalidNameError(f"topic {_shorten(topic)} {reason}")
    return topic


def check_pattern(pattern: str) -> str:
    """Return `pattern` if it can be subscribed to; every topic is a pattern for itself.

    Raises:
        InvalidNameError: it is malformed, `**` is not its last level, or a level mixes `*` with
            other characters.
    """
    reason = _reason_bad(pattern)
    if reason is None:
        levels = pattern.split("/")
        if "**" in levels[:-1]:
            reason = "has ** before its last level"
        elif any("*" in level and level not in {"*", "**"} for level in levels):
            reason = "mixes * with other characters in one level"
    if reason is not None:
        raise InvalidNameError(f"pattern {_shorten(pattern)} {reason}")
    return pattern


def covers(pattern: str, wanted: str) -> bool:
    """Whether whatever matches `wanted` matches `pattern` too. Both pass `check_pattern`."""
    mine, theirs = pattern.split("/"), str.split(wanted, "/")
    for place, level in enumerate(mine):
        if level == "**":
            return len(theirs) > place
        if len(theirs) <= place or theirs[place] == "**":
            return False
        if level not in {"*", theirs[place]}:
            return False
    return len(mine) == len(theirs)


@lru_cache(maxsize=4096)
def compile_pattern(pattern: str) -> Callable[[str], bool]:
    """A function that tells whether a topic matches; it expects topics that pass `check_topic`.

    Who matches knows which topics are the memory's own (`OWN`): the function does not.

    Raises:
        InvalidNameError: as `check_pattern`.

    Cost: about 0.2 µs a call.
    """
    check_pattern(pattern)
    if "*" not in pattern:
        return pattern.__eq__
    spelled = {"*": "[^/]+", "**": ".+"}
    levels = (spelled.get(level) or re.escape(level) for level in pattern.split("/"))
    fullmatch = re.compile("/".join(levels)).fullmatch
    return lambda topic: fullmatch(topic) is not None
