"""What a check is, and running them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from nt_memory import MemoryConfig

Status = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        status: "warn": it works, but not as well as it could; "fail": it does not, or data is at
            risk; "skip": it could not be found out here.
        found: What was found.
        advice: What to do about it; empty if nothing.
    """

    name: str
    status: Status
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Patient:
    """What is looked at.

    Attributes:
        config: Settings in force.
        path: The store's directory, which may not exist.
        place: The directory itself, or the nearest above it that exists: its disk is measured.
        url: A server to reach, or None.
    """

    config: MemoryConfig
    path: Path
    place: Path
    url: str | None = None

    @property
    def is_made(self) -> bool:
        """Whether there is a store."""
        return (self.path / "FORMAT").exists()


def nearest(path: Path) -> Path:
    """The directory, or the nearest above it that exists."""
    found = path.absolute()
    while not found.is_dir() and found != found.parent:
        found = found.parent
    return found


def examine(patient: Patient, looks: Iterable[Callable[[Patient], Check]]) -> list[Check]:
    """Run checks; one that breaks says so and stops no other."""
    found: list[Check] = []
    for look in looks:
        try:
            found.append(look(patient))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            name = look.__name__.removeprefix("check_").replace("_", " ")
            found.append(Check(name, "skip", f"could not be looked at: {error}"))
    return found
