"""Is a recorded concurrent history one that a single, sequential object could have given?

A history says for each operation when it was called, when it returned and what it returned. It is
linearizable if every operation can be given one instant between the two so that, taken in that order,
each returned what the sequential model returns. The search for such an order is Wing and Gong's, with
the cache of Lowe: an operation that may come next is tried, and a pair of "these have happened" and
"the object is now so" that has been seen is not tried again.

Objects that do not affect each other are checked apart: a history is linearizable if that of each of
its objects is (Herlihy & Wing 1990, theorem 1), and that makes long histories feasible.

Source: Wing & Gong 1993, "Testing and verifying concurrent objects"; Lowe 2017, "Testing for
linearizability"; Horn & Kroening 2015 for checking objects apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

S = TypeVar("S")

UNKNOWN = object()
"""What an operation returned that nobody knows of: it may have happened, at any time since, or not."""

_FOREVER = float("inf")


class Operation(NamedTuple):
    """One call of a history.

    Attributes:
        target: Which object it was on; objects are checked apart.
        call: What was asked, as the model understands it.
        result: What was answered, or `UNKNOWN`.
        called: When it was called, by a clock that all callers share.
        returned: When it returned; ignored if the result is unknown.
    """

    target: Hashable
    call: Any
    result: Any
    called: float
    returned: float


class Model(Protocol[S]):
    """A sequential object. States are immutable and hashable."""

    def start(self) -> S:
        """The state before the first operation."""
        ...

    def step(self, state: S, call: Any, result: Any) -> S | None:
        """The state after `call` if it may return `result` in `state`, else None.

        With `UNKNOWN` the state after it if it did take effect; that it did not is thought of already.
        """
        ...


class Violation(NamedTuple):
    """A history that no sequential object could have given.

    Attributes:
        target: The object.
        longest: As many operations, in this order, could have happened.
        stuck: Those that should have been next, of which none may follow.
    """

    target: Hashable
    longest: list[Operation]
    stuck: list[Operation]

    def explain(self) -> str:
        """The end of what is possible, and what cannot follow, a line each."""
        lines = [f"{self.target!r}: after {len(self.longest)} operations, ending with"]
        lines += [f"  {one.call!r} -> {one.result!r}" for one in self.longest[-5:]]
        lines.append("none of these can be next:")
        lines += [f"  {one.call!r} -> {one.result!r}" for one in self.stuck]
        return "\n".join(lines)


def check(history: Iterable[Operation], model: Model[Any]) -> list[Violation]:
    """Violations, one an object at most; empty if the history is linearizable.

    Args:
        history: Operations in any order.
        model: Of every object in it.

    Cost: about 10 us an operation while few overlap; exponential in those that do, at worst.
    """
    by_target: dict[Hashable, list[Operation]] = {}
    for operation in history:
        by_target.setdefault(operation.target, []).append(operation)
    found = (_Search(target, some, model).run() for target, some in by_target.items())
    return [violation for violation in found if violation is not None]


@dataclass(eq=False, slots=True)
class _Event:
    """A call or a return in the list of those that have not been placed yet."""

    number: int
    operation: Operation
    closing: _Event | None  # of a call: its return
    before: _Event | None = None
    after: _Event | None = None


class _Placed(NamedTuple):
    """A call that was given its place, and the state before it."""

    event: _Event
    state: Any


class _Search:
    """The search for an order of one object's operations."""

    def __init__(self, target: Hashable, operations: list[Operation], model: Model[Any]) -> None:
        self._target = target
        self._model = model
        self._head = _Event(-1, Operation(None, None, None, 0, 0), None)
        self._link(operations)
        self._left = sum(operation.result is not UNKNOWN for operation in operations)
        self._placed: list[_Placed] = []
        self._seen: set[tuple[int, Any]] = set()
        self._longest: list[Operation] = []
        self._stuck: list[Operation] = []

    def run(self) -> Violation | None:
        """The violation, or None if there is an order."""
        state, happened = self._model.start(), 0
        event = self._head.after
        while self._left:
            if event is not None and event.closing is not None:
                after = self._place(event, state, happened)
                if after is None:
                    event = event.after
                else:
                    state, happened = after, happened | 1 << event.number
                    event = self._head.after
                continue
            # A return, or the end: what has not been placed by now cannot be any more.
            self._note()
            taken_back = self._take_back()
            if taken_back is None:
                return Violation(self._target, self._longest, self._stuck)
            state = taken_back.state
            happened &= ~(1 << taken_back.event.number)
            event = taken_back.event.after
        return None

    def _place(self, event: _Event, state: Any, happened: int) -> Any | None:
        """The state after `event` if it can be next and was not tried in vain; None if not."""
        operation = event.operation
        after = self._model.step(state, operation.call, operation.result)
        if after is None:
            return None
        tried = (happened | 1 << event.number, after)
        if tried in self._seen:
            return None
        self._seen.add(tried)
        self._placed.append(_Placed(event, state))
        self._unlink(event)
        return after

    def _take_back(self) -> _Placed | None:
        """Undo the last placement; None if there is none."""
        if not self._placed:
            return None
        placed = self._placed.pop()
        self._relink(placed.event)
        return placed

    def _note(self) -> None:
        if len(self._placed) > len(self._longest) or not self._longest:
            self._longest = [placed.event.operation for placed in self._placed]
            self._stuck = []
            event = self._head.after
            while event is not None and event.closing is not None:
                self._stuck.append(event.operation)
                event = event.after

    def _link(self, operations: list[Operation]) -> None:
        """All calls and returns in order of time; at one time, calls first."""
        events: list[tuple[float, int, _Event]] = []
        for number, operation in enumerate(sorted(operations, key=lambda one: one.called)):
            closing = _Event(number, operation, None)
            until = _FOREVER if operation.result is UNKNOWN else operation.returned
            events.append((operation.called, 0, _Event(number, operation, closing)))
            events.append((until, 1, closing))
        events.sort(key=lambda one: one[:2])
        last = self._head
        for _, _, event in events:
            last.after, event.before = event, last
            last = event

    def _unlink(self, event: _Event) -> None:
        assert event.closing is not None  # noqa: S101 - a call
        for one in (event, event.closing):
            assert one.before is not None  # noqa: S101 - the head is never taken out
            one.before.after = one.after
            if one.after is not None:
                one.after.before = one.before
        self._left -= event.operation.result is not UNKNOWN

    def _relink(self, event: _Event) -> None:
        assert event.closing is not None  # noqa: S101 - a call
        for one in (event.closing, event):
            assert one.before is not None  # noqa: S101 - the head is never taken out
            one.before.after = one
            if one.after is not None:
                one.after.before = one
        self._left += event.operation.result is not UNKNOWN
