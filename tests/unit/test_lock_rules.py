"""Lock rules, one promise each; orders and interleavings are explored in tests/property."""

from __future__ import annotations

import msgspec
import pytest

from nt_memory.coordination import lock_rules
from nt_memory.coordination.lock_states import LockEvent, LockReply, LockState, Ruling
from nt_memory.entries import Acquire, ForceRelease, LockCommand, Release, Renew, Withdraw
from nt_memory.errors import (
    InvalidInputError,
    InvalidNameError,
    LockLostError,
    LockTimeoutError,
    ReentrantLockError,
)

S = 1_000_000


def acquire(ticket: str, *, lease: int = 30 * S, wait: int = 10 * S, session: str = "s") -> Acquire:
    return Acquire("r", ticket, f"holder-{ticket}", session, lease, wait)


def play(*steps: tuple[LockCommand, int]) -> tuple[LockState | None, list[Ruling]]:
    """Apply commands at times, revision 1, 2, 3...; the state and every ruling."""
    state, rulings = None, []
    for revision, (command, now_us) in enumerate(steps, start=1):
        ruling = lock_rules.decide(command, state, now_us=now_us, revision=revision)
        state = ruling.state
        rulings.append(ruling)
    return state, rulings


def kinds(ruling: Ruling) -> list[tuple[str, str]]:
    return [(event.kind, event.ticket) for event in ruling.events]


def test_free_lock_is_granted_at_once_with_the_revision_as_fence() -> None:
    """A free lock is granted by the entry that asks; its revision is the fence."""
    ruling = lock_rules.decide(acquire("a"), None, now_us=5, revision=42)
    assert (ruling.result.kind, ruling.result.fence) == ("granted", 42)
    assert ruling.result.lease_until == 5 + 30 * S
    assert kinds(ruling) == [("granted", "a")]


def test_release_grants_the_next_in_line() -> None:
    """First come, first served; the release entry is the grant's fence."""
    _, rulings = play((acquire("a"), 0), (acquire("b"), 1), (acquire("c"), 2), (Release("r", 1), 3))
    assert [r.result.kind for r in rulings] == ["granted", "queued", "queued", "released"]
    assert kinds(rulings[-1]) == [("released", "a"), ("granted", "b")]
    assert rulings[-1].events[1].fence == 4


def test_released_lock_nobody_waits_for_is_forgotten() -> None:
    """Locks that nobody holds cost nothing."""
    state, _ = play((acquire("a"), 0), (Release("r", 1), 1))
    assert state is None


def test_lease_is_over_at_its_end_exactly() -> None:
    """A lease runs up to, not including, its end; the same instant for writes and for grants."""
    state, _ = play((acquire("a", lease=10), 0))
    assert lock_rules.is_current(state, 1, 9)
    assert not lock_rules.is_current(state, 1, 10)
    assert lock_rules.lapse(state, now_us=9, revision=2) is None
    ruling = lock_rules.lapse(state, now_us=10, revision=2)
    assert kinds(ruling) == [("lost", "a")]
    assert ruling.state is None


def test_other_fences_are_not_current() -> None:
    """Only the present grant's number counts, and none once nobody holds."""
    state, _ = play((acquire("a"), 0))
    assert not lock_rules.is_current(state, 2, 1)
    assert not lock_rules.is_current(None, 1, 1)


def test_lapse_skips_whoever_stopped_waiting() -> None:
    """A waiter whose wait ran out is refused, not granted."""
    state, _ = play(
        (acquire("a", lease=10), 0), (acquire("b", wait=5), 0), (acquire("c", wait=50), 0)
    )
    ruling = lock_rules.lapse(state, now_us=10, revision=9)
    assert kinds(ruling) == [("lost", "a"), ("refused", "b"), ("granted", "c")]


def test_lapse_before_the_command_makes_no_difference() -> None:
    """`decide` ends what ran out itself."""
    state, _ = play((acquire("a", lease=10), 0), (acquire("b"), 1))
    lapsed = lock_rules.lapse(state, now_us=20, revision=3)
    late = acquire("c")
    one = lock_rules.decide(late, state, now_us=20, revision=3)
    two = lock_rules.decide(late, lapsed.state, now_us=20, revision=3)
    assert one.state == two.state
    assert one.result == two.result


def test_try_once_is_refused_naming_holder_and_lease_left() -> None:
    """A wait of 0 never queues, and the message says who is in the way and for how long."""
    state, _ = play((acquire("a"), 0))
    with pytest.raises(LockTimeoutError, match=r"'holder-a', lease left 28\.000 s"):
        lock_rules.decide(acquire("b", wait=0), state, now_us=2 * S, revision=2)


def test_try_once_does_not_overtake_the_line() -> None:
    """A lock freed in an entry goes to who waited, not to who tries in that entry."""
    state, _ = play((acquire("a", lease=10), 0), (acquire("b"), 1))
    with pytest.raises(LockTimeoutError):
        lock_rules.decide(acquire("c", wait=0), state, now_us=20, revision=3)


def test_same_holder_is_refused_while_holding_and_while_waiting() -> None:
    """Locks are not re-entrant, which is told apart from contention."""
    state, _ = play((acquire("a"), 0), (acquire("b"), 0))
    for holder in ("holder-a", "holder-b"):
        again = Acquire("r", "other", holder, "s", S, S)
        with pytest.raises(ReentrantLockError):
            lock_rules.decide(again, state, now_us=1, revision=3)
        after = lock_rules.decide(again, state, now_us=60 * S, revision=3)
        assert after.result.kind == "granted", "its former grant and wait are over"


def test_repeated_acquire_changes_nothing() -> None:
    """A duplicate of a ticket that holds or waits gets the same answer."""
    state, _ = play((acquire("a"), 0), (acquire("b"), 0))
    for ticket, kind in (("a", "granted"), ("b", "queued")):
        ruling = lock_rules.decide(acquire(ticket), state, now_us=1, revision=3)
        assert (ruling.result.kind, ruling.state, ruling.events) == (kind, state, ())


def test_withdraw_leaves_the_queue() -> None:
    """Who withdrew is not granted afterwards; the reply names the holder."""
    state, rulings = play((acquire("a"), 0), (acquire("b"), 0), (Withdraw("r", "b"), 1))
    assert rulings[-1].result.kind == "withdrawn"
    assert rulings[-1].result.holder == "holder-a"
    assert state.waiters == ()


def test_withdraw_gives_back_the_grant_that_won_the_race() -> None:
    """A timeout that crossed the grant leaves nobody holding."""
    state, rulings = play(
        (acquire("a"), 0), (acquire("b"), 0), (Release("r", 1), 1), (Withdraw("r", "b"), 2)
    )
    assert rulings[-1].result.kind == "given_back"
    assert kinds(rulings[-1]) == [("released", "b")]
    assert state is None


def test_withdraw_that_overtakes_its_acquire_is_remembered_for_a_while() -> None:
    """A delayed acquire finds that it was withdrawn; the memory of that ends by itself."""
    state, rulings = play((Withdraw("r", "a"), 0), (acquire("a"), 5))
    assert [r.result.kind for r in rulings] == ["absent", "withdrawn"]
    due = lock_rules.due_us(state)
    assert due == lock_rules.OVERTAKEN_US
    assert lock_rules.lapse(state, now_us=due, revision=9).state is None


def test_one_entry_grants_once() -> None:
    """A grant given back in the entry that made it is not followed by one with the same fence."""
    state, _ = play((acquire("a", lease=10), 0), (acquire("b"), 0), (acquire("c"), 0))
    lapsed = lock_rules.lapse(state, now_us=10, revision=4)
    ruling = lock_rules.decide(Withdraw("r", "b"), lapsed.state, now_us=10, revision=4)
    assert kinds(ruling) == [("released", "b")]
    assert lock_rules.due_us(ruling.state) == 0, "the next entry is called for"
    after = lock_rules.lapse(ruling.state, now_us=10, revision=5)
    assert [(e.kind, e.fence) for e in after.events] == [("granted", 5)]


def test_forced_release_ends_the_grant_and_grants_the_next() -> None:
    """The holder loses the lock, who waits gets it; from another fence nothing is taken."""
    taken = (acquire("a"), 0), (acquire("b"), 1)
    _, rulings = play(*taken, (ForceRelease("r"), 2))
    assert kinds(rulings[-1]) == [("lost", "a"), ("granted", "b")]
    assert (rulings[-1].result.kind, rulings[-1].result.fence) == ("forced", 1)
    state, rulings = play(*taken, (ForceRelease("r", 7), 2))
    assert kinds(rulings[-1]) == []
    assert rulings[-1].result.kind == "absent"
    assert state is not None
    assert state.grant is not None
    assert state.grant.fence == 1


def test_forced_release_leaves_what_its_own_entry_granted() -> None:
    """Where a lease ran out, its successor keeps the lock, whether `lapse` came first or not."""
    state, _ = play((acquire("a", lease=10), 0), (acquire("b"), 1))
    assert state is not None
    lapsed = lock_rules.lapse(state, now_us=20, revision=3)
    assert lapsed is not None
    one = lock_rules.decide(ForceRelease("r"), lapsed.state, now_us=20, revision=3)
    two = lock_rules.decide(ForceRelease("r"), state, now_us=20, revision=3)
    assert one.state == two.state == lapsed.state
    assert one.result.kind == two.result.kind == "absent"


def test_a_grant_says_who_asked() -> None:
    """The actor of the acquire is noted with its place in line, and with its grant."""
    first = lock_rules.decide(acquire("a"), None, now_us=0, revision=1, actor="ann")
    second = lock_rules.decide(acquire("b"), first.state, now_us=1, revision=2, actor="bob")
    freed = lock_rules.decide(Release("r", 1), second.state, now_us=2, revision=3, actor="cyd")
    assert first.state is not None
    assert first.state.grant is not None
    assert first.state.grant.actor == "ann"
    assert freed.state is not None
    assert freed.state.grant is not None
    assert freed.state.grant.actor == "bob"


def test_renewal_extends_from_entry_time_and_never_shortens() -> None:
    """A renewal counts from its own entry; a late, shorter one takes nothing away."""
    _, rulings = play(
        (acquire("a"), 0), (Renew("r", 1, 40 * S), 10 * S), (Renew("r", 1, S), 11 * S)
    )
    assert [r.result.lease_until for r in rulings] == [30 * S, 50 * S, 50 * S]


@pytest.mark.parametrize("command", [Renew("r", 1, S), Release("r", 1)])
def test_lost_lease_cannot_be_renewed_or_released(command: LockCommand) -> None:
    """A stale token gets an error that names the present holder; nothing changes."""
    state, _ = play((acquire("a", lease=10), 0), (acquire("b"), 0))
    with pytest.raises(LockLostError, match="'holder-b'"):
        lock_rules.decide(
            command,
            lock_rules.lapse(state, now_us=20, revision=3).state,
            now_us=21,
            revision=4,
        )
    with pytest.raises(LockLostError):
        lock_rules.decide(command, None, now_us=21, revision=4)
    with pytest.raises(LockLostError):
        lock_rules.decide(command, state, now_us=20, revision=3)


def test_opening_ends_earlier_sessions() -> None:
    """Grants and waits of sessions that ended are freed; the present one's move up."""
    state, _ = play(
        (acquire("a", session="old"), 0),
        (acquire("b", session="old"), 0),
        (acquire("c", session="new"), 0),
    )
    ruling = lock_rules.end_sessions(state, keep="new", now_us=1, revision=4)
    assert kinds(ruling) == [("lost", "a"), ("refused", "b"), ("granted", "c")]
    assert lock_rules.end_sessions(ruling.state, keep="new", now_us=1, revision=5) is None


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (Acquire("", "t", "h", "s", S, 0), InvalidNameError),
        (Acquire("r", "", "h", "s", S, 0), InvalidNameError),
        (Acquire("r", "t", "", "s", S, 0), InvalidNameError),
        (Acquire("r", "t", "h", "", S, 0), InvalidNameError),
        (Acquire("r", "t", "h", "s", 0, 0), InvalidInputError),
        (Acquire("r", "t", "h", "s", lock_rules.MAX_LEASE_US + 1, 0), InvalidInputError),
        (Acquire("r", "t", "h", "s", S, -1), InvalidInputError),
        (Renew("r", 1, 0), InvalidInputError),
        (Withdraw("r", "\n"), InvalidNameError),
    ],
)
def test_malformed_commands_are_refused(command: LockCommand, error: type[Exception]) -> None:
    """Every node refuses a malformed entry the same way, before it touches the lock."""
    with pytest.raises(error):
        lock_rules.decide(command, None, now_us=0, revision=1)


def test_state_and_result_survive_msgpack() -> None:
    """What the views store comes back equal."""
    state, rulings = play((acquire("a"), 0), (acquire("b"), 0), (Withdraw("r", "z"), 0))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=LockState) == state
    assert msgspec.convert(msgspec.to_builtins(rulings[0].result), type(rulings[0].result)) == (
        rulings[0].result
    )


def test_a_release_says_which_fence_it_ended() -> None:
    """Whoever repeats a release under its request id learns which grant it was."""
    _, rulings = play((acquire("a"), 0), (Release("r", 1), 3))
    assert (rulings[-1].result.kind, rulings[-1].result.fence) == ("released", 1)


def test_the_longest_lease_and_the_longest_reason_are_allowed() -> None:
    """A bound is the last value that is accepted; one more is refused."""
    longest = lock_rules.MAX_LEASE_US
    state, _ = play((acquire("a", lease=longest), 0))
    renewed = lock_rules.decide(Renew("r", 1, longest), state, now_us=5, revision=2)
    assert renewed.result.lease_until == 5 + longest
    with pytest.raises(InvalidInputError):
        lock_rules.decide(Renew("r", 1, longest + 1), state, now_us=5, revision=2)
    reason = "x" * lock_rules.MAX_REASON_CHARS
    forced = lock_rules.decide(ForceRelease("r", 1, reason), state, now_us=5, revision=2)
    assert forced.result.kind == "forced"
    with pytest.raises(InvalidInputError):
        lock_rules.decide(ForceRelease("r", 1, reason + "x"), state, now_us=5, revision=2)


def test_refusals_name_what_is_malformed_and_who_is_in_the_way() -> None:
    """An operator reads which of several names was wrong, and whether the lock is held or waited for."""
    with pytest.raises(InvalidNameError, match="lock resource"):
        lock_rules.decide(Release("", 1), None, now_us=0, revision=1)
    with pytest.raises(InvalidNameError, match="lock ticket"):
        lock_rules.decide(acquire(""), None, now_us=0, revision=1)
    state, _ = play((acquire("a", lease=10), 0), (acquire("b"), 1))
    held = "held by 'holder-a', lease left"
    with pytest.raises(LockLostError, match=held):
        lock_rules.decide(Release("r", 7), state, now_us=5, revision=3)
    with pytest.raises(LockLostError, match="it is free, and others wait for it"):
        lock_rules.decide(Release("r", 1), state, now_us=10, revision=3)


def test_events_say_whose_lock_it_was_and_is() -> None:
    """Watchers and waiting handles have nothing else: name, ticket, holder, session, fence, end."""
    state, rulings = play(
        (acquire("a", lease=30, session="s1"), 0),
        (acquire("b", lease=40, session="s2"), 1),
        (acquire("c", wait=50, session="s3"), 2),
        (acquire("d", session="s4"), 3),
        (Withdraw("r", "d"), 4),
        (Release("r", 1), 5),
    )
    assert rulings[0].events == (LockEvent("granted", "r", "a", "holder-a", "s1", 1, 30),)
    assert rulings[4].events == (LockEvent("withdrawn", "r", "d", "holder-d", "s4"),)
    assert rulings[5].events == (
        LockEvent("released", "r", "a", "holder-a", "s1", 1, 30),
        LockEvent("granted", "r", "b", "holder-b", "s2", 6, 45),
    )
    assert state is not None
    ruling = lock_rules.lapse(state, now_us=52, revision=7)
    assert ruling is not None
    assert ruling.events == (
        LockEvent("lost", "r", "b", "holder-b", "s2", 6, 45),
        LockEvent("refused", "r", "c", "holder-c", "s3"),
    )
    assert ruling.result is None


def test_replies_say_when_and_who_holds() -> None:
    """Whatever was asked: its kind, the entry's time, the fence it is about, and the holder since."""
    _, rulings = play(
        (acquire("a", lease=90), 3),
        (acquire("b", lease=90), 4),
        (Renew("r", 1, 100), 5),
        (Withdraw("r", "z"), 6),
        (Release("r", 1), 7),
        (Withdraw("r", "b"), 8),
        (acquire("z"), 9),
        (ForceRelease("r"), 10),
    )
    assert [ruling.result for ruling in rulings] == [
        LockReply("granted", 3, 1, "holder-a", 93),
        LockReply("queued", 4, 0, "holder-a", 93),
        LockReply("renewed", 5, 1, "holder-a", 105),
        LockReply("absent", 6, 0, "holder-a", 105),
        LockReply("released", 7, 1, "holder-b", 97),
        LockReply("given_back", 8, 5),
        LockReply("withdrawn", 9),
        LockReply("absent", 10),
    ]


def test_a_wait_is_over_at_its_end_exactly() -> None:
    """As a lease is: up to, not including, its end."""
    state, _ = play((acquire("a", lease=10), 0), (acquire("b", wait=9), 1))
    ruling = lock_rules.lapse(state, now_us=10, revision=3)
    assert kinds(ruling) == [("lost", "a"), ("refused", "b")]
    state, _ = play((acquire("a", lease=10), 0), (acquire("b", wait=10), 1))
    ruling = lock_rules.lapse(state, now_us=10, revision=3)
    assert kinds(ruling) == [("lost", "a"), ("granted", "b")]


def test_opening_ends_waits_of_others_behind_ones_own_lock() -> None:
    """Whoever holds it stays; who waited in a session that ended does not."""
    state, _ = play((acquire("a", session="new"), 0), (acquire("b", session="old"), 0))
    ruling = lock_rules.end_sessions(state, keep="new", now_us=1, revision=4)
    assert kinds(ruling) == [("refused", "b")]
    assert ruling.state.grant == state.grant
    assert lock_rules.end_sessions(ruling.state, keep="new", now_us=1, revision=5) is None


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (Acquire("r", "t", "", "s", S, 0), "^lock holder"),
        (Acquire("r", "t", "h", "", S, 0), "^session"),
        (Withdraw("r", ""), "^lock ticket"),
    ],
    ids=["holder", "session", "ticket"],
)
def test_a_malformed_name_is_named(command: LockCommand, said: str) -> None:
    """One of several names was wrong: the message says which."""
    with pytest.raises(InvalidNameError, match=said):
        lock_rules.decide(command, None, now_us=0, revision=1)


@pytest.mark.parametrize(
    ("command", "deed"), [(Renew("r", 7, S), "renewed"), (Release("r", 7), "released")]
)
def test_a_stale_fence_is_told_what_it_was_for(command: LockCommand, deed: str) -> None:
    """What was not done, with which fence, on which lock."""
    with pytest.raises(LockLostError, match=f"'r' cannot be {deed}: fence 7 is no longer current"):
        lock_rules.decide(command, None, now_us=0, revision=1)


def test_a_lock_that_nobody_holds_yet_is_kept_as_it_is() -> None:
    """Freed by the entry that had granted it: who waits stays, and where nobody does nothing is due."""
    state, _ = play((acquire("a", lease=10), 0), (acquire("b"), 0), (acquire("c"), 0))
    lapsed = lock_rules.lapse(state, now_us=10, revision=4)
    given_back = lock_rules.decide(Withdraw("r", "b"), lapsed.state, now_us=10, revision=4)
    assert given_back.state.grant is None
    assert lock_rules.end_sessions(given_back.state, keep="s", now_us=10, revision=4) is None
    ended = lock_rules.end_sessions(given_back.state, keep="other", now_us=10, revision=4)
    assert kinds(ended) == [("refused", "c")]
    assert lock_rules.due_us(ended.state) == 0
