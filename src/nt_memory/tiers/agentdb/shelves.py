"""How an agent's observations are spelled on a server of the contract.

Each agent has one collection, each observation one document. The document's metadata are the fields of
the observation's data, so that `where` means there what it means here and other readers find what they
expect; what the memory needs to trust a result is beside them under `MARK`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from nt_memory.codec.plain import to_plain
from nt_memory.errors import UnsupportedError
from nt_memory.filters import Comparison, Junction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nt_memory.filters import Filter

MARK = "_nt_memory"
"""The field of the metadata that says which version a document is."""
_READABLE_CHARS = 32
_MAX_KEY_BYTES = 127


class Document(msgspec.Struct):
    """What is inserted."""

    id: str
    embedding: Sequence[float]
    metadata: dict[str, Any]


def collection_of(store: str, agent: str) -> str:
    """The collection of an agent: its name's start to read, and a digest that no other agent or store has.

    Args:
        store: What this store's deliveries are called; see `Progress`.
        agent: Whose observations.
    """
    digest = hashlib.sha256(f"{store}\0{agent}".encode()).hexdigest()[:16]
    return f"{agent[:_READABLE_CHARS]}.{digest}"


def document_id(key: str) -> str:
    """The hexadecimal id of an observation; of a key too long for one, a digest after a zero byte.

    No key begins with a zero byte, so no two keys have one id.
    """
    data = key.encode()
    if len(data) > _MAX_KEY_BYTES:
        data = b"\0" + hashlib.sha256(data).digest()
    return data.hex()


def metadata_of(key: str, revision: int, data: Any) -> dict[str, Any]:
    """The metadata of an observation's version.

    Args:
        key: Its key.
        revision: Which version.
        data: What it holds; what is no mapping of strings is not searched by.
    """
    fields = to_plain(data) if _is_record(data) else {}
    return {**fields, MARK: {"key": key, "revision": revision}}


def read_mark(metadata: Any) -> tuple[str, int] | None:
    """Key and revision of a document; None if it is none of a memory's."""
    mark = metadata.get(MARK) if isinstance(metadata, Mapping) else None
    if not isinstance(mark, Mapping):
        return None
    key, revision = mark.get("key"), mark.get("revision")
    return (key, revision) if isinstance(key, str) and isinstance(revision, int) else None


def spell_where(where: Filter) -> dict[str, Any]:
    """A filter as the contract has it.

    Raises:
        UnsupportedError: it compares with what JSON cannot say.
    """
    if isinstance(where, Junction):
        op = "and" if where.needs_all else "or"
        return {"op": op, "filters": [spell_where(part) for part in where.parts]}
    assert isinstance(where, Comparison)  # noqa: S101 - there are two kinds
    values = where.value if where.op == "in" else [where.value]
    for value in values:
        if value is not None and type(value) not in {str, int, float, bool}:
            raise UnsupportedError(
                f"agentdb_url: where compares {where.field[0]!r} with a {type(value).__name__}; the "
                "server's filters know text, numbers, booleans and null"
            )
    if where.op == "in":
        return {"op": "in", "field": where.field[0], "values": list(values)}
    return {"op": where.op, "field": where.field[0], "value": where.value}


def _is_record(data: Any) -> bool:
    return isinstance(data, Mapping) and all(type(key) is str for key in data)
