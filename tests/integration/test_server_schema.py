"""The API is what its OpenAPI document says: requests made up from it, answers held against it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from nt_memory.apps.server.settings import ServerSettings

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
# These do not end; `test_server` reads them.
STREAMS = {"/v1/messages", "/v1/changes/{agent}", "/v1/journal", "/v1/live"}


def try_all(url: str, examples: int) -> list[str]:
    """Send made-up requests to every operation; which ones were tried."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    tried: list[str] = []
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.method == "get" and operation.path in STREAMS:
            continue
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try_one(operation, mode, examples)
        tried.append(operation.label)
    return tried


def try_one(operation: Any, mode: GenerationMode, examples: int) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        # Waiting is tried elsewhere; here it would only take time.
        if isinstance(case.body, dict) and isinstance(case.body.get("timeout"), int | float):
            case.body["timeout"] = 0
        if isinstance(case.query, dict):
            case.query.pop("wait", None)
        response = case.call()
        # A body that is too large is refused before anybody looks at what is wrong in it.
        is_read = response.status_code != 413
        case.validate_response(response, checks=CHECKS if is_read else CHECKS[:-1])

    try:
        check()
    except Unsatisfiable:
        # Nothing about it can be wrong: it takes nothing.
        assert mode is GenerationMode.NEGATIVE


@pytest.mark.timeout(240)
def test_no_made_up_request_breaks_the_server_or_the_schema(running):
    """No 5xx; statuses, media types and bodies as documented; what is malformed is refused."""
    server = running(ServerSettings(port=0, max_body_bytes=1 << 20))
    tried = try_all(server.url, examples=6)
    assert len(tried) > 40
    assert httpx.get(f"{server.url}/ready", timeout=30.0).status_code == 200


@pytest.mark.stress
@pytest.mark.timeout(1800)
def test_many_made_up_requests_break_nothing_either(running):
    """The same with more of them: what is rare among six is found among a hundred."""
    server = running(ServerSettings(port=0, max_body_bytes=1 << 20))
    assert len(try_all(server.url, examples=100)) > 40
    assert httpx.get(f"{server.url}/ready", timeout=30.0).status_code == 200


def test_every_operation_is_described():
    """A reader of the document finds what each does, and under what it is filed."""
    import asyncio
    import tempfile

    from nt_memory import MemorySystem
    from nt_memory.apps.server.app import create_app

    async def describe() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            async with MemorySystem.open(f"{folder}/store") as memory:
                return create_app(memory).openapi()

    found = asyncio.run(describe())
    operations = [one for path in found["paths"].values() for one in path.values()]
    assert all(one["description"] and one["tags"] for one in operations)
    assert all({"4XX", "5XX"} <= one["responses"].keys() for one in operations)
    assert len({one["operationId"] for one in operations}) == len(operations)
