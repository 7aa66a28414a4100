"""Paths and queries of requests. Names are checked as in process, before anything is sent."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from nt_memory.namespace import check_agent, check_key

if TYPE_CHECKING:
    from nt_memory.apps.cli.asking import Moment


def of_agent(kind: str, agent: str) -> str:
    """The path of what an agent has."""
    return f"/{kind}/{check_agent(agent)}"


def of_key(kind: str, agent: str, key: str) -> str:
    """The path of a key of an agent."""
    return f"{of_agent(kind, agent)}/{quote(check_key(key))}"


def of_name(kind: str, name: str) -> str:
    """The path of something with a name of its own, any text.

    Points are quoted: a name that is `..` must not be taken for a step up.
    """
    return f"/{kind}/{quote(name, safe='').replace('.', '%2E')}"


def spell_moment(moment: Moment | None) -> str | None:
    """A revision or a time as a query has it."""
    return moment.isoformat() if isinstance(moment, datetime) else _text(moment)


def _text(revision: int | None) -> str | None:
    return None if revision is None else str(revision)
