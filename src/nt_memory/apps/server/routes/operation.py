"""Whether the server is there, whether it can serve, and what it counts."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import BaseModel

import nt_memory
from nt_memory.apps.server.bodies import PROBLEMS, reply
from nt_memory.apps.server.callers import Me
from nt_memory.apps.server.house import Here
from nt_memory.apps.server.problems import refused
from nt_memory.errors import NtMemoryError, PermissionDeniedError
from nt_memory.topics import compile_pattern

router: APIRouter = APIRouter(tags=["operation"], responses=PROBLEMS)


class HealthOut(BaseModel):
    """The process answers."""

    status: str
    version: str


class ReadyOut(BaseModel):
    """The memory can be used."""

    status: str
    revision: int
    lag: int


@router.get("/health", response_model=HealthOut)
async def health() -> Response:
    """Whether the process answers; needs no token."""
    return reply({"status": "ok", "version": nt_memory.__version__})


@router.get("/ready", response_model=ReadyOut)
async def ready(house: Here) -> Response:
    """Whether requests can be served; needs no token."""
    if house.closing.is_set():
        raise refused(503, "the server is stopping")
    try:
        stats = house.memory.stats()
    except NtMemoryError:
        raise refused(503, "the memory cannot be used") from None
    return reply({"status": "ready", "revision": stats.revision, "lag": stats.lag})


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(house: Here, me: Me) -> Response:
    """What is counted, for Prometheus.

    It says how well each agent forecasts, so an agent needs the right to operate `metrics`.
    """
    policy = house.memory.policy(me.agent) if me.agent else None
    if me.agent and not (policy and any(compile_pattern(one)("metrics") for one in policy.operate)):
        raise PermissionDeniedError(
            f"{me.agent} may not read the metrics",
            agent=me.agent,
            right="operate",
            target="metrics",
        )
    text = await house.telemetry.text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
