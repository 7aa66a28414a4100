"""A fault planted in each rule of coordination is found by the machines that explore the rules.

So the explorations are what they seem: a rule that nobody holds to anything could lose its meaning
unnoticed. Each fault must be found within a bounded number of examples, and be called what it is.
"""

from __future__ import annotations

import operator
import re
import traceback
from typing import TYPE_CHECKING, NamedTuple

import planting as bad
import pytest
from ballot_machine import BallotMachine
from coordination_machine import CoordinationMachine
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from lock_machine import LockMachine

from nt_memory.coordination import ballot_rules, lock_rules
from nt_memory.replica import replica, requests
from nt_memory.replica.coordination import Coordination, Draft, DueTimes

if TYPE_CHECKING:
    from hypothesis.stateful import RuleBasedStateMachine

BOUNDED = settings(
    max_examples=400,
    stateful_step_count=30,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


SEEDS = 6


class Bug(NamedTuple):
    """A fault, and what the machine that finds it says, as a pattern."""

    plant: bad.Plant
    said: str


LOCKS = {
    "granted while held": Bug(bad.table(bad.GrantsTwice), "two holders"),
    "last come, first served": Bug(bad.table(bad.GrantsTheLast), "not first come first served"),
    "a waiter is lost by a grant": Bug(bad.table(bad.LosesOne), "another line"),
    "fences counted a lock": Bug(bad.table(bad.counts_fences()), "no greater fence"),
    "two grants in one entry": Bug(bad.table(bad.GrantsAgainInTheSameEntry), "no greater fence"),
    "fence reused after a release": Bug(
        bad.table(bad.reuses_fence(after="release")), "no greater fence"
    ),
    "fence reused after an expiry": Bug(
        bad.table(bad.reuses_fence(after="expiry")), "no greater fence"
    ),
    "fence reused after force": Bug(bad.table(bad.reuses_fence(after="force")), "no greater fence"),
    "lease not by entry time": Bug(bad.table(bad.LeasesFromTheWait), "counts from its grant"),
    "leases do not end": Bug(
        bad.table(bad.NeverEndsLeases),
        "stands still|overdue lease|a lost lease|stale fence",
    ),
    "leases end one late": Bug(
        bad.table(bad.EndsLeasesLate),
        "stands still|overdue lease|a lost lease|stale fence",
    ),
    "waits do not end": Bug(bad.table(bad.NeverEndsWaits), "granted to who had left"),
    "an expired lease is not passed on": Bug(
        bad.instead(lock_rules, "lapse", bad.lapses_without_passing_on),
        "stands still|a lost waiter",
    ),
    "a release is not passed on": Bug(
        bad.instead(lock_rules, "_release", bad.passes_on_nothing), "passed over"
    ),
    "a withdrawal is not passed on": Bug(
        bad.instead(lock_rules, "_withdraw", bad.passes_on_nothing), "passed over"
    ),
    "a forced release is not passed on": Bug(
        bad.instead(lock_rules, "_force_release", bad.passes_on_nothing), "passed over"
    ),
    "a renewal resurrects": Bug(
        bad.instead(lock_rules, "decide", bad.resurrects), "a lost lease was resurrected"
    ),
    "a renewal shortens": Bug(
        bad.instead(lock_rules, "_renew", bad.shortens), "a lease got shorter"
    ),
    "a fence outlives its lease": Bug(
        bad.instead(lock_rules, "is_current", bad.current_for_ever), "a stale fence counts"
    ),
    "a stale token releases and renews": Bug(
        bad.instead(lock_rules, "_current", bad.any_fence),
        "a lost lease was released",
    ),
    "a withdrawal keeps the grant that won": Bug(
        bad.instead(lock_rules, "_withdraw", bad.keeps_what_won_the_race),
        "who withdrew holds it|was not given back",
    ),
    "a withdrawal takes out another": Bug(
        bad.instead(lock_rules, "_withdraw", bad.withdraws_the_first), "who withdrew is in line"
    ),
    "an overtaken acquire is granted": Bug(
        bad.instead(lock_rules, "_withdraw", bad.forgets_the_overtaken), "granted to who had left"
    ),
    "force takes from anybody": Bug(
        bad.instead(lock_rules, "_force_release", bad.takes_from_anybody),
        "ended too early|taken from somebody else|passed over",
    ),
    "force takes what it has not seen": Bug(
        bad.instead(lock_rules, "_force_release", bad.takes_what_it_has_not_seen),
        "ended too early|taken from somebody else|passed over",
    ),
    "holders are not told apart": Bug(
        bad.instead(lock_rules, "_check_reentrancy", bad.does_nothing), "a holder is there twice"
    ),
    "a try waits": Bug(
        bad.instead(lock_rules, "_outcome", bad.queues_a_try), "a try that does not wait waits"
    ),
    "a repeated acquire waits twice": Bug(
        bad.instead(lock_rules, "_acquire", bad.queues_again), "another line|there twice"
    ),
    "waiters of a dead session stay": Bug(
        bad.instead(lock_rules, "end_sessions", bad.ends_the_dead_holder_only),
        "a dead (waiter|holder)",
    ),
    "a session ends itself": Bug(
        bad.instead(lock_rules, "end_sessions", bad.ends_every_session), "too early"
    ),
}

BALLOTS = {
    "a repeated vote counts": Bug(
        bad.instead(ballot_rules, "vote", bad.counts_again(changed=False)), "no recount"
    ),
    "a changed vote counts": Bug(
        bad.instead(ballot_rules, "vote", bad.counts_again(changed=True)), "a vote was changed"
    ),
    "a vote counts after the decision": Bug(
        bad.instead(ballot_rules, "vote", bad.votes_after_the_decision),
        "a decided proposal changed|after the decision was refused|told something else",
    ),
    "a vote counts after the deadline": Bug(
        bad.instead(ballot_rules, "vote", bad.votes_after_the_deadline), "after the deadline"
    ),
    "the registry changes what is open": Bug(bad.weighs_by_today_s_registry, "no recount"),
    "the quorum has to be passed": Bug(
        bad.instead(ballot_rules, "_status", bad.status_if(operator.gt, operator.lt)),
        "not approved at its quorum",
    ),
    "the quorum is rounded down": Bug(
        bad.instead(ballot_rules, "propose", bad.rounds_the_quorum_down),
        "approved below its quorum|hopeless|more votes",
    ),
    "given up one vote early": Bug(
        bad.instead(ballot_rules, "_status", bad.status_if(operator.ge, operator.le)),
        "rejected too early",
    ),
    "never given up": Bug(
        bad.instead(ballot_rules, "_status", bad.status_if(operator.ge, lambda *_: False)),
        "it is hopeless",
    ),
    "weights do not count": Bug(
        bad.instead(ballot_rules, "_unit_of", bad.counts_heads), "no recount"
    ),
    "strangers vote": Bug(
        bad.instead(ballot_rules, "_unit_of", bad.lets_strangers_vote), "a stranger voted"
    ),
    "any weight may be named": Bug(
        bad.instead(ballot_rules, "_unit_of", bad.takes_any_weight), "with another weight"
    ),
    "the deadline decides again": Bug(
        bad.instead(ballot_rules, "due_us", bad.is_due_though_decided),
        "a decided proposal changed|due when it is not",
    ),
    "the deadline is one late": Bug(
        bad.instead(ballot_rules, "lapse", bad.misses_the_deadline_itself),
        "not when it is due|after the deadline",
    ),
    "open ones are removed": Bug(
        bad.instead(ballot_rules, "is_removable", bad.removes_open_ones),
        "an open proposal would be removed",
    ),
    "removed too early": Bug(
        bad.instead(ballot_rules, "is_removable", bad.removes_early), "removed at another age"
    ),
    "too many votes are asked for": Bug(
        bad.instead(ballot_rules, "_votes_needed", bad.needs_the_smallest_first), "fewer votes"
    ),
    "put again, it begins again": Bug(
        bad.instead(ballot_rules, "propose", bad.puts_it_anew), "put anew|another proposal"
    ),
    "another proposal has the id": Bug(
        bad.instead(ballot_rules, "_check_same", bad.takes_it_for_the_same),
        "another proposal has its id",
    ),
}

ACTED_TWICE = "acted twice|told something else|a repeated request was refused|another kind"
REPLICA = {
    "requests are not remembered": Bug(
        bad.instead(replica, "remember", bad.remembers_nothing), ACTED_TWICE
    ),
    "requests are forgotten early": Bug(
        bad.instead(requests, "_memory_us", bad.forgets_early(own=False)), ACTED_TWICE
    ),
    "the memory's own are forgotten early": Bug(
        bad.instead(requests, "_memory_us", bad.forgets_early(own=True)), ACTED_TWICE
    ),
    "requests are remembered for good": Bug(
        bad.instead(replica, "recall", bad.remembers_for_good),
        "a request did nothing|fence was refused|fence was accepted",
    ),
    "an answer to another question": Bug(
        bad.instead(replica, "recall", bad.takes_any_kind), "another kind of call was accepted"
    ),
    "agents share their ids": Bug(
        bad.instead(requests, "_key", bad.shares_ids),
        f"a request did nothing|fence was (refused|accepted)|{ACTED_TWICE}",
    ),
    "a put is not fenced": Bug(bad.fences_not("put"), "a stale fence was accepted"),
    "a delete is not fenced": Bug(bad.fences_not("delete"), "a stale fence was accepted"),
    "an observation is not fenced": Bug(bad.fences_not("observe"), "a stale fence was accepted"),
    "a fence is judged by what was": Bug(
        bad.instead(Draft, "is_current", bad.fences_by_what_was), "a stale fence was accepted"
    ),
    "a fence counts for any lock": Bug(
        bad.instead(Draft, "is_current", bad.fences_of_any_lock), "a stale fence was accepted"
    ),
    "nothing is ever due": Bug(
        bad.instead(DueTimes, "by", bad.finds_nothing_due), "that ran out was left|overdue proposal"
    ),
    "nobody is told what is due": Bug(bad.knows_no_time, "nobody will see to it"),
    "deadlines pass unnoticed": Bug(
        bad.instead(Draft, "lapse_ballots", bad.does_nothing), "an overdue proposal was left"
    ),
    "leases pass unnoticed": Bug(
        bad.instead(Draft, "lapse_locks", bad.does_nothing), "a lease that ran out was left"
    ),
    "a new session ends nothing": Bug(
        bad.instead(Draft, "end_sessions", bad.does_nothing), "a dead holder"
    ),
    "terms do not grow": Bug(bad.table(bad.counts_fences(of="election/")), "no greater term"),
    "locks are not stored": Bug(
        bad.instead(Coordination, "commit", bad.stores_no_locks), "not stored"
    ),
    "a refusal leaves what had run out": Bug(
        bad.instead(Draft, "_take_lock", bad.changes_before_it_accepts),
        "a refusal left something behind|acted twice",
    ),
    "open proposals are cleaned up": Bug(
        bad.instead(ballot_rules, "is_removable", bad.removes_open_ones),
        "an open proposal was removed",
    ),
}


def find(machine: type[RuleBasedStateMachine], within: settings = BOUNDED) -> str:
    """What is wrong, in the machine's words; empty if it finds nothing."""
    try:
        run_state_machine_as_test(machine, settings=within)
    except AssertionError as error:
        return str(error) or f"unnamed: {traceback.extract_tb(error.__traceback__)[-1].line}"
    return ""


@pytest.mark.parametrize("bug", LOCKS.values(), ids=LOCKS.keys())
def test_a_bug_in_a_rule_of_locks_is_found(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the bounds, and called what it is."""
    _check(bug, LockMachine, monkeypatch)


@pytest.mark.parametrize("bug", BALLOTS.values(), ids=BALLOTS.keys())
def test_a_bug_in_a_rule_of_ballots_is_found(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the bounds, and called what it is."""
    _check(bug, BallotMachine, monkeypatch)


@pytest.mark.parametrize("bug", REPLICA.values(), ids=REPLICA.keys())
def test_a_bug_in_the_replica_is_found(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the bounds, and called what it is."""
    _check(bug, CoordinationMachine, monkeypatch)


def _check(bug: Bug, machine: type[RuleBasedStateMachine], monkeypatch: pytest.MonkeyPatch) -> None:
    """Found, and by its own name; what else it breaks may be come upon first.

    Which examples come first depends on more than this file: Hypothesis also tries constants of
    whatever modules are loaded.
    """
    bug.plant(monkeypatch)
    said: list[str] = []
    for number in range(SEEDS):
        said.append(find(seed(number)(type(machine.__name__, (machine,), {}))))
        if re.search(bug.said, said[-1]):
            return
    raise AssertionError(said)


@pytest.mark.parametrize("machine", [LockMachine, BallotMachine, CoordinationMachine])
def test_the_same_examples_find_nothing_in_the_rules_as_they_are(
    machine: type[RuleBasedStateMachine],
) -> None:
    """What finds the planted faults is quiet without them."""
    assert find(machine, settings(BOUNDED, max_examples=60)) == ""
