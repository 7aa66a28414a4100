"""Rows of the views as people read them, and back: what an export consists of.

`spell` turns the key and value of a row into a dict that JSON can hold, `unspell` gives the same
bytes back. Names, times and values are spelled out; a value whose readable form would not lead back
to it is carried as its bytes, so that nothing is lost for being odd. Rows of tables that this
module does not know in particular are spelled by what msgpack says about them.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from nt_memory.clock import EARLIEST_US, LATEST_US, to_datetime, to_us
from nt_memory.codec.plain import from_plain, to_plain
from nt_memory.coordination.ballot_states import ElectorateState, ProposalState
from nt_memory.coordination.lock_states import LockState
from nt_memory.entries import (
    ACTION,
    DEFINITION,
    OUTCOME,
    PATTERN,
    STATE,
    TRAJECTORY,
    Configure,
)
from nt_memory.errors import InvalidInputError
from nt_memory.reasoningbank.definition import DefinitionDoc
from nt_memory.reasoningbank.wire import ActionDoc, OutcomeDoc, OwnerDoc
from nt_memory.system.spelled_values import (
    UNREADABLE,
    Row,
    spell_fields,
    spell_value,
    to_data,
    to_text,
    unspell_fields,
    unspell_value,
)
from nt_memory.tiers.layout import (
    ROW_KEY,
    U64,
    PartitionRow,
    VectorRow,
    Version,
    decode_partition,
    decode_version,
    encode_partition,
    encode_row,
    expiry_key,
    name_of,
    pack_row,
    parse_expiry,
    parse_name,
    parse_tail,
    unpack_row,
    version_key,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ROWS",
    "UNREADABLE",
    "VERSIONS",
    "Row",
    "spell",
    "spell_time",
    "unspell",
    "unspell_time",
]

VERSIONS: Final = "versions"
ROWS: Final = "rows"
_KINDS: Final = {
    STATE: "state",
    TRAJECTORY: "trajectory",
    ACTION: "action",
    OUTCOME: "outcome",
    DEFINITION: "definition",
    PATTERN: "pattern",
}
_SPACES: Final = {kind: space for space, kind in _KINDS.items()}
_DOCS: Final[dict[str, type[msgspec.Struct]]] = {
    TRAJECTORY: OwnerDoc,
    ACTION: ActionDoc,
    OUTCOME: OutcomeDoc,
    DEFINITION: DefinitionDoc,
}
_NO_VALUE = "none"
"""How the data of a proposal is encoded that is no encoded value."""

_STATES: Final[dict[str, type[msgspec.Struct]]] = {
    "meta": Configure,
    "locks": LockState,
    "electorate": ElectorateState,
    "proposals": ProposalState,
}


def spell(table: str, key: bytes, value: bytes) -> Row:
    """A row in words: a dict of what JSON can hold, `table` first.

    Raises:
        NtMemoryError, or one of `UNREADABLE`: the row is damaged.

    Cost: about 15 us for a version with ten flat fields.
    """
    spelling = _SPELLINGS.get(table)
    row = _spell_any(table, key, value) if spelling is None else spelling.write(key, value)
    return {"table": table, **row}


def unspell(row: Row) -> tuple[bytes, bytes]:
    """Key and value of a row, as `spell` was given them. A compressed value may differ in how.

    Raises:
        One of `UNREADABLE`: it is malformed.
    """
    spelling = _SPELLINGS.get(row["table"])
    return _unspell_any(row) if spelling is None else spelling.read(row)


def spell_time(us: int) -> str | int:
    """A time as ISO 8601, or as it is if it means something other than a time, such as never."""
    return to_datetime(us).isoformat() if EARLIEST_US <= us <= LATEST_US else us


def unspell_time(spelled: str | int) -> int:
    """The inverse of `spell_time`."""
    return spelled if isinstance(spelled, int) else to_us(datetime.fromisoformat(spelled))


# --- names ------------------------------------------------------------------------------------


def _spell_name(name: bytes) -> Row:
    space, agent, key = parse_name(name)
    return {"kind": _KINDS.get(space, space), "agent": agent, "key": key}


def _unspell_name(row: Row) -> bytes:
    kind: str = row["kind"]
    space = _SPACES.get(kind, kind)
    agent, key = row["agent"], row["key"]
    if len(space) != 1 or "\0" in agent or "\0" in key:
        raise InvalidInputError(f"malformed name {space!r}, {agent!r}, {key!r}")
    return name_of(space, agent, key)


# --- tables -----------------------------------------------------------------------------------

_TIMES: Final = frozenset({"recorded_at", "expires_at"})
_VERSION_FIELDS: Final = tuple(
    zip(
        Version.__struct_fields__[1:],
        (
            *(msgspec.NODEFAULT,)
            * (len(Version.__struct_fields__) - 1 - len(Version.__struct_defaults__)),
            *Version.__struct_defaults__,
        ),
        strict=True,
    )
)


def _spell_version(key: bytes, value: bytes) -> Row:
    known_at, revision = parse_tail(key)
    version = decode_version(value)
    row = _spell_name(key[:-16])
    row["known_at"] = spell_time(known_at)
    row["revision"] = revision
    if version.value is None:
        row["deleted"] = True
    else:
        row |= spell_value(version.value, _DOCS.get(chr(key[0])))
    for name, default in _VERSION_FIELDS:
        part = getattr(version, name)
        if part != default:
            row[name] = spell_time(part) if name in _TIMES else to_plain(_untuple(part))
    return row


def _unspell_version(row: Row) -> tuple[bytes, bytes]:
    name = _unspell_name(row)
    value = None if row.get("deleted") else unspell_value(row, _DOCS.get(chr(name[0])))
    parts: list[Any] = [value]
    for field, default in _VERSION_FIELDS:
        part = row.get(field, default)
        if part is msgspec.NODEFAULT:
            raise InvalidInputError(f"a version without {field}")
        if field in _TIMES and part is not None:
            part = unspell_time(part)
        parts.append(part)
    version = msgspec.convert(parts, Version)
    key = version_key(name, unspell_time(row["known_at"]), row["revision"])
    return key, encode_row(version)


def _untuple(part: Any) -> Any:
    return [_untuple(one) for one in part] if isinstance(part, tuple) else part


def _spell_expiry(key: bytes, value: bytes) -> Row:
    expires_at, version = parse_expiry(key)
    known_at, revision = parse_tail(version)
    row = {"expires_at": spell_time(expires_at), **_spell_name(version[:-16])}
    row |= {"known_at": spell_time(known_at), "revision": revision}
    return row | ({"value": to_text(value)} if value else {})


def _unspell_expiry(row: Row) -> tuple[bytes, bytes]:
    key = expiry_key(
        unspell_time(row["expires_at"]),
        _unspell_name(row),
        unspell_time(row["known_at"]),
        row["revision"],
    )
    return key, to_data(row.get("value", ""))


def _spell_request_time(key: bytes, value: bytes) -> Row:
    row = {"recorded_at": spell_time(U64.unpack(key[:8])[0]), "request": key[8:].hex()}
    return row | ({"value": to_text(value)} if value else {})


def _unspell_request_time(row: Row) -> tuple[bytes, bytes]:
    key = U64.pack(unspell_time(row["recorded_at"])) + bytes.fromhex(row["request"])
    return key, to_data(row.get("value", ""))


def _spell_partition(key: bytes, value: bytes) -> Row:
    agent, partition = key.decode().split("\0")
    found = decode_partition(value)
    # Where its vectors lie is said only of those that were embedded anew.
    moved = {"moved_to": found.moved_to} if found.moved_to >= 0 else {}
    numbers = {"id": found.id, "dim": found.dim, "rows": found.rows}
    return {"agent": agent, "partition": partition, **numbers, **moved}


def _unspell_partition(row: Row) -> tuple[bytes, bytes]:
    key = f"{row['agent']}\0{row['partition']}".encode()
    parts = [row["id"], row["dim"], row["rows"], row.get("moved_to", -1)]
    return key, encode_partition(msgspec.convert(parts, PartitionRow))


def _spell_vector_row(key: bytes, value: bytes) -> Row:
    partition, number = ROW_KEY.unpack(key)
    found = unpack_row(value)
    return {
        "partition": partition,
        "row": number,
        **_spell_name(found.name),
        "from": spell_time(found.from_us),
        "until": spell_time(found.until_us),
        "until_revision": found.until_revision,
        "revision": found.revision,
    }


def _unspell_vector_row(row: Row) -> tuple[bytes, bytes]:
    found = VectorRow(
        unspell_time(row["from"]),
        unspell_time(row["until"]),
        row["until_revision"],
        row["revision"],
        _unspell_name(row),
    )
    return ROW_KEY.pack(row["partition"], row["row"]), pack_row(found)


def _spell_meta(key: bytes, value: bytes) -> Row:
    text = value.decode(errors="replace")
    if str(_number(text)).encode() == value:
        return {"key": _spell_key(key), "number": _number(text)}
    return _spell_any("meta", key, value)


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _unspell_meta(row: Row) -> tuple[bytes, bytes]:
    if "number" in row:
        return _unspell_key(row["key"]), str(int(row["number"])).encode()
    return _unspell_any(row)


def _spell_proposal(key: bytes, value: bytes) -> Row:
    """As any state; and its data, which is an encoded value, spelled out."""
    row = _spell_any("proposals", key, value)
    state = row.get("value")
    if isinstance(state, dict) and "data" in state:
        data = from_plain(state["data"])
        if not isinstance(data, bytes):  # no proposal; whatever it is, it is spelled as it is
            return row | {"data_encoding": _NO_VALUE}
        spelled = spell_value(data)
        state["data"] = spelled["value"]
        if "encoding" in spelled:
            row["data_encoding"] = spelled["encoding"]
    return row


def _unspell_proposal(row: Row) -> tuple[bytes, bytes]:
    state = row.get("value")
    is_value = row.get("data_encoding") != _NO_VALUE
    if isinstance(state, dict) and "data" in state and is_value:
        spelled = {"value": state["data"], "encoding": row.get("data_encoding")}
        row = {**row, "value": {**state, "data": to_plain(unspell_value(spelled))}}
    return _unspell_any(row)


def _spell_any(table: str, key: bytes, value: bytes) -> Row:
    row: Row = {"key": _spell_key(key)}
    if value:
        fields = spell_fields(value, _STATES.get(table))
        row |= {"bytes": to_text(value)} if fields is None else {"value": fields}
    return row


def _unspell_any(row: Row) -> tuple[bytes, bytes]:
    key = _unspell_key(row["key"])
    if "bytes" in row:
        return key, to_data(row["bytes"])
    if "value" not in row:
        return key, b""
    return key, unspell_fields(row["value"], _STATES.get(row["table"]))


def _spell_key(key: bytes) -> Any:
    try:
        text = key.decode()
    except UnicodeDecodeError:
        return to_plain(key)
    return text if text.isprintable() else to_plain(key)


def _unspell_key(spelled: Any) -> bytes:
    key: bytes = spelled.encode() if isinstance(spelled, str) else from_plain(spelled)
    return key


class _Spelling(NamedTuple):
    write: Callable[[bytes, bytes], Row]
    read: Callable[[Row], tuple[bytes, bytes]]


_SPELLINGS: Final = {
    "meta": _Spelling(_spell_meta, _unspell_meta),
    VERSIONS: _Spelling(_spell_version, _unspell_version),
    "expiries": _Spelling(_spell_expiry, _unspell_expiry),
    "request_times": _Spelling(_spell_request_time, _unspell_request_time),
    "partitions": _Spelling(_spell_partition, _unspell_partition),
    ROWS: _Spelling(_spell_vector_row, _unspell_vector_row),
    "proposals": _Spelling(_spell_proposal, _unspell_proposal),
}
