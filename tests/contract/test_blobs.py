"""Large values and entries, where a server that answers is behind the others: nothing is taken for missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from test_leftovers import ENTRY, large, server, settled, stored
from test_snapshots import ask, node

from nt_memory.transport.nats.client import ApiError

if TYPE_CHECKING:
    from pathlib import Path

    from nats_server import NatsServer

__all__ = ["server", "settled"]  # fixtures

IS_MISSING = {"code": 404, "err_code": 10037, "description": "no message found"}
IS_THERE = {"code": 400, "err_code": 10077, "description": "maximum messages per subject exceeded"}


def is_same(found: Any, value: Any) -> bool:
    return bool(np.array_equal(found, value)) if isinstance(value, np.ndarray) else found == value


@pytest.mark.parametrize("value", [large(1), ENTRY], ids=["file", "entry"])
async def test_what_a_server_has_not_yet_is_not_missing(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    """One that led before, or leads since a moment ago, answers a few times as of before the value came."""
    async with node(server, tmp_path / "one") as one, node(server, tmp_path / "late") as late:
        link = late._engine.journal.link
        values, real = link.subjects.values, link.ask_api
        before = await ask(one, f"STREAM.INFO.{values}", {"subjects_filter": ">"})
        asked: list[str] = []

        async def answer(what: str, body: Any, **how: Any) -> Any:
            if what == f"STREAM.INFO.{values}":
                asked.append("list")
                if asked.count("list") <= 3:
                    return before
            if what == f"STREAM.MSG.GET.{values}":
                asked.append("piece")
                if asked.count("piece") <= 2:
                    raise ApiError(IS_MISSING)
            return await real(what, body, **how)

        monkeypatch.setattr(link, "ask_api", answer)
        await one.put("agent_1", "k", value)
        await late.sync()
        assert is_same(await late.get("agent_1", "k"), value)
        assert asked[:5] == ["list", "list", "list", "list", "piece"]
        assert late.revision == one.revision


async def test_what_was_never_stored_is_missing_at_once(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts on no node, all of them go on, and each asks behind a mark of its own."""
    async with node(server, tmp_path / "one") as one, node(server, tmp_path / "late") as late:
        with monkeypatch.context() as patch:
            patch.setattr(one._engine.journal._publishing.blobs, "put", lambda *_: None)
            with pytest.raises(Exception, match="may not make such an entry"):
                await one.put("agent_1", "k", ENTRY)
        await one.put("agent_1", "k", 2)
        await late.sync()
        assert await late.get("agent_1", "k") == 2
        assert late.revision == one.revision
        marks = {name.split(".")[1] for name in await stored(one)}
        assert marks == {"mark"}
        assert len(await stored(one)) == 2


async def test_a_piece_that_is_said_to_be_there_and_is_not_is_stored_again(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader says that it has a piece of which it only knows, and is gone before a majority has it."""
    async with node(server, tmp_path / "one") as one, node(server, tmp_path / "late") as late:
        link = one._engine.journal.link
        real, refused = link.store, []

        async def store(subject: str, data: bytes, headers: Any, **how: Any) -> Any:
            if subject.endswith(".1") and not refused:
                refused.append(subject)
                raise ApiError(IS_THERE)
            return await real(subject, data, headers, **how)

        monkeypatch.setattr(link, "store", store)
        await one.put("agent_1", "k", large(3))
        await late.sync()
        assert is_same(await late.get("agent_1", "k"), large(3))
        assert len(refused) == 1
