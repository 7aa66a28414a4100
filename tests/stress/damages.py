"""Ways to damage a store's files: what disks, cables, file systems and people do to them."""

from __future__ import annotations

import random
import re
import shutil
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PAGE = 4096
AREAS = {
    "journal": 5,
    "base": 4,
    "values": 4,
    "views": 6,
    "vectors": 3,
    "graph": 2,
    "other": 1,
}
"""How often each part of a store is damaged, if it has such files."""


class Damage(NamedTuple):
    """What was done.

    Attributes:
        area: The part of the store.
        kind: The way it was damaged.
        name: The file, relative to the store.
        offset: Where in it; -1: to the file as a whole.
    """

    area: str
    kind: str
    name: str
    offset: int = -1


def area_of(name: str) -> str:
    """The part of a store that a file belongs to."""
    top = name.split("/", maxsplit=1)[0]
    if name.endswith(".hnsw"):
        return "graph"
    if name in {"views/STATE", "views/lock.mdb"}:
        return "other"
    return top if top in AREAS else "other"


def damage(store: Path, foreign: Path, draw: random.Random) -> Damage:
    """Damage one file of a store.

    Args:
        store: The store.
        foreign: Another store of the same build, with other content.
        draw: Decides what is done, and where.
    """
    while True:
        files = _files(store)
        areas = sorted(files)
        area = draw.choices(areas, [AREAS[each] for each in areas])[0]
        path = draw.choices(files[area], [path.stat().st_size + 1 for path in files[area]])[0]
        name = path.relative_to(store).as_posix()
        if draw.random() < 0.75 and path.stat().st_size:
            kind = draw.choice([*_INSIDE, "pages"] if name.endswith(".mdb") else list(_INSIDE))
            before = path.read_bytes()
            offset = draw.randrange(len(before))
            after, offset = _pages(before, draw) if kind == "pages" else (b"", offset)
            if kind != "pages":
                other = draw.choice([each for some in files.values() for each in some])
                after = _INSIDE[kind](before, offset, other.read_bytes(), draw)
            if after == before:
                continue
            path.write_bytes(after)
            return Damage(area, kind, name, offset)
        kind = draw.choice(list(_WHOLE))
        if _WHOLE[kind](path, store, foreign, draw):
            return Damage(area, kind, name)


def _files(store: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in sorted(store.rglob("*")):
        if path.is_file():
            found.setdefault(area_of(path.relative_to(store).as_posix()), []).append(path)
    return found


# --- inside a file --------------------------------------------------------------------------------


def _bit(data: bytes, at: int, _other: bytes, draw: random.Random) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]


def _byte(data: bytes, at: int, _other: bytes, draw: random.Random) -> bytes:
    return data[:at] + draw.randbytes(1) + data[at + 1 :]


def _zeros(data: bytes, at: int, _other: bytes, _draw: random.Random) -> bytes:
    """A page that was never written, or was forgotten."""
    start = at - at % PAGE
    return data[:start] + bytes(min(PAGE, len(data) - start)) + data[start + PAGE :]


def _cut(data: bytes, at: int, _other: bytes, _draw: random.Random) -> bytes:
    return data[:at]


def _foreign_bytes(data: bytes, at: int, other: bytes, draw: random.Random) -> bytes:
    """A misdirected write: some of another file, at a sector of this one."""
    start, length = at - at % 512, draw.choice([512, PAGE])
    if len(other) < length:
        return data
    source = draw.randrange(len(other) - length + 1)
    block = other[source - source % 512 :][: min(length, len(data) - start)]
    return data[:start] + block + data[start + len(block) :]


def _pages(data: bytes, draw: random.Random) -> tuple[bytes, int]:
    """Two pages in each other's place."""
    one, other = (number * PAGE for number in draw.sample(range(len(data) // PAGE), 2))
    mixed = bytearray(data)
    mixed[one : one + PAGE] = data[other : other + PAGE]
    mixed[other : other + PAGE] = data[one : one + PAGE]
    return bytes(mixed), one


_INSIDE: dict[str, Callable[[bytes, int, bytes, random.Random], bytes]] = {
    "bit": _bit,
    "byte": _byte,
    "zeros": _zeros,
    "cut": _cut,
    "block": _foreign_bytes,
}


# --- a file as a whole; each says whether it could be done --------------------------------------


def _missing(path: Path, _store: Path, _foreign: Path, _draw: random.Random) -> bool:
    path.unlink()
    return True


def _empty(path: Path, _store: Path, _foreign: Path, _draw: random.Random) -> bool:
    if not path.stat().st_size:
        return False
    path.write_bytes(b"")
    return True


def _garbage(path: Path, _store: Path, _foreign: Path, draw: random.Random) -> bool:
    path.write_bytes(draw.randbytes(draw.choice([1, 64, PAGE])))
    return True


def _replaced(path: Path, store: Path, foreign: Path, draw: random.Random) -> bool:
    """By one of another store, of the same name if it has one."""
    same = foreign / path.relative_to(store)
    like = [same] if same.exists() else sorted((foreign / path.parent.name).glob(f"*{path.suffix}"))
    if not like:
        return False
    other = draw.choice(like).read_bytes()
    if other == path.read_bytes():
        return False
    path.write_bytes(other)
    return True


def _renamed(path: Path, _store: Path, _foreign: Path, draw: random.Random) -> bool:
    target = _another_name(path, draw)
    if target is None:
        return False
    path.rename(target)
    return True


def _duplicated(path: Path, _store: Path, _foreign: Path, draw: random.Random) -> bool:
    target = _another_name(path, draw)
    if target is None:
        return False
    shutil.copy(path, target)
    return True


def _another_name(path: Path, draw: random.Random) -> Path | None:
    """One that such a file may have, a few numbers on or back."""
    number = re.match(r"\d+", path.name)
    if number is None:
        return None
    other = int(number[0]) + draw.choice([-7, -1, 1, 2, 50, 500])
    if other < 0:
        return None
    target = path.with_name(f"{other:0{len(number[0])}d}{path.name[number.end() :]}")
    return None if target.exists() else target


def _swapped(path: Path, _store: Path, _foreign: Path, draw: random.Random) -> bool:
    others = [other for other in sorted(path.parent.glob(f"*{path.suffix}")) if other != path]
    if not path.suffix or not others:
        return False
    other = draw.choice(others)
    mine = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(mine)
    return True


_WHOLE: dict[str, Callable[[Path, Path, Path, random.Random], bool]] = {
    "missing": _missing,
    "empty": _empty,
    "garbage": _garbage,
    "replaced": _replaced,
    "renamed": _renamed,
    "duplicated": _duplicated,
    "swapped": _swapped,
}
