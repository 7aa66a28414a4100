"""The memory without await, for scripts and notebooks: `MemorySystem.open_sync`.

There is no second API here: every class below has the public names of the one it mirrors. Their
types, for editors and checkers, are in `sync.pyi`, which `make fmt` writes from the same sources.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any, Generic, Literal, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nt_memory.clock import Clock
from nt_memory.config import MemoryConfig
from nt_memory.coordination.elections import Leader
from nt_memory.coordination.proposals import (
    Decision,
    Pending,
    Proposal,
    ProposalRecord,
    Vote,
    Weight,
)
from nt_memory.coordination.receivers import Message
from nt_memory.coordination.tokens import LockInfo, LockToken
from nt_memory.filters import Where
from nt_memory.reasoningbank import calibration, uplift
from nt_memory.reasoningbank.advice import Advice, Receipt
from nt_memory.reasoningbank.definition import Definition, Loss, Tolerance
from nt_memory.reasoningbank.frame import Frame
from nt_memory.reasoningbank.pattern import Pattern
from nt_memory.reasoningbank.recent import RecentAction
from nt_memory.reasoningbank.regimes import Ranked
from nt_memory.reasoningbank.savings import Savings
from nt_memory.reasoningbank.trajectory import Trajectory
from nt_memory.reasoningbank.verdict import Verdict
from nt_memory.records import (
    AsOf,
    Change,
    Compaction,
    EmbedRecords,
    Explanation,
    Export,
    Hit,
    MemoryStats,
    Policy,
    Quota,
    Record,
    ReembedResult,
    Retention,
    Shared,
    SwarmSnapshot,
    Usage,
)
from nt_memory.system.exporting import Format
from nt_memory.system.memory_map import MemoryMap
from nt_memory.system.watching import JournalEntry
from nt_memory.tiers.pins import Pin
from nt_memory.timeline import AsOfLike

_T = TypeVar("_T")

class Iteration(Generic[_T]):
    """A plain iterator over an asynchronous one."""
    def __iter__(self) -> Self: ...
    def __next__(self) -> _T: ...
    def close(self) -> None:
        """Stop early, and let go of what the iteration holds."""

class SyncBank:
    """`ReasoningBank`, without await."""
    def judge(self, trajectory: Trajectory | str) -> list[Verdict]:
        """Verdicts on a tracked trajectory's actions, in order, from what is known now.

        Raises:
            UnknownTrajectoryError: it was not tracked.
        """
    def judge_batch(self, trajectories: Iterable[Trajectory | str]) -> list[list[Verdict]]:
        """Verdicts on the actions of many tracked trajectories; see `judge`."""
    def calibration(
        self,
        agent: str,
        *,
        action_type: str | None = None,
        level: float = 0.8,
        by_regime: bool = False,
        as_of: AsOfLike | None = None,
    ) -> list[calibration.Calibration]:
        """How far an agent's forecasts can be trusted, one record an action type, by name.

        Args:
            agent: Whose.
            action_type: Only of this type.
            level: Of the intervals counted.
            by_regime: One record for each of its patterns: of the forecasts made in situations
                nearest to that one.
            as_of: From what was known then.
        """
    def rank(
        self,
        agents: Sequence[str],
        embedding: ArrayLike,
        *,
        action_type: str | None = None,
        as_of: AsOfLike | None = None,
    ) -> list[Ranked]:
        """Agents by how good their forecasts were in situations like this one, best first.

        Args:
            agents: Whom to compare.
            embedding: The situation, shape (dim,), any scale.
            action_type: In which actions; may be left out if these agents know only one.
            as_of: From what was known then.

        Raises:
            InvalidInputError: the action type is ambiguous.
            EmbeddingError: not a finite, non-zero vector.
        """
    def uplift(
        self, agent: str, *, action_type: str | None = None, as_of: AsOfLike | None = None
    ) -> uplift.Uplift:
        """What showing advice was worth to an agent; needs advice withheld at random."""
    def vote_weights(
        self, agents: Sequence[str], *, as_of: AsOfLike | None = None
    ) -> dict[str, float]:
        """How much each agent's vote should weigh, from its skill and whom it errs with."""
    def recent(
        self,
        agent: str,
        limit: int = 20,
        *,
        skip: int = 0,
        action_type: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        verdict: Literal["correct", "incorrect", "very_wrong", "insufficient", "pending"]
        | None = None,
        tag: str | None = None,
        as_of: AsOfLike | None = None,
    ) -> list[RecentAction]:
        """An agent's actions, newest first by when they were taken.

        Args:
            agent: Whose.
            limit: How many at most, >= 1.
            skip: How many of the newest to leave out, >= 0; pages belong together if all are asked
                for as of one revision.
            action_type: Only actions of this type.
            since: Only those taken then or later.
            until: Only those taken before.
            verdict: Only those that were judged so; "pending": whose outcome is not known.
            tag: Only those of trajectories with this tag.
            as_of: Only what was known then.

        Raises:
            InvalidInputError: `limit` or `skip` is out of range, or there is no such verdict.

        Cost: about 20 ns an action of the agent, a microsecond if a verdict is asked for, and 2 us a
            result.
        """
    def distill(
        self,
        agent: str | Sequence[str],
        *,
        as_of: AsOfLike | None = None,
        action_type: str | None = None,
        look: bool = False,
        progress: Callable[[int, int], None] | None = None,
        request_id: str | None = None,
    ) -> list[Pattern]:
        """Cluster agents' situations and store what each cluster led to.

        Describing is free, and also tests patterns that were promoted before against what has come
        since: those that stopped holding are retired. A look tests which patterns differ from what
        comes elsewhere by more than chance, and promotes those. It takes one of the looks that the
        definition declared, whatever agents it takes in, so let it take in all of interest at once.
        An action type needs 50 situations with known outcomes.

        Args:
            agent: Whose; or of several agents.
            as_of: From what was known then.
            action_type: Only of this type; by default of each.
            look: Test for promotion.
            progress: Called with how many sets of patterns are done, and how many there are.
            request_id: A repeated id acts once, and returns what was stored. What a call under an id had
                worked out when it was killed is not worked out again by the next one under it on
                this machine, which distils as of the moment of the first: the result is the same.

        Returns:
            The agents' patterns as of then, old ones of other action types included.

        Raises:
            InvalidInputError: it is a look, and all those declared are taken.
            ConflictError: another look at the same action type was stored meanwhile. Retryable.

        Cost: k-means over each agent's situations, in a worker thread; the event loop goes on. Cut
            short, nothing of it is stored but what a repeated request goes on with.
        Source: Benjamini & Hochberg 1995 over all patterns of the look, at 0.1 divided by the number
            of looks; p-values as in `promotion`, retirement as in `drift`.
        """
    def patterns(self, agent: str, *, as_of: AsOfLike | None = None) -> list[Pattern]:
        """An agent's patterns, by action type and number."""
    def advise(
        self,
        agents: str | Sequence[str],
        embedding: ArrayLike,
        *,
        action_type: str | None = None,
        as_of: AsOfLike | None = None,
        level: float = 0.8,
        withhold: float = 0.0,
        baseline: float | None = None,
        trajectory: str = "",
        k: int | None = None,
        functional: Literal["mean", "median"] | None = None,
        gamma: float | None = None,
        gain: float | None = None,
        exact: bool = False,
        from_patterns: bool = False,
    ) -> Advice:
        """What the most similar past situations of some agents say about this one.

        Args:
            agents: Whose memories to consult; nobody else's are.
            embedding: The situation, shape (dim,), any scale.
            action_type: About which actions; may be left out if these agents know only one.
            as_of: Use only what was known then.
            level: Coverage wanted of the interval, in (0, 1).
            withhold: Probability of withholding the advice, to measure what it is worth.
            baseline: What the naive forecast says; the outcomes' differences to the memories' own
                frozen baselines are then recalled, and added to it.
            trajectory: Whose coin is thrown; needed to withhold.
            k: Memories to recall; by default a twentieth of those known, between 10 and 300.
            functional: Centre of the recalled outcomes; by default what the loss rewards.
            gamma: Step of the adaptive interval; 0: the plain quantiles of what is recalled. Interval
                and bias learn from actions that carry the receipt of advice they were shown.
            gain: Step of the bias correction; 0: none.
            exact: Search by scanning.
            from_patterns: Where a promoted pattern of these agents covers the situation, advise from that
                alone, without a search. Its `Pattern.replaced` says what memory that saves, `savings` what
                time.

        Returns:
            The advice; abstaining if fewer than 10 outcomes are known or all of them belong to
            situations much farther away than memories usually are from each other.

        Raises:
            InvalidInputError: a number is out of range, or the action type is ambiguous.
            EmbeddingError: not a finite, non-zero vector; DimensionError: of another dimension.
            LookAheadError: `as_of` lies past a backtest's now.

        Cost: one search and about 0.2 ms; the first call after memory doubled searches 64 more.
        Source: kernel-weighted nearest neighbours with adaptive conformal intervals (Gibbs & Candès
            2021), stepped when outcomes become known.
        """
    def savings(self) -> Savings:
        """What answering from patterns has saved in this process since the memory was opened.

        Cost: reads counters.
        """
    def frame(
        self,
        kind: Literal["trajectories", "verdicts", "patterns"],
        *,
        as_of: AsOfLike | None = None,
    ) -> Frame:
        """A table of everything known, for pandas or polars.

        Raises:
            InvalidInputError: there is no such table.
        """
    def define(
        self,
        action_type: str,
        *,
        target: str,
        unit: str,
        horizon: int | timedelta,
        loss: Loss = "absolute",
        tolerance: Tolerance | str | tuple[str, float, float] | None = None,
        baseline: str | None = None,
        looks: int = 4,
        features: Sequence[str] = (),
        request_id: str | None = None,
    ) -> Definition:
        """Say what an action type predicts. Defining it again as it is changes nothing.

        A different definition is a new version, which judges later actions only.

        Args:
            action_type: Its name, a key.
            target: What is predicted, in words.
            unit: Of predictions and outcomes.
            horizon: When the outcome is complete: sessions, or a timedelta, which is then enforced.
            loss: What forecasts pay: the "absolute" or the "squared" error.
            tolerance: What makes a verdict; by default the predictor's own earlier errors. See
                `Tolerance`; "relative" is 5 % and 25 % of the outcome.
            baseline: Name of the naive forecast that actions freeze with them.
            looks: How many times patterns may ever be tested for promotion, of whatever agents; declared
                before the first. See `distill`.
            features: Names of the first components of the situations' embeddings, to put patterns in
                words: "very high volatility, low drawdown".
            request_id: A repeated id acts once, and returns the definition as it is by then.

        Raises:
            InvalidNameError: the action type is malformed.
            TrajectoryError: another part is.
        """
    def definition(self, action_type: str, *, as_of: AsOfLike | None = None) -> Definition | None:
        """What an action type predicts, or None if it is not defined."""
    def track_trajectory(self, trajectory: Trajectory, *, request_id: str | None = None) -> int:
        """Store a trajectory, or what was added to it since it was tracked.

        Args:
            trajectory: The trajectory.
            request_id: A repeated id acts once and returns the first revision, whatever has been
                added to the trajectory since.

        Returns:
            The revision; the current one if there was nothing new.

        Raises:
            TrajectoryError: the id is another agent's or was forgotten; something that was tracked
                was changed; or a prediction's action type is not defined.
            DimensionError: the agent's situations of this action type have another dimension.
            LookAheadError: a step is dated past a backtest's now (live: InvalidTimeError).
        """
    def track_many(
        self, trajectories: Iterable[Trajectory], *, request_id: str | None = None
    ) -> int:
        """Store many trajectories, in order; each is stored as a whole, their batches are not.

        Args:
            trajectories: The trajectories.
            request_id: Repeated with the same trajectories, it stores those batches that were not
                stored before.

        Returns:
            The last revision.

        Raises:
            InvalidInputError: the id was used for something else.

        And the errors of `track_trajectory`.
        """
    def record_outcome(
        self,
        trajectory_id: str,
        value: float,
        *,
        action: int | None = None,
        known_at: datetime | None = None,
        revision_of: int | None = None,
        request_id: str | None = None,
    ) -> Verdict:
        """Record how an action turned out, and judge it.

        Recording the same value again changes nothing and returns the verdict.

        Args:
            trajectory_id: Which trajectory.
            value: In the definition's unit; True and False count as 1 and 0.
            action: Which action, from 0; by default the last.
            known_at: Since when it is known; by default now. It may lie in the past.
            revision_of: Revision of the outcome that this one replaces.
            request_id: A repeated id acts once, and returns the verdict on that action by then.

        Raises:
            UnknownTrajectoryError: no such trajectory.
            TrajectoryError: no such action; the outcome would be known before the action, before a
                horizon in time has passed or before what it revises; or there is another outcome
                already and no `revision_of`.
            ConflictError: `revision_of` is not the current outcome.
            InvalidInputError: the request id was used for something else.
        """
    def record_outcomes(
        self,
        trajectory_ids: Sequence[str],
        values: Sequence[float],
        *,
        actions: Sequence[int] | None = None,
        known_at: datetime | Sequence[datetime] | None = None,
        revisions_of: Sequence[int | None] | None = None,
        request_id: str | None = None,
    ) -> list[Verdict]:
        """Record many outcomes; see `record_outcome`. They are written in batches of 1,024.

        Args:
            trajectory_ids: Which trajectories, n of them.
            values: Their outcomes, n.
            actions: Which action of each, n; by default the last.
            known_at: Since when they are known: one time, or n.
            revisions_of: What each replaces, n.
            request_id: Repeated with the same arguments, it records those batches that were not
                recorded before.

        Raises:
            InvalidInputError: the lengths differ, or the request id was used for something else.
        """
    def forget(self, trajectory_ids: Iterable[str], *, request_id: str | None = None) -> int:
        """Stop recalling trajectories: they are deleted from now on, and their ids are spent.

        Advice as of an earlier time still uses them.

        Args:
            trajectory_ids: Which.
            request_id: A repeated id acts once and returns the first revision.

        Raises:
            UnknownTrajectoryError: one of them is not known; nothing is forgotten then.
            InvalidInputError: the request id was used for something else.
        """
    def trajectory(self, trajectory_id: str, *, as_of: AsOfLike | None = None) -> Trajectory | None:
        """A trajectory as it was known, or None. More can be added to it and tracked."""
    def trajectories(
        self,
        agent: str,
        *,
        after: str = "",
        limit: int | None = None,
        as_of: AsOfLike | None = None,
    ) -> list[Trajectory]:
        """Trajectories of an agent, by id.

        Args:
            agent: Whose.
            after: The last id of the page before.
            limit: How many, >= 1; None: all.
            as_of: A time, a revision or `AsOf`; None for now.

        Raises:
            InvalidInputError: `limit` is less than 1.

        Cost: about 30 microseconds each of those returned, however many there are.
        """
    def trajectory_ids(
        self, agent: str, *, after: str = "", limit: int = 100, as_of: AsOfLike | None = None
    ) -> list[str]:
        """A page of the ids of an agent's trajectories, by id; none of them is read.

        Args:
            agent: Whose.
            after: The last id of the page before.
            limit: How many, >= 1.
            as_of: A time, a revision or `AsOf`; None for now.

        Raises:
            InvalidInputError: `limit` is less than 1.

        Cost: some microseconds an id of the page, however many there are.
        """
    def receipt(self, trajectory_id: str, action: int = 0) -> Receipt | None:
        """Receipt of the advice an action acted on, or None if it acted on none.

        Raises:
            UnknownTrajectoryError: no such trajectory or action.
        """

class SyncCampaign:
    """`Campaign`, as a plain iterator; use it by `with`, so that leaving the loop resigns."""
    def close(self) -> None:
        """Resign and stop. A loop that is left does so by itself, within a turn of the loop."""
    def __iter__(self) -> Self: ...
    def __next__(self) -> SyncTerm: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *raised: object) -> None: ...

class SyncConsensus:
    """`Consensus`, without await."""
    def register_agent(
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
    def submit_proposal(self, proposal: Proposal, *, request_id: str | None = None) -> str:
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
    def vote(self, vote: Vote, *, request_id: str | None = None) -> Decision | Pending:
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
    def get_result(self, proposal_id: str) -> Decision | Pending:
        """Where a proposal stands.

        Raises:
            UnknownProposalError: there is no such proposal.
        """
    def get_proposal(self, proposal_id: str) -> ProposalRecord | None:
        """A proposal with its electorate and every vote; None if there is none."""
    def list_proposals(self) -> list[ProposalRecord]:
        """All proposals that were not cleaned up, oldest first."""
    def wait(self, proposal_id: str, timeout: float | None = None) -> Decision:
        """Wait until a proposal is decided.

        Args:
            proposal_id: Which.
            timeout: Seconds of wall time to wait at most; None: without end.

        Raises:
            ProposalTimeoutError: not decided in time; it stays open.
            UnknownProposalError: there is no such proposal.
        """
    def cleanup_old(self, max_age: timedelta | float, *, request_id: str | None = None) -> int:
        """Forget proposals decided at least `max_age` ago, on the timeline.

        Args:
            max_age: A timedelta or seconds, >= 0.
            request_id: A repeated id acts once and returns the first result.

        Returns:
            How many were forgotten; undecided ones never are.

        Raises:
            InvalidInputError: negative, no number, or over ten thousand years.
        """

class SyncElections:
    """`Elections`, without await."""
    def campaign(self, name: str, *, lease: float = 10.0, candidate: str = "") -> SyncCampaign:
        """Stand for election, again and again.

        The block of the loop is one term, held by renewing it at a third of the lease. Where the
        block ends while the term lasts, the term is given up, and the candidate goes to the end of
        the line. Where the term is lost, `term.lost` is set and the block goes on until it ends;
        `await term.run(work())` cuts it short.

        Args:
            name: Of the election.
            lease: Seconds after which a leader that stopped renewing is replaced.
            candidate: Who stands; by default the session and the current task.

        Raises:
            InvalidNameError: a malformed name. From the loop:
            ReentrantLockError: this candidate stands already.
            InvalidInputError: a malformed lease.
            PermissionDeniedError: the agent may not lock `election/<name>`.

        Cost: an entry a term and one a renewal.
        """
    def leader(self, name: str) -> Leader | None:
        """Who leads as visible here, or None; a plain function, no entry."""

class SyncLockScope:
    """`LockScope`, used by `with`; renewed on the memory's own thread, whatever the block does.

    `cancel_on_loss` cannot stop a block of plain code: it raises `LockLostError` where it ends.
    """
    def __enter__(self) -> SyncLockToken: ...
    def __exit__(self, *raised: object) -> None: ...

class SyncLockToken:
    """`LockToken`; every call that takes one takes this."""
    @property
    def resource(self) -> str: ...
    @property
    def holder(self) -> str: ...
    @property
    def fence(self) -> int: ...
    @property
    def lease(self) -> float: ...
    @property
    def lost(self) -> SyncLossSignal: ...

class SyncLossSignal:
    """`LossSignal`, without await."""
    def is_set(self) -> bool:
        """Whether the lease must be taken as lost. Reads the clock: needs no turn of the loop."""
    def wait(self) -> bool:
        """Wait until the lock is no longer held.

        Returns:
            True if it was lost, False if it was released in time.
        """
    @property
    def left_s(self) -> float:
        """Seconds until it sets itself; 0.0 once the lock is no longer held."""

class SyncMemory:
    """`MemorySystem` on an event loop of its own, called from plain threads, without await.

    Any thread may call; a call blocks it until the result is there. Pins need no call: `.value` is
    one attribute read, on any thread, of what was visible last.
    """
    @property
    def bank(self) -> SyncBank: ...
    @property
    def consensus(self) -> SyncConsensus: ...
    @property
    def elections(self) -> SyncElections: ...
    @property
    def timeline(self) -> SyncTimeline: ...
    def deadline(self, seconds: float) -> AbstractContextManager[None]:
        """`with memory.deadline(2.0):` calls of this thread end by then, or raise `TimeoutError`.

        A call that times out is cancelled: withdrawn, or it has happened all the same.
        """
    def as_agent(self, agent: str) -> SyncMemory:
        """This memory in an agent's name: the same calls, with that agent as actor and its rights.

        What the agent's policy does not allow raises `PermissionDeniedError`. Closing the handle
        closes nothing; it costs no more than its use.

        Raises:
            InvalidNameError: a malformed agent.
        """
    @property
    def revision(self) -> int:
        """The newest revision visible here."""
    def wait_for(self, revision: int) -> None:
        """Wait until a revision is visible here.

        Raises:
            ClosedError: the memory was closed meanwhile.
        """
    def at(self, as_of: AsOfLike) -> SyncView:
        """A read-only view of the memory as of a time, a revision or both.

        Raises:
            LookAheadError: it lies past a backtest's now.
            InvalidTimeError, InvalidInputError: it is malformed.
        """
    def tail(self, after: int = 0) -> SyncTail:
        """The journal from a revision on: an async iterator of `JournalEntry`; waits for more.

        Raises:
            InvalidInputError: `after` is negative.
        """
    def stats(self) -> MemoryStats:
        """The counters of this instance, as of now. Cost: microseconds."""
    def flush(self) -> None:
        """Wait until everything written before this call is on disk and visible.

        Raises:
            StorageError: the journal failed.
        """
    def sync(self) -> None:
        """Wait until everything committed before this call, anywhere, is visible here.

        With `agentdb_url` also until the server has the observations, so that they are found.

        Raises:
            VectorServerUnavailableError: it has not got them within 20 s; they are delivered later.
        """
    def close(self) -> None:
        """Finish what was submitted, release the directory, end the thread. Idempotent."""
    def put(
        self,
        agent: str,
        key: str,
        value: Any,
        *,
        ttl: float | timedelta | None = None,
        known_at: datetime | None = None,
        expect: int | None = None,
        fence: SyncLockToken | LockToken | int | None = None,
        request_id: str | None = None,
    ) -> int:
        """Write a value; durable and visible when it returns.

        Args:
            agent: Whose key.
            key: The key.
            value: Any supported value (see `codec`); copied before the call first waits. A value of
                more than 1 MiB goes to a file of its own, and its arrays are not copied first:
                they, and the arrays they are views of, are read-only until they have been read,
                which takes about a second a gigabyte. What is stored is what was read, even if
                something other than numpy changes it meanwhile.
            ttl: Life in seconds after `known_at`, on the timeline; None: for ever.
            known_at: Since when it counts as known; now by default, never in the future. A value
                known earlier than the current one is history, not the present.
            expect: 0: the key must not exist. A revision: the current one must still be that.
            fence: A lock token: the write is accepted only while its lease runs.
            request_id: A repeated id acts once and returns the first result.

        Returns:
            The revision.

        Raises:
            ConflictError: `expect` does not hold; `.current` is what was found.
            StaleFenceError: the lock's grant is over.
            CodecError: the value cannot be stored, or is too large: arrays and `bytes` in it may
                have 1 GiB together, all else 64 MiB.
            InvalidNameError, InvalidTimeError: a malformed name or time.
            LookAheadError: `known_at` lies past a backtest's now.
            StorageFullError: no space is left; nothing is left behind.
            StorageError: the journal failed.

        Cost: one group-committed journal write; encoding runs on the loop, compression of values
            over 64 KiB off it, and so does the writing of values over 1 MiB.
        """
    def delete(
        self,
        agent: str,
        key: str,
        *,
        known_at: datetime | None = None,
        expect: int | None = None,
        fence: SyncLockToken | LockToken | int | None = None,
        request_id: str | None = None,
    ) -> int | None:
        """Remove a value, or an observation; its history stays readable.

        Returns:
            The revision, or None if there was nothing to remove.

        Errors are those of `put`.
        """
    def transaction(
        self, *, fence: SyncLockToken | LockToken | int | None = None, request_id: str | None = None
    ) -> SyncTransaction:
        """Several puts, observations and deletes as one: `async with memory.transaction() as tx: tx.put(…)`."""
    def get(
        self, agent: str, key: str, default: Any = None, *, as_of: AsOfLike | None = None
    ) -> Any:
        """The value of a key, read-only; `default` if there is none.

        Args:
            agent: Whose key.
            key: The key.
            default: Returned on a miss.
            as_of: A time, a revision or `AsOf`; None for now.

        Raises:
            LookAheadError: `as_of` lies past a backtest's now.
            TrimmedError: what was in force then has been dropped.
            CorruptionError: the stored value fails its checksum, or its file is missing.

        Cost: an L1 hit under a microsecond; an L3 read about 10 us, after which it is hot. Arrays
            in a value of more than 1 MiB are read-only maps of its file, which is verified the
            first time, at 0.25 s a gigabyte and what the disk takes; `bytes` are copied out of it. A
            hit does not look who calls, and need not: it hands out one immutable record. Only a
            miss raises `WrongLoopError` where it is due.
        """
    def get_record(self, agent: str, key: str, *, as_of: AsOfLike | None = None) -> Record | None:
        """The version of a key with its times, or None; arguments and errors as `get`."""
    def get_many(self, pairs: Iterable[tuple[str, str]]) -> list[Any]:
        """The values of several `(agent, key)` pairs at one revision; None for a miss."""
    def agents(self) -> list[str]:
        """Names of all agents that have stored something, by name; also if all of it was deleted.

        Cost: about 5 us an agent.
        """
    def scan(
        self, agent: str, prefix: str = "", *, after: str = "", as_of: AsOfLike | None = None
    ) -> Iteration[Record]:
        """Records of an agent whose key starts with `prefix`, by key, all as of one moment.

        The moment is that of the call: what changes during the iteration does not show.

        Args:
            agent: Whose keys.
            prefix: What their keys start with.
            after: Only keys greater than this one: the last of a page gives the next.
            as_of: A time, a revision or `AsOf`; None for now.
        """
    def history(self, agent: str, key: str) -> Iteration[Record]:
        """All values a key had, newest first by `(known_at, revision)`; deletes are skipped."""
    def watch(self, agent: str, prefix: str = "", *, after: int | None = None) -> SyncWatch:
        """Changes of an agent's keys from now on, in order, none missed.

        Args:
            agent: Whose keys.
            prefix: What their keys start with.
            after: Start right after this revision instead of now.

        Returns:
            An async iterator of `Change`. It reads the journal, so a slow reader costs no memory.

        Raises:
            InvalidInputError: `after` is not a visible revision.
        """
    def peek(self, agent: str, key: str, default: Any = None) -> Any:
        """The value if it is hot, else `default`; never does I/O, never waits. L1 only.

        Does not look who calls: any thread may ask, and a closed memory has nothing hot.
        """
    def pin(self, agent: str, key: str) -> Pin:
        """A live reference to a key: `.value` costs one attribute read.

        It moves to a new revision together with everything else; reading it never waits. It keeps
        its last state once the memory is closed, or can no longer follow its journal, when every
        other call raises. A large value that is pinned is read where its key changes, on the event
        loop: microseconds for arrays, but `bytes` are copied.
        """
    def observe(
        self,
        agent: str,
        embedding: ArrayLike,
        data: Any = None,
        *,
        key: str | None = None,
        tags: Iterable[str] = (),
        ttl: float | timedelta | None = None,
        known_at: datetime | None = None,
        fence: SyncLockToken | LockToken | int | None = None,
        request_id: str | None = None,
    ) -> str:
        """Remember something with the situation it belongs to; searchable when it returns.

        Waits while so many of the agent's observations are not indexed that searches would get slow.

        Args:
            agent: Whose observation.
            embedding: Shape (dim,), finite, not zero, any scale; normalised here, not modified.
            data: Any supported value.
            key: Its key; generated when None. A key used again replaces the observation.
            tags: Labels to filter by.
            ttl: Life in seconds after `known_at`, on the timeline.
            known_at: Since when it counts as known.
            fence: A lock token.
            request_id: A repeated id acts once.

        Returns:
            The key. `get(agent, key)` returns `data`, `delete(agent, key)` removes both.

        Raises:
            DimensionError: the agent's observations have another dimension.
            EmbeddingError: the embedding is malformed.

        And the errors of `MemorySystem.put`.
        """
    def observe_many(
        self,
        agent: str,
        embeddings: ArrayLike,
        data: Sequence[Any] | None = None,
        *,
        keys: Sequence[str] | None = None,
        tags: Sequence[Iterable[str]] | None = None,
        known_at: datetime | Sequence[datetime] | None = None,
        request_id: str | None = None,
    ) -> list[str]:
        """Remember many observations; each is searchable when it returns.

        Written in chunks of about 256 KiB, in order; each chunk happens as a whole. All arguments
        are checked before the first is written. If a chunk is refused, those before it have
        happened, none that was not under way follows, and the call raises when all is settled.
        Waits between chunks as `observe` does.

        Args:
            agent: Whose observations.
            embeddings: Shape (n, dim); rows as in `observe`. An array of more than 65,536 numbers is
                not copied: it, and the arrays it is a view of, are read-only until the call is over.
                Lists, and `data`, must not be changed before.
            data: n values, or None.
            keys: n keys, or None to generate them.
            tags: n collections of labels, or None.
            known_at: One time for all, or n times.
            request_id: Repeated with the same arguments, it stores those chunks that were not stored
                before, and returns the keys under which the others were.

        Returns:
            The n keys.

        Raises:
            InvalidInputError: the lengths differ, or the request id was used for something else.

        And the errors of `observe`.

        Cost: about 10 us of processor time a row of 384 values with 100 bytes of data, the index
            apart, where keys are new; three times that where they are replaced. The event loop gets
            its turn about every millisecond.
        """
    def get_embedding(
        self, agent: str, key: str, *, as_of: AsOfLike | None = None
    ) -> NDArray[np.float32] | None:
        """The vector an observation is kept with; None if there is none.

        Args:
            agent: Whose observation.
            key: Its key.
            as_of: A time, a revision or `AsOf`; None for now.

        Returns:
            Shape (dim,), of length 1 but for rounding: it is kept as float16. After a re-embedding the
            new vector, also as of a moment before it.

        Errors are those of `MemorySystem.get`.

        Cost: about 20 us.
        """
    def search_similar(
        self,
        agent: str | Sequence[str],
        query_embedding: ArrayLike,
        top_k: int = 10,
        *,
        as_of: AsOfLike | None = None,
        tags: Iterable[str] | None = None,
        where: Where | None = None,
        exact: bool = False,
    ) -> list[Hit]:
        """The observations most similar to a query.

        Args:
            agent: Whose observations; one agent or several.
            query_embedding: Shape (dim,), finite, any scale; normalised here, not modified.
            top_k: Wanted hits, >= 1; fewer only if fewer pass the filters.
            as_of: A time, a revision or `AsOf`; None for now.
            tags: Only observations that carry all of these.
            where: Only observations whose data passes this filter (see `filters`).
            exact: Scan instead of searching the graph.

        Returns:
            Hits, best first; score is the cosine similarity in [-1, 1]; ties by key.

        Raises:
            DimensionError: the query has another dimension than the observations.
            EmbeddingError: the query is malformed.
            InvalidInputError: `top_k` or `where` is malformed.
            UnsupportedError: with `agentdb_url`: `as_of`, `tags` or `exact` is given.
            VectorServerUnavailableError, VectorServerError: the server of `agentdb_url` is out of
                reach or busy, or refused.
            LookAheadError: `as_of` lies past a backtest's now.
            TrimmedError: some of what was in force at `as_of` was dropped (retention, `history`).

        Cost: about ef * log n distance computations, plus `top_k` reads of L3. The first use of tags,
            or of a field in `where`, makes a table beside the loop, some seconds for a million
            observations; until it is there the data of candidates is read, best first, until
            enough pass, which takes long only where few pass, and then the table is waited for.
        Source: Malkov & Yashunin 2018, Algorithm 5, as implemented by faiss.
        """
    def explain_similar(
        self,
        agent: str | Sequence[str],
        query_embedding: ArrayLike,
        top_k: int = 10,
        *,
        as_of: AsOfLike | None = None,
        tags: Iterable[str] | None = None,
        where: Where | None = None,
        exact: bool = False,
    ) -> Explanation:
        """As `search_similar`, and how it was done.

        Args:
            agent: As there.
            query_embedding: As there.
            top_k: As there.
            as_of: As there.
            tags: As there.
            where: As there.
            exact: As there.

        Errors are those of `search_similar`.
        """
    def search_many(
        self,
        agent: str | Sequence[str],
        query_embeddings: ArrayLike,
        top_k: int = 10,
        *,
        as_of: AsOfLike | None = None,
        tags: Iterable[str] | None = None,
        where: Where | None = None,
        exact: bool = False,
    ) -> list[list[Hit]]:
        """The observations most similar to each of several queries, all as of one moment.

        Args:
            agent: Whose observations; one agent or several.
            query_embeddings: Shape (m, dim), rows as in `search_similar`.
            top_k: Wanted hits a query.
            as_of: As in `search_similar`.
            tags: As in `search_similar`.
            where: As in `search_similar`.
            exact: As in `search_similar`.

        Returns:
            For each query what `search_similar` returns.

        Errors are those of `search_similar`.

        Cost: as so many searches, but for the filters, which are evaluated once, and for the scan
            of what is not in a graph; over 16 million values on two threads.
        """
    def map(
        self,
        agent: str,
        *,
        action_type: str | None = None,
        as_of: AsOfLike | None = None,
        sample: int = 2000,
        seed: int = 0,
    ) -> MemoryMap:
        """What an agent remembers, in two dimensions: for reports and dashboards.

        Points are projected onto the two principal axes of the sample, so nothing that became known
        after `as_of` moves a point, shows in it or chooses it. The same store, moment, sample and seed
        give the same map; a compaction that numbers rows anew may draw another sample of more than
        `sample` observations.

        Args:
            agent: Whose memories.
            action_type: Situations of these actions; "" for observations. None: of the only action
                type with situations by then, or observations if there is none.
            as_of: A time, a revision or `AsOf`; None for now.
            sample: Most points, 1 to 10,000.
            seed: Which sample, if there are more memories.

        Returns:
            The map; empty if there is nothing to show.

        Raises:
            InvalidInputError: `sample` or `seed` is malformed, or no action type was named and the
                agent has situations of several.
            LookAheadError: `as_of` lies past a backtest's now.
            TrimmedError: some of what was in force at `as_of` was dropped (retention, `history`).
            UnsupportedError: observations are wanted that are searched on the server of `agentdb_url`.

        Cost: reads `sample` vectors and keys, and 30 nanoseconds a memory to choose them; then
            `principal_axes`. Off the event loop, but for the keys, which are read in turns.
        """
    def reembed(
        self,
        agent: str,
        embed: EmbedRecords,
        *,
        batch: int = 256,
        label: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> ReembedResult:
        """Embed all observations of an agent anew: by another model, with another dimension.

        Every version that is kept gets a new vector. Reads, searches and observations go on
        meanwhile by the old ones; then one entry switches. From that revision on the agent's
        dimension is the new one, and whoever observes or searches in the old one gets
        `DimensionError`. A search as of a moment before it asks in the new dimension too, and finds
        what was in force then, by the new vectors. Whatever happens before the switch, an error, a
        cancellation or a crash, leaves the old vectors in force.

        Situations of trajectories keep their embedding: patterns and receipts are of its space.

        Args:
            agent: Whose observations.
            embed: Is given up to `batch` records, whose `value` is the data of an observation and
                `tags` its labels, and returns their embeddings, shape (n, dim), finite and not zero, any
                scale. A plain function runs on another thread; a coroutine function on the loop. It
                must not observe for the agent.
            batch: Records a call, 1 to 8,192.
            label: Names the new embedding, as its model and version. What was made until an error,
                a cancellation or a crash is then kept, and a call under the same label goes on
                behind it. None: begin anew.
            progress: Is told, on the loop, how many rows have a new vector, and how many there are.

        Returns:
            What was done. For an agent without observations nothing is.

        Raises:
            EmbeddingError: `embed` did not return one finite vector a record.
            DimensionError: it returned vectors of different dimensions.
            InvalidInputError: an argument is malformed; or there were observations, and nothing is
                left of any of them.
            ReembeddingError: the agent's observations are being embedded anew already.
            ReadOnlyError: the memory was opened read-only.
            UnsupportedError: `agentdb_url` is set.
            StorageFullError: no space is left.
            StorageError: the journal failed.
            Exception: whatever `embed` or `progress` raises, with a note that says where.

        Cost: what `embed` takes, and 2 * dim bytes of journal a row, until a compaction. The new
            vectors and their index are beside the old ones until the switch. At the end the agent's
            observations wait while the last ones are embedded, usually one call of `embed`.
            Memory: one batch, and the new index.
        """
    def track_trajectory(self, trajectory: Trajectory, *, request_id: str | None = None) -> int:
        """Remember a trajectory; see `ReasoningBank.track_trajectory`."""
    def track_many(
        self, trajectories: Iterable[Trajectory], *, request_id: str | None = None
    ) -> int:
        """Remember many; see `ReasoningBank.track_many`."""
    def record_outcome(
        self,
        trajectory_id: str,
        value: float,
        *,
        action: int | None = None,
        known_at: datetime | None = None,
        revision_of: int | None = None,
        request_id: str | None = None,
    ) -> Verdict:
        """Record what came of an action; see `ReasoningBank.record_outcome`."""
    def record_outcomes(
        self,
        trajectory_ids: Sequence[str],
        values: Sequence[float],
        *,
        actions: Sequence[int] | None = None,
        known_at: datetime | Sequence[datetime] | None = None,
        revisions_of: Sequence[int | None] | None = None,
        request_id: str | None = None,
    ) -> list[Verdict]:
        """Record many; see `ReasoningBank.record_outcomes`."""
    def publish(self, topic: str, message: Any) -> int:
        """Send a message to all who subscribe to its topic now; ephemeral.

        Args:
            topic: Levels separated by `/`, no wildcards.
            message: Any supported value; subscribers get it read-only.

        Returns:
            How many subscriptions here it reached.

        Raises:
            InvalidNameError: a malformed topic.
            CodecError: the message cannot be encoded. A message to nobody is not looked at.
        """
    def subscribe(
        self,
        pattern: str,
        *,
        buffer: int = 1024,
        overflow: Literal["drop_oldest", "error"] = "drop_oldest",
    ) -> SyncReceiver:
        """Receive what is published from now on under a pattern.

        Args:
            pattern: A topic; `*` stands for one level, a final `**` for the rest.
            buffer: Messages kept for a slow reader, >= 1.
            overflow: What happens when the buffer is full: "drop_oldest" counts what it drops in
                `rx.dropped`; "error" makes `recv` raise `BufferOverflowError`.

        Raises:
            InvalidNameError: a malformed pattern.
            InvalidInputError: a malformed buffer or overflow.
        """
    def request(self, topic: str, message: Any, timeout: float | None = 1.0) -> Any:
        """Publish a message and wait for the first reply to it.

        Whoever is subscribed to the topic gets it with `recv_message` and answers with `reply`.

        Args:
            topic: Levels separated by `/`, no wildcards.
            message: Any supported value.
            timeout: Seconds to wait at most; None: without end.

        Returns:
            The reply's value, read-only.

        Raises:
            NoResponderError: nobody is subscribed to the topic; raised at once.
            RequestTimeoutError: nobody replied in time; somebody may have acted all the same.
            InvalidNameError: a malformed topic.
            CodecError: the message cannot be encoded.
        """
    def reply(self, message: Message, value: Any) -> None:
        """Answer a request; of several replies the first counts, and one too late is dropped.

        Args:
            message: What `recv_message` returned.
            value: Any supported value.

        Raises:
            InvalidInputError: the message asks for no reply.
            CodecError: the value cannot be encoded.
        """
    def acquire_lock(
        self,
        resource: str,
        timeout: float = 1.0,
        *,
        lease: float = 30.0,
        holder: str = "",
        request_id: str | None = None,
    ) -> SyncLockToken:
        """Take a lock, waiting in line for it; see `Locks.acquire`."""
    def renew_lock(self, token: SyncLockToken | LockToken) -> None:
        """Extend a lease that still runs; see `Locks.renew`."""
    def release_lock(
        self, token: SyncLockToken | LockToken, *, request_id: str | None = None
    ) -> None:
        """Give a lock back; see `Locks.release`."""
    def force_release(
        self,
        resource: str,
        *,
        fence: int | None = None,
        reason: str = "",
        request_id: str | None = None,
    ) -> bool:
        """Take a lock from whoever holds it, for an operator; see `Locks.force_release`.

        `tail` reports it, with who did it and why.
        """
    def inspect_lock(self, resource: str) -> LockInfo:
        """Who holds a lock, its fence, the lease left, and who waits in line; no entry.

        Raises:
            InvalidNameError: a malformed resource.
        """
    def list_locks(self) -> list[LockInfo]:
        """All locks that somebody holds or waits for, by name; as visible here, no entry."""
    def lock(
        self,
        resource: str,
        *,
        timeout: float = 1.0,
        lease: float = 30.0,
        holder: str = "",
        cancel_on_loss: bool = False,
    ) -> SyncLockScope:
        """Hold a lock for a block, renewed by itself: `async with memory.lock(…) as token:`."""
    def set_retention(
        self,
        agent: str | None,
        *,
        max_age: float | timedelta | None = None,
        max_versions: int | None = None,
        request_id: str | None = None,
    ) -> int:
        """Say how long superseded versions of an agent's keys and observations are kept.

        A version may be dropped once it was not in force for `max_age`, or once there are
        `max_versions` newer superseded ones; a key that was deleted or ran out `max_age` ago is
        dropped as a whole. The current value of a key is never dropped. Reads as of a moment that
        would need what was dropped raise `TrimmedError`.

        Versions go in sweeps: on a live timeline about once a minute, and in `compact`, which also
        gives their space back. What an open view or scan may still ask for is kept for up to ten
        minutes.

        Args:
            agent: Whose; None sets the rule for all agents that have none of their own.
            max_age: Seconds or a timedelta, on the timeline; None: no limit.
            max_versions: Superseded versions kept a key, >= 0; None: no limit.
            request_id: A repeated id acts once.

        Returns:
            The revision.

        Raises:
            InvalidNameError: a malformed agent.
            InvalidInputError, InvalidTimeError: a malformed limit.
        """
    def retention(self, agent: str) -> Retention:
        """The rule in force for an agent's keys: its own, or else the one for all agents."""
    def set_quota(
        self,
        agent: str | None,
        *,
        max_keys: int | None = None,
        max_bytes: int | None = None,
        max_vectors: int | None = None,
        request_id: str | None = None,
    ) -> int:
        """Limit how much may be stored under an agent's name.

        What counts is what `usage` says: state, observations, and what the ReasoningBank keeps of
        the agent. A write after which the agent would have more of something than now, and more
        than its quota, raises `QuotaError` and changes nothing; of a transaction nothing is done.
        Deletes are always accepted, and so is an overwrite that needs no more. A quota below what
        is used takes nothing away: it refuses growth.

        Older versions count for as long as they are kept, so where `max_bytes` or `max_vectors` is
        set, `history` or `set_retention` is what makes room again: `history` at once, retention
        with the next sweep. A value in a file counts as long as its file, for each version.

        Args:
            agent: Whose; None sets the rule for all agents that have none of their own, each for
                itself.
            max_keys: Keys that show a value, >= 0; None: no limit.
            max_bytes: Bytes of all versions kept, >= 0; None: no limit.
            max_vectors: Versions kept that have an embedding, >= 0; None: no limit.
            request_id: A repeated id acts once.

        Returns:
            The revision.

        Raises:
            InvalidNameError: a malformed agent.
            InvalidInputError: a malformed limit.
        """
    def quota(self, agent: str) -> Quota:
        """The quota in force for an agent: its own, or else the one for all agents."""
    def usage(self, agent: str) -> Usage:
        """What is stored under an agent's name, as of the visible revision. Cost: one read."""
    def set_policy(
        self, agent: str | None, policy: Policy | None, *, request_id: str | None = None
    ) -> int:
        """Say what an agent may do: what the policy names, and nothing else.

        It holds for entries that the agent submits, on every node, and for all calls of its handle
        (`as_agent`). An agent without a policy, and whoever has no name, may do anything.

        Args:
            agent: Whose; None sets the policy for all agents that have none of their own.
            policy: What it may do; None takes the policy back.
            request_id: A repeated id acts once.

        Returns:
            The revision.

        Raises:
            InvalidNameError: a malformed agent or pattern.
            InvalidInputError: something that is no collection of patterns, or too many.
            PermissionDeniedError: who asks is held by a policy that does not allow `set_policy`.
        """
    def policy(self, agent: str) -> Policy | None:
        """The policy in force for an agent: its own, or else the one for all others; None: none."""
    def snapshot(self, path: str | os.PathLike[str]) -> None:
        """Copy the store, while it is in use, to a directory that is missing or empty.

        Everything acknowledged before the call is in the copy. Opening the copy rebuilds its views.
        Value files never change, so on the same file system the copy shares them (hard links).

        Raises:
            ForeignStoreError: the target holds something already.
            OSError: it cannot be written.
        """
    def share_snapshot(self, *, keep: int = 2) -> Shared:
        """Let new nodes of the cluster begin with this node's replica, and trim the swarm's stream.

        Everything committed before the call is in the snapshot. It is stored with the servers, read
        back, and only then named, so it is there whole or not at all. Then the snapshots go that are
        not among the newest `keep`, and with them all messages of the stream before the oldest of
        those. Nodes that are at work keep what they have. One that had not followed so far begins
        with a snapshot when it is opened again.

        A node that began with a snapshot knows every version that history and retention keep, so
        reads as of a *time* are the same on all nodes. The order of entries before the snapshot it does
        not know: `tail`, `watch(after=)` and `as_of=<revision>` raise `TrimmedError` there, as
        after `compact`.

        Args:
            keep: How many snapshots are kept, this one included; at least 1. With more than one
                there is another to begin with when the newest is damaged.

        Returns:
            What was shared, and what was removed.

        Raises:
            UnsupportedError: this is no node of a cluster.
            InvalidInputError: `keep` is not positive.
            PermissionDeniedError: this node's credentials are not the operator's.
            DisconnectedError: no server answers.
            CorruptionError: what the servers have is not what was sent; nothing was removed.
            StorageFullError: no space is left, here or with the servers.
            StorageError: a file operation failed, or the servers refuse.

        Cost: writes a base, sends and reads it back, on another thread; see
            `docs/how-to/deploy.md`. Cancelled, it goes on to its end.
        """
    def shared_snapshots(self) -> list[SwarmSnapshot]:
        """The snapshots that a new node of the cluster could begin with, newest first.

        Raises:
            UnsupportedError: this is no node of a cluster.
            DisconnectedError: no server answers.
            PermissionDeniedError: the servers do not let this node ask.
        """
    def verify_snapshot(self, snapshot_id: str) -> SwarmSnapshot:
        """Read a shared snapshot, all of it, and hold it against its checksums.

        Raises:
            UnsupportedError: this is no node of a cluster.
            InvalidInputError: the catalogue has no such snapshot.
            CorruptionError: it is damaged or incomplete; the message says where.
            DisconnectedError: no server answers.
            PermissionDeniedError: the servers do not let this node ask.
        """
    def export(
        self,
        path: str | os.PathLike[str],
        *,
        format: Format | None = None,
        agents: Iterable[str] = (),
    ) -> Export:
        """Write all that the store holds, as of one revision, in a form that others can read.

        Everything acknowledged before the call is in it. Reads and writes go on meanwhile;
        `import_store` makes the same store of it again.

        Args:
            path: A file that does not exist yet, for JSON Lines (compressed if it ends with
                `.zst`); or a directory that does not exist yet, for Parquet.
            format: "jsonl" or "parquet"; None: "parquet" if the path ends with `.parquet`.
            agents: Only versions of these agents; for reading, it cannot be imported.

        Raises:
            InvalidInputError: there is something at the path, or an agent's name is malformed.
            CorruptionError: the views are damaged; nothing is left at the path.
            StorageFullError: no space is left.
            StorageError: the path cannot be written.
            UnsupportedError: Parquet needs `nt-memory[parquet]`.

        Cost: about 30 s a million rows, on another thread, which takes turns with the event loop:
            where latency counts, use `nt-memory export` in another process.
        """
    def compact(self) -> Compaction:
        """Move the base forward: what the journal says up to now goes into one checksummed file,
        the journal before it is deleted, and the views are written anew without the holes that
        dropped versions left. Reads and writes go on meanwhile.

        No version is lost that history and retention keep: reads as of a *time* go on as before.
        The order of entries before the base is: `tail`, `watch(after=)` and `as_of=<revision>`
        raise `TrimmedError` there. Views, scans and feeds that are open hold back what they may
        still ask for, each for ten minutes at most.

        Value files that nothing refers to any more are deleted too.

        Called while a compaction runs, it waits for that one. Cancelled, the compaction goes on.

        Returns:
            How far the base reaches, and what the store gave back to the file system.

        Raises:
            StorageFullError: there is no space for the new base and views, about the size of the
                old ones; nothing was dropped.
            CorruptionError: the views are damaged; nothing was dropped. See `repair`.
            ReadOnlyError: the memory was opened read-only.
            StorageError: a file operation failed.

        Cost: about 10 s a million rows, on other threads; the journal stands still for
            milliseconds while the new views are put in place.
        """
    def __enter__(self) -> Self: ...
    def __exit__(self, *raised: object) -> None: ...

class SyncReceiver:
    """`Receiver`, read with `recv`, `recv_message` or `for`."""
    @property
    def pattern(self) -> str: ...
    @property
    def dropped(self) -> int: ...
    def recv(self, timeout: float | None = None) -> Any:
        """The next message's value, read-only.

        Args:
            timeout: Seconds to wait at most; None: without end.

        Raises:
            ReceiveTimeoutError: nothing came in time; nothing is lost.
            ReceiverClosedError: it was closed, or the memory was; what was buffered is gone.
            BufferOverflowError: `overflow="error"`, and messages were lost right here: after the
                buffered ones are read, this is raised once, then reception goes on.
            CodecError: the message cannot be decoded; it is skipped.
        """
    def recv_message(self, timeout: float | None = None) -> Message:
        """Like `recv`, with the topic the message came under, and what `reply` needs."""
    def close(self) -> None:
        """Unsubscribe and forget what is buffered; whoever waits gets `ReceiverClosedError`.

        Idempotent.
        """
    def __iter__(self) -> Self: ...
    def __next__(self) -> Any: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *raised: object) -> None: ...

class SyncTail:
    """A plain iterator of `JournalEntry`; waits for the next."""
    @property
    def revision(self) -> int: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> JournalEntry: ...

class SyncTerm:
    """`Term`; every call that takes a lock token takes this."""
    @property
    def resource(self) -> str: ...
    @property
    def holder(self) -> str: ...
    @property
    def fence(self) -> int: ...
    @property
    def lease(self) -> float: ...
    @property
    def lost(self) -> SyncLossSignal: ...
    def resign(self) -> None:
        """Step down; the next in line leads. The loop goes on by campaigning again.

        Raises:
            LockLostError: the term was over already.
        """

class SyncTimeline:
    """The agents' now, and the way to move a backtest's, without await."""
    @property
    def is_backtest(self) -> bool:
        """Whether now moves only by `advance`."""
    @property
    def now(self) -> datetime:
        """The agents' now.

        Raises:
            TimelineError: a backtest that was never advanced.
        """
    def advance(self, to: datetime, *, request_id: str | None = None) -> int:
        """Move a backtest's now forward to `to`; what runs out by then expires.

        Args:
            to: An aware time.
            request_id: A repeated id acts once and returns the first result.

        Returns:
            The revision.

        Raises:
            TimelineError: the timeline is live, or `to` lies before now.
            InvalidTimeError: a naive time.
        """

class SyncTransaction:
    """`Transaction`, used by `with`."""
    @property
    def revision(self) -> int | None: ...
    def put(
        self,
        agent: str,
        key: str,
        value: Any,
        *,
        ttl: float | timedelta | None = None,
        known_at: datetime | None = None,
        expect: int | None = None,
    ) -> None:
        """Set a value; arguments and errors as `MemorySystem.put`.

        Arrays in a value of more than 1 MiB stay read-only until the transaction is over.
        """
    def observe(
        self,
        agent: str,
        embedding: ArrayLike,
        data: Any = None,
        *,
        key: str,
        tags: Iterable[str] = (),
        ttl: float | timedelta | None = None,
        known_at: datetime | None = None,
        expect: int | None = None,
    ) -> None:
        """Remember something with its situation; arguments and errors as `MemorySystem.observe`.

        An agent whose index is far behind is waited for when the transaction is committed.
        """
    def delete(
        self, agent: str, key: str, *, known_at: datetime | None = None, expect: int | None = None
    ) -> None:
        """Remove a value; arguments and errors as `MemorySystem.delete`."""
    def __enter__(self) -> Self: ...
    def __exit__(self, *raised: object) -> None: ...

class SyncView:
    """`MemoryView`, without await."""
    @property
    def as_of(self) -> AsOf: ...
    def get(self, agent: str, key: str, default: Any = None) -> Any:
        """See `MemorySystem.get`."""
    def get_record(self, agent: str, key: str) -> Record | None:
        """See `MemorySystem.get_record`."""
    def scan(self, agent: str, prefix: str = "", *, after: str = "") -> Iteration[Record]:
        """See `MemorySystem.scan`."""
    def search_similar(
        self,
        agent: str | Sequence[str],
        query_embedding: ArrayLike,
        top_k: int = 10,
        *,
        tags: Iterable[str] | None = None,
        where: Where | None = None,
        exact: bool = False,
    ) -> list[Hit]:
        """See `MemorySystem.search_similar`."""
    def map(
        self, agent: str, *, action_type: str | None = None, sample: int = 2000, seed: int = 0
    ) -> MemoryMap:
        """See `MemorySystem.map`."""
    def explain_similar(
        self,
        agent: str | Sequence[str],
        query_embedding: ArrayLike,
        top_k: int = 10,
        *,
        tags: Iterable[str] | None = None,
        where: Where | None = None,
        exact: bool = False,
    ) -> Explanation:
        """See `MemorySystem.explain_similar`."""
    def search_many(
        self,
        agent: str | Sequence[str],
        query_embeddings: ArrayLike,
        top_k: int = 10,
        *,
        tags: Iterable[str] | None = None,
        where: Where | None = None,
        exact: bool = False,
    ) -> list[list[Hit]]:
        """See `MemorySystem.search_many`."""
    def patterns(self, agent: str) -> list[Pattern]:
        """See `ReasoningBank.patterns`."""
    def advise(
        self,
        agents: str | Sequence[str],
        embedding: ArrayLike,
        *,
        action_type: str | None = None,
        level: float = 0.8,
        withhold: float = 0.0,
        baseline: float | None = None,
        trajectory: str = "",
        k: int | None = None,
        functional: Literal["mean", "median"] | None = None,
        gamma: float | None = None,
        gain: float | None = None,
        exact: bool = False,
        from_patterns: bool = False,
    ) -> Advice:
        """See `ReasoningBank.advise`."""

class SyncWatch:
    """A plain iterator of `Change`; waits for the next."""
    @property
    def revision(self) -> int: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> Change: ...

def open_sync(
    target: MemoryConfig | str | os.PathLike[str] | None = None,
    *,
    clock: Clock | None = None,
    read_only: bool = False,
) -> SyncMemory:
    """See `MemorySystem.open_sync`."""
