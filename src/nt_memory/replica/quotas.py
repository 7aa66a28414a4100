"""Quotas: what is stored under each agent's name, counted as it changes, and held under limits.

The counts are rows of the views, so a base, a rebuilt store and every node have the same ones. The
write path cannot afford to read and write such a row an entry, so they are kept in memory, read when
an agent is first met and written once a batch. What they count is plain: `recount` gives the same
from the versions alone.

A write is judged before anything of it is carried out, by what it will have changed when it is done:
what it frees counts for it, and one that needs no more of anything is accepted whatever the limit.
So an agent that is over its quota, because that was lowered, can still read, delete and overwrite
with less.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from nt_memory.entries import ObserveMany, SetQuota, Write
from nt_memory.errors import InvalidInputError, NtMemoryError, QuotaError
from nt_memory.namespace import check_agent, is_agent
from nt_memory.replica.observing import find_fresh
from nt_memory.replica.writes import decide
from nt_memory.tiers.layout import (
    QUOTA,
    UsageRow,
    decode_usage,
    decode_version,
    encode_row,
    expiry_key,
    parse_name,
    parse_tail,
    version_bytes,
    version_key,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nt_memory.replica.writes import Now, ResolvedOp
    from nt_memory.tiers.layout import Version
    from nt_memory.tiers.views import Snapshot, WriteBatch

LIMITS = ("keys", "bytes", "vectors")
MAX_CACHED = 65_536
_NOTHING = UsageRow()
_decode_rule = msgspec.msgpack.Decoder(SetQuota).decode


def rule_in(views: Snapshot, agent: str) -> SetQuota | None:
    """The quota in force for an agent: its own, or else the one for all agents."""
    for name in (agent, "") if is_agent(agent) else ():
        data = views.get(b"policies", QUOTA + name.encode())
        if data is not None:
            return _decode_rule(data)
    return None


def usage_in(views: Snapshot, agent: str) -> UsageRow:
    """What an agent has stored."""
    data = views.get(b"usage", agent.encode())
    return _NOTHING if data is None else decode_usage(data)


def check_early(views: Snapshot, write: Write | ObserveMany, now: Now, history: int | None) -> None:
    """Refuse a write that its agent's quota does not allow as things are, before it is ordered.

    What is refused once it is ordered stays in the journal all the same, so an agent that keeps on
    trying would fill the disk. The replica judges again, and alone where a write is not refused
    here. Whatever else is wrong with the write is left to it too.

    Raises:
        QuotaError: as `Quotas.check`.
    """
    if isinstance(write, ObserveMany):
        rule = rule_in(views, write.agent)
        if rule is None:
            return
        fresh = find_fresh(views, write, now)
        if fresh is not None:
            row, count = usage_in(views, write.agent), len(write.keys)
            used = (row.keys, row.bytes, row.vectors)
            _judge(write.agent, rule, used, _Needs(count, fresh.size, count))
            return
        write = Write(write.operations)
    rules = {agent: rule_in(views, agent) for agent in {op.agent for op in write.ops}}
    if not any(rules.values()):
        return
    try:
        operations = decide(views, write, now)
    except NtMemoryError:
        return
    for agent, own in _by_agent(operations).items():
        if (rule := rules[agent]) is not None:
            row = usage_in(views, agent)
            used = (row.keys, row.bytes, row.vectors)
            _judge(agent, rule, used, _wanted(views, own, now, history))


class Quotas:
    """The rules in force, and what each agent has stored."""

    def __init__(self) -> None:
        self._rules: dict[str, SetQuota] = {}
        self._used: dict[str, list[int]] = {}
        self._changed: set[str] = set()

    # --- rules --------------------------------------------------------------------------------

    @property
    def has_rules(self) -> bool:
        """Whether anybody has a quota. Readable from other threads."""
        return bool(self._rules)

    def load(self, views: Snapshot) -> None:
        """Read the rules from the views."""
        for key, data in views.items(b"policies", QUOTA):
            if not key.startswith(QUOTA):
                break
            self._rules[key[len(QUOTA) :].decode()] = _decode_rule(data)

    def set(self, rule: SetQuota, batch: WriteBatch) -> None:
        """Make a rule, or take it back if it is the one for everybody and limits nothing.

        Raises:
            InvalidNameError, InvalidInputError: it is malformed; nothing has changed.
        """
        if rule.agent:
            check_agent(rule.agent)
        if any(limit is not None and limit < 0 for limit in _limits(rule)):
            raise InvalidInputError("quota: a limit cannot be negative")
        key = QUOTA + rule.agent.encode()
        # One that limits nothing still stands before the rule for everybody.
        if not rule.agent and _limits(rule) == (None, None, None):
            self._rules.pop("", None)
            batch.delete(b"policies", key)
            return
        self._rules[rule.agent] = rule
        batch.put(b"policies", key, encode_row(rule))

    # --- counting -----------------------------------------------------------------------------

    def add(self, batch: WriteBatch, agent: str, keys: int, size: int, vectors: int) -> None:
        """An agent has so much more, or less."""
        used = self._of(batch, agent)
        used[0] += keys
        used[1] += size
        used[2] += vectors
        self._changed.add(agent)

    def save(self, batch: WriteBatch) -> None:
        """Write what has changed since the last batch."""
        for agent in sorted(self._changed):
            put_usage(batch, agent, UsageRow(*self._used[agent]))
        self._changed.clear()
        if len(self._used) > MAX_CACHED:
            self._used.clear()

    def _of(self, views: Snapshot, agent: str) -> list[int]:
        used = self._used.get(agent)
        if used is None:
            row = usage_in(views, agent)
            used = self._used[agent] = [row.keys, row.bytes, row.vectors]
        return used

    # --- judging ------------------------------------------------------------------------------

    def check(
        self, views: Snapshot, operations: Sequence[ResolvedOp], now: Now, history: int | None
    ) -> None:
        """Refuse a write after which an agent would have more than it has now and than it may.

        Cost: nothing without quotas; with one about as many reads as carrying out the write.

        Raises:
            QuotaError: of the first agent and limit, in the order of the operations.
        """
        if not self._rules:
            return
        for agent, own in _by_agent(operations).items():
            if (rule := self._rule(agent)) is not None:
                _judge(agent, rule, self._of(views, agent), _wanted(views, own, now, history))

    def check_new(self, views: Snapshot, agent: str, count: int, size: int) -> None:
        """As `check` of so many observations under new keys, that count so many bytes together.

        Raises:
            QuotaError: of the first limit.
        """
        if self._rules and (rule := self._rule(agent)) is not None:
            _judge(agent, rule, self._of(views, agent), _Needs(count, size, count))

    def _rule(self, agent: str) -> SetQuota | None:
        # What the swarm shares is nobody's: one agent's load must not use it up for the others.
        if not is_agent(agent):
            return None
        return self._rules.get(agent) or self._rules.get("")


class _Needs(NamedTuple):
    keys: int
    bytes: int
    vectors: int


def put_usage(batch: WriteBatch, agent: str, row: UsageRow) -> None:
    """Set what an agent has; no row says that it has nothing."""
    if row == _NOTHING:
        batch.delete(b"usage", agent.encode())
    else:
        batch.put(b"usage", agent.encode(), encode_row(row))


def shows(views: Snapshot, name: bytes, current: tuple[int, int, Version] | None) -> bool:
    """Whether a key counts: its current version is a value that was not told to have expired."""
    if current is None:
        return False
    known_at, revision, version = current
    if version.value is None:
        return False
    if version.expires_at is None:
        return True
    key = expiry_key(version.expires_at, name, known_at, revision)
    return views.get(b"expiries", key) is not None


def recount(views: Snapshot) -> dict[str, UsageRow]:
    """What every agent has, from the versions alone.

    Cost: reads all versions, about 2 s a million.
    """
    found: dict[str, list[int]] = {}
    last: tuple[bytes, tuple[int, int, Version]] | None = None
    for key, data in views.items(b"versions"):
        name, version = key[:-16], decode_version(data)
        if last is not None and last[0] != name:
            found[parse_name(last[0])[1]][0] += shows(views, *last)
        last = name, (*parse_tail(key), version)
        used = found.setdefault(parse_name(name)[1], [0, 0, 0])
        used[1] += version_bytes(name, version.value, version.tags)
        used[2] += version.partition >= 0
    if last is not None:
        found[parse_name(last[0])[1]][0] += shows(views, *last)
    rows = {agent: UsageRow(*used) for agent, used in found.items()}
    return {agent: row for agent, row in rows.items() if row != _NOTHING}


def count_anew(batch: WriteBatch) -> None:
    """Have the counts say what there is, whatever they said."""
    there = recount(batch)
    for key, _ in list(batch.items(b"usage")):
        there.setdefault(key.decode(), _NOTHING)
    for agent, row in there.items():
        put_usage(batch, agent, row)


def _limits(rule: SetQuota) -> tuple[int | None, int | None, int | None]:
    return rule.max_keys, rule.max_bytes, rule.max_vectors


def _judge(agent: str, rule: SetQuota, used: Sequence[int], wanted: _Needs) -> None:
    for limit, maximum, has, more in zip(LIMITS, _limits(rule), used, wanted, strict=True):
        if maximum is not None and more > 0 and has + more > maximum:
            raise QuotaError(
                f"{agent}: quota of {maximum} {limit}: {has} used, and {more} more wanted",
                agent=agent,
                limit=limit,
                used=has,
                wanted=more,
                maximum=maximum,
            )


def _by_agent(operations: Sequence[ResolvedOp]) -> dict[str, list[ResolvedOp]]:
    found: dict[str, list[ResolvedOp]] = {}
    for operation in operations:
        found.setdefault(operation.op.agent, []).append(operation)
    return found


def _wanted(views: Snapshot, operations: list[ResolvedOp], now: Now, history: int | None) -> _Needs:
    """How much more an agent will have after all of its operations."""
    # Several versions of one key in one entry are judged together.
    names: dict[bytes, list[ResolvedOp]] = {}
    for operation in operations:
        names.setdefault(operation.name, []).append(operation)
    keys = size = vectors = 0
    for name, ops in names.items():
        keys += _added_keys(views, name, ops, now)
        needs = [_cost(operation) for operation in ops]
        if history is not None:
            needs.append(_trimmed(views, name, ops, history, now.revision))
        size += sum(need.bytes for need in needs)
        vectors += sum(need.vectors for need in needs)
    return _Needs(keys, size, vectors)


def _added_keys(views: Snapshot, name: bytes, ops: list[ResolvedOp], now: Now) -> int:
    current = views.current(name)
    latest = max(ops, key=lambda operation: operation.known_at)
    if current is not None and (latest.known_at, now.revision) < current[:2]:
        return 0  # history, not the present
    return (latest.op.value is not None) - shows(views, name, current)


def _cost(operation: ResolvedOp) -> _Needs:
    op = operation.op
    size = version_bytes(operation.name, op.value, op.tags)
    return _Needs(0, size, op.vector is not None)


def _trimmed(
    views: Snapshot, name: bytes, ops: list[ResolvedOp], history: int, revision: int
) -> _Needs:
    """What `history` will drop of a key, of the entry's own versions too; negative."""
    own = {version_key(name, operation.known_at, revision): operation for operation in ops}
    keys = sorted(chain(views.version_keys(name), own))
    size = vectors = 0
    for key in keys[: max(0, len(keys) - history - 1)]:
        if (operation := own.get(key)) is not None:
            cost = _cost(operation)
            size, vectors = size - cost.bytes, vectors - cost.vectors
        elif (version := views.version(key)) is not None:
            size -= version_bytes(name, version.value, version.tags)
            vectors -= version.partition >= 0
    return _Needs(0, size, vectors)
