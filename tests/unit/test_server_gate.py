"""Who is let in, in whose name, with how much; and what a refusal tells."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from pathlib import Path

import httpx
import pytest

from nt_memory import Policy
from nt_memory.apps.server import problems
from nt_memory.apps.server.app import create_app
from nt_memory.apps.server.logs import JsonFormatter
from nt_memory.apps.server.settings import ServerSettings, check_exposure, is_loopback
from nt_memory.apps.server.tokens import TokenFile, add_token
from nt_memory.errors import InvalidInputError, InvalidNameError, StorePermissionError


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


# --- tokens -----------------------------------------------------------------------------------


def test_a_token_is_known_and_nothing_of_it_is_kept(tokens):
    """The file is its owner's alone, and holds a hash instead of the token."""
    token = add_token(tokens, "scout")
    other = add_token(tokens, "*")
    assert tokens.stat().st_mode & 0o777 == 0o600
    kept = tokens.read_text()
    assert token not in kept
    assert token.rpartition("_")[2] not in kept
    book = TokenFile(tokens)
    assert book.find(token).agent == "scout"
    assert book.find(other).agent == ""
    assert book.agents == ["scout"]


@pytest.mark.parametrize("change", ["", "x", "last", "id", "é", "ntm_", "\ud800"])
def test_what_is_no_token_is_nobodys(tokens, change):
    """Whatever is changed in a token, nobody is let in for it."""
    token = add_token(tokens, "scout")
    head, _, secret = token.split("_", 2)
    changed = {
        "last": token[:-1] + ("A" if token[-1] != "A" else "B"),
        "id": f"{head}_{'0' * 12}_{secret}",
    }.get(change, change)
    assert changed != token
    assert TokenFile(tokens).find(changed) is None


def test_a_file_that_is_open_to_others_is_refused(tokens):
    """Who could write it could act as anybody."""
    add_token(tokens, "scout")
    for mode in (0o640, 0o604, 0o620, 0o602):
        tokens.chmod(mode)
        with pytest.raises(StorePermissionError, match="chmod 600"):
            TokenFile(tokens)
        with pytest.raises(StorePermissionError, match="chmod 600"):
            add_token(tokens, "scout")


@pytest.mark.parametrize(
    "line",
    ["scout secret", "0123456789ab scout", "0123456789ab sc/out " + "0" * 64, "x" * 200],
)
def test_a_malformed_file_is_refused_without_repeating_it(tokens, line):
    """The error names the line; what is in it may be a secret in the wrong place."""
    add_token(tokens, "scout")
    with tokens.open("a") as file:
        file.write(f"# a comment\n\n{line}\n")
    with pytest.raises(InvalidInputError) as error:
        TokenFile(tokens)
    assert line not in str(error.value) or "sc/out" in line
    if "sc/out" not in line:
        assert "line 4" in str(error.value)


def test_nobody_gets_a_token_under_a_malformed_name(tokens):
    """And no file is made for it."""
    with pytest.raises(InvalidNameError):
        add_token(tokens, "a b")
    assert not tokens.exists()


def test_a_link_is_not_followed(tokens, tmp_path):
    """Who may write the directory must not choose which file is written."""
    target = tmp_path / "target"
    target.touch(0o600)
    tokens.symlink_to(target)
    with pytest.raises(OSError, match=r"[Ss]ymbolic"):
        add_token(tokens, "scout")


def test_a_revoked_token_ends_within_a_second(tokens, clock):
    """The file is looked at again; a broken one changes nothing."""
    token, other = add_token(tokens, "scout"), add_token(tokens, "trader")
    book = TokenFile(tokens, clock)
    lines = tokens.read_text().splitlines(keepends=True)
    tokens.write_text(lines[1])
    assert book.find(token) is not None
    clock.advance(1.1)
    assert book.find(token) is None
    assert book.find(other) is not None
    tokens.write_text("garbage\n")
    clock.advance(1.1)
    assert book.find(other) is not None
    tokens.rename(f"{tokens}.gone")
    clock.advance(1.1)
    assert book.find(other) is not None


# --- who is let in ----------------------------------------------------------------------------


def test_without_tokens_loopback_is_the_operators(asked):
    """A server that only this machine reaches needs none."""

    async def body(client, memory):
        assert (await client.put("/v1/state/a/k", json={"value": 1})).status_code == 200
        assert (await memory.get_record("a", "k")).actor == ""

    asked(body)


def test_with_tokens_nobody_comes_in_without_one(asked, tokens):
    """Only health, readiness and the description of the API are told to anybody."""
    add_token(tokens, "scout")

    async def body(client, memory):
        for path in ("/health", "/ready", "/openapi.json"):
            assert (await client.get(path)).status_code == 200
        described = (await client.get("/openapi.json")).json()
        for path, operations in described["paths"].items():
            if path in {"/health", "/ready"}:
                continue
            for method in operations:
                url = path.replace("{", "").replace("}", "").replace(":path", "")
                for headers in ({}, bearer("ntm_wrong"), {"Authorization": "Basic x"}):
                    found = await client.request(method.upper(), url, headers=headers)
                    assert found.status_code == 401, (method, path)
                    assert found.headers["www-authenticate"] == "Bearer"
        assert memory.revision < 5

    asked(body, settings=ServerSettings(tokens=tokens))


def test_an_agent_acts_in_its_own_name_and_no_other(asked, tokens):
    """Its writes carry its name; another's keys, votes, proposals and locks are not its own."""
    scout, trader = add_token(tokens, "scout"), add_token(tokens, "trader")
    operator = add_token(tokens, "*")

    async def body(client, memory):
        mine, other, all_of_it = bearer(scout), bearer(trader), bearer(operator)
        assert (
            await client.put("/v1/state/scout/k", json={"value": 1}, headers=mine)
        ).status_code == 200
        assert (await memory.get_record("scout", "k")).actor == "scout"
        for name in ("scout", "trader"):
            vote = f"/v1/agents/{name}/vote"
            assert (await client.put(vote, json={}, headers=mine)).status_code == 403
            assert (await client.put(vote, json={}, headers=all_of_it)).status_code == 200
        put = {"proposer": "scout", "data": 1, "id": "p"}
        assert (await client.post("/v1/proposals", json=put, headers=mine)).status_code == 201
        lock = {"resource": "scout/book"}
        grant = (await client.post("/v1/locks/acquire", json=lock, headers=mine)).json()
        held = {"resource": "scout/book", "fence": grant["fence"]}
        for method, path, sent in (
            ("GET", "/v1/state/scout/k", None),
            ("GET", "/v1/state/scout", None),
            ("GET", "/v1/history/scout/k", None),
            ("GET", "/v1/changes/scout", None),
            ("PUT", "/v1/state/scout/k", {"value": 2}),
            ("DELETE", "/v1/state/scout/k", None),
            ("POST", "/v1/observations/scout", {"embedding": [1.0]}),
            ("POST", "/v1/search", {"agents": ["scout"], "embedding": [1.0]}),
            ("POST", "/v1/advice", {"agents": ["scout"], "embedding": [1.0]}),
            ("GET", "/v1/patterns/scout", None),
            ("GET", "/v1/calibration/scout", None),
            ("GET", "/v1/uplift/scout", None),
            ("GET", "/v1/decisions/scout?verdict=correct", None),
            ("POST", "/v1/rank", {"agents": ["scout"], "embedding": [1.0]}),
            ("GET", "/v1/trajectories?agent=scout", None),
            ("PUT", "/v1/trajectories/t", {"agent": "scout"}),
            ("GET", "/v1/agents/scout", None),
            ("PUT", "/v1/agents/scout/policy", {}),
            ("DELETE", "/v1/agents/*/policy", None),
            ("PUT", "/v1/agents/scout/quota", {}),
            ("POST", "/v1/messages", {"topic": "scout/x", "message": 1}),
            ("GET", "/v1/messages?pattern=scout/*", None),
            ("GET", "/v1/messages?pattern=**", None),
            ("POST", "/v1/locks/acquire", lock),
            ("POST", "/v1/locks/renew", held),
            ("POST", "/v1/locks/release", held),
            ("POST", "/v1/locks/force_release", {"resource": "scout/book"}),
            ("POST", "/v1/proposals", put),
            ("POST", "/v1/votes", {"proposal_id": "p", "voter": "scout", "approve": True}),
            ("POST", "/collections", {"name": "x", "dimension": 2}),
            ("GET", "/metrics", None),
        ):
            found = await client.request(method, path, json=sent, headers=other)
            assert found.status_code == 403, (method, path, found.text)
            assert found.json()["title"] == "PermissionDeniedError"
        assert await memory.get("scout", "k") == 1
        assert memory.inspect_lock("scout/book").fence == grant["fence"]
        cast = {"proposal_id": "p", "approve": True}
        assert (await client.post("/v1/votes", json=cast, headers=other)).status_code == 200
        votes = (await client.get("/v1/proposals/p", headers=other)).json()["votes"]
        assert [vote["voter"] for vote in votes] == ["trader"]

    asked(body, settings=ServerSettings(tokens=tokens))


def test_an_operators_policy_holds_and_is_never_replaced(asked, tokens):
    """An agent without one gets that of its own name; one that was set stays, also for all others."""
    scout, trader = add_token(tokens, "scout"), add_token(tokens, "trader")

    async def body(client, memory):
        await memory.set_policy("trader", Policy(read=("market/**",)))
        await memory.put("market", "AAPL", 190.0)
        path = "/v1/state/market/AAPL"
        assert (await client.get(path, headers=bearer(trader))).status_code == 200
        assert (await client.get(path, headers=bearer(scout))).status_code == 403
        assert memory.policy("trader").write == ()
        assert memory.policy("scout").write == ("scout/**",)
        await memory.set_policy("scout", None)
        await memory.set_policy(None, Policy(read=("**",)))
        assert (await client.get(path, headers=bearer(scout))).status_code == 200
        assert memory.policy("scout") == Policy(read=("**",))

    asked(body, settings=ServerSettings(tokens=tokens))


def test_metrics_are_the_operators_and_of_whom_it_lets(asked, tokens):
    """They tell how well each agent forecasts, which is not every agent's to know."""
    scout, operator = add_token(tokens, "scout"), add_token(tokens, "*")

    async def body(client, memory):
        assert (await client.get("/metrics", headers=bearer(operator))).status_code == 200
        await memory.set_policy("scout", Policy(operate=("set_quota",)))
        assert (await client.get("/metrics", headers=bearer(scout))).status_code == 403
        await memory.set_policy("scout", Policy(operate=("metrics",)))
        assert (await client.get("/metrics", headers=bearer(scout))).status_code == 200

    asked(body, settings=ServerSettings(tokens=tokens))


def test_a_follower_without_a_policy_lets_no_agent_in(live, asked, tokens):
    """It cannot set one, and without one an agent could read everything."""
    scout = add_token(tokens, "scout")

    async def nothing(memory):
        await memory.put("scout", "k", 1)

    async def body(client, memory):
        found = await client.get("/v1/state/scout/k", headers=bearer(scout))
        assert found.status_code == 403

    live(nothing)
    asked(body, settings=ServerSettings(tokens=tokens), read_only=True)


def test_a_client_without_tokens_can_say_them_in_its_url(asked, tokens):
    """`http://scout:ntm_…@host`: the published Rust client never sends its API key."""
    scout, operator = add_token(tokens, "scout"), add_token(tokens, "*")

    async def body(client, _):
        for user, token, status in (
            ("scout", scout, 200),
            ("", scout, 200),
            ("trader", scout, 401),
            ("scout", operator, 401),
            ("operator", operator, 200),
            ("scout", "wrong", 401),
        ):
            found = await client.get("/v1/agents", auth=(user, token))
            assert found.status_code == status, user
        garbage = {"Authorization": "Basic " + base64.b64encode(b"\xff\xfe:x").decode()}
        assert (await client.get("/v1/agents", headers=garbage)).status_code == 401

    asked(body, settings=ServerSettings(tokens=tokens))


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:3000", 200),
        ("127.0.0.1", 200),
        ("[::1]:3000", 200),
        ("LOCALHOST", 200),
        ("memory.example:443", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:3000", 403),
        ("[::2]", 403),
        ("", 400),
    ],
)
def test_on_loopback_the_host_is_checked(asked, host, status):
    """A page of evil.example whose name was made to point here gets nothing (DNS rebinding)."""

    async def body(client, _):
        found = await client.get("/v1/agents", headers={"Host": host})
        assert found.status_code == status

    asked(body, settings=ServerSettings(allowed_hosts=("memory.example",)))


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:3000", 200),
        ("https://evil.example", 403),
        ("http://localhost:4000", 403),
        ("null", 403),
        ("http://[", 403),
    ],
)
def test_requests_of_other_sites_pages_are_refused(asked, origin, status):
    """A page elsewhere can have a browser send a POST, and must not have it carried out."""

    async def body(client, memory):
        sent = {"topic": "a", "message": 1}
        found = await client.post("/v1/messages", json=sent, headers={"Origin": origin})
        assert found.status_code == status
        assert "access-control-allow-origin" not in found.headers
        assert memory.stats().messages == (status == 200)

    asked(body)


def test_a_body_that_is_not_declared_json_is_refused(asked):
    """What a form can send across sites without asking first is not taken for JSON."""

    async def body(client, memory):
        text = json.dumps({"value": 1})
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            found = await client.put("/v1/state/a/k", content=text, headers={"content-type": kind})
            assert found.status_code == 400
        assert await memory.get("a", "k") is None

    asked(body)


# --- how much ---------------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_refused_declared_or_not(asked):
    """413 before it is read where its length is declared, and once it is too long where not."""

    async def body(client, memory):
        declared = await client.put("/v1/state/a/k", json={"value": "x" * 2000})
        assert (declared.status_code, declared.headers["connection"]) == (413, "close")

        async def chunks():
            for _ in range(100):
                yield b" " * 100

        headers = {"content-type": "application/json"}
        streamed = await client.put("/v1/state/a/k", content=chunks(), headers=headers)
        assert streamed.status_code == 413
        assert streamed.json()["title"] == "BodyTooLarge"
        assert (await client.put("/v1/state/a/k", json={"value": "x" * 500})).status_code == 200

    asked(body, settings=ServerSettings(max_body_bytes=1000))


def test_a_body_that_does_not_come_is_given_up(live):
    """408 once the time for it is over, whether nothing comes or a bit now and then."""

    async def served(memory):
        app = create_app(memory, ServerSettings(body_timeout_s=0.05))
        sent = []

        async def receive():
            await asyncio.get_running_loop().create_future()

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "method": "PUT",
            "path": "/v1/state/a/k",
            "raw_path": b"/v1/state/a/k",
            "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
            "http_version": "1.1",
            "scheme": "http",
            "server": ("localhost", 3000),
            "client": ("127.0.0.1", 1),
        }
        await app(scope, receive, send)
        assert sent[0]["status"] == 408
        assert (b"connection", b"close") in sent[0]["headers"]

    live(served)


@pytest.mark.parametrize(
    "text",
    [
        '{"value": NaN}',
        '{"value": 1e999, "ttl": 1e999}',
        '{"value": ' + "[" * 100_000,
        '{"value": ' + "[" * 400 + "]" * 400 + "}",
        '{"value": ' + "9" * 10_000 + "}",
        '{"value": "\\ud800"}',
        '{"value": {"$decimal": "abc"}}',
        '{"value": {"$nothing": 1}}',
        '{"value": {"$ndarray": "AAAA", "dtype": "O", "shape": [1]}}',
        '{"value": {"$ndarray": "AAAA", "dtype": "<f8", "shape": [1000000000, 1000000000]}}',
        '{"value": 1, "what": 2}',
        '{"value": 1, "expect": true}',
        '{"value": 1, "expect": "1"}',
        '{"value": 1, "expect": -1}',
        '{"value": 1, "known_at": 5}',
        '{"value": 1, "known_at": "2026-01-01"}',
        "[]",
        "null",
        "",
        "\x00",
        "{",
    ],
)
def test_odd_bodies_get_a_400_and_change_nothing(asked, text):
    """Whatever is in it: not JSON, too deep, no number, of the wrong type, no value's spelling."""

    async def body(client, memory):
        before = memory.revision
        found = await client.put(
            "/v1/state/a/k", content=text.encode(), headers={"content-type": "application/json"}
        )
        assert found.status_code == 400, found.text
        assert found.headers["content-type"] == "application/problem+json"
        assert memory.revision == before

    asked(body)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/state/a/%2e%2e/b",
        "/v1/state/a/x%2F..%2Fy",
        "/v1/state/a//",
        "/v1/state/a/k/",
        "/v1/state/..%2F..%2Fetc/passwd",
        "/v1/state/a%00b/k",
        "/v1/state/a/k%00",
        "/v1/state/a/%ff%fe",
        "/v1/state/a/" + "x" * 300,
        "/v1/state/" + "x" * 300 + "/k",
        "/v1/state/*/k",
        "/v1/locks/" + "x" * 300,
        "/collections/..%2F..%2Fetc/documents/00",
        "/../../etc/passwd",
        "//evil.example/v1/agents",
    ],
)
def test_path_tricks_find_nothing(asked, path):
    """A path is names, character by character, and never a place in the file system."""

    async def body(client, memory):
        await memory.put("b", "k", "another's")
        url = httpx.URL(scheme="http", host="localhost", port=3000, raw_path=path.encode())
        found = await client.get(url)
        assert found.status_code in {400, 404}
        assert "another's" not in found.text

    asked(body)


# --- what is told -----------------------------------------------------------------------------


def test_a_failure_tells_the_client_nothing_and_the_log_everything(asked, caplog):
    """500 without a trace; the traceback is logged under the id that the client was given."""

    async def body(client, memory):
        await memory.close()
        found = await client.put("/v1/state/a/k", json={"value": 1})
        assert (found.status_code, found.json()["title"]) == (503, "ClosedError")
        assert (await client.get("/ready")).status_code == 503

        @client.app.get("/broken")
        async def broken():
            raise RuntimeError("secret/path")

        found = await client.get("/broken")
        assert found.status_code == 500
        assert "secret" not in found.text
        assert "Traceback" not in found.text
        logged = [one for one in caplog.records if one.exc_info]
        assert logged[-1].fields["request"] == found.headers["x-request-id"]

    asked(body)


def test_a_failing_store_does_not_name_its_files():
    """What the operator has to know goes into the log."""
    from nt_memory.errors import CorruptionError, StorageFullError

    told = problems.describe(CorruptionError("/data/memory/journal/000.seg: bad checksum"))
    assert told["status"] == 500
    assert "/data" not in json.dumps(told)
    assert problems.describe(StorageFullError("/data"))["retryable"] is True


def test_every_error_has_a_status():
    """Each class of the tree is mapped on purpose: none but the store's own failures is a 500."""
    from nt_memory import errors

    found = [one for one in vars(errors).values() if isinstance(one, type)]
    for kind in found:
        if not issubclass(kind, errors.NtMemoryError) or kind is errors.NtMemoryError:
            continue
        error = kind.__new__(kind)
        Exception.__init__(error, "what happened")
        status = problems.status_of(error)
        mapped = any(base in problems._STATUS for base in kind.__mro__[:-1])
        assert mapped
        if status == 500:
            assert issubclass(kind, errors.StorageError) or kind in {
                errors.BufferOverflowError,
                errors.ReceiveTimeoutError,
                errors.WrongLoopError,
            }, kind


def test_a_request_leaves_one_line_of_json_without_what_was_in_it(asked, tokens, caplog):
    """Method, route, status, time, agent and token id; no path, no body, no token."""
    scout = add_token(tokens, "scout")
    caplog.set_level(logging.INFO, "nt_memory")

    async def body(client, _):
        caplog.clear()
        await client.put(
            "/v1/state/scout/secret-key?x=secret-query",
            json={"value": "secret-value"},
            headers=bearer(scout),
        )
        lines = [JsonFormatter().format(one) for one in caplog.records]
        (line,) = [json.loads(one) for one in lines if '"event": "request"' in one]
        assert (line["route"], line["status"]) == ("/v1/state/{agent}/{key:path}", 200)
        assert (line["agent"], line["token"]) == ("scout", scout.split("_")[1])
        assert line["bytes_in"] > 0
        everything = "".join(lines)
        for secret in ("secret-key", "secret-query", "secret-value", scout.split("_", 2)[2]):
            assert secret not in everything

    asked(body, settings=ServerSettings(tokens=tokens))


def test_responses_are_not_cached_or_sniffed(asked):
    """And each names the request it answers."""

    async def body(client, _):
        for path in ("/health", "/v1/agents", "/nope"):
            found = await client.get(path)
            assert found.headers["cache-control"] == "no-store"
            assert found.headers["x-content-type-options"] == "nosniff"
            assert len(found.headers["x-request-id"]) == 16

    asked(body)


# --- where it listens -------------------------------------------------------------------------


def test_beyond_loopback_a_server_needs_tokens_and_tls(tokens):
    """Neither whoever likes nor whoever listens on the way may get at it."""
    cert = Path("cert.pem")
    for host in ("0.0.0.0", "::", "", "192.0.2.1"):  # noqa: S104 - that is what is refused
        with pytest.raises(InvalidInputError, match="--tokens"):
            check_exposure(ServerSettings(host=host))
        with pytest.raises(InvalidInputError, match="--certfile"):
            check_exposure(ServerSettings(host=host, tokens=tokens))
        check_exposure(ServerSettings(host=host, tokens=tokens, certfile=cert))
        check_exposure(ServerSettings(host=host, tokens=tokens, is_behind_proxy=True))
        with pytest.raises(InvalidInputError, match="--tokens"):
            check_exposure(ServerSettings(host=host, certfile=cert))
    for host in ("127.0.0.1", "::1", "localhost", "127.0.0.53"):
        check_exposure(ServerSettings(host=host))
        assert is_loopback(host)
    with pytest.raises(InvalidInputError, match="--certfile"):
        check_exposure(ServerSettings(keyfile=cert))
    with pytest.raises(InvalidInputError, match="--host"):
        check_exposure(ServerSettings(host="host.invalid"))


def test_no_dependency_of_a_route_takes_a_thread():
    """FastAPI sends plain functions to a thread pool: a hop on every request, and on two cores a queue."""
    import inspect

    from nt_memory.apps.server import callers, house

    for annotated in (callers.Me, house.Here):
        (depends,) = annotated.__metadata__
        assert inspect.iscoroutinefunction(depends.dependency)
