"""Policies: what each agent may do, judged by who submitted an entry and what the entry claims.

A policy is set by an entry and judged in the order of entries, so every node refuses the same ones.
Without a policy of its own an agent has the one for all others, and without that it may do anything.
So may whoever has no name: the operator, who sets them.

A policy that is set allows what it names and nothing else. Names are matched character by character
as patterns of levels (`topics`), never as paths or URLs: there is nothing in them to decode, fold
or escape.

What may be done does not take away what was done: a right is needed to take and to renew a lock, not
to give it back, so a right that is withdrawn ends with the lease. Nobody but who took a lock may renew
it or give it back, if a policy holds for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from nt_memory.entries import (
    STATE,
    TRAJECTORY,
    AbandonEmbedding,
    Acquire,
    Advance,
    CastVote,
    CleanUp,
    Configure,
    Embed,
    ForceRelease,
    Mark,
    ObserveMany,
    Propose,
    Reembed,
    Register,
    Release,
    Renew,
    Retain,
    SetPolicy,
    SetQuota,
    StartSession,
    Sweep,
    SwitchEmbedding,
    Tick,
    Withdraw,
    Write,
)
from nt_memory.errors import InvalidInputError, PermissionDeniedError
from nt_memory.namespace import check_agent, is_agent
from nt_memory.tiers.layout import POLICY, encode_row
from nt_memory.topics import check_pattern, compile_pattern, covers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nt_memory.entries import Body, Entry
    from nt_memory.replica.coordination import Draft
    from nt_memory.tiers.views import Snapshot, WriteBatch

RIGHTS = ("read", "write", "publish", "subscribe", "lock", "propose", "vote", "operate")
MAX_PATTERNS = 256
_OPERATIONS: dict[type, str] = {
    SetQuota: "set_quota",
    SetPolicy: "set_policy",
    Retain: "set_retention",
    CleanUp: "cleanup_old",
    Advance: "advance",
}
_decode_rule = msgspec.msgpack.Decoder(SetPolicy).decode


class Claim(NamedTuple):
    """A right that something takes.

    Attributes:
        right: One of `RIGHTS`.
        target: On what.
        is_pattern: The target is a pattern: the right is needed on all that matches it.
        is_other: Nobody whom a policy holds for may do it, since it is another's to do.
    """

    right: str
    target: str
    is_pattern: bool = False
    is_other: bool = False


def rule_in(views: Snapshot, agent: str) -> SetPolicy | None:
    """The policy in force for an agent: its own, or else the one for all others."""
    for name in (agent, "") if agent else ():
        data = views.get(b"policies", POLICY + name.encode())
        if data is not None:
            return _decode_rule(data)
    return None


def patterns_of(rule: SetPolicy, right: str) -> tuple[str, ...]:
    """What a policy allows of a right."""
    return dict(rule.rights or ()).get(right, ())


def judge(rule: SetPolicy, agent: str, claim: Claim) -> None:
    """Refuse what a policy does not allow.

    Raises:
        PermissionDeniedError: it does not.
    """
    patterns = patterns_of(rule, claim.right)
    if claim.is_other:
        what = "on behalf of another"
    elif claim.is_pattern:
        if any(covers(pattern, claim.target) for pattern in patterns):
            return
        what = f"all of {claim.target!r}"
    else:
        if any(compile_pattern(pattern)(claim.target) for pattern in patterns):
            return
        what = repr(claim.target)
    allowed = ", ".join(patterns[:8]) + (", ..." if len(patterns) > 8 else "") or "nothing"
    raise PermissionDeniedError(
        f"{agent} may not {claim.right} {what}; its policy allows: {allowed}",
        agent=agent,
        right=claim.right,
        target=claim.target,
        patterns=patterns,
    )


def check_early(views: Snapshot, body: Body, agent: str) -> None:
    """Refuse an entry that its agent may not submit as things are visible, before it is ordered.

    Otherwise an agent that keeps on trying would fill the disk. The replica judges again.

    Raises:
        PermissionDeniedError: as `judge`.
    """
    rule = rule_in(views, agent)
    if rule is not None:
        for claim in claims(body, agent):
            judge(rule, agent, claim)


def claims(body: Body, agent: str) -> Iterator[Claim]:
    """The rights that an entry takes if `agent` submits it. What the store does by itself takes none."""
    match body:
        case Write():
            yield from _written(body)
        case ObserveMany():
            for key in body.keys:
                yield Claim("write", f"{body.agent}/{key}")
        case Reembed() | Embed() | SwitchEmbedding() | AbandonEmbedding():
            yield Claim("write", f"{body.agent}/**", is_pattern=True)
        case Acquire() | Renew():
            yield Claim("lock", body.resource)
        case Propose() | CastVote():
            yield _said(body, agent)
        case Release() | Withdraw() | Tick() | Sweep() | Configure() | StartSession() | Mark():
            return
        case _:
            yield Claim("operate", _operation(body))


def _said(body: Propose | CastVote, agent: str) -> Claim:
    if isinstance(body, Propose):
        return Claim("propose", body.id, is_other=body.proposer != agent)
    return Claim("vote", body.proposal_id, is_other=body.voter != agent)


def _written(write: Write) -> Iterator[Claim]:
    tracked = {op.key for op in write.ops if op.space == TRAJECTORY and is_agent(op.agent)}
    for op in write.ops:
        if op.space == STATE:
            yield Claim("write", f"{op.agent}/{op.key}")
        elif op.space == TRAJECTORY and op.key in tracked and not is_agent(op.agent):
            continue  # whose it is: kept for the swarm, by the entry that writes it for its owner
        else:
            # What the ReasoningBank keeps of an agent has no keys that a policy could name.
            yield Claim("write", f"{op.agent}/**", is_pattern=True)


def _operation(body: Body) -> str:
    """The call's name and what it is about; of a kind that is not known here, the kind's."""
    if isinstance(body, ForceRelease):
        return f"force_release/{body.resource}"
    if isinstance(body, Register):
        return f"register_agent/{body.agent}"
    return _OPERATIONS.get(type(body)) or str(body.__struct_config__.tag)


class Policies:
    """The policies in force."""

    def __init__(self) -> None:
        self._rules: dict[str, SetPolicy] = {}

    @property
    def has_rules(self) -> bool:
        """Whether there is any policy. Readable from other threads."""
        return bool(self._rules)

    def load(self, views: Snapshot) -> None:
        """Read the policies from the views."""
        for key, data in views.items(b"policies", POLICY):
            if not key.startswith(POLICY):
                break
            self._rules[key[len(POLICY) :].decode()] = _decode_rule(data)

    def set(self, rule: SetPolicy, batch: WriteBatch) -> None:
        """A policy was set, or taken back.

        Raises:
            InvalidInputError: it is malformed; nothing was changed.
        """
        check_rule(rule)
        key = POLICY + rule.agent.encode()
        if rule.rights is None:
            self._rules.pop(rule.agent, None)
            batch.delete(b"policies", key)
            return
        self._rules[rule.agent] = rule
        batch.put(b"policies", key, encode_row(rule))

    def check(self, entry: Entry, draft: Draft) -> None:
        """Refuse an entry that its actor may not submit.

        Cost: nothing without policies; with one a match a pattern and operation, about 0.3 us.

        Raises:
            PermissionDeniedError: as `judge`.
        """
        if not self._rules or not entry.actor:
            return
        rule = self._rules.get(entry.actor) or self._rules.get("")
        if rule is None:
            return
        for claim in claims(entry.body, entry.actor):
            judge(rule, entry.actor, claim)
        if isinstance(entry.body, Renew | Release):
            lock = draft.lock(entry.body.resource)
            grant = None if lock is None else lock.grant
            if grant is not None and grant.fence == entry.body.fence:
                is_other = grant.actor != entry.actor
                if is_other:
                    judge(rule, entry.actor, Claim("lock", entry.body.resource, is_other=True))


def check_rule(rule: SetPolicy) -> None:
    """Refuse a policy that is malformed.

    Raises:
        InvalidInputError: an unknown right, a malformed pattern or too many of them.
        InvalidNameError: a malformed agent.
    """
    if rule.agent:
        check_agent(rule.agent)
    for right, patterns in rule.rights or ():
        if right not in RIGHTS:
            raise InvalidInputError(f"there is no right {right!r}; there are {', '.join(RIGHTS)}")
        if len(patterns) > MAX_PATTERNS:
            raise InvalidInputError(f"a policy has at most {MAX_PATTERNS} patterns a right")
        for pattern in patterns:
            check_pattern(pattern)
