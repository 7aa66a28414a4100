"""Guarantee 6 over selectivities and correlations, through the public calls, with a graph."""

from __future__ import annotations

import asyncio

import filter_matrix
import pytest

from nt_memory import MemoryConfig, MemorySystem

ROWS, DIM, QUERIES = 50_000, 64, 6


@pytest.mark.timeout(180)
def test_no_filter_makes_a_search_worse(store):
    """From 100 % to 0.01 %, at random, around the query, far from it or anywhere: recall and no short
    answers, with tags and with `where`, none of them by reading."""
    data = filter_matrix.make(ROWS, DIM, QUERIES, seed=11)

    async def body():
        async with MemorySystem.open(MemoryConfig(storage_path=store)) as memory:
            await filter_matrix.fill(memory, data)
            return [cell async for cell in filter_matrix.cells(memory, data)]

    cells = asyncio.run(body())
    assert len(cells) == len(filter_matrix.KINDS) * len(filter_matrix.SHARES)
    assert [cell for cell in cells if cell.short] == []
    assert [cell for cell in cells if cell.recall < 0.95] == []
    assert {cell.filters for cell in cells} == {"tags", "columns"}
