"""What answering from patterns has saved: counted and timed, since how long a search takes is no constant."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from nt_memory.reasoningbank.advice import Advice


class Savings(NamedTuple):
    """What advice has cost since the memory was opened, in this process.

    Attributes:
        from_patterns: Answers that a promoted pattern gave (`from_patterns=True`).
        from_memories: Answers from recalled memories.
        memories: Situations that the former neither searched nor read, each as often as it was not.
        pattern_s: Mean time of an answer from a pattern, as its caller waited; NaN without any.
        memory_s: The same of one from memories.
    """

    from_patterns: int
    from_memories: int
    memories: int
    pattern_s: float
    memory_s: float

    @property
    def saved_s(self) -> float:
        """Time that answers from patterns took less, all together; NaN where there is no comparison."""
        return self.from_patterns * (self.memory_s - self.pattern_s)


class Meter:
    """Counts answers and adds up their times. Withheld advice and abstentions count as neither."""

    def __init__(self) -> None:
        self._counts = [0, 0]
        self._times_ns = [0, 0]
        self._memories = 0

    def took(self, advice: Advice, time_ns: int) -> None:
        """An answer was given."""
        if advice.is_withheld or advice.is_abstaining:
            return
        is_pattern = bool(advice.receipt.pattern)
        self._counts[is_pattern] += 1
        self._times_ns[is_pattern] += time_ns
        if is_pattern:
            self._memories += advice.known

    def read(self) -> Savings:
        """What was counted so far."""
        memory_s, pattern_s = (
            time_ns / count / 1e9 if count else math.nan
            for time_ns, count in zip(self._times_ns, self._counts, strict=True)
        )
        return Savings(self._counts[1], self._counts[0], self._memories, pattern_s, memory_s)
