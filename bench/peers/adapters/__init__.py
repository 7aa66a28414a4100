"""The peers by name; a module is only imported in the process that runs its peer."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peers.peer import Peer

OURS = "nt-memory"
LIMIT = "dict + faiss"
PLACES = {
    OURS: "ours:Ours",
    "AgentDB": "agentdb:AgentDb",
    "mem0": "mem0_:Mem0",
    "LangGraph InMemoryStore": "langgraph_:InMemory",
    "LangGraph SqliteStore": "langgraph_:Sqlite",
    "LangGraph PostgresStore": "postgres:Postgres",
    "Redis": "redis_:Redis",
    "Chroma + dict": "chroma:Chroma",
    LIMIT: "limit:Limit",
}


def adapter(name: str) -> type[Peer]:
    """The class of a peer; needs what the peer needs."""
    module, _, attribute = PLACES[name].partition(":")
    found: type[Peer] = getattr(import_module(f"peers.adapters.{module}"), attribute)
    return found
