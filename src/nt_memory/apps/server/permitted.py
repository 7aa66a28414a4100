"""What a caller may see, asked before it is read.

A call that the policy refuses counts as denied and raises. What shows all that a caller may see, such
as a page, must not try out what it may not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nt_memory.topics import compile_pattern, covers

if TYPE_CHECKING:
    from nt_memory.apps.server.callers import Caller


class Sight:
    """What a caller's policy allows, as it is now.

    Args:
        caller: Who asks.
    """

    def __init__(self, caller: Caller) -> None:
        policy = caller.memory.policy(caller.agent) if caller.agent else None
        self._is_operator = not caller.agent
        self._read = policy.read if policy else ()
        self._subscribe = policy.subscribe if policy else ()

    @property
    def topics(self) -> tuple[str, ...]:
        """Patterns of all topics that it may subscribe to."""
        return ("**",) if self._is_operator else self._subscribe

    def reads(self, name: str) -> bool:
        """Whether it may read one `<agent>/<key>`."""
        return self._is_operator or any(compile_pattern(one)(name) for one in self._read)

    def reads_all(self, pattern: str) -> bool:
        """Whether it may read all that a pattern matches."""
        return self._is_operator or any(covers(one, pattern) for one in self._read)
