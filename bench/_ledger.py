"""What became of numbered messages: each received, or counted as dropped, and nothing else."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Ledger:
    """The books of one receiver of the numbers `first`, `first + 1`, ... in order.

    Attributes:
        first: Number of the first message published after it had subscribed.
        has_errors: Its receiver raises `BufferOverflowError` where messages are missing.
        received: Messages it got.
        missing: Messages that did not come, as seen by the numbers of those that did.
        faults: What must not happen, in words.
    """

    first: int
    has_errors: bool
    received: int = 0
    missing: int = 0
    faults: list[str] = dataclasses.field(default_factory=list)
    _next: int = -1
    _was_told: bool = False

    def __post_init__(self) -> None:
        self._next = self.first

    def got(self, number: int) -> None:
        """A message came."""
        gap = number - self._next
        if gap < 0:
            self.faults.append(f"{number} came when {self._next} was next")
        elif self.has_errors and (gap > 0) != self._was_told:
            self.faults.append(f"{gap} are missing before {number}, told: {self._was_told}")
        self.received += 1
        self.missing += gap
        self._next = number + 1
        self._was_told = False

    def told(self) -> None:
        """The receiver raised: messages are missing right here."""
        if not self.has_errors or self._was_told:
            self.faults.append(f"an overflow was raised before {self._next} for nothing")
        self._was_told = True

    def close(self, published: int, dropped: int) -> list[str]:
        """Nothing comes any more; what is wrong, in words.

        Args:
            published: Number of the next message, had there been one.
            dropped: What the receiver counted.
        """
        tail = published - self._next  # dropped after the last that came
        if tail and not self._was_told:
            self.faults.append(f"the last {tail} are missing, and nobody was told")
        self.missing += tail
        if self.missing != dropped:
            self.faults.append(f"{self.missing} are missing, {dropped} were counted")
        if self.received + dropped != published - self.first:
            self.faults.append(
                f"{published - self.first} published, {self.received} received, {dropped} dropped"
            )
        return self.faults
