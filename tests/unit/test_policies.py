"""Who may do what: policies in the order of entries, and handles that keep to them."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import fields

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from nt_memory import MemoryConfig, MemorySystem, Policy, Proposal, Trajectory, Vote
from nt_memory.errors import (
    InvalidInputError,
    InvalidNameError,
    PermissionDeniedError,
    UnsupportedError,
)
from nt_memory.replica.policies import RIGHTS
from nt_memory.topics import compile_pattern, covers

EVERYTHING = Policy(**dict.fromkeys(RIGHTS, ("**",)))
NOTHING = Policy()
EMBEDDING = [1.0, 0.0]


async def refused(awaitable, right, target=None):
    """The refusal of a call, which must be one, of this right."""
    with pytest.raises(PermissionDeniedError) as raised:
        await awaitable
    assert raised.value.right == right
    if target is not None:
        assert raised.value.target == target
    assert not raised.value.retryable
    return raised.value


# --- a handle is the memory in an agent's name -----------------------------------------------


def test_what_a_handle_writes_is_its_agents(live, collect):
    """Every kind of entry carries the agent as actor: puts, votes, locks, renewals, transactions."""

    async def body(memory):
        agent = memory.as_agent("a")
        before = memory.revision
        await agent.put("b", "k", 1)
        await agent.observe("b", EMBEDDING, key="o")
        await agent.observe_many("b", [EMBEDDING], keys=["p"])
        await agent.put("b", "large", b"x" * (2 << 20))
        async with agent.transaction() as tx:
            tx.put("b", "k", 2)
        token = await agent.acquire_lock("r")
        await agent.renew_lock(token)
        await agent.release_lock(token)
        async with agent.lock("r"):
            pass
        async with agent.elections.campaign("c") as campaign:
            term = await anext(campaign)
            await term.resign()
        await agent.consensus.register_agent("a")
        proposal_id = await agent.consensus.submit_proposal(Proposal("a", 1))
        await agent.consensus.vote(Vote(proposal_id, "a", approve=True))
        await agent.bank.define("f", target="x", unit="1", horizon=1)
        await agent.set_quota("b", max_keys=100)
        await agent.delete("b", "k")
        count = memory.revision - before
        entries = await collect(memory.tail(before), count)
        assert count == 17
        assert {entry.actor for entry in entries} == {"a"}
        assert (await memory.get_record("b", "o")).actor == "a"
        await memory.put("b", "k", 3)
        assert (await memory.get_record("b", "k")).actor == "", "nothing leaks out of the handle"

    live(body)


def test_what_is_given_back_in_an_agents_name_is_so_after_a_cancellation(live, collect):
    """A withdrawal, and a release at the end of a block, are the agent's too."""

    async def body(memory):
        agent = memory.as_agent("a")
        held = await memory.acquire_lock("r", holder="root")
        before = memory.revision
        waiting = asyncio.ensure_future(agent.acquire_lock("r", 60.0))
        while not memory.inspect_lock("r").waiters:
            await memory.flush()
        waiting.cancel()
        while memory.inspect_lock("r").waiters:
            await memory.flush()
        entries = await collect(memory.tail(before), 2)
        assert [(entry.kind, entry.actor) for entry in entries] == [
            ("acquire", "a"),
            ("withdraw", "a"),
        ]
        await memory.release_lock(held)

    live(body)


def test_requests_of_agents_are_their_own(live):
    """The same id from two agents is two requests; from one, through two handles, it is one."""

    async def body(memory):
        one = await memory.as_agent("a").put("k", "x", 1, request_id="r")
        two = await memory.as_agent("b").put("k", "x", 2, request_id="r")
        assert one != two
        assert await memory.as_agent("a").put("k", "x", 3, request_id="r") == one
        assert await memory.get("k", "x") == 2

    live(body)


def test_a_handle_has_every_call_or_refuses_it(live):
    """No public call reaches the memory past the table: one that is added later is closed."""
    from nt_memory.system import agents

    async def body(memory):
        handle = memory.as_agent("a")
        for made, whole in (
            (handle, MemorySystem),
            (handle.bank, type(memory.bank)),
            (handle.consensus, type(memory.consensus)),
            (handle.elections, type(memory.elections)),
            (handle.timeline, type(memory.timeline)),
        ):
            for name in dir(whole):
                there = inspect.getattr_static(whole, name)
                if not name.startswith("_") and inspect.isfunction(there):
                    here = inspect.getattr_static(type(made), name)
                    is_own = here.__qualname__.startswith(type(made).__name__)
                    is_through = (name, here) in THROUGH
                    assert hasattr(here, "__wrapped__") or is_own or is_through, name
        for call in (handle.consensus.close, handle.bank.follow, handle.consensus.follow):
            with pytest.raises(UnsupportedError, match="a's handle"):
                call(None)

    through = ("at", "track_trajectory", "track_many", "record_outcome", "record_outcomes")
    THROUGH = {(name, inspect.getattr_static(MemorySystem, name)) for name in through}  # noqa: N806
    assert agents.AgentMemory.at is MemorySystem.at
    live(body)


def test_a_call_that_no_table_names_is_refused(live):
    """What is inherited and not listed raises, rather than running unchecked."""
    from nt_memory.system import rights

    class Whole:
        def __init__(self):
            self.rights, self.agent, self.whole = None, "a", self

        def listed(self):
            return 1

        def forgotten(self):
            return 2

    class Handle(Whole):
        pass

    handle = rights.of_agent(Whole, {"listed": rights.free})(Handle)()
    assert handle.listed() == 1
    with pytest.raises(UnsupportedError, match="forgotten"):
        handle.forgotten()


def test_closing_a_handle_closes_nothing(store, clock, run):
    """The memory and its other handles go on; a handle of a closed memory says that it is closed."""
    from nt_memory.errors import ClosedError

    async def body():
        async with MemorySystem.open(store, clock=clock) as memory:
            async with memory.as_agent("a") as agent:
                await agent.put("a", "k", 1)
            assert await agent.get("a", "k") == 1
            with pytest.raises(InvalidNameError):
                memory.as_agent("a/b")
        for call in (agent.get_record("a", "k"), agent.put("a", "k", 2), agent.publish("t", 1)):
            with pytest.raises(ClosedError):
                await call
        with pytest.raises(ClosedError):
            memory.as_agent("a")

    run(body())


# --- what a policy allows --------------------------------------------------------------------


def test_without_a_policy_everything_is_allowed(live):
    """Policies are optional: agents without one are not held to anything."""

    async def body(memory):
        agent = memory.as_agent("a")
        assert memory.policy("a") is None
        await agent.put("b", "k", 1)
        assert await agent.get("b", "k") == 1
        await agent.set_policy("b", NOTHING)
        await agent.put("c", "k", 1)

    live(body)


def test_every_right_is_needed_for_what_it_names(live):
    """With everything but one right, what takes that right is refused and all else goes through."""

    async def calls(agent, memory, name):
        await memory.consensus.register_agent(name)
        open_id = await memory.consensus.submit_proposal(Proposal(name, 1, quorum=1.0))
        return {
            "read": lambda: agent.get("x", "k"),
            "write": lambda: agent.put("x", "k", 1),
            "publish": lambda: agent.publish("t", 1),
            "subscribe": lambda: agent.subscribe("t"),
            "lock": lambda: agent.acquire_lock("r" + name),
            "propose": lambda: agent.consensus.submit_proposal(Proposal(name, 2)),
            "vote": lambda: agent.consensus.vote(Vote(open_id, name, approve=True)),
            "operate": lambda: agent.set_quota("x", max_keys=9),
        }

    async def body(memory):
        for number, missing in enumerate(RIGHTS):
            name = f"a{number}"
            agent = memory.as_agent(name)
            allowed = {right: ("**",) for right in RIGHTS if right != missing}
            await memory.set_policy(name, Policy(**allowed))
            made = await calls(agent, memory, name)
            assert made.keys() == set(RIGHTS) == {field.name for field in fields(Policy)}
            for right, call in made.items():
                if right == missing:
                    error = await refused(call(), right)
                    assert (error.agent, error.patterns) == (name, ())
                else:
                    await call()
        assert memory.stats().denied == len(RIGHTS)

    live(body)


def test_refusals_name_agent_right_target_and_patterns(live):
    """Enough to see which policy to change, in the message and in the attributes."""

    async def body(memory):
        await memory.set_policy("a", Policy(write=("a/**", "shared/plan")))
        error = await refused(memory.as_agent("a").put("b", "x/y", 1), "write", "b/x/y")
        assert (error.agent, error.patterns) == ("a", ("a/**", "shared/plan"))
        assert str(error) == "a may not write 'b/x/y'; its policy allows: a/**, shared/plan"

    live(body)


def test_a_policy_of_its_own_stands_before_the_one_for_all(live):
    """Agents without one have that for all others; taking a policy back puts that in force again."""

    async def body(memory):
        await memory.set_policy(None, Policy(read=("**",)))
        await memory.set_policy("a", Policy(write=("a/*",)))
        a, b = memory.as_agent("a"), memory.as_agent("b")
        await a.put("a", "k", 1)
        await refused(a.get("a", "k"), "read")
        assert await b.get("a", "k") == 1
        await refused(b.put("a", "k", 2), "write")
        assert memory.policy("b") == Policy(read=("**",))
        await memory.set_policy("a", None)
        assert await a.get("a", "k") == 1
        await refused(a.put("a", "k", 2), "write")
        await memory.set_policy(None, None)
        await b.put("a", "k", 3)
        assert memory.policy("a") is None

    live(body)


def test_an_agent_cannot_lift_its_own_policy(live):
    """Neither by setting it, nor for all, nor through another's handle, unless it may operate that."""

    async def body(memory):
        await memory.set_policy("a", Policy(read=("**",), write=("**",), operate=("set_quota",)))
        a = memory.as_agent("a")
        await refused(a.set_policy("a", None), "operate", "set_policy")
        await refused(a.set_policy(None, EVERYTHING), "operate", "set_policy")
        await refused(_call(a.as_agent, "b"), "operate", "as_agent/b")
        await a.set_quota("a", max_keys=5)
        await refused(a.set_retention("a", max_versions=1), "operate", "set_retention")
        await refused(a.compact(), "operate", "compact")
        await refused(a.snapshot("/nowhere"), "operate", "snapshot")
        await refused(a.export("/nowhere"), "operate", "export")
        await refused(a.consensus.cleanup_old(0), "operate", "cleanup_old")
        await refused(a.consensus.register_agent("a"), "operate", "register_agent/a")
        await refused(a.force_release("r"), "operate", "force_release/r")

    live(body)


async def _call(function, *args):
    return function(*args)


def test_the_replica_refuses_whatever_the_caller_thinks(live):
    """A write that passed the early look, since the policy was not visible yet, is refused in order."""

    async def body(memory):
        a = memory.as_agent("a")
        await memory.set_policy("other", NOTHING)
        # Submitted in one turn of the loop: nothing of them is visible to the other.
        outcomes = await asyncio.gather(
            memory.set_policy("a", NOTHING),
            a.put("a", "k", 1),
            a.acquire_lock("r"),
            a.put("a", "again", 1, request_id="x"),
            return_exceptions=True,
        )
        assert isinstance(outcomes[0], int)
        assert [type(one) for one in outcomes[1:]] == [PermissionDeniedError] * 3
        assert await memory.get("a", "k") is None
        assert memory.list_locks() == []
        assert memory.stats().denied == 3
        await memory.set_policy("a", EVERYTHING)
        await a.put("a", "again", 2, request_id="x")
        assert await memory.get("a", "again") == 2, "a refused request is not remembered"

    live(body)


def test_bulk_observations_are_judged_by_every_key(live):
    """One key that is not allowed has its whole entry refused, seen early or not."""

    async def body(memory):
        await memory.set_policy("a", Policy(write=("a/ok/*",)))
        a = memory.as_agent("a")
        two = [EMBEDDING, [0.0, 1.0]]
        await a.observe_many("a", two, keys=["ok/1", "ok/2"])
        await refused(a.observe_many("a", two, keys=["ok/3", "no"]), "write", "a/no")
        await refused(a.observe_many("b", two, keys=["ok/3", "ok/4"]), "write", "b/ok/3")
        await refused(a.observe_many("a", two), "write")
        await memory.set_policy("a", EVERYTHING)
        outcomes = await asyncio.gather(
            memory.set_policy("a", NOTHING),
            a.observe_many("a", two, keys=["late/1", "late/2"]),
            return_exceptions=True,
        )
        assert isinstance(outcomes[1], PermissionDeniedError)
        hits = await memory.search_similar("a", EMBEDDING, 10)
        assert {hit.key for hit in hits} == {"ok/1", "ok/2"}

    live(body)


def test_most_of_what_is_refused_never_reaches_the_journal(live):
    """An agent that keeps on trying does not fill the disk."""

    async def body(memory):
        await memory.set_policy("a", NOTHING)
        await memory.flush()
        before = memory.stats().journal_bytes
        for _ in range(50):
            await refused(memory.as_agent("a").put("a", "k", "x" * 1000), "write")
            await refused(memory.as_agent("a").put("a", "k", b"x" * (2 << 20)), "write")
        assert memory.stats().journal_bytes == before
        assert memory.stats().value_bytes == 0

    live(body)


def test_policies_outlive_reopening_compaction_and_export(live, store, tmp_path, run):
    """They are part of what the store holds."""
    from nt_memory import import_store

    policy = Policy(read=("a/**", "market/*"), vote=("*",))

    async def make(memory):
        await memory.set_policy("a", policy)
        await memory.set_policy(None, Policy(read=("**",)))

    async def check(memory):
        assert memory.policy("a") == policy
        assert memory.policy("b") == Policy(read=("**",))
        await refused(memory.as_agent("a").put("a", "k", 1), "write")

    async def keep(memory):
        await check(memory)
        await memory.compact()
        await check(memory)
        await memory.export(tmp_path / "all.jsonl")

    live(make)
    live(keep)
    live(check)
    import_store(tmp_path / "all.jsonl", tmp_path / "copy")

    async def copied():
        async with MemorySystem.open(tmp_path / "copy") as memory:
            await check(memory)

    run(copied())


def test_a_follower_sees_policies_in_its_handles(live, store, run):
    """Reads are judged by what is visible in the process that makes them."""

    async def body(memory):
        await memory.put("a", "k", 1)
        await memory.set_policy("a", Policy(read=("b/*",)))
        async with MemorySystem.open(store, read_only=True) as follower:
            await refused(follower.as_agent("a").get("a", "k"), "read")
            assert await follower.as_agent("b").get("a", "k") == 1
            # Set behind the follower's opening, for somebody it had no policy of.
            revision = await memory.set_policy("b", NOTHING)
            await follower.sync()
            await follower.wait_for(revision)
            await refused(follower.as_agent("b").get("a", "k"), "read")

    live(body)


def test_a_follower_opened_before_any_policy_keeps_to_the_first(live, store, run):
    """It had none when it opened, and does not go on as if there were none."""

    async def body(memory):
        await memory.put("a", "k", 1)
        async with MemorySystem.open(store, read_only=True) as follower:
            agent = follower.as_agent("a")
            assert await agent.get("a", "k") == 1
            revision = await memory.set_policy("a", NOTHING)
            await follower.sync()
            await follower.wait_for(revision)
            await refused(agent.get("a", "k"), "read")

    live(body)


def test_a_configured_agent_is_held_to_its_policy(store, run, clock):
    """`MemoryConfig(agent=)` names who writes without a handle; the store's own entries still go on."""

    async def body():
        config = MemoryConfig(storage_path=store, agent="a")
        async with MemorySystem.open(config, clock=clock) as memory:
            await memory.put("a", "k", 1, ttl=5.0)
            await memory.set_policy("a", Policy(write=("a/mine",)))
            await memory.put("a", "mine", 1)
            await refused(memory.put("a", "k", 2), "write", "a/k")
            await memory.as_agent("b").put("a", "k", 3)
        async with MemorySystem.open(config, clock=clock) as memory:
            assert await memory.get("a", "k") == 3
            await refused(memory.put("a", "k", 2), "write", "a/k")

    run(body())


# --- reads ------------------------------------------------------------------------------------


def test_every_way_to_read_is_held_to_the_policy(live):
    """State, history, feeds, views, search and the bank: none gives what `get` would not."""

    async def body(memory):
        await memory.put("b", "secret", 1)
        await memory.observe("b", EMBEDDING, "secret", key="o")
        trajectory = Trajectory("b")
        await memory.bank.define("f", target="x", unit="1", horizon=1)
        trajectory.add_observation({}, embedding=EMBEDDING)
        trajectory.add_action("f", predicted_outcome=1.0)
        await memory.track_trajectory(trajectory)
        await memory.set_policy("a", Policy(read=("a/**", "b/open/**", "*/open"), write=("a/**",)))
        a = memory.as_agent("a")
        bank = a.bank
        at = a.at(memory.revision)
        for awaitable in (
            a.get("b", "secret"),
            a.get("b", "secret", None),
            a.get(agent="b", key="secret"),
            a.get("b", "secret", as_of=memory.revision),
            a.get_record("b", "secret"),
            a.get_many([("a", "k"), ("b", "secret")]),
            a.get_many(iter([("b", "secret")])),
            at.get("b", "secret"),
            at.get_record("b", "secret"),
            at.search_similar("b", EMBEDDING),
            at.patterns("b"),
            at.map("b"),
            a.map("b"),
            at.advise("b", EMBEDDING),
            a.search_similar("b", EMBEDDING),
            a.explain_similar("b", EMBEDDING),
            a.search_many("b", [EMBEDDING]),
            a.search_similar(["a", "b"], EMBEDDING),
            a.search_similar({"b"}, EMBEDDING),
            a.search_similar(agent=("b",), query_embedding=EMBEDDING),
            _call(a.peek, "b", "secret"),
            _call(a.pin, "b", "secret"),
            _call(a.history, "b", "secret"),
            _call(a.scan, "b"),
            _call(a.scan, "b", "o"),
            _call(a.scan, "b", "open"),
            _call(at.scan, "b"),
            _call(a.watch, "b"),
            _call(a.watch, "b", "secret"),
            _call(a.tail),
            _call(a.usage, "b"),
            bank.trajectory(trajectory.id),
            bank.receipt(trajectory.id),
            bank.judge(trajectory.id),
            bank.judge(trajectory),
            bank.judge_batch([trajectory.id]),
            bank.trajectories("b"),
            bank.patterns("b"),
            bank.distill("b"),
            bank.calibration("b"),
            bank.uplift("b"),
            bank.advise(["a", "b"], EMBEDDING, action_type="f"),
            bank.vote_weights(["b"]),
            bank.frame("trajectories"),
        ):
            await refused(awaitable, "read")
        await refused(a.track_trajectory(Trajectory("b")), "write", "b/**")
        await refused(bank.track_many([Trajectory("a"), Trajectory("b")]), "write", "b/**")
        own = Trajectory("a")
        own.add_observation({}, embedding=EMBEDDING)
        own.add_action("f", predicted_outcome=1.0)
        await a.track_trajectory(own)
        await a.record_outcome(own.id, 1.0)
        assert (await bank.trajectory(own.id)).agent_id == "a"
        assert len(await bank.judge(own.id)) == 1
        await bank.forget([own.id])
        await refused(a.record_outcome(trajectory.id, 1.0), "write", "b/**")
        await refused(bank.forget([trajectory.id]), "write", "b/**")
        await refused(bank.define("g", target="x", unit="1", horizon=1), "write", "_swarm/**")

    live(body)


def test_what_the_policy_allows_is_read_as_ever(live, collect):
    """The handle gives what the memory gives: values, records, pins, scans, hits, views."""

    async def body(memory):
        a = memory.as_agent("a")
        await memory.put("b", "open/x/1", 1)
        await memory.put("b", "open/x/2", 2)
        await memory.put("m", "open", 3)
        await memory.observe("a", EMBEDDING, "mine", key="o")
        await memory.set_policy("a", Policy(read=("a/**", "b/open/**", "*/open")))
        assert await a.get("b", "open/x/1") == 1
        assert await a.get("nobody", "open", "default") == "default"
        assert await a.get_many([("b", "open/x/2"), ("m", "open")]) == [2, 3]
        assert [r.key for r in await collect(a.scan("b", "open/"))] == ["open/x/1", "open/x/2"]
        assert [r.key for r in await collect(a.scan("b", "open/x/"))] == ["open/x/1", "open/x/2"]
        assert [r.value for r in await collect(a.history("m", "open"))] == [3]
        assert a.peek("m", "open") == 3
        assert a.pin("m", "open").value == 3
        (hit,) = await a.search_similar("a", EMBEDDING)
        assert hit.data == "mine"
        watch = a.watch("b", "open/", after=0)
        assert (await anext(watch)).key == "open/x/1"
        assert await a.at(memory.revision).get("m", "open") == 3
        assert await a.bank.trajectory("nothing") is None
        with pytest.raises(InvalidInputError, match="collection"):
            await a.search_similar(iter(["a"]), EMBEDDING)
        with pytest.raises(TypeError):
            await a.get("a")

    live(body)


def test_a_right_taken_back_ends_at_once_for_reads_and_with_the_lease_for_locks(live):
    """Reads are refused from then on; a lock can be given back, not renewed, and its fence holds."""

    async def body(memory):
        await memory.set_policy("a", EVERYTHING)
        a = memory.as_agent("a")
        token = await a.acquire_lock("r", lease=60.0)
        await memory.set_policy("a", Policy(write=("**",)))
        await refused(a.get("a", "k"), "read")
        await refused(a.renew_lock(token), "lock")
        assert not token.lost.is_set()
        await a.put("a", "k", 1, fence=token)
        await a.release_lock(token)
        assert memory.inspect_lock("r").holder == ""

    live(body)


def test_a_block_whose_right_was_taken_back_stops_renewing(live, clock):
    """It asks once, is refused, and its lock ends with the lease; the block is told."""

    async def body(memory):
        await memory.set_policy("a", EVERYTHING)
        async with memory.as_agent("a").lock("r", lease=9.0) as token:
            await memory.set_policy("a", NOTHING)
            for _ in range(10):
                clock.advance(0.8)
                for _ in range(5):
                    await memory.flush()
            assert memory.stats().denied == 1
            assert not token.lost.is_set()
            clock.advance(1.0)
            assert token.lost.is_set()
        assert memory.inspect_lock("r").holder == ""

    live(body)


# --- acting for others -----------------------------------------------------------------------


def test_nobody_acts_for_another(live):
    """Votes, proposals, and locks of others: the right to do so oneself is not enough."""
    from nt_memory import LockToken

    async def body(memory):
        await memory.set_policy(None, Policy(lock=("**",), vote=("**",), propose=("**",)))
        a, b = memory.as_agent("a"), memory.as_agent("b")
        for name in ("a", "b"):
            await memory.consensus.register_agent(name)
        proposal_id = await a.consensus.submit_proposal(Proposal("a", 1, quorum=1.0))
        await refused(b.consensus.submit_proposal(Proposal("a", 1)), "propose")
        await refused(b.consensus.vote(Vote(proposal_id, "a", approve=True)), "vote")
        await b.consensus.vote(Vote(proposal_id, "b", approve=True))
        token = await a.acquire_lock("r")
        forged = LockToken("r", "b", token.fence, 30.0, token.lost)
        await refused(b.release_lock(forged), "lock", "r")
        await refused(b.renew_lock(forged), "lock", "r")
        assert memory.inspect_lock("r").fence == token.fence
        await a.renew_lock(token)
        await a.release_lock(token)

    live(body)


def test_elections_are_locks_to_a_policy(live):
    """Standing takes the right to lock `election/<name>`; asking who leads takes none."""

    async def body(memory):
        await memory.set_policy("a", Policy(lock=("election/c",)))
        a = memory.as_agent("a")
        async with a.elections.campaign("c") as campaign:
            await anext(campaign)
            assert a.elections.leader("c").candidate.startswith("a@")
        with pytest.raises(PermissionDeniedError):
            await anext(a.elections.campaign("d"))
        assert a.elections.leader("d") is None

    live(body)


# --- messages ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allowed", "wanted", "is_allowed"),
    [
        ("a/*", "a/*", True),
        ("a/*", "a/x", True),
        ("a/*", "a/**", False),
        ("a/*", "a/x/y", False),
        ("a/*", "*/x", False),
        ("a/*", "**", False),
        ("a/**", "a/*", True),
        ("a/**", "a/*/x", True),
        ("a/**", "a/**", True),
        ("a/**", "a", False),
        ("*/x", "a/x", True),
        ("*/x", "*/x", True),
        ("*/x", "*/*", False),
        ("**", "**", True),
        ("a", "a", True),
        ("a", "*", False),
    ],
)
def test_a_subscription_hears_no_more_than_allowed(live, allowed, wanted, is_allowed):
    """A pattern may be subscribed to only if all that it could match is allowed."""

    async def body(memory):
        await memory.set_policy("a", Policy(subscribe=(allowed,)))
        call = memory.as_agent("a").subscribe(wanted)
        if is_allowed:
            await call
        else:
            await refused(call, "subscribe", wanted)
            assert memory.stats().subscribers == 0

    live(body)


def test_requests_take_the_right_to_publish_and_replies_none(live):
    """Who got a request may answer it; the answer reaches only who asked."""

    async def body(memory):
        await memory.set_policy("asks", Policy(publish=("ask/*",)))
        await memory.set_policy("answers", Policy(subscribe=("ask/**",)))
        asks, answers = memory.as_agent("asks"), memory.as_agent("answers")
        await refused(asks.request("other", 1), "publish", "other")
        rx = await answers.subscribe("ask/*")
        asked = asyncio.ensure_future(asks.request("ask/price", "AAPL"))
        message = await rx.recv_message()
        await refused(answers.publish("ask/price", 1), "publish")
        await answers.reply(message, 190.5)
        assert await asked == 190.5

    live(body)


# --- no way around by names (guarantee 9) -----------------------------------------------------


LEVELS = st.lists(
    st.sampled_from(["a", "b", "*", "**", "x*", ".", "%2f", "\xe9", "e\u0301"]), max_size=4
)


@settings(max_examples=300, deadline=None)
@given(mine=LEVELS, theirs=LEVELS, path=LEVELS)
def test_what_is_covered_is_matched(mine, theirs, path):
    """`covers` says yes only where whatever the one pattern matches the other matches too."""
    from nt_memory.errors import InvalidNameError as Bad
    from nt_memory.topics import check_pattern

    one, two, name = ("/".join(levels) or "a" for levels in (mine, theirs, path))
    try:
        check_pattern(one)
        check_pattern(two)
    except Bad:
        return
    if covers(one, two) and compile_pattern(two)(name):
        assert compile_pattern(one)(name)
    assert covers(one, one)
    assert covers("**", one)


class Sly(str):
    """A name that says it is another: equal to it, spelled and split like it, hashed like it."""

    __slots__ = ()

    def __eq__(self, other):
        return True

    def __hash__(self):
        return hash("a")

    def __str__(self):
        return "a"

    def __format__(self, spec):
        return "a"

    def split(self, *_):
        return ["a"]

    def startswith(self, *_):
        return True

    def encode(self, *_):
        return b"a"


@pytest.mark.parametrize(
    "key",
    [
        "a/../b",
        "..",
        "*",
        "**",
        "%2e%2e",
        "a%2Fb",
        "a\\b",
        "\xe1",
        "a\u0301",
        "A",
        "a ",
        "．．",
        "a／b",
    ],
)
def test_no_spelling_of_a_key_escapes_its_pattern(live, key):
    """Keys are compared character by character; wildcards in a key are characters of it."""

    async def body(memory):
        await memory.set_policy("a", Policy(read=("a/a",), write=("a/a",)))
        a = memory.as_agent("a")
        for call in (a.put("a", key, 1), a.get("a", key), a.delete("a", key)):
            with pytest.raises((PermissionDeniedError, InvalidNameError)):
                await call
        await memory.set_policy("a", Policy(read=("a/*",), write=("a/*",)))
        if "/" not in key and key != "..":
            await a.put("a", key, 1)
            assert await a.get("a", key) == 1
        await refused(a.put("b", "a", 1), "write")

    live(body)


def test_names_that_pretend_do_not_get_through(live):
    """A subclass of `str` counts by its characters, for rights as for names."""

    async def body(memory):
        await memory.put("b", "secret", 1)
        await memory.set_policy("a", Policy(**dict.fromkeys(RIGHTS, ("a", "a/**"))))
        a = memory.as_agent("a")
        for awaitable in (
            a.get(Sly("b"), Sly("secret")),
            a.get_record("b", Sly("secret")),
            a.get_many([(Sly("b"), Sly("secret"))]),
            _call(a.scan, Sly("b")),
            _call(a.peek, Sly("b"), "secret"),
            a.put(Sly("b"), Sly("secret"), 2),
            a.search_similar(Sly("b"), EMBEDDING),
            a.search_similar([Sly("b")], EMBEDDING),
            a.publish(Sly("b"), 1),
            a.subscribe(Sly("b")),
            a.subscribe(Sly("**")),
            a.acquire_lock(Sly("b")),
        ):
            with pytest.raises(PermissionDeniedError):
                await awaitable
        assert await memory.get("b", "secret") == 1

    live(body)


@pytest.mark.parametrize("pattern", ["", "a//b", "**/a", "a*", "*a/b", "a\nb", "x" * 257])
def test_malformed_patterns_are_refused(live, pattern):
    """They change nothing: the policy before stays in force."""

    async def body(memory):
        await memory.set_policy("a", Policy(read=("a/**",)))
        with pytest.raises(InvalidNameError):
            await memory.set_policy("a", Policy(read=(pattern,)))
        assert memory.policy("a") == Policy(read=("a/**",))

    live(body)


@pytest.mark.parametrize("patterns", ["a/**", (1,), ("a",) * 257])
def test_malformed_rights_are_refused(live, patterns):
    """One string is not a collection of them."""

    async def body(memory):
        with pytest.raises(InvalidInputError):
            await memory.set_policy("a", Policy(read=patterns))
        assert memory.policy("a") is None
        with pytest.raises(InvalidNameError):
            await memory.set_policy("a/b", NOTHING)

    live(body)


def test_plain_code_has_handles_too(store):
    """Without await the same refusals; closing a handle leaves the memory open."""
    with MemorySystem.open_sync(store) as memory:
        memory.set_policy("a", Policy(read=("a/*",), write=("a/*",), lock=("r",)))
        with memory.as_agent("a") as agent:
            agent.put("a", "k", 1)
            with agent.lock("r") as token:
                agent.put("a", "k", 2, fence=token)
            with pytest.raises(PermissionDeniedError):
                agent.get("b", "k")
            with pytest.raises(PermissionDeniedError):
                agent.bank.patterns("b")
            with pytest.raises(PermissionDeniedError):
                agent.consensus.register_agent("a")
        assert memory.get_record("a", "k").actor == "a"
