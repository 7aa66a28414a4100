"""Value files that are missing or damaged: found by `verify`, put on record by `repair`."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, NamedTuple

from nt_memory.errors import CorruptionError, FormatVersionError
from nt_memory.transport.value_layout import check_value, read_contents
from nt_memory.transport.values import parse_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from nt_memory.system.references import Wanted

DAMAGED = "damaged"
"""Where in a store `repair` keeps what it took away."""
LOST_VALUES = "lost-values.jsonl"
"""In a directory of damaged files: what it cost."""


class Checked(NamedTuple):
    """What was found of the value files.

    Attributes:
        damage: What is wrong with each file that is, and whose values it holds.
        orphans: How many files nothing refers to.
        bytes: Of the files that are as they should be.
    """

    damage: dict[bytes, tuple[str, list[Wanted]]]
    orphans: int
    bytes: int


def check_values(
    directory: Path, wanted: Iterable[Wanted], progress: Callable[[str, int, int], None]
) -> Checked:
    """Read every file that is referred to, and compare it with its digest.

    Raises:
        FormatVersionError: a newer version wrote one.
        OSError: the directory cannot be read.

    Cost: 1.2 s a gigabyte, and the disk's time.
    """
    by_digest: dict[bytes, list[Wanted]] = {}
    for one in wanted:
        by_digest.setdefault(one.reference.digest, []).append(one)
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    there = {digest for name in names if (digest := parse_name(name)) is not None}
    total = sum(owners[0].reference.size for owners in by_digest.values())
    damage: dict[bytes, tuple[str, list[Wanted]]] = {}
    done = 0
    for digest, owners in by_digest.items():
        progress("values", done, total)
        found = _damage_of(directory / digest.hex(), owners[0])
        if found is not None:
            damage[digest] = (found, owners)
        done += owners[0].reference.size
    sound = sum(owners[0].reference.size for d, owners in by_digest.items() if d not in damage)
    return Checked(damage, len(there - set(by_digest)), sound)


def known_losses(damaged: Path) -> set[bytes]:
    """Digests of the files that `repair` said were lost."""
    found: set[bytes] = set()
    for path in damaged.glob(f"*/{LOST_VALUES}"):
        for line in path.read_text().splitlines():
            digest = parse_name(str(json.loads(line)["file"]))
            if digest is not None:
                found.add(digest)
    return found


def write_losses(path: Path, damage: dict[bytes, tuple[str, list[Wanted]]]) -> None:
    """Put on record which values were lost; durable when it returns.

    Raises:
        OSError: it could not be written.
    """
    with path.open("w") as file:
        for digest, (why, owners) in damage.items():
            for one in owners:
                line = {
                    "file": digest.hex(),
                    "bytes": one.reference.size,
                    "agent": one.agent,
                    "key": one.key,
                    "where": one.where,
                    "why": why,
                }
                file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def describe(why: str, owners: list[Wanted]) -> str:
    """A damaged file and whose values it holds, in a line."""
    named = "; ".join(dict.fromkeys(one.whose for one in owners))
    return f"{why}; it is the value of {named}"


def _damage_of(path: Path, one: Wanted) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return f"{path}: the value file is missing"
    try:
        check_value(fd, path, one.reference, by_digest=True)
        read_contents(fd, path)
    except FormatVersionError:
        raise
    except (CorruptionError, OSError) as error:
        return str(error)
    finally:
        os.close(fd)
    return None
