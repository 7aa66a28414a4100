"""Quotas: an agent is held to its share, exactly, and nobody else notices."""

from __future__ import annotations

import asyncio
import shutil
from datetime import timedelta

import numpy as np
import pytest

from nt_memory import (
    MemoryConfig,
    MemorySystem,
    Quota,
    Trajectory,
    Usage,
    export_store,
    import_store,
)
from nt_memory.codec import FILE_FROM_BYTES, encode
from nt_memory.errors import (
    ConflictError,
    InvalidInputError,
    InvalidNameError,
    QuotaError,
    StorageFullError,
)
from nt_memory.replica import quotas
from nt_memory.system import baseline
from nt_memory.system.baseline import newest_base
from nt_memory.system.governing import sweep_all
from nt_memory.system.verifying import verify
from nt_memory.tiers.cold import ColdTier
from nt_memory.tiers.layout import UsageRow


def size(key, value, tags=()):
    """What one version counts."""
    return len(encode(value)) + len(key.encode()) + sum(len(tag.encode()) for tag in tags)


async def refused(call, **said):
    """The call is refused and says why; neither usage nor revision moves."""
    with pytest.raises(QuotaError) as caught:
        await call
    for name, value in said.items():
        assert getattr(caught.value, name) == value, name
    assert not caught.value.retryable
    return str(caught.value)


def test_large_values_count_with_their_files(live):
    """A quota on bytes sees what lies in value files, and a value that is too large is refused."""

    async def body(memory):
        weights = np.random.default_rng(1).normal(size=200_000)
        await memory.put("a", "w", weights)
        used = memory.usage("a").bytes
        assert weights.nbytes < used < weights.nbytes + 1000
        assert used == memory.stats().value_bytes + 46 + 1
        await memory.put("b", "w", weights)  # shares the file, and counts all the same
        assert memory.usage("b").bytes == used
        await memory.set_quota("a", max_bytes=used + 1000)
        await refused(memory.put("a", "more", weights + 1))
        await memory.put("a", "small", 1)

    live(body)


def test_usage_counts_what_is_stored(live, clock):
    """Keys that show a value, bytes of all versions kept, embeddings kept."""

    async def body(memory):
        assert memory.usage("a") == Usage()
        await memory.put("a", "k", 1)
        await memory.put("a", "k", "two")
        await memory.put("a", "ä", 3)
        await memory.put("b", "k", 1)
        expected = size("k", 1) + size("k", "two") + size("ä", 3)
        assert memory.usage("a") == Usage(2, expected, 0)
        await memory.delete("a", "k")
        assert memory.usage("a") == Usage(1, expected, 0)
        await memory.observe("a", [1.0, 2.0], {"n": 1}, key="o", tags=["calm", "é"])
        expected += size("o", {"n": 1}, ["calm", "é"])
        assert memory.usage("a") == Usage(2, expected, 1)
        assert memory.usage("b") == Usage(1, size("k", 1), 0)

    live(body)


def test_a_key_too_many_is_refused_and_changes_nothing(live, clock):
    """The error says agent, limit, used, wanted and maximum; overwriting and deleting go on."""

    async def body(memory):
        await memory.set_quota("a", max_keys=2)
        await memory.put("a", "k1", 1)
        await memory.put("a", "k2", 1)
        revision, used = memory.revision, memory.usage("a")
        text = await refused(
            memory.put("a", "k3", 1), agent="a", limit="keys", used=2, wanted=1, maximum=2
        )
        assert "a: quota of 2 keys" in text
        assert (memory.revision, memory.usage("a")) == (revision, used)
        assert await memory.get("a", "k3") is None
        await memory.put("a", "k2", 2)
        await memory.put("b", "k3", 1)
        await memory.delete("a", "k1")
        await memory.put("a", "k3", 1)
        assert memory.usage("a").keys == 2

    live(body)


def test_late_writes_count_as_keys_only_where_they_show(live, clock):
    """A version known before the present one makes no key; one known before nothing does."""

    async def body(memory):
        start = clock.now()
        clock.advance(100)
        await memory.set_quota("a", max_keys=1)
        await memory.put("a", "k", 1)
        await memory.put("a", "k", 0, known_at=start)
        await refused(memory.put("a", "late", 0, known_at=start), limit="keys")
        await memory.delete("a", "k")
        await memory.put("a", "k", 5, known_at=start)
        assert memory.usage("a").keys == 0
        await memory.put("a", "late", 0, known_at=start)
        assert memory.usage("a").keys == 1

    live(body)


def test_bytes_are_freed_by_history_at_once(store, clock, run):
    """With history=0 an overwrite needs only what it is larger by."""

    async def body():
        config = MemoryConfig(storage_path=store, history=0, enable_compression=False)
        async with MemorySystem.open(config, clock=clock) as memory:
            one = size("k", "x" * 100)
            await memory.set_quota("a", max_bytes=one + 10)
            await memory.put("a", "k", "x" * 100)
            for _ in range(5):
                await memory.put("a", "k", "y" * 100)
            assert memory.usage("a").bytes == one
            await refused(
                memory.put("a", "k", "z" * 111),
                limit="bytes",
                used=one,
                wanted=11,
                maximum=one + 10,
            )
            await memory.put("a", "k", "z" * 110)
            await memory.put("a", "k", "short")
            # Late, and so trimmed at once: it needs nothing.
            clock.advance(10)
            await memory.put("a", "k", "now")
            await memory.put("a", "k", "w" * 5000, known_at=clock.now() - timedelta(seconds=5))
            assert memory.usage("a") == Usage(1, size("k", "now"), 0)
            await memory.delete("a", "k")
            assert memory.usage("a") == Usage()

    run(body())


def test_values_in_files_count_with_their_files(live, clock):
    """By all of their bytes, and for each version that names one."""

    async def body(memory):
        await memory.set_quota("a", max_bytes=2 * FILE_FROM_BYTES + 10_000)
        value = np.random.default_rng(1).bytes(FILE_FROM_BYTES + 100)
        await memory.put("a", "w", value)
        one = memory.usage("a").bytes
        assert FILE_FROM_BYTES < one < FILE_FROM_BYTES + 5000
        await memory.put("a", "w2", value)
        assert memory.usage("a").bytes == 2 * one + 1
        await refused(memory.put("a", "w3", value), limit="bytes")
        await memory.set_retention("a", max_age=1.0)
        await memory.delete("a", "w")
        clock._now_us += 10_000_000
        await sweep_all(memory._engine)
        assert memory.usage("a").bytes == one + 1
        await memory.put("b", "w", value)
        await memory.put("a", "w", value)

    live(body)


def test_bytes_are_freed_by_retention_with_the_sweep(live, clock):
    """Until then the older versions count."""

    async def body(memory):
        one = size("k", "x" * 100)
        await memory.set_quota("a", max_bytes=3 * one)
        await memory.set_retention("a", max_versions=0)
        for _ in range(3):
            await memory.put("a", "k", "x" * 100)
        await refused(memory.put("a", "k", "x" * 100), limit="bytes", used=3 * one, wanted=one)
        await sweep_all(memory._engine)
        assert memory.usage("a").bytes == one
        await memory.put("a", "k", "x" * 100)

    live(body)


def test_retention_of_dead_keys_counts_them_once(live, clock):
    """A key that was deleted, or ran out, or ran out unnoticed, takes nothing twice with it."""

    async def body(memory):
        await memory.set_retention("a", max_age=10)
        await memory.put("a", "deleted", 1)
        await memory.delete("a", "deleted")
        await memory.put("a", "brief", 1, ttl=5.0)
        await memory.put("a", "stays", 1)
        assert memory.usage("a").keys == 2
        # No tick comes between: the sweep itself is what finds it over.
        clock._now_us += 100_000_000
        await sweep_all(memory._engine)
        assert memory.usage("a") == Usage(1, size("stays", 1), 0)

    live(body)


def test_expiry_frees_a_key(live, clock, drive):
    """With the tick that tells it; on the timeline of a backtest with `advance`."""

    async def body(memory):
        await memory.set_quota("a", max_keys=1)
        await memory.put("a", "k", 1, ttl=5.0)
        await refused(memory.put("a", "other", 1), limit="keys")
        watch = memory.watch("a")
        clock.advance(6)
        assert (await drive(anext(watch))).kind == "expire"
        assert memory.usage("a").keys == 0
        await memory.put("a", "other", 1)

    live(body)


def test_expiry_in_a_backtest(backtest, clock):
    """`advance` frees what ran out; an overwrite after that is a new key, before it is none."""

    async def body(memory):
        start = clock.now()
        await memory.timeline.advance(start)
        await memory.set_quota("a", max_keys=2)
        await memory.put("a", "k", 1, ttl=5.0)
        await memory.put("a", "k", 2, ttl=5.0)
        await memory.put("a", "over", 2, ttl=5.0, known_at=start - timedelta(seconds=60))
        assert memory.usage("a").keys == 2
        # Over before it was written, and not told yet: overwriting it tells it, and needs no key.
        await memory.put("a", "over", 3)
        assert memory.usage("a").keys == 2
        await memory.timeline.advance(start + timedelta(seconds=6))
        assert memory.usage("a").keys == 1
        await memory.put("a", "k", 3)
        await refused(memory.put("a", "more", 3))

    backtest(body)


def test_a_transaction_is_refused_as_a_whole(live, clock):
    """Also what it writes for others; and what it frees counts for it."""

    async def body(memory):
        await memory.set_quota("a", max_keys=2)
        await memory.put("a", "k1", 1)
        revision = memory.revision

        async def commit(*changes):
            async with memory.transaction() as tx:
                for agent, key, value in changes:
                    if value is None:
                        tx.delete(agent, key)
                    else:
                        tx.put(agent, key, value)

        await refused(
            commit(("b", "x", 1), ("a", "k2", 1), ("a", "k3", 1)), used=1, wanted=2, maximum=2
        )
        assert memory.revision == revision
        assert await memory.get("b", "x") is None
        assert memory.usage("b") == Usage()
        await commit(("a", "k2", 1), ("a", "k3", 1), ("a", "k1", None))
        assert memory.usage("a").keys == 2
        # The same key twice is one key.
        await memory.delete("a", "k3")
        await commit(("a", "k4", 1), ("a", "k4", 2))
        assert memory.usage("a").keys == 2

    live(body)


@pytest.mark.parametrize("request_id", [None, "r"])
def test_every_agent_of_a_transaction_is_judged(live, request_id):
    """The second like the first, before it is ordered and, where it may be a repetition, after."""

    async def body(memory):
        await memory.set_quota("a", max_keys=5)
        await memory.set_quota("b", max_keys=0)
        before = memory.stats().journal_bytes

        async def commit():
            async with memory.transaction(request_id=request_id) as tx:
                tx.put("a", "k", 1)
                tx.put("b", "k", 1)

        await refused(commit(), agent="b", limit="keys", used=0, wanted=1, maximum=0)
        assert (memory.stats().journal_bytes == before) == (request_id is None)
        assert await memory.get("a", "k") is None
        assert memory.usage("a") == Usage()

    live(body)


def test_who_has_nothing_has_no_row(store, clock, run):
    """So that a base says the same whether there ever was something or not."""

    async def body():
        config = MemoryConfig(storage_path=store, history=0)
        async with MemorySystem.open(config, clock=clock) as memory:
            await memory.put("a", "k", 1)
            assert [key for key, _ in memory._engine.snapshot.items(b"usage")] == [b"a"]
            await memory.delete("a", "k")
            assert memory._engine.snapshot.count(b"usage") == 0
        assert verify(store).is_ok

    run(body())


def test_a_key_that_ran_out_is_none_when_it_is_written_again(store, clock, run, drive):
    """Once that was told it needs room like a new one, and no count takes it for one that shows."""

    async def body():
        async with MemorySystem.open(store, clock=clock) as memory:
            await memory.set_quota("a", max_keys=1)
            watch = memory.watch("a")
            await memory.put("a", "k", 1, ttl=5.0)
            assert (await anext(watch)).kind == "put"
            clock.advance(6)
            assert (await drive(anext(watch))).kind == "expire"
            await memory.put("a", "other", 1)
            await refused(memory.put("a", "k", 1), limit="keys", used=1, wanted=1)
            assert memory.usage("a").keys == 1
        assert verify(store).damage == []

    run(body())


def test_a_key_that_does_not_show_needs_no_room(live, clock):
    """A late version of a deleted key, and one that the same transaction deletes again."""

    async def body(memory):
        start = clock.now()
        clock.advance(100)
        await memory.put("a", "k", 1)
        await memory.delete("a", "k")
        await memory.set_quota("a", max_keys=0)
        await memory.put("a", "k", 0, known_at=start)
        async with memory.transaction() as tx:
            tx.put("a", "new", 1, known_at=start)
            tx.delete("a", "new")
        assert memory.usage("a").keys == 0
        await refused(memory.put("a", "k", 1), limit="keys")

    live(body)


def test_a_vector_that_history_drops_makes_room(store, clock, run):
    """With history=0 an observation can be replaced whatever the limit."""

    async def body():
        config = MemoryConfig(storage_path=store, history=0)
        async with MemorySystem.open(config, clock=clock) as memory:
            await memory.set_quota("a", max_vectors=1)
            for n in range(3):
                await memory.observe("a", [1.0, n], n, key="k")
            await refused(memory.observe("a", [1.0, 0.0], key="l"), limit="vectors")
            assert memory.usage("a").vectors == 1

    run(body())


def test_counts_that_are_not_cached_are_read(store, clock, run, monkeypatch):
    """However many agents there are, and in whatever order they write."""
    monkeypatch.setattr(quotas, "MAX_CACHED", 2)

    async def body():
        async with MemorySystem.open(store, clock=clock) as memory:
            for n in range(4):
                await asyncio.gather(*(memory.put(f"a{i}", f"k{n}", 1) for i in range(5)))
            assert {memory.usage(f"a{i}").keys for i in range(5)} == {4}
        assert verify(store).is_ok

    run(body())


def test_vectors_are_limited(live, clock):
    """Singly and in bulk; a refused bulk writes no row, and search finds what was there."""

    async def body(memory):
        await memory.set_quota("a", max_vectors=3)
        await memory.observe_many("a", np.eye(2), keys=["x", "y"])
        await refused(
            memory.observe_many("a", np.eye(2), keys=["z", "w"]),
            limit="vectors",
            used=2,
            wanted=2,
            maximum=3,
        )
        await memory.observe("a", [1.0, 1.0], key="z")
        await refused(memory.observe("a", [1.0, 1.0], key="w"))
        hits = await memory.search_similar("a", [1.0, 1.0], 10)
        assert {hit.key for hit in hits} == {"x", "y", "z"}
        assert memory.usage("a").vectors == 3
        # Deleted it is kept all the same, until retention drops it.
        await memory.delete("a", "z")
        await refused(memory.observe("a", [1.0, 1.0], key="w"))
        await memory.set_retention("a", max_age=1.0)
        clock._now_us += 10_000_000
        await sweep_all(memory._engine)
        await memory.observe("a", [1.0, 1.0], key="w")

    live(body)


def test_a_quota_below_what_is_used_takes_nothing_away(live, clock):
    """All stays readable, the agent can shrink, and only growth is refused."""

    async def body(memory):
        for n in range(5):
            await memory.put("a", f"k{n}", "x" * 50)
        await memory.set_quota("a", max_keys=2)
        assert [await memory.get("a", f"k{n}") for n in range(5)] == ["x" * 50] * 5
        await memory.put("a", "k0", "y")
        for n in range(4):
            await refused(memory.put("a", "new", 1), used=5 - n, wanted=1)
            await memory.delete("a", f"k{n}")
        await memory.put("a", "new", 1)
        await memory.set_quota("a", max_bytes=0)
        await refused(memory.put("a", "new", 1), limit="bytes")
        await memory.delete("a", "new")
        assert memory.usage("a").keys == 1

    live(body)


def test_rules_are_per_agent_with_one_for_the_rest(live, clock):
    """An agent's own rule counts, also one that limits nothing; the rest each have a share."""

    async def body(memory):
        await memory.set_quota(None, max_keys=1)
        await memory.set_quota("b", max_keys=2)
        await memory.set_quota("c")
        for agent, count in (("a", 1), ("b", 2), ("c", 5), ("d", 1)):
            for n in range(5):
                if n < count:
                    await memory.put(agent, f"k{n}", n)
                elif n == count:
                    await refused(memory.put(agent, f"k{n}", n), agent=agent, maximum=count)
        assert memory.quota("a") == Quota(max_keys=1)
        assert memory.quota("b") == Quota(max_keys=2)
        assert memory.quota("c") == Quota()
        await memory.set_quota(None)
        assert memory.quota("a") == Quota()
        assert memory.quota("b") == Quota(max_keys=2)
        await memory.put("a", "k1", 1)
        await refused(memory.put("b", "k2", 2))

    live(body)


def test_malformed_quotas_are_refused(live):
    """And change nothing."""

    async def body(memory):
        revision = memory.revision
        for name in ("a/b", "", "_swarm", "a\0"):
            with pytest.raises(InvalidNameError):
                await memory.set_quota(name, max_keys=1)
            with pytest.raises(InvalidNameError):
                memory.usage(name)
            with pytest.raises(InvalidNameError):
                memory.quota(name)
        for limit in (-1, True, 1.5, "1", 1 << 63):
            with pytest.raises(InvalidInputError):
                await memory.set_quota("a", max_bytes=limit)
        assert memory.revision == revision

    live(body)


def test_a_refused_request_can_be_repeated(live):
    """A refusal is no result: the same request is judged again."""

    async def body(memory):
        await memory.set_quota("a", max_keys=0)
        await refused(memory.put("a", "k", 1, request_id="r"))
        await memory.set_quota("a", max_keys=1)
        revision = await memory.put("a", "k", 1, request_id="r")
        assert await memory.put("a", "k", 1, request_id="r") == revision
        assert memory.usage("a").keys == 1

    live(body)


def test_a_refusal_in_a_batch_fails_its_own_caller_only(live):
    """Of puts that are written together those that fit are accepted, in their order."""

    async def body(memory):
        await memory.set_quota("a", max_keys=3)
        puts = [memory.put(agent, f"k{n}", n) for n in range(10) for agent in ("a", "b")]
        results = await asyncio.gather(*puts, return_exceptions=True)
        assert [isinstance(r, QuotaError) for r in results[::2]] == [False] * 3 + [True] * 7
        assert not any(isinstance(r, Exception) for r in results[1::2])
        assert memory.usage("a").keys == 3
        assert memory.usage("b").keys == 10

    live(body)


def test_what_is_refused_does_not_fill_the_journal(live):
    """However long an agent keeps on trying; one that asks at once with others is in there."""

    async def body(memory):
        await memory.set_quota("a", max_keys=0)
        before = memory.stats().journal_bytes
        for n in range(50):
            await refused(memory.put("a", f"k{n}", np.random.default_rng(n).bytes(10_000)))
            await refused(memory.observe("a", [1.0], n))
        await refused(memory.observe_many("a", np.eye(3)))
        assert memory.stats().journal_bytes == before
        # Whatever else is wrong with it is said before, as where there is no quota.
        with pytest.raises(ConflictError):
            await memory.put("a", "k", 1, expect=7)

    live(body)


def test_the_bank_counts_under_its_agent(live, clock):
    """Trajectories too; what the swarm shares is nobody's, and no quota can use it up."""

    async def body(memory):
        await memory.bank.define("act", target="t", unit="u", horizon=timedelta(days=1))
        await memory.set_quota(None, max_keys=3)

        def trajectory(agent):
            made = Trajectory(agent)
            made.add_observation({"n": 1}, [1.0, 2.0])
            made.add_action("act", predicted_outcome=1.0)
            return made

        await memory.track_trajectory(trajectory("a"))
        used = memory.usage("a")
        assert used.keys == 2
        assert used.vectors == 1
        revision = memory.revision
        await refused(memory.track_trajectory(trajectory("a")), agent="a", limit="keys")
        assert memory.revision == revision
        assert memory.usage("a") == used
        for agent in "bcdefg":  # each writes to the swarm's own part too
            await memory.track_trajectory(trajectory(agent))
        await memory.bank.define("act2", target="t", unit="u", horizon=timedelta(days=1))

    live(body)


def usages(memory, agents=("a", "b", "c")):
    """All that is counted."""
    return {agent: memory.usage(agent) for agent in agents}


async def fill(memory, clock):
    """Something of everything that counts."""
    await memory.set_quota("a", max_keys=50, max_bytes=10_000, max_vectors=20)
    await memory.set_retention("b", max_versions=1)
    for n in range(10):
        await memory.put("a", f"k{n % 4}", "x" * n)
        await memory.put("b", f"k{n % 3}", n)
        clock.advance(1)
    await memory.put("a", "brief", 1, ttl=1000.0)
    await memory.put("b", "brief", 1, ttl=1000.0)
    await memory.delete("a", "k1")
    await memory.put("c", "gone", 1)
    await memory.observe_many("b", np.eye(4), keys=["e1", "e2", "e3", "e4"], tags=[["t"]] * 4)


def test_counts_outlive_everything(store, clock, run, tmp_path):
    """Reopening, lost views, compaction, lost views behind a base, a copy, a follower, an import."""

    async def usage_of(path, **how):
        async with MemorySystem.open(path, clock=clock, **how) as memory:
            return usages(memory), memory.quota("a")

    async def body():
        async with MemorySystem.open(store, clock=clock) as memory:
            await fill(memory, clock)
            kept = usages(memory), memory.quota("a")
            assert await usage_of(store, read_only=True) == kept
            await memory.snapshot(tmp_path / "copy")
        assert await usage_of(tmp_path / "copy") == kept
        assert await usage_of(store) == kept
        shutil.rmtree(store / "views")
        assert await usage_of(store) == kept
        async with MemorySystem.open(store, clock=clock) as memory:
            await memory.put("a", "k0", "more")
            await memory.compact()
            await memory.put("a", "k2", "and more")
            kept = usages(memory), memory.quota("a")
            assert kept[0]["b"].bytes < 200
        assert verify(store).damage == []
        assert await usage_of(store) == kept
        shutil.rmtree(store / "views")
        shutil.rmtree(store / "vectors")
        assert await usage_of(store) == kept
        export_store(store, tmp_path / "e.jsonl")
        import_store(tmp_path / "e.jsonl", tmp_path / "imported")
        assert await usage_of(tmp_path / "imported") == kept
        assert verify(tmp_path / "imported").damage == []

    run(body())


def test_an_import_is_not_believed_about_usage(store, clock, run, tmp_path, monkeypatch):
    """Whatever its base says is used, what counts is what is there."""

    async def body():
        async with MemorySystem.open(store, clock=clock) as memory:
            await fill(memory, clock)
            kept = usages(memory)
            cold = memory._engine.opened.cold
            await memory.flush()
            batch = cold.begin()
            batch.delete(b"usage", b"a")
            batch.put(b"usage", b"ghost", b"\x93\x01\x01\x01")
            cold.commit(batch)
            await memory.export(tmp_path / "e.jsonl")
        import_store(tmp_path / "e.jsonl", tmp_path / "imported")
        async with MemorySystem.open(tmp_path / "imported", clock=clock) as memory:
            assert usages(memory) == kept
            assert memory.usage("ghost") == Usage()

    run(body())


def test_verify_recounts(store, clock, run):
    """A count that drifted from the versions is damage, even if every replay drifts alike."""

    async def body():
        async with MemorySystem.open(store, clock=clock) as memory:
            await fill(memory, clock)

    run(body())
    assert verify(store).damage == []
    with pytest.MonkeyPatch.context() as patch:
        real = quotas.recount

        def off_by_one(views):
            found = real(views)
            used = found["a"]
            return {**found, "a": UsageRow(used.keys + 1, used.bytes, used.vectors)}

        patch.setattr("nt_memory.system.verifying.recount", off_by_one)
        (damage,) = verify(store).damage
        assert "views: usage: a is counted" in damage


def test_a_batch_that_failed_is_counted_once(store, clock, run, monkeypatch):
    """On a full disk the batch is applied again, by a replica that counts from the views."""

    async def body():
        async with MemorySystem.open(store, clock=clock) as memory:
            await fill(memory, clock)
            failures = iter([True])
            commit = ColdTier.commit

            def commit_later(cold, batch):
                if next(failures, False):
                    raise StorageFullError("no space")
                commit(cold, batch)

            monkeypatch.setattr(ColdTier, "commit", commit_later)
            before = memory.usage("a")
            await memory.put("a", "fresh", 1)
            assert next(failures, None) is None
            after = memory.usage("a")
            assert (after.keys, after.bytes) == (before.keys + 1, before.bytes + size("fresh", 1))
        assert verify(store).damage == []

    run(body())


def test_a_base_without_counts_is_counted(store, clock, run):
    """One of an older layout: its views get what they need when they are made."""

    async def body():
        async with MemorySystem.open(store, clock=clock) as memory:
            await fill(memory, clock)
            with pytest.MonkeyPatch.context() as patch:
                tables = tuple(table for table in baseline.TABLES if table != b"usage")
                patch.setattr(baseline, "TABLES", tables)
                snapshot = memory._engine.opened.cold.snapshot()
                header = baseline.save_base(store / "base", snapshot, memory._engine.opened.files)
                snapshot.close()
            kept = usages(memory)
        shutil.rmtree(store / "views")
        with newest_base(store / "base") as base:
            assert base.header == header
            assert "usage" not in {section for section, _ in base.blocks()}
        async with MemorySystem.open(store, clock=clock) as memory:
            assert usages(memory) == kept

    run(body())


def test_one_agents_flood_refuses_nobody_else(live, clock):
    """While one puts and observes as fast as it can under its quota, the others notice nothing."""

    async def body(memory):
        await memory.set_quota("noisy", max_keys=20, max_bytes=4000, max_vectors=5)
        refusals = []

        async def flood(worker):
            for n in range(60):
                try:
                    await memory.observe("noisy", [1.0, float(n)], {"n": n})
                    await memory.put("noisy", f"{worker}/{n}", "x" * 100)
                except QuotaError as error:
                    refusals.append(error)

        async def work(agent):
            for n in range(60):
                await memory.put(agent, "position", n)
                await memory.observe(agent, [1.0, float(n)], {"n": n})
                async with memory.transaction() as tx:
                    tx.put(agent, "cash", n)
                    tx.put(agent, f"order/{n}", n)
            assert await memory.get(agent, "position") == 59
            assert len(await memory.search_similar(agent, [1.0, 2.0], 100)) == 60

        await asyncio.gather(*(flood(n) for n in range(8)), *(work(a) for a in ("a", "b", "c")))
        used = memory.usage("noisy")
        assert len(refusals) > 300
        assert {error.agent for error in refusals} == {"noisy"}
        assert used.keys <= 20
        assert used.bytes <= 4000
        assert used.vectors == 5
        for agent in "abc":
            assert memory.usage(agent).keys == 122

    live(body)
