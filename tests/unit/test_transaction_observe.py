"""Observations in a transaction: written and searchable with the rest of it, or not at all."""

from __future__ import annotations

import pytest

from nt_memory import Policy
from nt_memory.errors import (
    ConflictError,
    DimensionError,
    EmbeddingError,
    InvalidInputError,
    PermissionDeniedError,
)


def test_observations_come_with_the_transaction(live, later):
    """One revision for puts, observations and deletes; found by likeness and tags when it returns."""

    async def body(memory):
        await memory.observe("a", [1.0, 0.0], "old", key="old")
        before = memory.revision
        async with memory.transaction() as tx:
            tx.put("a", "state", 1)
            tx.observe("a", [1.0, 0.1], {"n": 1}, key="one", tags=["x"], ttl=60)
            tx.observe("b", [0.0, 1.0, 0.0], key="other")
            tx.delete("a", "old")
            assert [h.key for h in await memory.search_similar("a", [1.0, 0.0])] == ["old"]
        assert tx.revision == memory.revision == before + 1
        (hit,) = await memory.search_similar("a", [1.0, 0.0], tags=["x"])
        assert (hit.key, hit.data, hit.revision) == ("one", {"n": 1}, tx.revision)
        record = await memory.get_record("a", "one")
        assert record.tags == ("x",)
        assert record.expires_at == later(60)
        assert [h.key for h in await memory.search_similar("b", [0.0, 1.0, 0.0])] == ["other"]
        then = await memory.search_similar("a", [1.0, 0.0], as_of=before)
        assert [h.key for h in then] == ["old"]

    live(body)


def test_an_observation_that_is_refused_refuses_all(live):
    """A wrong length, revision or right: nothing of the transaction happens."""

    async def body(memory):
        await memory.observe("a", [1.0, 0.0], key="one")
        before = memory.revision

        async def attempt(*given, who=memory, **options):
            async with who.transaction() as tx:
                tx.put("b", "state", 1)
                tx.observe(*given, **options)

        await memory.set_policy("c", Policy(write=("b/**",)))
        for error, *given in (
            (DimensionError, "a", [1.0, 0.0, 0.0]),
            (EmbeddingError, "a", [0.0, 0.0]),
            (InvalidInputError, "a", "text"),
        ):
            with pytest.raises(error):
                await attempt(*given, key="two")
        with pytest.raises(ConflictError):
            await attempt("a", [1.0, 0.0], key="one", expect=0)
        with pytest.raises(PermissionDeniedError):
            await attempt("a", [1.0, 0.0], key="two", who=memory.as_agent("c"))
        assert await memory.get("b", "state") is None
        assert memory.revision == before + 1  # the policy
        assert [h.key for h in await memory.search_similar("a", [1.0, 0.0])] == ["one"]

    live(body)


def test_what_a_transaction_observed_is_there_after_a_restart(live):
    """It is in the journal like any other observation."""

    async def write(memory):
        async with memory.transaction() as tx:
            for number in range(5):
                tx.observe("a", [1.0, number], number, key=f"k{number}")

    async def read(memory):
        return [hit.data for hit in await memory.search_similar("a", [1.0, 0.0])]

    live(write)
    assert live(read) == [0, 1, 2, 3, 4]
