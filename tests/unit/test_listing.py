"""What there is to be listed: agents, keys a page at a time, an agent's newest decisions."""

from __future__ import annotations

import pytest

from nt_memory import Policy, Trajectory
from nt_memory.errors import InvalidInputError, PermissionDeniedError


def decision(agent, name, at, action_type="trade"):
    return Trajectory(agent, id=name).add_action(action_type, {"n": name}, at=at)


def test_agents_lists_who_has_stored_something(live):
    """Every agent once, by name, whether it has keys or decisions, also if they were deleted."""

    async def body(memory):
        assert await memory.agents() == []
        for agent in ("b", "a", "a.1", "a-1", "Z", "b2"):
            await memory.put(agent, "x", 1)
            await memory.put(agent, "x/y", 1)
        await memory.delete("b2", "x")
        await memory.track_trajectory(Trajectory("judge", id="t").add_action("look", {}))
        assert await memory.agents() == ["Z", "a", "a-1", "a.1", "b", "b2", "judge"]
        # Names only: an agent that may read nothing else still sees who is there.
        await memory.set_policy("a", Policy())
        assert len(await memory.as_agent("a").agents()) == 7

    live(body)


def test_scan_goes_on_after_a_key(live, collect):
    """`after` leaves out everything up to a key, so that pages of one moment are the whole."""

    async def body(memory):
        keys = sorted(f"orders/{n}" for n in range(30))
        for key in [*keys, "a", "z"]:
            await memory.put("a", key, 1)
        revision, pages, last = memory.revision, [], ""
        await memory.delete("a", keys[20])
        while True:
            page = [
                r.key
                for r in await collect(memory.scan("a", "orders/", after=last, as_of=revision))
            ]
            if not page:
                break
            pages += page[:7]
            last = page[:7][-1]
        assert pages == keys
        assert [r.key for r in await collect(memory.scan("a", after="orders/9"))] == ["z"]
        assert [r.key for r in await collect(memory.scan("a", "orders/", after="a"))][:2] == keys[
            :2
        ]

    live(body)


def test_recent_actions_come_newest_first(live, clock, later):
    """By when they were taken, a page at a time, as of any moment, forgotten ones left out."""

    async def body(memory):
        bank = memory.bank
        for n in range(6):
            await memory.track_trajectory(
                decision("a", f"t{n}", later(-n), "trade" if n % 2 else "hedge")
            )
        await memory.track_trajectory(decision("b", "other", later(0)))
        revision = memory.revision
        newest = (await bank.recent("a"))[0]
        assert (newest.at, newest.action_type, newest.ref.agent) == (later(0), "hedge", "a")
        names = [one.ref.trajectory_id for one in await bank.recent("a")]
        assert names == ["t0", "t1", "t2", "t3", "t4", "t5"]
        assert [r.ref.trajectory_id for r in await bank.recent("a", 2, skip=2)] == ["t2", "t3"]
        assert [r.ref.trajectory_id for r in await bank.recent("a", action_type="trade")] == [
            "t1",
            "t3",
            "t5",
        ]
        await bank.forget(["t0"])
        clock.advance(1)
        assert [r.ref.trajectory_id for r in await bank.recent("a", 1)] == ["t1"]
        assert [r.ref.trajectory_id for r in await bank.recent("a", 1, as_of=revision)] == ["t0"]
        early = await bank.recent("a", as_of=later(-4.5))
        assert [r.ref.trajectory_id for r in early] == ["t4", "t5"]
        assert await bank.recent("nobody") == []
        assert await bank.recent("a", action_type="none") == []
        for wrong in ({"limit": 0}, {"skip": -1}):
            with pytest.raises(InvalidInputError):
                await bank.recent("a", **wrong)
        await memory.set_policy("c", Policy(read=("c/**",)))
        with pytest.raises(PermissionDeniedError):
            await memory.as_agent("c").bank.recent("a")

    live(body)
