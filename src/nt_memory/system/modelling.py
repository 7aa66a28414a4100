"""The caller's model: records in, vectors as they are stored out."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

import numpy as np

from nt_memory.codec import is_filed
from nt_memory.errors import DimensionError, EmbeddingError
from nt_memory.system.reads import to_record
from nt_memory.system.units import to_half, to_units

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nt_memory.entries import Stored
    from nt_memory.records import EmbedRecords, Record
    from nt_memory.system.engine import Engine
    from nt_memory.transport.values import ValueFiles


async def embed_versions(
    engine: Engine, embed: EmbedRecords, agent: str, versions: Sequence[Stored], dim: int
) -> NDArray[np.float16]:
    """What `embed` makes of versions, as it is stored.

    Args:
        engine: Where their values are.
        embed: See `ReembeddingCalls.reembed`.
        agent: Whose observations.
        versions: At least one.
        dim: Values that a vector must have; 0: any number.

    Returns:
        Shape (len(versions), dimension).

    Raises:
        EmbeddingError: they are not one finite vector a record.
        DimensionError: they have another dimension.
        Exception: whatever `embed` raises.
    """
    filed = [one.value for one in versions if one.value is not None and is_filed(one.value)]
    with engine.values.keep(filed), engine.halts.embedding(agent):
        records = await asyncio.to_thread(_to_records, versions, engine.values)
        found = await _call(embed, records)
    return await asyncio.to_thread(_to_halves, found, len(versions), dim)


def filled(
    first: int, is_lost: NDArray[np.bool_], halves: NDArray[np.float16] | None, dim: int
) -> NDArray[np.float16]:
    """Vectors of rows, made up for those of which nothing is left.

    No search ever shows one of these, but the graph holds them, and there many that are alike would
    lie in the way: whoever comes upon one has only others of them for neighbours.

    Args:
        first: Number of the first row.
        is_lost: Which rows, shape (n,).
        halves: The vectors of the others; None if there are none.
        dim: Values in a vector.

    Returns:
        Shape (n, dim).
    """
    vectors: NDArray[np.float16] = np.empty((len(is_lost), dim), "<f2")
    if halves is not None:
        vectors[~is_lost] = halves
    count = int(np.count_nonzero(is_lost))
    random = np.random.default_rng(first).standard_normal((count, dim), np.float32)
    vectors[is_lost] = to_half(to_units(random))
    return vectors


async def _call(embed: Any, records: list[Record]) -> Any:
    if inspect.iscoroutinefunction(embed) or inspect.iscoroutinefunction(
        getattr(embed, "__call__", None)  # noqa: B004 - is it asynchronous, not is it there
    ):
        return await embed(records)
    found = await asyncio.to_thread(embed, records)
    return await found if inspect.isawaitable(found) else found


def _to_records(versions: Sequence[Stored], values: ValueFiles) -> list[Record]:
    return [to_record(version, values) for version in versions]


def _to_halves(found: Any, count: int, dim: int) -> NDArray[np.float16]:
    """Embeddings as they are stored.

    Raises:
        EmbeddingError: they are not one finite vector a record.
        DimensionError: they have another dimension than those before.
    """
    units = to_units(found)
    if len(units) != count:
        raise EmbeddingError(f"embed returned {len(units)} embeddings for {count} records")
    if dim and units.shape[1] != dim:
        raise DimensionError(
            f"embed returned embeddings of dimension {units.shape[1]}, and {dim} before",
            expected=dim,
            got=units.shape[1],
        )
    return to_half(units)
