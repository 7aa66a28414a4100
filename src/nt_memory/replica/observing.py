"""Observations by columns, where nothing was there before: judged and folded all at once.

A batch under keys that have no version yet, each of them once, is what bulk ingest is made of. It
supersedes nothing, ends nothing and trims nothing, so of `writes.decide` and `writes.fold` only the
writing is left, and that goes column by column. Everything else, and whatever is wrong with an entry,
is left to those two, operation by operation; so refusals are theirs. Both ways make the same rows in
every table, which a property test holds them to.
"""

from __future__ import annotations

from array import array
from itertools import compress
from typing import TYPE_CHECKING, NamedTuple

from nt_memory.clock import EARLIEST_US
from nt_memory.codec import is_filed
from nt_memory.codec.filed import REFERENCE_BYTES, read_reference
from nt_memory.entries import STATE
from nt_memory.errors import CorruptionError
from nt_memory.namespace import are_keys, is_agent
from nt_memory.replica.follow import Observed
from nt_memory.replica.writes import FLOAT16_BYTES, partition_name, take_rows
from nt_memory.tiers.layout import (
    ChangeRow,
    VectorRow,
    Version,
    encode_row,
    name_of,
    pack_row,
    row_key,
    version_key,
)
from nt_memory.tiers.vectors import NEVER

if TYPE_CHECKING:
    from nt_memory.entries import ObserveMany
    from nt_memory.replica.writes import Folding, Now
    from nt_memory.tiers.views import Snapshot


class Fresh(NamedTuple):
    """Observations that were found to be under new keys, and valid.

    Attributes:
        names: Their names in the views.
        known_at: Since when each counts as known.
        dim: Values in a vector.
        size: Bytes that count against their agent's quota.
    """

    names: list[bytes]
    known_at: array[int]
    dim: int
    size: int


def find_fresh(views: Snapshot, body: ObserveMany, now: Now) -> Fresh | None:
    """What `fold_fresh` needs; None if `writes.decide` has to judge the operations one by one.

    Args:
        views: The views before the entry.
        body: The entry, whose columns fit together.
        now: By what it is judged.

    Cost: about 0.3 us a row and one seek, where no others' keys lie between its own.
    """
    if not is_agent(body.agent) or not are_keys(body.keys):
        return None
    known_at = _known_at(body, now)
    prefix = name_of(STATE, body.agent, "")[:-1]
    names = [prefix + key.encode() + b"\0" for key in body.keys]
    if known_at is None or len(set(names)) < len(names) or not views.are_absent(sorted(names)):
        return None
    dim = body.row_bytes // FLOAT16_BYTES
    partition = views.partition(partition_name(body.agent, ""))
    if partition is not None and partition.dim != dim:
        return None
    try:
        size = _bytes(body, names, len(prefix))
    except CorruptionError:
        return None
    return Fresh(names, known_at, dim, size)


def _known_at(body: ObserveMany, now: Now) -> array[int] | None:
    limit = now.timeline_us
    if limit is None:
        return None
    known = body.known_at
    if not isinstance(known, tuple):
        one = limit if known is None else known
        return array("q", (one,)) * len(body.keys) if EARLIEST_US <= one <= limit else None
    times = [limit if one is None else one for one in known]
    return array("q", times) if EARLIEST_US <= min(times) <= max(times) <= limit else None


def _bytes(body: ObserveMany, names: list[bytes], prefix: int) -> int:
    """As the sum of `layout.version_bytes`."""
    sizes = list(map(len, body.values))
    size = sum(sizes) + sum(map(len, names)) - (prefix + 1) * len(names)
    if REFERENCE_BYTES in sizes:
        for value in compress(body.values, map(REFERENCE_BYTES.__eq__, sizes)):
            if is_filed(value):
                size += read_reference(value).size
    if body.labels:
        of_label = [sum(len(tag.encode()) for tag in tags) for tags in body.labels]
        if body.tagged:
            return size + sum(map(of_label.__getitem__, body.tagged))
        return size + of_label[0] * len(names)
    return size


def fold_fresh(folding: Folding, body: ObserveMany, fresh: Fresh) -> tuple[ChangeRow, ...]:
    """Write them; what changed, in order. As `writes.fold` of each operation.

    Cost: about 2 us a row, half of it LMDB's.
    """
    batch, now, follow, actor, _, quotas = folding
    names, known_at, dim, size = fresh
    count, revision, agent = len(names), now.revision, body.agent
    found = take_rows(batch, partition_name(agent, ""), dim, count, follow)
    partition, first = found.id, found.rows
    rows = range(first, first + count)
    versions = [
        (
            version_key(name, known, revision),
            encode_row(Version(value, now.recorded_at, None, actor, partition, row, tags)),
        )
        for name, known, value, row, tags in zip(
            names, known_at, body.values, rows, body.tags, strict=True
        )
    ]
    # In order of their keys, each next to the one before, for which LMDB looks first.
    versions.sort()
    batch.put_rows(b"versions", versions)
    vector_rows = [
        (row_key(partition, row), pack_row(VectorRow(known, NEVER, revision, revision, name)))
        for name, known, row in zip(names, known_at, rows, strict=True)
    ]
    batch.put_rows(b"rows", vector_rows)
    quotas.add(batch, agent, count, size, count)
    follow.add_rows(
        Observed(body, known_at, revision, now.recorded_at, actor, partition, first), found
    )
    return tuple(
        [
            ChangeRow("put", STATE, agent, key, known, partition, row)
            for key, known, row in zip(body.keys, known_at, rows, strict=True)
        ]
    )
