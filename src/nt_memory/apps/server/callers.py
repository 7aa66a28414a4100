"""Who asks, and the memory as that one may use it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from fastapi import Depends
from starlette.requests import HTTPConnection

from nt_memory import MemorySystem, Policy
from nt_memory.apps.server.dashboard.page import FILES
from nt_memory.apps.server.problems import refused
from nt_memory.apps.server.settings import LOOPBACK_NAMES, ServerSettings, is_loopback
from nt_memory.errors import ReadOnlyError

if TYPE_CHECKING:
    from starlette.datastructures import Headers
    from starlette.types import Scope

    from nt_memory.apps.server.tokens import Bearer, TokenFile

PUBLIC = frozenset({"/health", "/ready", "/openapi.json", *FILES})
_SCOPE_KEY = "nt_memory.caller"
_OPERATOR_USERS = frozenset({"", "operator", "*"})

logger: logging.Logger = logging.getLogger("nt_memory.server")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request.

    Attributes:
        agent: The agent; empty: the operator.
        token_id: The token it came with; empty without tokens.
        memory: The memory in that name and with those rights.
    """

    agent: str
    token_id: str
    memory: MemorySystem


def own_policy(agent: str) -> Policy:
    """What an agent with a token may do until an operator says otherwise: what is its own."""
    own = (f"{agent}/**",)
    return Policy(
        read=own,
        write=own,
        publish=own,
        subscribe=own,
        lock=own,
        propose=("**",),
        vote=("**",),
    )


class Door:
    """Lets requests in, each in somebody's name.

    Args:
        memory: The whole memory.
        settings: Whom to let in.
        tokens: Who has a token; None: whoever comes is the operator.
    """

    def __init__(
        self, memory: MemorySystem, settings: ServerSettings, tokens: TokenFile | None
    ) -> None:
        self._memory = memory
        self._tokens = tokens
        self._handles: dict[str, MemorySystem] = {}
        self._hosts: frozenset[str] | None = None
        if is_loopback(settings.host):
            names = (*LOOPBACK_NAMES, settings.host, f"[{settings.host}]", *settings.allowed_hosts)
            self._hosts = frozenset(name.lower() for name in names)
        self.policies: asyncio.Lock = asyncio.Lock()
        """Held while a policy is set, so that a default one never replaces an operator's."""

    async def prepare(self) -> None:
        """Give every agent that has a token and no policy the one of `own_policy`."""
        for agent in [] if self._tokens is None else self._tokens.agents:
            await self._ensure_policy(agent)

    async def admit(self, path: str, headers: Headers) -> Caller:
        """In whose name a request acts.

        Raises:
            HTTPException: 400 and 403 for a request that a web page elsewhere makes a browser send;
                401 without a valid token; 403 for an agent that no policy holds for.
        """
        self._check_host(headers)
        self._check_origin(headers)
        if self._tokens is None or path in PUBLIC:
            return Caller("", "", self._memory)
        bearer = self._bearer(headers.get("authorization", ""), self._tokens)
        if bearer is None:
            raise refused(401, "this needs a valid token", www_authenticate="Bearer")
        if not bearer.agent:
            return Caller("", bearer.token_id, self._memory)
        await self._ensure_policy(bearer.agent)
        return Caller(bearer.agent, bearer.token_id, self._handle(bearer.agent))

    def is_still_in(self, caller: Caller) -> bool:
        """Whether the token of a caller is still valid."""
        return not caller.token_id or self._tokens is None or self._tokens.has(caller.token_id)

    def _handle(self, agent: str) -> MemorySystem:
        handle = self._handles.get(agent)
        if handle is None:
            handle = self._handles[agent] = self._memory.as_agent(agent)
        return handle

    async def _ensure_policy(self, agent: str) -> None:
        if self._memory.policy(agent) is not None:
            return
        async with self.policies:
            if self._memory.policy(agent) is not None:
                return
            try:
                await self._memory.set_policy(agent, own_policy(agent))
            except ReadOnlyError:
                raise refused(403, f"no policy says what {agent} may do") from None
        logger.info("agent got the policy of its own name", extra={"fields": {"agent": agent}})

    def _check_host(self, headers: Headers) -> None:
        """A page whose own name was made to point here must not reach a server on loopback."""
        host = headers.get("host")
        if not host:
            raise refused(400, "a request needs a Host header")
        if self._hosts is None:
            return
        name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
        if name.lower() not in self._hosts:
            raise refused(403, "this server is not known under that Host; see --allowed-host")

    @staticmethod
    def _check_origin(headers: Headers) -> None:
        """Another site's page may send requests, though it cannot read what they return."""
        origin = headers.get("origin")
        if origin is None:
            return
        try:
            where = urlsplit(origin).netloc
        except ValueError:
            where = ""
        if where.lower() != headers.get("host", "").lower():
            raise refused(403, "requests of other sites' pages are not taken")

    @staticmethod
    def _bearer(authorization: str, tokens: TokenFile) -> Bearer | None:
        scheme, _, credentials = authorization.partition(" ")
        credentials = credentials.strip()
        if scheme.lower() == "bearer":
            return tokens.find(credentials)
        if scheme.lower() != "basic":
            return None
        # For clients that know no tokens, but take `http://agent:token@host:port`.
        try:
            user, _, token = base64.b64decode(credentials, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            return None
        bearer = tokens.find(token)
        if bearer is None or user not in ({bearer.agent, ""} if bearer.agent else _OPERATOR_USERS):
            return None
        return bearer


def put_caller(scope: Scope, caller: Caller, request_id: str) -> None:
    """Remember who asks, for `caller_of`, and how the request is called in the log."""
    scope[_SCOPE_KEY] = caller
    scope["nt_memory.request"] = request_id


def caller_of(connection: HTTPConnection) -> Caller:
    """Who asks."""
    caller: Caller = connection.scope[_SCOPE_KEY]
    return caller


async def _caller(connection: HTTPConnection) -> Caller:
    # Async, though it waits for nothing: FastAPI sends a plain function to another thread, and each
    # request waited for the processor twice more.
    return caller_of(connection)


Me = Annotated[Caller, Depends(_caller)]
