"""The `/v1` calls, each against what the memory itself says."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import numpy as np
import pytest

from nt_memory import Trajectory


def test_a_value_keeps_its_type_over_http(asked):
    """What JSON lacks is spelled as in exports, and comes back as the type it was."""

    async def body(client, memory):
        value = {"price": {"$decimal": "1.10"}, "when": {"$datetime": "2026-03-02T16:00:00+00:00"}}
        put = await client.put("/v1/state/a/pos/AAPL", json={"value": value})
        stored = await memory.get("a", "pos/AAPL")
        assert stored["price"] == Decimal("1.10")
        await memory.put("a", "array", np.arange(3, dtype=np.int16))
        found = (await client.get("/v1/state/a/pos/AAPL")).json()
        assert (found["value"], found["revision"]) == (value, put.json()["revision"])
        array = (await client.get("/v1/state/a/array")).json()["value"]
        assert array["dtype"] == "<i2"

    asked(body)


def test_state_as_of_a_time_and_a_revision(asked, clock):
    """`as_of` is a revision, or a time with its offset, also if a URL made a blank of its plus."""

    async def body(client, memory):
        first = await memory.put("a", "k", 1)
        then = clock.now()
        clock.advance(10)
        await memory.put("a", "k", 2)
        path = "/v1/state/a/k"
        assert (await client.get(path)).json()["value"] == 2
        assert (await client.get(path, params={"as_of": first})).json()["value"] == 1
        for text in (then.isoformat(), then.isoformat().replace("+", " ")):
            assert (await client.get(f"{path}?as_of={text}")).json()["value"] == 1
        for wrong in ("2026-03-02T16:00:00", "yesterday", "-1", "9" * 40):
            assert (await client.get(path, params={"as_of": wrong})).status_code == 400
        both = {"time": then.isoformat(), "revision": first}
        await memory.observe("a", [1.0, 0.0], 1, key="o")
        query = {"agents": ["a"], "embedding": [1, 0]}
        assert (await client.post("/v1/search", json={**query, "as_of": both})).json()["hits"] == []
        assert len((await client.post("/v1/search", json=query)).json()["hits"]) == 1

    asked(body)


def test_expectations_and_fences_are_the_memorys(asked):
    """A conflict says what was found; a stale fence is refused."""

    async def body(client, memory):
        revision = (await client.put("/v1/state/a/k", json={"value": 1, "expect": 0})).json()
        again = await client.put("/v1/state/a/k", json={"value": 2, "expect": 0})
        assert again.status_code == 409
        assert again.json()["current"] == revision["revision"]
        assert again.json()["title"] == "ConflictError"
        grant = (await client.post("/v1/locks/acquire", json={"resource": "book"})).json()
        fenced = {"value": 3, "fence": grant["fence"]}
        assert (await client.put("/v1/state/a/k", json=fenced)).status_code == 200
        release = {"resource": "book", "fence": grant["fence"]}
        assert (await client.post("/v1/locks/release", json=release)).json() == {"released": True}
        stale = await client.put("/v1/state/a/k", json=fenced)
        assert (stale.status_code, stale.json()["title"]) == (409, "StaleFenceError")
        assert await memory.get("a", "k") == 3

    asked(body)


def test_an_idempotency_key_acts_once(asked):
    """A repeated write under one key changes nothing and says the same again."""

    async def body(client, memory):
        once = {"Idempotency-Key": "order-17"}
        for path, sent in (
            ("/v1/state/a/k", {"value": 1}),
            ("/v1/agents/a/quota", {"max_keys": 10}),
        ):
            named = {"Idempotency-Key": f"put {path}"}
            first = await client.put(path, json=sent, headers=named)
            assert (await client.put(path, json=sent, headers=named)).json() == first.json()
        seen = {"embedding": [1, 0], "data": 1}
        keys = {
            (await client.post("/v1/observations/a", json=seen, headers=once)).json()["key"]
            for _ in range(3)
        }
        assert len(keys) == 1
        seen = {"embeddings": [[1, 0], [0, 1]]}
        named = {"Idempotency-Key": "batch"}
        first = await client.post("/v1/observations/a/batch", json=seen, headers=named)
        again = await client.post("/v1/observations/a/batch", json=seen, headers=named)
        assert again.json() == first.json()
        lock = {"resource": "book", "timeout": 0}
        named = {"Idempotency-Key": "lock"}
        first = await client.post("/v1/locks/acquire", json=lock, headers=named)
        again = await client.post("/v1/locks/acquire", json=lock, headers=named)
        assert again.json()["fence"] == first.json()["fence"]
        assert memory.stats().locks == 1

    asked(body)


def test_an_idempotency_key_makes_tracking_and_outcomes_act_once(asked, clock):
    """Repeated after more has happened, they say what they said, and write nothing."""

    async def body(client, memory):
        defined = {"target": "v", "unit": "%", "horizon_seconds": 60}
        assert (await client.put("/v1/definitions/vol", json=defined)).status_code == 200
        steps = [
            {"kind": "observation", "embedding": [1, 0]},
            {"kind": "action", "action_type": "vol", "predicted_outcome": 1.0},
        ]
        more = [*steps, {"kind": "observation", "embedding": [0, 1]}]
        path, named = "/v1/trajectories/t", {"Idempotency-Key": "track"}
        first = await client.put(path, json={"agent": "a", "steps": steps}, headers=named)
        await client.put(path, json={"agent": "a", "steps": more})
        again = await client.put(path, json={"agent": "a", "steps": steps}, headers=named)
        assert (again.status_code, again.json()) == (200, first.json())
        clock.advance(3_600)
        told = {"trajectory_id": "t", "value": 2.0}
        named = {"Idempotency-Key": "outcome"}
        first = await client.post("/v1/outcomes", json=told, headers=named)
        assert first.status_code == 200
        before = memory.revision
        again = await client.post("/v1/outcomes", json=told, headers=named)
        assert (again.status_code, again.json()) == (200, first.json())
        assert memory.revision == before

    asked(body)


def test_an_idempotency_key_of_another_request_is_refused(asked):
    """A delete that found nothing has no revision; a put under its key does not return that."""

    async def body(client, memory):
        named = {"Idempotency-Key": "one"}
        deleted = await client.delete("/v1/state/a/k", headers=named)
        assert deleted.json() == {"revision": None}
        found = await client.put("/v1/state/a/k", json={"value": 1}, headers=named)
        assert found.status_code == 400
        operations = [{"op": "put", "agent": "a", "key": "k", "value": 1}]
        sent = {"operations": operations}
        found = await client.post("/v1/transactions", json=sent, headers=named)
        assert found.status_code == 400
        assert await memory.get("a", "k") is None

    asked(body)


def test_scan_pages_are_the_whole(asked):
    """Pages of one moment, put together, are what a scan of it shows."""

    async def body(client, memory):
        for n in range(25):
            await memory.put("a", f"k/{n:02}", n)
        await memory.put("b", "k/00", "another's")
        seen: list[int] = []
        params: dict[str, object] = {"prefix": "k/", "limit": 7}
        while True:
            page = (await client.get("/v1/state/a", params=params)).json()
            seen += [record["value"] for record in page["records"]]
            if page["next"] is None:
                break
            await memory.put("a", f"k/{len(seen):02}x", "later")
            params |= {
                "after": page["next"],
                "as_of": page["revision"] if len(seen) == 7 else params["as_of"],
            }
        assert seen == list(range(25))

    asked(body)


def test_history_is_newest_first(asked):
    """Versions, deletes left out, as many as asked for."""

    async def body(client, memory):
        for n in range(5):
            await memory.put("a", "k", n)
        await memory.delete("a", "k")
        found = (await client.get("/v1/history/a/k", params={"limit": 3})).json()
        assert [record["value"] for record in found["records"]] == [4, 3, 2]

    asked(body)


def test_a_transaction_is_all_or_nothing(asked):
    """One revision for all, and nothing if one part does not hold."""

    async def body(client, memory):
        operations = [
            {"op": "put", "agent": "a", "key": "position", "value": {"AAPL": 10}},
            {"op": "put", "agent": "a", "key": "cash", "value": {"$decimal": "5.5"}},
        ]
        done = await client.post("/v1/transactions", json={"operations": operations})
        record = await memory.get_record("a", "cash")
        assert (record.value, record.revision) == (Decimal("5.5"), done.json()["revision"])
        bad = [
            {"op": "delete", "agent": "a", "key": "position"},
            {"op": "put", "agent": "a", "key": "cash", "value": 0, "expect": 0},
        ]
        refused = await client.post("/v1/transactions", json={"operations": bad})
        assert refused.status_code == 409
        assert await memory.get("a", "position") == {"AAPL": 10}

    asked(body)


def test_search_by_vector_and_by_text(asked):
    """A text is searched by the server's embedder; both and neither are refused."""

    async def body(client, memory):
        for key, text in (("oil", "crude oil falls"), ("bank", "bank earnings beat")):
            sent = {"text": text, "data": text, "key": key, "tags": ["news"]}
            assert (await client.post("/v1/observations/news", json=sent)).status_code == 201
        query = {"agents": ["news"], "text": "oil falls again", "top_k": 1, "tags": ["news"]}
        hits = (await client.post("/v1/search", json=query)).json()["hits"]
        assert [(hit["agent"], hit["key"], hit["data"]) for hit in hits] == [
            ("news", "oil", "crude oil falls")
        ]
        vector = np.random.default_rng(1).normal(size=(5, 4)).tolist()
        many = {"embeddings": vector, "data": [{"n": n} for n in range(5)]}
        keys = (await client.post("/v1/observations/a/batch", json=many)).json()["keys"]
        exact = {"agents": ["a"], "embedding": vector[3], "top_k": 2, "exact": True}
        hits = (await client.post("/v1/search", json=exact)).json()["hits"]
        direct = await memory.search_similar("a", vector[3], 2, exact=True)
        assert [(hit["key"], hit["score"]) for hit in hits] == [(h.key, h.score) for h in direct]
        assert hits[0]["key"] == keys[3]
        filtered = {**exact, "where": {"op": "ne", "field": "n", "value": 3}}
        assert (await client.post("/v1/search", json=filtered)).json()["hits"][0]["key"] != keys[3]
        for wrong in ({}, {"text": "x", "embedding": [1.0]}):
            sent = {"agents": ["a"], **wrong}
            assert (await client.post("/v1/search", json=sent)).status_code == 400

    asked(body)


def test_a_trajectory_from_advice_to_verdict(asked, clock):
    """Define, track, record the outcome, ask for advice, act on its receipt."""

    async def body(client, memory):
        defined = await client.put(
            "/v1/definitions/vol",
            json={
                "target": "volatility",
                "unit": "%",
                "horizon_sessions": 1,
                "tolerance": "absolute",
                "correct": 0.5,
                "very_wrong": 2.0,
            },
        )
        assert defined.json()["tolerance"] == {
            "kind": "absolute",
            "correct": 0.5,
            "very_wrong": 2.0,
        }
        draw = np.random.default_rng(2)
        for n in range(12):
            clock.advance(86_400)
            steps = [
                {"kind": "observation", "embedding": draw.normal(size=4).tolist()},
                {"kind": "action", "action_type": "vol", "predicted_outcome": 1.0, "baseline": 2.0},
            ]
            sent = {"agent": "a", "steps": steps}
            tracked = await client.put(f"/v1/trajectories/t{n}", json=sent)
            assert tracked.json()["id"] == f"t{n}"
            again = await client.put(f"/v1/trajectories/t{n}", json=sent)
            assert again.status_code == 200
            outcome = {"trajectory_id": f"t{n}", "value": 1.0 + n / 100}
            verdict = (await client.post("/v1/outcomes", json=outcome)).json()
            assert (verdict["kind"], verdict["actual"]) == ("correct", 1.0 + n / 100)
        ids = (await client.get("/v1/trajectories", params={"agent": "a", "limit": 5})).json()
        assert ids == {"ids": ["t0", "t1", "t10", "t11", "t2"], "next": "t2"}
        params = {"agent": "a", "limit": 7, "after": "t2"}
        rest = (await client.get("/v1/trajectories", params=params)).json()
        assert rest == {"ids": [f"t{n}" for n in range(3, 10)], "next": None}
        asked_for = {"agents": ["a"], "embedding": [1, 0, 0, 0], "memories": 3}
        advice = (await client.post("/v1/advice", json=asked_for)).json()
        assert advice["is_abstaining"] is False
        assert len(advice["recalled"]) == 3
        steps = [
            {"kind": "observation", "embedding": [1, 0, 0, 0]},
            {
                "kind": "action",
                "action_type": "vol",
                "predicted_outcome": 1.0,
                "receipt": advice["receipt"],
            },
        ]
        sent = {"agent": "a", "steps": steps}
        assert (await client.put("/v1/trajectories/acted", json=sent)).status_code == 200
        receipt = await memory.bank.receipt("acted")
        assert len(receipt.memories) == advice["memories"]
        found = (await client.get("/v1/trajectories/acted")).json()
        assert found["actions"][0]["acted_on_advice"] is True
        assert (await client.get("/v1/verdicts/t3")).json()["verdicts"][0]["predicted"] == 1.0
        calibration = (await client.get("/v1/calibration/a")).json()["calibration"]
        assert calibration[0]["n"] == 12
        asked_for = {"action_type": "vol", "by_regime": True}
        found = (await client.get("/v1/calibration/a", params=asked_for)).json()["calibration"]
        assert [one["n"] for one in found] == [12]
        assert (await client.get("/v1/calibration/a?action_type=x")).json()["calibration"] == []
        sent = {"agents": ["b", "a"], "embedding": [1, 0, 0, 0], "action_type": "vol"}
        ranking = (await client.post("/v1/rank", json=sent)).json()["ranking"]
        assert [one["agent"] for one in ranking] == ["a", "b"]
        assert (ranking[0]["n"], ranking[1]["skill"]["value"]) == (12, None)
        uplift = (await client.get("/v1/uplift/a")).json()
        assert (uplift["value"], uplift["withheld"], uplift["freedom"]) == (None, 0, None)
        for query, names in (
            ({"verdict": "pending"}, ["acted"]),
            ({"verdict": "very_wrong"}, []),
            ({"until": "2000-01-01T00:00:00Z"}, []),
            ({"tag": "none"}, []),
        ):
            told = (await client.get("/v1/decisions/a", params=query)).json()["decisions"]
            assert [one["trajectory_id"] for one in told] == names, query
        assert (await client.get("/v1/decisions/a?verdict=lucky")).status_code == 400
        assert (await client.get("/v1/weights", params={"agent": ["a"]})).json()["weights"]["a"] > 0

    asked(body)


def test_an_action_is_remembered_under_the_situation_before_it(asked):
    """The order of steps is the trajectory's, as if they were added one by one."""

    async def body(client, memory):
        steps = [
            {"kind": "observation", "data": 1, "embedding": [1, 0]},
            {"kind": "action", "action_type": "look"},
            {"kind": "observation", "data": 2, "embedding": [0, 1]},
            {"kind": "action", "action_type": "look"},
        ]
        sent = {"agent": "a", "steps": steps, "complete": True}
        assert (await client.put("/v1/trajectories/mine", json=sent)).status_code == 200
        other = Trajectory("a", id="other")
        other.add_observation(1, [1, 0]).add_action("look").add_observation(2, [0, 1])
        other.add_action("look").complete()
        await memory.track_trajectory(other)
        both = [await memory.bank.trajectory(name) for name in ("mine", "other")]
        assert [len(one.actions) for one in both] == [2, 2]
        shown = (await memory.map("a", action_type="look")).points
        assert len(np.unique(np.round(shown, 6), axis=0)) == 2

    asked(body)


@pytest.mark.parametrize("forged", ["", "AAAA", "x" * 100, "é"])
def test_a_receipt_that_was_not_given_is_refused(asked, forged):
    """Nobody can teach the bank what never was."""

    async def body(client, _):
        steps = [{"kind": "action", "action_type": "look", "receipt": forged}]
        sent = {"agent": "a", "steps": steps}
        found = await client.put("/v1/trajectories/t", json=sent)
        assert found.status_code == 400

    asked(body)


def test_locks_over_http_are_the_memorys(asked, clock):
    """Acquire, inspect, renew, release, and a lease that runs out."""

    async def body(client, memory):
        grant = (
            await client.post("/v1/locks/acquire", json={"resource": "desk/book", "lease": 10})
        ).json()
        looked = (await client.get("/v1/locks/desk/book")).json()
        assert (looked["fence"], looked["holder"]) == (grant["fence"], grant["holder"])
        busy = await client.post("/v1/locks/acquire", json={"resource": "desk/book", "timeout": 0})
        assert (busy.status_code, busy.json()["retryable"]) == (409, True)
        clock.advance(8)
        name = {"resource": "desk/book", "fence": grant["fence"]}
        assert (await client.post("/v1/locks/renew", json=name)).json()["lease_left"] == 10.0
        assert len((await client.get("/v1/locks")).json()["locks"]) == 1
        clock.advance(11)
        for call in ("renew", "release"):
            lost = await client.post(f"/v1/locks/{call}", json=name)
            assert (lost.status_code, lost.json()["title"]) == (409, "LockLostError")
        assert memory.stats().locks == 0
        other = (await client.post("/v1/locks/acquire", json={"resource": "desk/book"})).json()
        forced = {"resource": "desk/book", "fence": other["fence"], "reason": "stuck"}
        done = await client.post("/v1/locks/force_release", json=forced)
        assert done.json() == {"released": True}

    asked(body)


def test_proposals_from_submission_to_decision(asked):
    """Register, propose, vote, and read the decision with what it was made of."""

    async def body(client, memory):
        for name in ("a", "b", "c"):
            assert (
                await client.put(f"/v1/agents/{name}/vote", json={"weight": 1})
            ).status_code == 200
        sent = {"proposer": "a", "data": {"buy": "AAPL"}, "quorum": "2/3", "id": "p/1"}
        assert (await client.post("/v1/proposals", json=sent)).json() == {"id": "p/1"}
        cast = {"proposal_id": "p/1", "voter": "a", "approve": True}
        pending = (await client.post("/v1/votes", json=cast)).json()
        assert (pending["status"], pending["votes_needed"]) == ("pending", 1)
        changed = await client.post("/v1/votes", json={**cast, "approve": False})
        assert changed.json()["title"] == "VoteChangedError"
        assert (await client.get("/v1/proposals/p/1")).json()["result"]["status"] == "pending"
        await client.post("/v1/votes", json={**cast, "voter": "b"})
        found = (await client.get("/v1/proposals/p/1", params={"wait": 5})).json()
        assert found["result"]["status"] == "approved"
        assert [vote["voter"] for vote in found["votes"]] == ["a", "b"]
        assert found["electorate"] == {"a": "1", "b": "1", "c": "1"}
        listed = (await client.get("/v1/proposals")).json()
        assert [one["id"] for one in listed["proposals"]] == ["p/1"]
        assert (await client.get("/v1/proposals/nope")).status_code == 404

    asked(body)


def test_agents_quotas_policies_and_stats(asked):
    """What an operator sets is what the memory says, and the other way round."""

    async def body(client, memory):
        await memory.put("a", "k", 1)
        assert (await client.get("/v1/agents")).json() == {"agents": ["a"]}
        await client.put("/v1/agents/a/policy", json={"read": ["a/**"], "vote": ["**"]})
        assert memory.policy("a").read == ("a/**",)
        await client.put("/v1/agents/*/quota", json={"max_keys": 3})
        assert memory.quota("b").max_keys == 3
        found = (await client.get("/v1/agents/a")).json()
        assert found["usage"]["keys"] == 1
        assert found["policy"]["vote"] == ["**"]
        await client.delete("/v1/agents/a/policy")
        assert (await client.get("/v1/agents/a")).json()["policy"] is None
        stats = (await client.get("/v1/stats")).json()["stats"]
        assert stats["revision"] == memory.revision
        assert (await client.get("/v1/timeline")).json()["is_backtest"] is False

    asked(body)


def test_a_backtests_time_is_moved_over_http(asked, later):
    """Before it has started there is no now; then it is what was said."""

    async def body(client, memory):
        assert (await client.get("/v1/timeline")).json()["now"] is None
        to = later(-3600).isoformat()
        assert (await client.post("/v1/timeline", json={"to": to})).status_code == 200
        assert memory.timeline.now == later(-3600)
        back = {"to": later(-7200).isoformat()}
        assert (await client.post("/v1/timeline", json=back)).status_code == 409
        ahead = (later(-3600) + timedelta(days=1)).isoformat()
        early = await client.get("/v1/state/a/k", params={"as_of": ahead})
        assert early.json()["title"] == "LookAheadError"

    asked(body, timeline="backtest")


def test_messages_are_published(asked):
    """To whoever subscribes in process, too."""

    async def body(client, memory):
        rx = await memory.subscribe("desk/*")
        sent = {"topic": "desk/a", "message": {"x": {"$decimal": "1.5"}}}
        assert (await client.post("/v1/messages", json=sent)).json() == {"reached": 1}
        assert await rx.recv(1.0) == {"x": Decimal("1.5")}
        own = await client.post("/v1/messages", json={"topic": "$reply/x", "message": 1})
        assert own.status_code == 400

    asked(body)


def test_metrics_say_what_the_memory_counts(asked, clock):
    """Requests by route, never by path; the tiers, lag and backlog; the skill of verdicts."""

    async def body(client, memory):
        await memory.bank.define(
            "vol", target="v", unit="%", horizon=1, tolerance=("absolute", 0.5, 2.0)
        )
        for n in range(5):
            one = Trajectory("a", id=f"t{n}").add_action("vol", None, 1.0, baseline=3.0)
            await memory.track_trajectory(one)
            await memory.record_outcome(f"t{n}", 1.5)
            clock.advance(86_400)
        await client.get("/v1/state/a/secret-key")
        text = (await client.get("/metrics")).text
        assert 'route="/v1/state/{agent}/{key:path}",status="404"} 1.0' in text
        assert "secret-key" not in text
        assert f"nt_memory_revision {float(memory.revision)}" in text
        assert 'nt_memory_tier_evictions_total{tier="l1"} 0.0' in text
        assert "nt_memory_lag_entries 0.0" in text
        assert "nt_memory_vectors_pending 0.0" in text
        assert 'nt_memory_verdict_skill{action_type="vol",agent="a"} 1.0' in text

    asked(body)


def test_numbers_are_spelled_as_in_json(asked):
    """In paths and queries too: what only Python reads as a number is refused, and nothing is guessed."""

    async def body(client, memory):
        await memory.put("a", "k", 1)
        assert (await client.get("/v1/moments/1")).status_code == 200
        for odd in ("%2B0.0", "1.0", "1_0", "%201", "01", "1e0", "%EF%BC%91"):
            for path in (
                f"moments/{odd}",
                f"proposals?after={odd}",
                f"trajectories?agent=a&limit={odd}",
            ):
                assert (await client.get(f"/v1/{path}")).status_code == 400, path
        for odd in ("%2B0.5", "0.5_0", ".5", "nan", "%200.5"):
            assert (await client.get(f"/v1/calibration/a?level={odd}")).status_code == 400, odd
        assert (await client.get("/v1/calibration/a?level=5e-1")).status_code == 200

    asked(body)
