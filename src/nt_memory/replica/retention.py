"""What retention drops: superseded versions, and keys that have long been gone.

Of each key the oldest versions go, as many as an age or a number allows, so that what is left has no
gap: whoever asks for an earlier moment gets `TrimmedError`, never a neighbour. A key that was deleted
or ran out longer ago than the age goes as a whole, and a floor for its agent says until when that
can be noticed. Nothing goes that is in force at the hold of an open view or scan.

A sweep looks at a bounded number of versions and remembers where it stopped, so no entry holds up
the journal for long.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from nt_memory.entries import STATE, Retain, Sweep
from nt_memory.errors import InvalidInputError
from nt_memory.namespace import check_agent
from nt_memory.replica.dropping import drop_version, mark_trimmed
from nt_memory.tiers.layout import FLOOR, Floor, decode_floor, encode_row, parse_name, parse_tail
from nt_memory.tiers.views import after_name

if TYPE_CHECKING:
    from nt_memory.replica.quotas import Quotas
    from nt_memory.replica.writes import Now
    from nt_memory.tiers.layout import Version
    from nt_memory.tiers.views import Snapshot, WriteBatch

RULE = b"rule/"
_CURSOR = b"sweep"
_PREFIX = STATE.encode()
_decode_rule = msgspec.msgpack.Decoder(Retain).decode


def retention_in(views: Snapshot, agent: str) -> Retain | None:
    """The rule in force for an agent's keys: its own, or else the one for all agents."""
    for name in (agent, ""):
        data = views.get(b"policies", RULE + name.encode())
        if data is not None:
            return _decode_rule(data)
    return None


class Swept(NamedTuple):
    """What one sweep did.

    Attributes:
        dropped: Versions dropped.
        is_round: Whether it came to the end of all keys; the next one begins anew.
    """

    dropped: int
    is_round: bool


class Retention:
    """The rules in force."""

    def __init__(self) -> None:
        self._rules: dict[str, Retain] = {}
        self.has_limits: bool = False
        """Whether some rule lets go of something. Replaced at once: read from other threads."""

    def load(self, views: Snapshot) -> None:
        """Read the rules from the views."""
        for key, data in views.items(b"policies", RULE):
            if not key.startswith(RULE):
                break
            rule = _decode_rule(data)
            self._rules[rule.agent] = rule
        self._look()

    def _look(self) -> None:
        self.has_limits = any(_is_limiting(rule) for rule in self._rules.values())

    @property
    def has_rules(self) -> bool:
        """Whether there is anything to sweep by."""
        return bool(self._rules)

    def rule(self, agent: str) -> Retain | None:
        """What holds for an agent's keys."""
        return self._rules.get(agent) or self._rules.get("")

    def set(self, rule: Retain, batch: WriteBatch) -> None:
        """Make a rule, or take it back if it limits nothing.

        Raises:
            InvalidNameError, InvalidInputError: it is malformed; nothing has changed.
        """
        if rule.agent:
            check_agent(rule.agent)
        limits = (rule.max_age_us, rule.max_versions)
        if any(limit is not None and limit < 0 for limit in limits):
            raise InvalidInputError("retention: an age or a number of versions cannot be negative")
        key = RULE + rule.agent.encode()
        # One that limits nothing still stands before the rule for everybody.
        if not _is_limiting(rule) and not rule.agent:
            self._rules.pop("", None)
            batch.delete(b"policies", key)
        else:
            self._rules[rule.agent] = rule
            batch.put(b"policies", key, encode_row(rule))
        self._look()

    def sweep(self, batch: WriteBatch, entry: Sweep, now: Now, quotas: Quotas) -> Swept:
        """Drop what the rules do not keep, from where the last sweep stopped."""
        if now.timeline_us is None or not self._rules:
            return Swept(0, is_round=True)
        work = _Work(batch, entry, now, quotas, entry.limit)
        start = batch.get(b"policies", _CURSOR) or _PREFIX
        while work.left > 0:
            name = batch.first_name(start, _PREFIX)
            if name is None:
                batch.delete(b"policies", _CURSOR)
                return Swept(work.dropped, is_round=True)
            start = self._sweep_name(work, name)
        batch.put(b"policies", _CURSOR, start)
        return Swept(work.dropped, is_round=False)

    def _sweep_name(self, work: _Work, name: bytes) -> bytes:
        """Sweep one key, or skip an agent that nothing limits; where to go on."""
        work.left -= 1
        _, agent, _ = parse_name(name)
        rule = self.rule(agent)
        if rule is None or not _is_limiting(rule):
            return f"{STATE}{agent}\1".encode()  # greater than all names of the agent
        # A name with too many versions for one sweep is looked at again: its oldest have gone.
        return after_name(name) if work.sweep_name(name, rule) else name


@dataclass(slots=True)
class _Work:
    """One sweep."""

    batch: WriteBatch
    entry: Sweep
    now: Now
    quotas: Quotas
    left: int
    dropped: int = 0

    def sweep_name(self, name: bytes, rule: Retain) -> bool:
        """Drop the oldest versions of a name that are not kept; whether that was all of them."""
        keys = self.batch.oldest_keys(name, max(2, self.left + 1))
        newest, kept_from = self.batch.newest_key(name, 0), None
        if rule.max_versions is not None:
            kept_from = self.batch.newest_key(name, rule.max_versions)
        going = self._going(keys, rule, kept_from)
        for key in keys[:going]:
            drop_version(self.batch, name, key, self.quotas)
        self.left -= going
        self.dropped += going
        rest = keys[going]
        if rest == newest and self._drop_dead(name, rest, rule):
            return True
        if going:
            mark_trimmed(self.batch, rest)
        return rest == newest or going < len(keys) - 1

    def _going(self, keys: list[bytes], rule: Retain, kept_from: bytes | None) -> int:
        """How many of the oldest versions are neither kept nor held; never the last of `keys`."""
        going = 0
        for key, successor in itertools.pairwise(keys):
            is_too_many = kept_from is not None and key < kept_from
            if not self._may_drop(successor, rule, is_too_many=is_too_many):
                break
            going += 1
        return going

    def _may_drop(self, successor: bytes, rule: Retain, *, is_too_many: bool) -> bool:
        """Whether the version before `successor` is neither kept nor held."""
        known_at, revision = parse_tail(successor)
        if known_at > self.entry.hold_us or revision > self.entry.hold_revision:
            return False
        return is_too_many or self._is_past(known_at, rule)

    def _is_past(self, ended_us: int, rule: Retain) -> bool:
        age = rule.max_age_us
        return age is not None and ended_us <= (self.now.timeline_us or 0) - age

    def _drop_dead(self, name: bytes, key: bytes, rule: Retain) -> bool:
        """Drop a key's last version if it has shown nothing for long enough."""
        version = self.batch.version(key)
        if version is None:
            return False
        known_at, revision = parse_tail(key)
        ended_us = _ended_us(version, known_at)
        if (
            ended_us is None
            or not self._is_past(ended_us, rule)
            or ended_us > self.entry.hold_us
            or revision > self.entry.hold_revision
        ):
            return False
        drop_version(self.batch, name, key, self.quotas, is_key=True)
        self.dropped += 1
        self._raise_floor(name, ended_us)
        return True

    def _raise_floor(self, name: bytes, time_us: int) -> None:
        key = FLOOR + name[: name.index(b"\0")]
        data = self.batch.get(b"policies", key)
        if data is None or decode_floor(data).time_us < time_us:
            self.batch.put(b"policies", key, encode_row(Floor(time_us, self.now.revision)))


def _is_limiting(rule: Retain) -> bool:
    return rule.max_age_us is not None or rule.max_versions is not None


def _ended_us(version: Version, known_at: int) -> int | None:
    """Since when a key's last version shows nothing; None: it shows a value."""
    if version.value is None:
        return known_at
    return version.expires_at
