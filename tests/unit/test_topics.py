"""Topics and patterns."""

from __future__ import annotations

import pytest

from nt_memory.errors import InvalidNameError
from nt_memory.topics import check_pattern, check_topic, compile_pattern


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("a/b", ["a/b"], ["a", "a/b/c", "a/c", "A/b"]),
        ("a/*", ["a/b", "a/c"], ["a", "a/b/c", "b/b"]),
        ("*/b", ["a/b"], ["b", "a/b/b", "a/c"]),
        ("a/*/c", ["a/b/c"], ["a/c", "a/b/b/c", "a/b/d"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "ab/c", "b/a"]),
        ("*/**", ["a/b", "a/b/c"], ["a"]),
        ("*", ["a", "ä"], ["a/b"]),
        ("**", ["a", "a/b/c"], []),
        ("a.b/*", ["a.b/c"], ["axb/c"]),
        ("(a|b)[/*", ["(a|b)[/c"], ["a/c"]),
    ],
)
def test_matching(pattern: str, matching: list[str], other: list[str]) -> None:
    """`*` is exactly one level, `**` at the end one or more; everything else is itself."""
    matches = compile_pattern(pattern)
    assert all(matches(topic) for topic in matching)
    assert not any(matches(topic) for topic in other)


@pytest.mark.parametrize(
    "name", ["", "/", "a/", "/a", "a//b", "a\n", "a\0b", "\ud800", "x" * 257, "ä" * 129, None, 3]
)
def test_malformed_levels_are_refused(name: str) -> None:
    """Neither a topic nor a pattern may have empty levels, control characters or great length."""
    for check in (check_topic, check_pattern, compile_pattern):
        with pytest.raises(InvalidNameError):
            check(name)


@pytest.mark.parametrize("topic", ["*", "a/*", "**", "a*b"])
def test_topics_have_no_wildcards(topic: str) -> None:
    """Nobody publishes to a pattern."""
    with pytest.raises(InvalidNameError, match="wildcard"):
        check_topic(topic)


@pytest.mark.parametrize("pattern", ["**/a", "a/**/b", "a*", "a/b*c", "***", "a/***"])
def test_wildcards_stand_alone(pattern: str) -> None:
    """`**` is only the last level, and no level is half a wildcard."""
    with pytest.raises(InvalidNameError):
        check_pattern(pattern)


def test_longest_topic_is_a_topic() -> None:
    """The limit is 256 bytes, inclusive."""
    assert check_topic("ä" * 128) == check_pattern("ä" * 128) == "ä" * 128
