"""Consensus: proposals put to a weighted vote, and the calls to put, vote and wait.

*Guarantees*

- A proposal is decided exactly once, by one entry, and every reader of every node reports that
  decision; the rules are in `ballot_rules`.
- Tallies are exact: three voters of weight 0.1 of an electorate of 0.45 are two thirds, neither
  more nor less.

*Does not guarantee* that a decision is carried out, or once only:

    coordinator A                                  coordinator B
    wait(p) -> Approved                            wait(p) -> Approved
    moves the position                             moves it again

So carry it out under a lock, write under its fence, and give the write a `request_id` made from the
proposal's id: then it happens once, whoever gets there first.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from datetime import timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from nt_memory.clock import to_datetime, to_us
from nt_memory.coordination.ballot_rules import spell_fraction, standing
from nt_memory.coordination.ballot_states import ProposalState, Standing
from nt_memory.coordination.proposals import (
    Approved,
    Decision,
    Pending,
    Proposal,
    ProposalRecord,
    Rejected,
    Vote,
    VoteRecord,
    read_quorum,
    read_weight,
)
from nt_memory.coordination.waiting import wait_done
from nt_memory.entries import CastVote, CleanUp, Propose, Register
from nt_memory.errors import (
    InvalidInputError,
    NtMemoryError,
    ProposalTimeoutError,
    UnknownProposalError,
    again,
)
from nt_memory.namespace import check_agent, check_label

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from datetime import datetime

    from nt_memory.clock import Clock
    from nt_memory.coordination.ballot_states import BallotEvent
    from nt_memory.coordination.proposals import Weight
    from nt_memory.entries import Body

    Submit = Callable[[Body, str | None], Awaitable[Any]]


MAX_AGE_S = 10_000 * 366 * 24 * 3600.0


class BallotReader(Protocol):
    """The ballots as visible here."""

    def proposal(self, proposal_id: str) -> ProposalState | None:
        """One proposal, or None."""
        ...

    def proposals(self) -> Iterable[ProposalState]:
        """All proposals, in any order."""
        ...


class Consensus:
    """The consensus calls of one memory.

    Args:
        submit: Sends an entry's body under a request id, if any; returns its ruling's result once
            that is visible here, or raises the rejection.
        read: The ballots as visible here.
        clock: For the timeout of `wait`.
        encode: Value to bytes.
        decode: Bytes to a read-only value.
    """

    def __init__(
        self,
        submit: Submit,
        read: BallotReader,
        clock: Clock,
        encode: Callable[[Any], bytes],
        decode: Callable[[bytes], Any],
    ) -> None:
        self._submit = submit
        self._read = read
        self._clock = clock
        self._encode = encode
        self._decode = decode
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._closed: NtMemoryError | None = None

    async def register_agent(
        self, agent: str, weight: Weight = 1.0, *, request_id: str | None = None
    ) -> int:
        """Make an agent a voter of later proposals, or change its weight in them.

        Args:
            agent: A valid agent name.
            weight: Finite and >= 0; a float counts as the decimal it prints as, so 0.1 is 1/10.
            request_id: A repeated id acts once and returns the first result.

        Returns:
            The revision.

        Raises:
            InvalidNameError: a malformed name.
            InvalidInputError: a negative, infinite or NaN weight, or no number.

        Cost: one entry.
        """
        check_agent(agent)
        command = Register(agent, spell_fraction(read_weight(weight)))
        return int(await self._send(command, request_id))

    async def submit_proposal(self, proposal: Proposal, *, request_id: str | None = None) -> str:
        """Put a proposal to the registered agents as they are now, or to `proposal.weights`.

        The proposer must be registered, unless the proposal names its electorate by `weights`; it
        need not be among those. Submitting the same proposal under the same id again is harmless.
        One without an id is told apart by `request_id`: a repeated one acts once and returns the
        first one's id.

        Returns:
            The proposal's id, made up if it has none.

        Raises:
            ProposalError: the id belongs to another proposal, or the electorate has no weight.
            NotRegisteredError: the proposer is not registered.
            InvalidTimeError: a naive deadline, or one that does not lie after the timeline's now.
            InvalidNameError: a malformed id or agent name.
            InvalidInputError: a malformed quorum or weight.
            CodecError: `data` cannot be encoded.

        Cost: one entry, as long as the electorate.
        """
        proposal_id = proposal.id or uuid.uuid4().hex
        check_label(proposal_id, "proposal id")
        weights = None
        if proposal.weights is not None:
            weights = tuple(
                (check_agent(agent), spell_fraction(read_weight(weight)))
                for agent, weight in sorted(proposal.weights.items())
            )
        command = Propose(
            proposal_id,
            check_agent(proposal.proposer),
            self._encode(proposal.data),
            spell_fraction(read_quorum(proposal.quorum)),
            None if proposal.deadline is None else to_us(proposal.deadline),
            weights,
        )
        return str(await self._send(command, request_id))

    async def vote(self, vote: Vote, *, request_id: str | None = None) -> Decision | Pending:
        """Cast one vote; repeating it is harmless, and returns how things stand by then.

        Args:
            vote: The vote.
            request_id: A repeated id acts once and returns the first result.

        Returns:
            The decision, or how far it is from being approved. A vote after the decision changes
            nothing and returns it.

        Raises:
            UnknownProposalError: there is no such proposal.
            NotRegisteredError: the voter is not in its electorate.
            VoteChangedError: the voter has voted the other way.
            ProposalError: the weight given is not the one the voter has in this proposal.
            InvalidInputError: `approve` is no bool, or a malformed weight.

        Cost: one entry; O(electorate).
        """
        check_label(vote.proposal_id, "proposal id")
        check_agent(vote.voter)
        if not isinstance(vote.approve, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(f"approve must be True or False, not {vote.approve!r}")
        weight = None if vote.weight is None else spell_fraction(read_weight(vote.weight))
        command = CastVote(vote.proposal_id, vote.voter, vote.approve, weight)
        reply = await self._send(command, request_id)
        return _outcome(msgspec.convert(reply, Standing))

    async def get_result(self, proposal_id: str) -> Decision | Pending:
        """Where a proposal stands.

        Raises:
            UnknownProposalError: there is no such proposal.
        """
        return self._result(proposal_id)

    async def get_proposal(self, proposal_id: str) -> ProposalRecord | None:
        """A proposal with its electorate and every vote; None if there is none."""
        self._check_open()
        state = self._read.proposal(check_label(proposal_id, "proposal id"))
        return None if state is None else self._record(state)

    async def list_proposals(self) -> list[ProposalRecord]:
        """All proposals that were not cleaned up, oldest first."""
        self._check_open()
        states = sorted(self._read.proposals(), key=lambda state: state.revision)
        return [self._record(state) for state in states]

    async def wait(self, proposal_id: str, timeout: float | None = None) -> Decision:
        """Wait until a proposal is decided.

        Args:
            proposal_id: Which.
            timeout: Seconds of wall time to wait at most; None: without end.

        Raises:
            ProposalTimeoutError: not decided in time; it stays open.
            UnknownProposalError: there is no such proposal.
        """
        if timeout is not None and not timeout >= 0:
            raise InvalidInputError(f"timeout must be seconds >= 0 or None, not {timeout!r}")
        result = self._result(proposal_id)
        if not isinstance(result, Pending):
            return result
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(proposal_id, set()).add(waiter)
        try:
            bound = None if timeout is None or math.isinf(timeout) else timeout
            await wait_done(waiter, self._clock, bound)
        finally:
            waiters = self._waiting[proposal_id]
            waiters.discard(waiter)
            if not waiters:
                del self._waiting[proposal_id]
        result = self._result(proposal_id)
        if isinstance(result, Pending):
            raise ProposalTimeoutError(
                f"proposal {proposal_id!r} was not decided within {timeout} s: "
                f"{result.approval_rate:.1%} approve, {result.votes_needed} more votes needed"
            )
        return result

    async def cleanup_old(
        self, max_age: timedelta | float, *, request_id: str | None = None
    ) -> int:
        """Forget proposals decided at least `max_age` ago, on the timeline.

        Args:
            max_age: A timedelta or seconds, >= 0.
            request_id: A repeated id acts once and returns the first result.

        Returns:
            How many were forgotten; undecided ones never are.

        Raises:
            InvalidInputError: negative, no number, or over ten thousand years.
        """
        seconds = max_age.total_seconds() if isinstance(max_age, timedelta) else max_age
        if isinstance(seconds, bool) or not 0 <= seconds <= MAX_AGE_S:
            raise InvalidInputError(f"max_age must be 0 to {MAX_AGE_S:.0f} s, not {max_age!r}")
        return int(await self._send(CleanUp(round(seconds * 1_000_000)), request_id))

    def follow(self, events: Iterable[BallotEvent]) -> None:
        """What became visible: wake who waits for it."""
        for event in events:
            for waiter in self._waiting.get(event.proposal_id, ()):
                if not waiter.done():
                    waiter.set_result(None)

    def close(self, error: NtMemoryError) -> None:
        """Make every waiter and every later call raise `error`."""
        self._closed = error
        for waiters in self._waiting.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def _check_open(self) -> None:
        if self._closed is not None:
            raise again(self._closed)

    async def _send(self, body: Body, request_id: str | None) -> Any:
        self._check_open()
        request = None if request_id is None else check_label(request_id, "request_id")
        return await self._submit(body, request)

    def _result(self, proposal_id: str) -> Decision | Pending:
        self._check_open()
        state = self._read.proposal(check_label(proposal_id, "proposal id"))
        if state is None:
            raise UnknownProposalError(f"no proposal has the id {proposal_id!r}")
        return _outcome(standing(state))

    def _record(self, state: ProposalState) -> ProposalRecord:
        denominator = int(state.denominator)
        electorate = {agent: Fraction(int(unit), denominator) for agent, unit in state.electorate}
        return ProposalRecord(
            id=state.id,
            proposer=state.proposer,
            data=self._decode(state.data),
            quorum=Fraction(state.quorum),
            deadline=_time(state.deadline),
            electorate=electorate,
            votes=tuple(
                VoteRecord(
                    cast.voter,
                    cast.approve,
                    electorate[cast.voter],
                    _time(cast.at),
                    cast.revision,
                )
                for cast in state.votes
            ),
            result=_outcome(standing(state)),
            submitted_at=_time(state.submitted_at),
            decided_at=_time(state.decided_at),
            revision=state.revision,
        )


def _outcome(reached: Standing) -> Decision | Pending:
    if reached.status == "approved":
        return Approved()
    if reached.status == "rejected":
        return Rejected()
    return Pending(float(Fraction(reached.approving)), reached.votes_needed)


def _time(us: int | None) -> datetime | None:
    return None if us is None else to_datetime(us)
