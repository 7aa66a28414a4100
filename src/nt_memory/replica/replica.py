"""The fold of the journal: every node that applies the same entries holds the same views.

Nothing here reads a clock, draws a random number or does I/O beyond the views it is handed. An
entry is either accepted, takes the next revision and writes its effects; or is refused, writes
nothing and fails only its own caller. What is not a refusal (an I/O error, a bug) stops the
replica: nothing is ever skipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast, get_args

import msgspec

from nt_memory.clock import to_datetime
from nt_memory.entries import (
    Advance,
    Configure,
    EmbeddingCommand,
    Mark,
    ObserveMany,
    Retain,
    SetPolicy,
    SetQuota,
    StartSession,
    Sweep,
    Tick,
    Write,
    decode_entry,
)
from nt_memory.errors import (
    InvalidInputError,
    NtMemoryError,
    StaleFenceError,
    StorageError,
    TimelineError,
)
from nt_memory.replica.coordination import Coordination
from nt_memory.replica.dropping import expire
from nt_memory.replica.follow import Follow, Outcome
from nt_memory.replica.ledger import Ledger, Ring
from nt_memory.replica.observing import find_fresh, fold_fresh
from nt_memory.replica.origins import SETTINGS, detach, load_origin, note
from nt_memory.replica.policies import Policies
from nt_memory.replica.quotas import Quotas
from nt_memory.replica.reembedding import carry_out, drop_unlabelled
from nt_memory.replica.requests import kind_of, recall, remember
from nt_memory.replica.retention import Retention
from nt_memory.replica.steps import Effects, Prepared, Step
from nt_memory.replica.writes import Folding, Now, decide, fold, write_vectors
from nt_memory.tiers.layout import NEVER_STARTED, ChangeRow, LogRow

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from nt_memory.entries.origins import Origin
    from nt_memory.tiers.cold import ColdTier
    from nt_memory.tiers.vectors import VectorFiles
    from nt_memory.tiers.views import Snapshot, WriteBatch
    from nt_memory.transport.ports import Frame

EXPIRIES_PER_TICK = 4096
_pack = msgspec.msgpack.encode


class Replica:
    """Views, and the only code that changes them. Lives on the journal's thread once started.

    Args:
        cold: Where the views are.
        files: Where vectors are; None if all that will be applied have been written already.
        only: Write those of these partitions; the others have been. None: write all.
    """

    def __init__(
        self, cold: ColdTier, files: VectorFiles | None, only: Collection[int] | None = None
    ) -> None:
        self._cold = cold
        self._files = files
        self._only = only
        self.revision: int = 0
        self.sequence: int = 0
        self.timeline_us: int | None = None
        self.swarm: str = ""
        self.is_backtest: bool = False
        self.history: int | None = None
        self.last_recorded_at: int = 0
        self.origin: Origin | None = None
        self._coordination = Coordination()
        self.retention: Retention = Retention()
        self._quotas = Quotas()
        self._policies = Policies()
        self._handlers: dict[type, Callable[[Step], Effects]] = {
            Write: self._write,
            ObserveMany: self._observe,
            Configure: self._configure,
            StartSession: self._start_session,
            Advance: self._advance,
            Tick: self._tick,
            Mark: self._mark,
            Retain: self._retain,
            SetQuota: self._set_quota,
            SetPolicy: self._set_policy,
            Sweep: self._sweep,
            **dict.fromkeys(get_args(EmbeddingCommand), _reembed),
        }
        snapshot = cold.snapshot()
        try:
            self._load(snapshot)
        finally:
            snapshot.close()

    def keep_ring(self, ring: Ring) -> None:
        """Go on with the digests that another replica of the same views has held."""
        if self.ledger.digest is not None:
            ring.put(self.sequence, self.ledger.digest)
            self.ledger.ring = ring

    def keep_vectors(self, files: VectorFiles) -> None:
        """From now on write all vectors, to `files`."""
        self._files, self._only = files, None

    def _load(self, views: Snapshot) -> None:
        self.revision = views.number(b"revision") or 0
        self.sequence = views.number(b"sequence") or 0
        self.timeline_us = views.number(b"timeline_us")
        self.last_recorded_at = views.number(b"recorded_at") or 0
        self.origin = load_origin(views)
        self.ledger: Ledger = Ledger(views, self.sequence)
        settings = views.get(b"meta", SETTINGS)
        if settings is not None:
            self._set_settings(msgspec.msgpack.decode(settings, type=Configure))
        self._coordination.load(views)
        self.retention.load(views)
        self._quotas.load(views)
        self._policies.load(views)

    def _set_settings(self, settings: Configure) -> None:
        self.swarm = settings.swarm
        self.is_backtest = settings.timeline == "backtest"
        self.history = settings.history

    @property
    def is_configured(self) -> bool:
        """Whether the store has its first entry."""
        return bool(self.swarm)

    @property
    def drops_versions(self) -> bool:
        """Whether superseded versions may go, by `history` or by retention."""
        return self.history is not None or self.retention.has_limits

    @property
    def has_quotas(self) -> bool:
        """Whether some agent's share is limited."""
        return self._quotas.has_rules

    @property
    def has_policies(self) -> bool:
        """Whether some agent's rights are limited."""
        return self._policies.has_rules

    @property
    def next_lapse_us(self) -> int | None:
        """From when, in entry time, a tick may end a lease or decide a ballot; None: never."""
        return self._coordination.next_lapse_us(is_backtest=self.is_backtest)

    def apply(self, frames: Sequence[Frame]) -> Follow:
        """Fold a batch of frames into the views, in one transaction.

        Returns:
            What the loop needs to follow, with a snapshot that the caller now owns.

        Raises:
            StorageFullError: no space is left. The views are as they were before; a new replica of
                them can apply the frames again.
            StorageError: the views could not be written. The replica must not be used again.
            FormatVersionError: a newer version wrote an entry.
            CorruptionError: a row that was needed is damaged; the batch left nothing behind.
        """
        return self.commit(self.prepare(frames))

    def prepare(self, frames: Sequence[Frame]) -> Prepared:
        """`apply` up to where its effects would show: `commit` makes them, `discard` forgets them.

        After `discard`, and after an error, the replica must not be used again.

        Raises:
            As `apply`.
        """
        follow = Follow()
        batch = self._cold.begin()
        try:
            for frame in frames:
                self._apply_one(batch, frame, follow)
            if self._files is not None:
                write_vectors(self._files, follow, self._only)
            self._quotas.save(batch)
            self.ledger.save(batch)
            batch.put_number(b"revision", self.revision)
            batch.put_number(b"sequence", self.sequence)
            batch.put_number(b"recorded_at", self.last_recorded_at)
            if self.timeline_us is not None:
                batch.put_number(b"timeline_us", self.timeline_us)
        except BaseException as error:
            batch.close()
            explained = self._cold.explain(error)
            if explained is error:
                raise
            raise explained from error
        return Prepared(batch, follow)

    def commit(self, prepared: Prepared) -> Follow:
        """Make visible what was prepared; returns and raises as `apply`."""
        batch, follow = prepared
        try:
            self._cold.commit(batch)
        except BaseException:
            batch.close()
            raise
        follow.revision = self.revision
        follow.sequence = self.sequence
        follow.timeline_us = self.timeline_us
        follow.snapshot = self._cold.snapshot()
        return follow

    def _apply_one(self, batch: WriteBatch, frame: Frame, follow: Follow) -> None:
        self.sequence = frame.sequence
        self.last_recorded_at = frame.recorded_at
        batch.trace = None if self.ledger.digest is None else []
        error, result = None, None
        try:
            result = self._decide_and_fold(batch, frame, follow)
        except StorageError:
            # Of a newer version, or damage: no refusal, or a replay could accept what this refused.
            raise
        except NtMemoryError as refusal:
            error = refusal
        if self.ledger.digest is not None:
            refused = "" if error is None else type(error).__name__
            self.ledger.note(frame, self.revision, refused, batch.trace or [])
        if frame.ticket is not None:
            follow.outcomes.append(Outcome(frame.ticket, result, error))

    def _decide_and_fold(self, batch: WriteBatch, frame: Frame, follow: Follow) -> Any:
        entry = decode_entry(frame.payload)
        now = self._now(frame)
        request = entry.request_id
        if request is not None:
            made = recall(batch, entry.actor, request, kind_of(entry), now.recorded_at)
            if made is not None:
                return made.result
        draft = self._coordination.draft(batch, now)
        self._policies.check(entry, draft)
        handler = self._handlers.get(type(entry.body), _coordinate)
        effects = handler(Step(batch, entry, now, draft, follow))
        if not effects.has_changes and request is None:
            return effects.result
        self.revision = now.revision
        self._coordination.commit(draft, batch, follow)
        row = LogRow(frame.position, now.recorded_at, self._timeline_of(now), effects.changes)
        batch.append_log(now.revision, row)
        remember(batch, entry, effects.result, now.recorded_at)
        return effects.result

    def _now(self, frame: Frame) -> Now:
        timeline = self.timeline_us if self.is_backtest else frame.recorded_at
        return Now(frame.recorded_at, timeline, self.revision + 1, self.is_backtest)

    def _timeline_of(self, now: Now) -> int:
        if not self.is_backtest:
            return now.recorded_at
        return NEVER_STARTED if self.timeline_us is None else self.timeline_us

    # --- handlers -----------------------------------------------------------------------------

    def _write(self, step: Step) -> Effects:
        write = cast("Write", step.entry.body)
        if write.fence is not None and not step.draft.is_current(write.fence):
            raise StaleFenceError(
                f"fence {write.fence.number} of lock {write.fence.resource!r} is no longer current"
            )
        return self._write_all(step, write)

    def _write_all(self, step: Step, write: Write) -> Effects:
        operations = decide(step.batch, write, step.now)
        if not operations:
            return Effects(None, has_changes=False)
        self._quotas.check(step.batch, operations, step.now, self.history)
        changes: list[ChangeRow] = []
        folding = self._folding(step)
        for operation in operations:
            changes.extend(fold(folding, operation))
        return Effects(step.now.revision, tuple(changes))

    def _observe(self, step: Step) -> Effects:
        body = cast("ObserveMany", step.entry.body)
        if not body.keys:
            return Effects(None, has_changes=False)
        body.check()
        fresh = find_fresh(step.batch, body, step.now)
        if fresh is None:
            changes = self._write_all(step, Write(body.operations)).changes
        else:
            self._quotas.check_new(step.batch, body.agent, len(body.keys), fresh.size)
            changes = fold_fresh(self._folding(step), body, fresh)
        # From which whoever repeats the request knows how far it came, and under which keys.
        return Effects((step.now.revision, body.keys[0], len(body.keys)), changes)

    def _folding(self, step: Step) -> Folding:
        return Folding(
            step.batch, step.now, step.follow, step.entry.actor, self.history, self._quotas
        )

    def _configure(self, step: Step) -> Effects:
        if self.is_configured:
            raise InvalidInputError("the store has its settings already")
        settings = cast("Configure", step.entry.body)
        self._set_settings(settings)
        step.batch.put(b"meta", SETTINGS, _pack(settings))
        return Effects(step.now.revision)

    def _start_session(self, step: Step) -> Effects:
        body = cast("StartSession", step.entry.body)
        if self.origin is not None:  # a copy of a node's replica, that goes its own way from here
            detach(step.batch)
            self.ledger.end(step.batch)
            self.origin = None
        step.draft.end_sessions(keep=body.session)
        drop_unlabelled(step.batch)
        return Effects(step.now.revision)

    def _advance(self, step: Step) -> Effects:
        body = cast("Advance", step.entry.body)
        if not self.is_backtest:
            raise TimelineError("a live timeline moves by itself: only a backtest can advance")
        if self.timeline_us is not None and body.now < self.timeline_us:
            raise TimelineError(
                f"time does not run backwards: {to_datetime(body.now)} lies before now, "
                f"{to_datetime(self.timeline_us)}"
            )
        self.timeline_us = body.now
        step.draft.lapse_ballots(body.now)
        due = step.batch.due_expiries(body.now, None)
        later = step.now._replace(timeline_us=body.now)
        changes = expire(step.batch, due, later, step.follow, self._quotas)
        return Effects(step.now.revision, changes)

    def _tick(self, step: Step) -> Effects:
        changes: tuple[ChangeRow, ...] = ()
        if step.now.timeline_us is not None:
            due = step.batch.due_expiries(step.now.timeline_us, EXPIRIES_PER_TICK)
            changes = expire(step.batch, due, step.now, step.follow, self._quotas)
        has_changes = bool(changes) or step.draft.has_changes
        return Effects(step.now.revision if has_changes else None, changes, has_changes)

    def _mark(self, step: Step) -> Effects:
        mark = cast("Mark", step.entry.body)
        if self.origin is None:  # the first entry of a stream
            self.ledger.begin()
        self.origin = note(step.batch, mark, self.sequence, step.now.recorded_at)
        return Effects(None, has_changes=False)

    def _retain(self, step: Step) -> Effects:
        self.retention.set(cast("Retain", step.entry.body), step.batch)
        return Effects(step.now.revision)

    def _set_quota(self, step: Step) -> Effects:
        self._quotas.set(cast("SetQuota", step.entry.body), step.batch)
        return Effects(step.now.revision)

    def _set_policy(self, step: Step) -> Effects:
        self._policies.set(cast("SetPolicy", step.entry.body), step.batch)
        return Effects(step.now.revision)

    def _sweep(self, step: Step) -> Effects:
        swept = self.retention.sweep(
            step.batch, cast("Sweep", step.entry.body), step.now, self._quotas
        )
        return Effects(tuple(swept), has_changes=swept.dropped > 0)


def _reembed(step: Step) -> Effects:
    command = cast("EmbeddingCommand", step.entry.body)
    done = carry_out(step.batch, command, step.now, step.follow)
    return Effects(None, has_changes=False) if done is None else Effects(*done)


def _coordinate(step: Step) -> Effects:
    result = step.draft.decide(step.entry.body, step.entry.actor)
    return Effects(result, has_changes=step.draft.has_changes)
