"""What `verify` tells."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Verification:
    """What `verify` found.

    Attributes:
        path: The store.
        damage: What is wrong, in the order it was found; each names its place. Empty: nothing is.
        warnings: What is worth knowing and harms nothing.
        sequence: The last entry that the views were compared at.
        revision: Their revision there.
        entries: Journal entries read.
        rows: Rows of the views compared.
        vectors: Vectors compared.
        value_bytes: Bytes of value files that are as they were written.
        snapshots: Of a cluster: the snapshots that were read, newest first; None of a store.
        snapshot_bytes: Bytes of those that are as they were written.
    """

    path: str
    damage: list[str] = field(default_factory=list[str])
    warnings: list[str] = field(default_factory=list[str])
    sequence: int = 0
    revision: int = 0
    entries: int = 0
    rows: int = 0
    vectors: int = 0
    value_bytes: int = 0
    snapshots: list[str] | None = None
    snapshot_bytes: int = 0

    @property
    def is_ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damage
