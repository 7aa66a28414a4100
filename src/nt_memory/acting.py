"""In whose name a call acts: what an entry will carry as its actor.

An agent's handle (`MemorySystem.as_agent`) shares everything with the memory it is of, so the name
travels beside the call, in its context. Tasks that a call starts inherit it. What acts later than
the call that made it, such as a lock scope, takes the name along.
"""

from __future__ import annotations

from contextvars import ContextVar, Token

_actor: ContextVar[str | None] = ContextVar("nt_memory_actor", default=None)


def actor() -> str | None:
    """Who acts here; None: the memory itself, under the name that it was configured with."""
    return _actor.get()


class ActingAs:
    """`with ActingAs("agent_1"):` what is called inside acts in that name; used once.

    Must not span a `yield`, which would lend the name to whoever iterates.
    """

    __slots__ = ("_before", "_name")

    def __init__(self, name: str | None) -> None:
        self._name = name
        self._before: Token[str | None] | None = None

    def __enter__(self) -> None:
        self._before = _actor.set(self._name)

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            _actor.reset(self._before)
