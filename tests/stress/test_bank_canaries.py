"""Ten thousand histories: no outcome that was planted after the moment asked is ever recalled.

The same promises as in `tests/property/test_bank_asof.py`, whose model this uses, over histories drawn
afresh each time. A failure prints the seed that repeats it.
"""

import asyncio
import json

import msgspec
import numpy as np
import pytest
import test_bank_asof as asof

from nt_memory.clock import to_us
from nt_memory.records import AsOf

pytestmark = pytest.mark.stress

HISTORIES = 10_000
PARTS = 8
KINDS = ("track", "outcome", "outcome", "late", "revise", "forget", "wait")
QUERY = [1.0, 0.5, 0.2]


def spelled(advice):
    """Every bit of an advice, its receipt included."""
    said = json.dumps(advice.to_dict(), sort_keys=True)
    return said.encode() + msgspec.msgpack.encode(advice.to_doc())


async def judge(rng):
    """One history, a moment in the middle of it, and canaries planted once the moment is over."""
    world = asof.World()
    await world.bank.define("x", target="x", unit="1", horizon=1)
    for number in rng.permutation(14).tolist():
        await world.step("track", number)
    for number in rng.permutation(12).tolist():
        await world.step("outcome", number)
    for kind in rng.choice(KINDS, int(rng.integers(4, 16))).tolist():
        await world.step(kind, int(rng.integers(200)))
    then, revision = to_us(world.clock.now()), world.backing.revision
    moment = AsOf(world.clock.now(), revision)
    agents = asof.AGENTS[: int(rng.integers(1, 4))]
    before = spelled(await asof.check(world, world.bank, agents, moment, then, revision))
    planted = {}
    for place in rng.permutation(len(world.tracked)).tolist():
        name, _, at = world.tracked[place]
        world.clock.advance(int(rng.integers(1, 50)))
        # Late ones are dated before the moment, and were not recorded by then.
        kind = str(rng.choice(("outcome", "revise", "late")))
        revision_before = world.backing.revision
        await asof.plant(world, kind, name, at)
        planted[name] = world.backing.revision > revision_before
    assert any(planted.values()) or not world.counting(asof.AGENTS, then, revision)
    # Nothing recorded since, however it is dated, counts by both clocks; a fresh bank, which takes in
    # all entries anew, says the same to the last bit.
    assert spelled(await asof.check(world, world.bank, agents, moment, then, revision)) == before
    fresh = world.new_bank()
    assert spelled(await asof.check(world, fresh, agents, moment, then, revision)) == before
    now = await world.bank.advise(agents, QUERY, action_type="x", k=1_000)
    again = await fresh.advise(agents, QUERY, action_type="x", k=1_000)
    assert spelled(now) == spelled(again)
    return sum(planted.values())


@pytest.mark.parametrize("part", range(PARTS))
def test_canaries_are_never_recalled(part):
    """Whatever the order in which outcomes come, those of after the moment change no bit of it."""
    seed = np.random.SeedSequence().entropy
    print(f"seed {seed}")
    planted = 0

    async def body():
        nonlocal planted
        for number in range(HISTORIES // PARTS):
            rng = np.random.default_rng([part, number, *np.atleast_1d(seed % 2**63)])
            try:
                planted += await judge(rng)
            except AssertionError as error:
                raise AssertionError(f"history {number} of part {part}, seed {seed}") from error

    asyncio.run(body())
    assert planted > 5 * HISTORIES // PARTS
