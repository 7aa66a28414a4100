"""The app of one server: its routes, and the gate before them.

More routers may be given to `create_app`, such as those of a page; they share the gate, and find the
server's parts by `house.Here` and who asks by `callers.Me`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException as StarletteHTTPException

import nt_memory
from nt_memory.apps.server import problems
from nt_memory.apps.server.callers import PUBLIC, Door
from nt_memory.apps.server.dashboard import page
from nt_memory.apps.server.gate import Gate
from nt_memory.apps.server.house import House
from nt_memory.apps.server.receipts import Receipts
from nt_memory.apps.server.routes import (
    advice,
    agentdb,
    coordination,
    journal,
    live,
    messages,
    operation,
    overview,
    similarity,
    state,
    swarm,
    trajectories,
)
from nt_memory.apps.server.settings import ServerSettings
from nt_memory.apps.server.telemetry import Telemetry
from nt_memory.apps.server.tokens import TokenFile
from nt_memory.clock import Clock, SystemClock
from nt_memory.embedders import HashingTextEmbedder

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nt_memory import MemorySystem
    from nt_memory.embedders import Embedder

DEFAULT_DIM = 384
_DESCRIPTION = """\
State, similar situations, reasoning and coordination of a swarm of agents. See `docs/reference/http.md`.

Values are any JSON; what JSON lacks is spelled `{"$decimal": "1.10"}`, `{"$datetime": ...}`,
`{"$bytes": ...}`, `{"$ndarray": ...}` and so on, as in exports. Errors are problem documents (RFC 9457).
"""


def create_app(
    memory: MemorySystem,
    settings: ServerSettings | None = None,
    *,
    embedder: Embedder[Sequence[str]] | None = None,
    routers: Iterable[APIRouter] = (),
    clock: Clock | None = None,
) -> FastAPI:
    """The app that serves a memory, which stays its caller's to close.

    Args:
        memory: An open memory, of the event loop that will serve it.
        settings: Whom to let in and how much; `ServerSettings()` by default.
        embedder: What makes vectors of texts; by default one without a model, of 384 dimensions.
        routers: More routes.
        clock: For durations and deadlines.

    Raises:
        InvalidInputError, StorePermissionError, OSError: the file of tokens cannot be used.
    """
    settings = settings or ServerSettings()
    clock = clock or SystemClock()
    tokens = None if settings.tokens is None else TokenFile(settings.tokens, clock)
    telemetry = Telemetry(memory, clock)
    door = Door(memory, settings, tokens)
    app = FastAPI(
        title="nt-memory",
        version=nt_memory.__version__,
        description=_DESCRIPTION,
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Spans have paths and queries in them, and an environment variable would have them sent off.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.house = House(
        memory=memory,
        settings=settings,
        door=door,
        telemetry=telemetry,
        embedder=embedder or HashingTextEmbedder(DEFAULT_DIM),
        receipts=Receipts(),
    )
    parts = (
        *(operation, agentdb, state, similarity, trajectories, advice),
        *(messages, coordination, swarm, journal, live, overview, page),
    )
    for router in (*(part.router for part in parts), *routers):
        app.include_router(router)
    app.add_exception_handler(nt_memory.NtMemoryError, problems.on_memory_error)
    app.add_exception_handler(RequestValidationError, problems.on_malformed)
    for kind in (HTTPException, StarletteHTTPException):
        app.add_exception_handler(kind, problems.on_http_error)
    app.add_middleware(Gate, door=door, settings=settings, telemetry=telemetry, clock=clock)
    _describe_security(app)
    return app


def house_of(app: FastAPI) -> House:
    """The parts of an app that `create_app` made."""
    house: House = app.state.house
    return house


def _describe_security(app: FastAPI) -> None:
    """Say in the OpenAPI document that a token is wanted, where one is."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            found.setdefault("components", {})["securitySchemes"] = {
                "token": {"type": "http", "scheme": "bearer"}
            }
            found["security"] = [{"token": []}, {}]
            for path in PUBLIC & found["paths"].keys():
                for operation_ in found["paths"][path].values():
                    operation_["security"] = []
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]
