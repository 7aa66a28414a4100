"""The contract of `nt-agentdb-client`: requests as the crate writes them, answers as it reads them.

The bodies below are written by hand from the crate's serde types: `Option` fields are left out when
None, enums are tagged by a lower-case `op`, ids are `hex::encode` of bytes. What a test reads of an
answer is what the crate's types name, and nothing else.
"""

from __future__ import annotations

import uuid
from typing import Any

import pytest

OBSERVATION: dict[str, Any] = {
    "id": "7f1b3c9e-2a4d-4b6f-8f00-1c2d3e4f5a6b",
    "timestamp_us": 1_732_800_000_000_000,
    "symbol": "AAPL",
    "price": "150.25",
    "volume": "1000",
    "spread": "0",
    "book_depth": {"bids": [["150.24", "10"]], "asks": []},
    "metadata": {},
    "provenance": {
        "creator": "market_data_collector",
        "created_us": 1_732_800_000_000_001,
        "parent_id": None,
    },
}


def hex_of(number: int) -> str:
    return uuid.UUID(int=number).bytes.hex()


async def make(client: Any, name: str = "observations", dimension: int = 3) -> None:
    # CollectionConfig with `metadata_schema: None`.
    made = await client.post(
        "/collections", json={"name": name, "dimension": dimension, "index_type": "hnsw"}
    )
    assert made.status_code == 201


async def insert(client: Any, number: int, embedding: list[float], metadata: Any) -> Any:
    body = {"id": hex_of(number), "embedding": embedding}
    if metadata is not None:
        body["metadata"] = metadata
    return await client.post("/collections/observations/insert", json=body)


async def fill(client: Any, rows: list[dict[str, Any]]) -> None:
    await make(client)
    documents = [
        {"id": hex_of(n), "embedding": [1.0, float(n), 0.5], "metadata": row}
        for n, row in enumerate(rows)
    ]
    done = await client.post(
        "/collections/observations/batch_insert", json={"documents": documents}
    )
    assert done.json() == {"inserted": len(rows), "failed": 0}


def test_health_has_what_the_crate_reads(asked):
    """`HealthResponse {status, version}`."""

    async def body(client, _):
        found = await client.get("/health")
        assert found.status_code == 200
        assert set(found.json()) == {"status", "version"}
        assert all(isinstance(part, str) for part in found.json().values())

    asked(body)


def test_a_collection_that_exists_is_a_conflict(asked):
    """409, which the crate takes for success; the first one's dimension stays."""

    async def body(client, _):
        config = {
            "name": "signals",
            "dimension": 4,
            "index_type": "hnsw",
            "metadata_schema": {"symbol": "string"},
        }
        assert (await client.post("/collections", json=config)).status_code == 201
        again = await client.post("/collections", json={**config, "dimension": 5})
        assert again.status_code == 409
        wrong = {"id": "00", "embedding": [1.0] * 5}
        assert (await client.post("/collections/signals/insert", json=wrong)).status_code == 400

    asked(body)


def test_a_document_comes_back_as_the_metadata_it_was_inserted_with(asked):
    """`insert`, `get::<T>` and `vector_search::<T>` give the same T, whatever its fields."""

    async def body(client, _):
        await make(client)
        done = await insert(client, 1, [0.1, 0.2, 0.3], OBSERVATION)
        assert (done.status_code, done.json()) == (201, {"id": hex_of(1), "success": True})
        found = await client.get(f"/collections/observations/documents/{hex_of(1)}")
        assert (found.status_code, found.json()) == (200, OBSERVATION)
        query = {"collection": "observations", "embedding": [0.1, 0.2, 0.3], "k": 5}
        results = (await client.post("/collections/observations/search", json=query)).json()
        (hit,) = results["results"]
        assert hit["document"] == OBSERVATION
        assert hit["score"] == pytest.approx(1.0, abs=1e-3)

    asked(body)


@pytest.mark.parametrize(
    "metadata", [{"$decimal": "1"}, {"op": "eq"}, [1, None, "x"], "text", 3, 2.5, False, {}]
)
def test_any_metadata_is_a_document(asked, metadata):
    """`metadata` is any `serde_json::Value`, also one that looks like this package's own spelling."""

    async def body(client, _):
        await make(client)
        assert (await insert(client, 7, [1, 0, 0], metadata)).status_code == 201
        found = await client.get(f"/collections/observations/documents/{hex_of(7)}")
        assert found.json() == metadata

    asked(body)


def test_a_document_without_metadata_has_its_id(asked):
    """`metadata: None` leaves nothing to give back but which document it is."""

    async def body(client, _):
        await make(client)
        await insert(client, 7, [1, 0, 0], None)
        found = await client.get(f"/collections/observations/documents/{hex_of(7)}")
        assert found.json() == {"id": hex_of(7)}

    asked(body)


def test_inserting_an_id_again_replaces_the_document(asked):
    """There is one document an id, in the index too."""

    async def body(client, _):
        await make(client)
        await insert(client, 1, [1, 0, 0], {"v": 1})
        await insert(client, 1, [0, 1, 0], {"v": 2})
        query = {"collection": "observations", "embedding": [1, 0, 0], "k": 5}
        results = (await client.post("/collections/observations/search", json=query)).json()
        assert [hit["document"] for hit in results["results"]] == [{"v": 2}]
        assert results["results"][0]["score"] == pytest.approx(0.0, abs=1e-3)

    asked(body)


def test_absent_is_404_and_delete_says_so_too(asked):
    """`get` makes None of a 404, `delete` makes NotFound of it."""

    async def body(client, _):
        await make(client)
        path = f"/collections/observations/documents/{hex_of(9)}"
        assert (await client.get(path)).status_code == 404
        assert (await client.delete(path)).status_code == 404
        await insert(client, 9, [1, 0, 0], {"v": 1})
        assert (await client.delete(path)).status_code == 200
        assert (await client.get(path)).status_code == 404
        assert (await client.delete(path)).status_code == 404
        missing = await client.post(
            "/collections/nowhere/search", json={"embedding": [1, 0, 0], "k": 1}
        )
        assert missing.status_code == 404
        assert "nowhere" in missing.text

    asked(body)


def test_a_batch_takes_what_is_sound(asked):
    """`BatchInsertResponse {inserted, failed}`: a malformed document keeps no other out."""

    async def body(client, _):
        await make(client)
        documents = [
            {"id": "0a", "embedding": [1, 2, 3], "metadata": {"n": 1}},
            {"id": "xyz", "embedding": [1, 2, 3]},
            {"id": "0b", "embedding": [1, 2]},
            {"id": "0c", "embedding": [0, 0, 0]},
            {"id": "0d", "embedding": [1e300, 0, 0]},
            {"id": "0A", "embedding": [1, 2, 3], "metadata": {"n": 2}},
        ]
        done = await client.post(
            "/collections/observations/batch_insert", json={"documents": documents}
        )
        assert done.json() == {"inserted": 3, "failed": 3}
        # The later of two documents with one id is the one there is.
        assert (await client.get("/collections/observations/documents/0a")).json() == {"n": 2}

    asked(body)


def test_a_search_has_filters_and_a_least_score(asked):
    """`VectorQuery.filters` is a list that must all pass; `min_score` cuts off what is less like."""

    async def body(client, _):
        rows = [{"symbol": "AAPL" if n % 2 else "MSFT", "timestamp_us": n} for n in range(10)]
        await fill(client, rows)
        query = {
            "collection": "observations",
            "embedding": [1.0, 9.0, 0.5],
            "k": 3,
            "filters": [
                {"op": "eq", "field": "symbol", "value": "AAPL"},
                {"op": "gte", "field": "timestamp_us", "value": 5},
            ],
        }
        found = (await client.post("/collections/observations/search", json=query)).json()
        assert [hit["document"]["timestamp_us"] for hit in found["results"]] == [9, 7, 5]
        query["min_score"] = found["results"][1]["score"]
        cut = (await client.post("/collections/observations/search", json=query)).json()
        assert cut["results"] == found["results"][:2]

    asked(body)


def test_a_query_filters_sorts_and_limits(asked):
    """`get_top_strategies` and its like: dotted fields, an order, a limit."""

    async def body(client, _):
        rows = [{"n": n, "verdict": {"score": n / 10, "sharpe": (n * 7) % 10}} for n in range(10)]
        rows.append({"n": 10, "verdict": {"score": 0.95}})  # no sharpe: last, whichever the order
        await fill(client, rows)
        query = {
            "collection": "observations",
            "filters": [{"op": "gte", "field": "verdict.score", "value": 0.4}],
            "limit": 4,
            "sort_by": {"field": "verdict.sharpe", "order": "desc"},
        }
        path = "/collections/observations/query"
        found = (await client.post(path, json=query)).json()
        assert [one["verdict"]["sharpe"] for one in found["documents"]] == [9, 8, 6, 5]
        query["sort_by"]["order"] = "asc"
        del query["limit"]
        found = (await client.post(path, json=query)).json()
        assert [one["verdict"].get("sharpe") for one in found["documents"]] == [
            *(2, 3, 5, 6, 8, 9),
            None,
        ]
        assert found["ids"][-1] == hex_of(10)

    asked(body)


@pytest.mark.parametrize(
    ("filters", "passing"),
    [
        ([], [0, 1, 2, 3]),
        ([{"op": "ne", "field": "n", "value": 1}], [0, 2, 3]),
        ([{"op": "lt", "field": "n", "value": 2}], [0, 1]),
        ([{"op": "lte", "field": "n", "value": 2}], [0, 1, 2]),
        ([{"op": "gt", "field": "n", "value": 2}], [3]),
        ([{"op": "in", "field": "s", "values": ["b", "d"]}], [1, 3]),
        (
            [
                {
                    "op": "or",
                    "filters": [
                        {"op": "eq", "field": "n", "value": 0},
                        {
                            "op": "and",
                            "filters": [
                                {"op": "gte", "field": "n", "value": 2},
                                {"op": "eq", "field": "s", "value": "c"},
                            ],
                        },
                    ],
                }
            ],
            [0, 2],
        ),
    ],
)
def test_every_filter_of_the_crate(asked, filters, passing):
    """Each variant of its `Filter`, as it is serialized, in queries and searches alike."""

    async def body(client, _):
        await fill(client, [{"n": n, "s": "abcd"[n]} for n in range(4)])
        base = {"collection": "observations", "filters": filters}
        found = (await client.post("/collections/observations/query", json=base)).json()
        assert [one["n"] for one in found["documents"]] == passing
        query = {**base, "embedding": [1.0, 1.0, 0.5], "k": 10}
        hits = (await client.post("/collections/observations/search", json=query)).json()
        assert sorted(one["document"]["n"] for one in hits["results"]) == passing

    asked(body)


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("search", {"embedding": [1, 0], "k": 1}),
        ("search", {"embedding": [1, 0, 0]}),
        ("search", {"embedding": [1, 0, 0], "k": -1}),
        ("search", {"embedding": [0, 0, 0], "k": 1}),
        ("search", {"embedding": ["a", 0, 0], "k": 1}),
        ("search", {"embedding": [1, 0, 0], "k": 1, "collection": "another"}),
        ("search", {"embedding": [1, 0, 0], "k": 1, "filters": [{"op": "like", "field": "x"}]}),
        ("search", {"embedding": [1, 0, 0], "k": 1, "filters": [{"field": "x"}]}),
        ("query", {"filters": [{"op": "in", "field": "x"}]}),
        ("query", {"filters": [], "sort_by": {"field": "x", "order": "up"}}),
        ("query", {"filters": [], "limit": "ten"}),
        ("insert", {"id": "abc", "embedding": [1, 0, 0]}),
        ("insert", {"id": "", "embedding": [1, 0, 0]}),
        ("insert", {"embedding": [1, 0, 0]}),
        ("batch_insert", {"documents": 5}),
    ],
)
def test_what_is_wrong_is_400(asked, path, wrong):
    """The crate makes `InvalidQuery` of a 400, and nothing but trouble on the way of a 422."""

    async def body(client, _):
        await make(client)
        await insert(client, 1, [1, 0, 0], {"x": 1})
        found = await client.post(f"/collections/observations/{path}", json=wrong)
        assert found.status_code == 400
        assert found.json()["detail"]

    asked(body)


def test_a_collection_is_a_namespace_of_the_swarm(asked):
    """Its documents are observations like any others, and no agent's keys are documents."""

    async def body(client, memory):
        await make(client)
        await insert(client, 1, [1, 0, 0], {"symbol": "AAPL"})
        hits = await memory.search_similar("agentdb.observations", [1, 0, 0], 5)
        assert [(hit.key, hit.data) for hit in hits] == [(hex_of(1), {"symbol": "AAPL"})]
        await memory.observe("observations", [1, 0, 0], {"symbol": "MSFT"}, key="cafe")
        path = "/collections/observations/documents/cafe"
        assert (await client.get(path)).status_code == 404
        found = await client.post("/collections/observations/query", json={"filters": []})
        assert found.json()["documents"] == [{"symbol": "AAPL"}]

    asked(body)


def test_k_zero_and_limit_zero_find_nothing(asked):
    """`usize` may be 0."""

    async def body(client, _):
        await fill(client, [{"n": 1}])
        none = await client.post(
            "/collections/observations/search", json={"embedding": [1, 0, 0], "k": 0}
        )
        assert none.json() == {"results": []}
        none = await client.post(
            "/collections/observations/query",
            json={"filters": [], "limit": 0, "sort_by": {"field": "n", "order": "asc"}},
        )
        assert none.json()["documents"] == []

    asked(body)
