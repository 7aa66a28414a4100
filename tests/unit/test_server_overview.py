"""What a page asks: whole views and the stream of looks, each against the memory itself."""

from __future__ import annotations

from datetime import timedelta

import numpy as np

from nt_memory import Policy, Proposal, Trajectory, Vote
from nt_memory.apps.server.app import house_of
from nt_memory.apps.server.callers import Caller
from nt_memory.apps.server.dashboard.page import FILES
from nt_memory.apps.server.routes.live import MAX_ENTRIES, MAX_MESSAGES, Watcher
from nt_memory.apps.server.settings import ServerSettings
from nt_memory.apps.server.tokens import add_token


def test_the_swarm_as_it_is_and_as_it_was(asked, clock):
    """One key of each agent and what each has stored; of a past moment the value known then."""

    async def body(client, memory):
        first = await memory.put("desk_1", "position", {"AAPL": 10})
        await memory.observe("desk_1", [1.0, 0.0])
        await memory.put("desk_2", "cash", 1.0)
        clock.advance(5)
        await memory.put("desk_1", "position", {"AAPL": 25})
        found = (await client.get("/v1/swarm")).json()
        one, two = found["agents"]
        assert (one["agent"], one["value"], one["keys"], one["vectors"]) == (
            *("desk_1", {"AAPL": 25}),
            *(memory.usage("desk_1").keys, 1),
        )
        assert (two["agent"], two["value"], two["revision"]) == ("desk_2", None, None)
        assert found["revision"] == memory.revision
        then = (await client.get("/v1/swarm", params={"as_of": first})).json()["agents"][0]
        assert (then["value"], then["revision"], then["keys"]) == ({"AAPL": 10}, first, None)
        cash = (await client.get("/v1/swarm", params={"key": "cash", "after": "desk_1"})).json()
        assert [(one["agent"], one["value"]) for one in cash["agents"]] == [("desk_2", 1.0)]
        page = (await client.get("/v1/swarm", params={"limit": 1})).json()
        assert (len(page["agents"]), page["next"]) == (1, "desk_1")

    asked(body)


def test_a_large_value_is_left_out_of_the_swarm(asked):
    """It is said that there is one; it can be got."""

    async def body(client, memory):
        await memory.put("a", "position", "x" * 10_000)
        found = (await client.get("/v1/swarm")).json()["agents"][0]
        assert (found["value"], found["is_left_out"]) == (None, True)

    asked(body)


def test_decisions_with_what_was_known_of_them(asked, clock):
    """Predicted beside actual, newest first; before its outcome came a decision has none."""

    async def body(client, memory):
        await memory.bank.define("vol", target="volatility", unit="%", horizon=timedelta(hours=1))
        for n in range(3):
            built = Trajectory("a", id=f"t/{n}")
            built.add_observation({"n": n}, [1.0, float(n)], at=clock.now())
            built.add_action(
                "vol", {}, 1.0 + n, predicted_interval=(0.0, 5.0), baseline=2.0, at=clock.now()
            )
            await memory.track_trajectory(built)
            clock.advance(1)
        before = memory.revision
        clock.advance(7_200)
        await memory.record_outcome("t/1", 2.5)
        found = (await client.get("/v1/decisions/a")).json()["decisions"]
        assert [(one["trajectory_id"], one["predicted"], one["actual"]) for one in found] == [
            ("t/2", 3.0, None),
            ("t/1", 2.0, 2.5),
            ("t/0", 1.0, None),
        ]
        verdict = (await memory.bank.judge("t/1"))[0]
        assert (found[1]["kind"], found[1]["skill"]) == (verdict.kind, verdict.skill)
        assert (found[1]["low"], found[1]["high"], found[1]["baseline"]) == (0.0, 5.0, 2.0)
        then = (await client.get("/v1/decisions/a", params={"as_of": before})).json()["decisions"]
        assert [(one["actual"], one["kind"]) for one in then] == [(None, None)] * 3

    asked(body)


def test_the_map_and_the_example_to_search_by(asked):
    """The map is the memory's own; an observation's vector finds the observation itself first."""

    async def body(client, memory):
        rows = np.random.default_rng(1).normal(size=(40, 6))
        keys = await memory.observe_many("a", rows)
        found = (await client.get("/v1/map/a", params={"sample": 30})).json()
        assert found == (await memory.map("a", sample=30)).to_dict() | {"as_of": found["as_of"]}
        vector = (await client.get(f"/v1/embeddings/a/{keys[7]}")).json()["embedding"]
        query = {"agents": ["a"], "embedding": vector, "top_k": 3}
        assert (await client.post("/v1/search", json=query)).json()["hits"][0]["key"] == keys[7]
        assert (await client.get("/v1/embeddings/a/none")).status_code == 404

    asked(body)


def test_moments_of_revisions(asked, clock):
    """When a revision was recorded, and which can be asked for; what is not there yet is not."""

    async def body(client, memory):
        first = await memory.put("a", "k", 1)
        clock.advance(10)
        second = await memory.put("a", "k", 2)
        one = (await client.get(f"/v1/moments/{first}")).json()
        two = (await client.get(f"/v1/moments/{second}")).json()
        assert (one["revision"], one["oldest"], one["newest"]) == (first, 1, second)
        assert one["recorded_at"] != two["recorded_at"]
        assert (await client.get("/v1/moments/0")).json()["revision"] == 1
        assert (await client.get(f"/v1/moments/{second + 1}")).status_code == 404

    asked(body)


def test_a_look_has_the_newest_and_the_counts_of_all(asked, clock):
    """However much happened since, a look stays small, and its counters are those of `stats`."""

    async def body(client, memory):
        watcher = Watcher(house_of(client.app), Caller("", "", memory), clock)
        await watcher.subscribe()
        for n in range(200):
            await memory.publish(f"desk/{n % 2}", {"n": n})
            await memory.put("a", f"k/{n}", n)
        await memory.consensus.register_agent("a")
        await memory.consensus.register_agent("b")
        await memory.consensus.submit_proposal(Proposal("a", {"sell": 1}, id="p", quorum=1.0))
        await memory.acquire_lock("book", holder="me")
        look = await watcher.look()
        assert look["messages"]["total"] == 200
        assert dict(look["messages"]["topics"]) == {"desk/0": 100, "desk/1": 100}
        assert [one["message"]["n"] for one in look["messages"]["newest"]] == list(
            range(200 - MAX_MESSAGES, 200)
        )
        assert len(look["entries"]) == MAX_ENTRIES
        assert look["entries"][0]["revision"] == memory.revision == look["stats"]["revision"]
        assert [(one["id"], len(one["votes"])) for one in look["proposals"]] == [("p", 0)]
        assert look["locks"][0]["resource"] == "book"
        await memory.consensus.vote(Vote("p", "b", True))
        clock.advance(10)
        look = await watcher.look()
        assert [(one["id"], len(one["votes"])) for one in look["proposals"]] == [("p", 1)]
        assert len(look["entries"]) == 1
        assert look["messages"]["total"] == 0
        clock.advance(10)
        await memory.put("a", "k", 0)
        assert (await watcher.look())["proposals"] == []
        await watcher.close()
        assert memory.stats().subscribers == 0

    asked(body)


def test_a_look_shows_what_the_caller_may_see_and_tries_nothing_else(asked, clock):
    """No entries without the right to read all, only its own topics, and nothing counts as denied."""

    async def body(client, memory):
        await memory.set_policy("scout", Policy(read=("scout/**",), subscribe=("scout/**",)))
        await memory.put("secret", "position", 1)
        await memory.put("scout", "position", 2)
        me = Caller("scout", "", memory.as_agent("scout"))
        watcher = Watcher(house_of(client.app), me, clock)
        await watcher.subscribe()
        await memory.publish("secret/x", 1)
        await memory.publish("scout/x", 2)
        look = await watcher.look()
        assert look["entries"] is None
        assert [one["topic"] for one in look["messages"]["newest"]] == ["scout/x"]
        assert memory.stats().denied == 0
        await watcher.close()

    asked(body)


def test_the_swarm_of_an_agent_is_what_its_token_may_see(asked, tmp_path):
    """Others are named, as `GET /v1/agents` names them; of their values and sizes nothing shows."""
    tokens = tmp_path / "tokens"
    token = add_token(tokens, "scout")

    async def body(client, memory):
        await memory.put("secret", "position", 1)
        await memory.put("scout", "position", 2)
        found = (await client.get("/v1/swarm")).json()["agents"]
        assert [(one["agent"], one["value"], one["keys"]) for one in found] == [
            ("scout", 2, 1),
            ("secret", None, None),
        ]
        assert memory.stats().denied == 0
        assert (await client.get("/v1/map/secret")).status_code == 403
        assert (await client.get("/v1/decisions/secret")).status_code == 403
        assert (await client.get("/v1/embeddings/secret/k")).status_code == 403
        assert (await client.get("/v1/moments/1")).status_code == 403

    asked(
        body,
        settings=ServerSettings(tokens=tokens),
        headers={"Authorization": f"Bearer {token}"},
    )


def test_the_page_needs_no_token_and_allows_no_script_but_its_own(asked, tmp_path):
    """Its files hold nobody's data; a browser runs nothing in them that did not come as a file."""
    tokens = tmp_path / "tokens"
    add_token(tokens, "scout")

    async def body(client, _memory):
        for path in FILES:
            found = await client.get(path)
            assert found.status_code == 200, path
            assert found.content
            policy = found.headers["content-security-policy"]
            assert "script-src 'self'" in policy
            assert "unsafe" not in policy
            again = await client.get(path, headers={"if-none-match": found.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        page = (await client.get("/")).text
        assert "<script>" not in page
        assert "style=" not in page
        assert "http" not in page
        assert (await client.get("/v1/live")).status_code == 401
        assert (await client.get("/v1/swarm")).status_code == 401

    asked(body, settings=ServerSettings(tokens=tokens))


def test_latencies_are_those_of_the_requests(asked):
    """Every request of a group is in one bucket of it."""

    async def body(client, memory):
        for n in range(3):
            await client.put("/v1/state/a/k", json={"value": n})
        await client.get("/v1/state/a/k")
        watcher = Watcher(house_of(client.app), Caller("", "", memory), memory._engine.clock)
        found = (await watcher.look())["latencies"]
        assert {name: sum(one["counts"]) for name, one in found["groups"].items()} == {
            "put": 3,
            "get": 1,
        }
        assert len(found["groups"]["put"]["counts"]) == len(found["bounds"]) + 1

    asked(body)
