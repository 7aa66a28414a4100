"""What a peer is asked; each adapter answers with the calls its peer's documentation recommends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pathlib import Path

    from peers.workload import Workload


class MissingError(Exception):
    """The peer, or what it runs on, is not to be had here; says what would bring it."""


class Peer:
    """One memory under test. Methods may be plain or `async`; `phases` calls either.

    Attributes:
        name: In tables.
        packages: Distributions whose versions matter.
        used: How it is set up here, in words.
        acknowledged: What a write has reached when its call returns, as its documentation says.
        without: Kinds of calls it has nothing for, and why.
        as_of: How it can be asked about the past: "built in", "the caller's filter", or "".
    """

    name: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ()
    used: ClassVar[str] = ""
    acknowledged: ClassVar[str] = ""
    without: ClassVar[dict[str, str]] = {}
    as_of: ClassVar[dict[str, str]] = {}

    def __init__(self, directory: Path, workload: Workload) -> None:
        self.directory = directory
        self.workload = workload

    def version(self) -> str:
        """Of what runs beside the packages, such as a server."""
        return ""

    def open(self) -> Any:
        """Open what is in the directory, or begin there."""
        raise NotImplementedError

    def close(self) -> Any:
        """Close it as its documentation says; what is acknowledged is on disk where it ever is."""
        raise NotImplementedError

    def put(self, agent: str, value: dict[str, Any]) -> Any:
        """Replace an agent's state."""
        raise NotImplementedError

    def get(self, agent: str) -> Any:
        """An agent's state, or None."""
        raise NotImplementedError

    def load(self, first: int, stop: int, at: float) -> Any:
        """Store the situations of these rows, as many at once as it takes."""
        raise NotImplementedError

    def settle(self) -> Any:
        """Wait until what was loaded is indexed, where that goes on after the call; counted as loading."""

    def observe(self, row: int, at: float) -> Any:
        """Store one situation."""
        raise NotImplementedError

    def holds(self, row: int) -> Any:
        """Whether the situation of a row is there."""
        raise NotImplementedError

    def search(self, number: int) -> Any:
        """Rows of the ten situations most like a query."""
        raise NotImplementedError

    def search_symbol(self, number: int, symbol: str) -> Any:
        """The same among those of one instrument."""
        raise NotImplementedError

    def decide(self, row: int, at: float) -> Any:
        """Store a decision made in the situation of a row, without an outcome."""
        raise NotImplementedError

    def outcome(self, row: int, value: float, at: float) -> Any:
        """Store how that decision turned out."""
        raise NotImplementedError

    def lessons(self, number: int) -> Any:
        """Outcomes of the decisions in situations most like a query."""
        raise NotImplementedError

    def message(self, number: int) -> Any:
        """Send a message to another task, and wait until that one has it."""
        raise NotImplementedError

    def lock(self, number: int) -> Any:
        """Take a lock and give it back."""
        raise NotImplementedError

    def get_as_of(self, agent: str, at: float) -> Any:
        """An agent's state as it was known at `at`; what a plain read says where there is no past."""
        del at
        return self.get(agent)

    def search_as_of(self, number: int, at: float) -> Any:
        """Rows of the situations most like a query that were known at `at`, if that can be asked."""
        del at
        return self.search(number)

    def outcomes_as_of(self, row: int, at: float) -> Any:
        """The outcomes of a decision that were known at `at`: a list, or None if it is not found."""
        raise NotImplementedError
