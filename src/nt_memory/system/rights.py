"""What an agent's handle claims before it calls: the rights that each public call takes.

See `agents` for what this is about.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from nt_memory.acting import ActingAs
from nt_memory.errors import InvalidInputError, PermissionDeniedError, UnsupportedError
from nt_memory.namespace import check_agent, check_key, check_prefix
from nt_memory.replica.policies import Claim, judge, rule_in
from nt_memory.topics import check_pattern, check_topic

if TYPE_CHECKING:
    from nt_memory.entries import SetPolicy
    from nt_memory.system.engine import Engine

Given = Mapping[str, Any]
Claims = Callable[[Given], Iterable[Claim]]
_C = TypeVar("_C", bound=type)


class Rights:
    """What one agent may do, as visible here.

    Args:
        engine: Of the memory.
        agent: Whose.
    """

    def __init__(self, engine: Engine, agent: str) -> None:
        self._engine = engine
        self._agent = agent
        self._seen = -1
        self._rule: SetPolicy | None = None

    def claim(self, claim: Claim) -> None:
        """Refuse what the policy in force does not allow.

        Raises:
            PermissionDeniedError: it does not.

        Cost: microseconds: a handle's `get` of a hot key takes 4 us where the memory's takes 0.3; the
            policy is read again after something was written.
        """
        engine = self._engine
        engine.check_usable()
        # A follower's replica is as of its opening: only what is visible says what holds.
        if not engine.is_read_only and not engine.opened.replica.has_policies:
            return
        if self._seen != engine.revision:
            self._rule = rule_in(engine.snapshot, self._agent)
            self._seen = engine.revision
        if self._rule is None:
            return
        try:
            judge(self._rule, self._agent, claim)
        except PermissionDeniedError:
            engine.writing.denied += 1
            raise


def free(_: Given) -> Iterable[Claim]:
    """Nothing: it tells nothing that is an agent's, or its entry is judged when it is submitted."""
    return ()


def key(given: Given) -> Iterable[Claim]:
    """One key."""
    yield Claim("read", f"{check_agent(given['agent'])}/{check_key(given['key'])}")


def prefix(given: Given) -> Iterable[Claim]:
    """All keys with a prefix: all below the levels of it that are complete."""
    start = check_prefix(given.get("prefix", ""))
    levels = [check_agent(given["agent"]), *start.split("/")[:-1], "**"]
    yield Claim("read", "/".join(levels), is_pattern=True)


def whole_of(agent: str) -> Claim:
    """All that is under an agent's name."""
    return Claim("read", f"{check_agent(agent)}/**", is_pattern=True)


def agents(given: Given) -> Iterable[Claim]:
    """All that is under the names of one or several agents."""
    named = given["agent"] if "agent" in given else given["agents"]
    if not isinstance(named, Collection):  # it would be used up before the call itself sees it
        raise InvalidInputError(f"agents must be a collection, not {type(named).__name__}")
    return [whole_of(one) for one in ([named] if isinstance(named, str) else named)]


def everything(_: Given) -> Iterable[Claim]:
    """All that there is."""
    yield Claim("read", "**", is_pattern=True)


def publishing(given: Given) -> Iterable[Claim]:
    """A topic to publish under."""
    yield Claim("publish", check_topic(given["topic"]))


def subscribing(given: Given) -> Iterable[Claim]:
    """All topics that a pattern matches."""
    yield Claim("subscribe", check_pattern(given["pattern"]), is_pattern=True)


def operating(name: str) -> Claims:
    """A call that changes what holds for all, or tells it."""
    return lambda _: (Claim("operate", name),)


def of_agent(whole: type, calls: Mapping[str, Claims]) -> Callable[[_C], _C]:
    """Class decorator: replace every public call of `whole` that the class does not define itself."""

    def decorate(cls: _C) -> _C:
        for name in dir(whole):
            found = inspect.getattr_static(whole, name)
            if name.startswith("_") or name in vars(cls):
                continue
            if isinstance(found, property):
                setattr(cls, name, property(functools.partial(_read, name=name), doc=found.__doc__))
            elif inspect.isfunction(found):
                setattr(cls, name, _guarded(found, calls.get(name)))
        return cls

    return decorate


def _read(handle: Any, *, name: str) -> Any:
    return getattr(handle.whole, name)


def _guarded(function: Callable[..., Any], claims: Claims | None) -> Callable[..., Any]:
    if claims is None:
        return _refused(function)
    signature = inspect.signature(function)
    names = list(signature.parameters)[1:]

    def judge_call(handle: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        given = dict(zip(names, args, strict=False)) | options
        try:
            wanted = list(claims(given))
        except KeyError:
            signature.bind(handle, *args, **options)  # says which argument is missing
            raise
        for claim in wanted:
            handle.rights.claim(claim)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def acting(self: Any, *args: Any, **options: Any) -> Any:
            judge_call(self, args, options)
            with ActingAs(self.agent):
                return await function(self.whole, *args, **options)

        return acting

    @functools.wraps(function)
    def acting_at_once(self: Any, *args: Any, **options: Any) -> Any:
        judge_call(self, args, options)
        with ActingAs(self.agent):
            return function(self.whole, *args, **options)

    return acting_at_once


def _refused(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def refuse(self: Any, *_args: Any, **_options: Any) -> Any:
        raise UnsupportedError(f"{function.__name__} is not for {self.agent}'s handle")

    return refuse
