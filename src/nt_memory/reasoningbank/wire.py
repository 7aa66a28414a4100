"""How actions, outcomes and receipts are spelled in bytes: compact, because there are millions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from nt_memory.errors import CodecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray


class ReceiptDoc(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Which memories an advice used, and how the coin fell.

    Attributes:
        time_us: Known by when.
        revision: Recorded by when.
        propensity: Probability with which the advice was to be withheld.
        is_withheld: Whether it was.
        coin: The coin's unit; empty if none was thrown.
        blocks: Partition id, bytes a step (2 or 4), and steps between ascending rows.
        pattern: Owner and id, "agent/id", of the pattern it used instead of memories; empty: none.
    """

    time_us: int
    revision: int
    propensity: float = 0.0
    is_withheld: bool = False
    coin: str = ""
    blocks: tuple[tuple[int, int, bytes], ...] = ()
    pattern: str = ""


class ActionDoc(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An action as it is stored: what was claimed before the outcome, never changed after.

    Attributes:
        action_type: What kind.
        at: When it was taken, microseconds; None: when it was tracked.
        definition: Revision of the definition it is judged by; 0: none.
        predicted: Point forecast.
        low: Lower end of the interval forecast.
        high: Upper end of the interval forecast.
        level: Coverage the interval claims.
        probability: Of a positive outcome.
        baseline: The naive forecast, frozen.
        quantiles: (probability, value), ascending.
        receipt: The advice it acted on.
    """

    action_type: str
    at: int | None = None
    definition: int = 0
    predicted: float | None = None
    low: float | None = None
    high: float | None = None
    level: float = 0.8
    probability: float | None = None
    baseline: float | None = None
    quantiles: tuple[tuple[float, float], ...] = ()
    receipt: ReceiptDoc | None = None


class OutcomeDoc(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An outcome as it is stored."""

    value: float


class OwnerDoc(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Whose trajectory an id is; an empty agent: it was forgotten."""

    agent: str


encode: Callable[[msgspec.Struct], bytes] = msgspec.msgpack.Encoder().encode
_action = msgspec.msgpack.Decoder(ActionDoc)
_outcome = msgspec.msgpack.Decoder(OutcomeDoc)
_owner = msgspec.msgpack.Decoder(OwnerDoc)


def decode_action(value: bytes) -> ActionDoc:
    """The action in `value`. Raises CodecError if there is none."""
    try:
        return _action.decode(value)
    except msgspec.DecodeError as error:
        raise CodecError(f"not an action: {error}") from None


def decode_outcome(value: bytes) -> OutcomeDoc:
    """The outcome in `value`. Raises CodecError if there is none."""
    try:
        return _outcome.decode(value)
    except msgspec.DecodeError as error:
        raise CodecError(f"not an outcome: {error}") from None


def decode_owner(value: bytes) -> OwnerDoc:
    """The owner in `value`. Raises CodecError if there is none."""
    try:
        return _owner.decode(value)
    except msgspec.DecodeError as error:
        raise CodecError(f"not an owner: {error}") from None


def pack_rows(
    partition: NDArray[np.int64], row: NDArray[np.int64]
) -> tuple[tuple[int, int, bytes], ...]:
    """Rows by partition, as steps between ascending rows: two bytes each where that suffices.

    Args:
        partition: Ids of vector partitions, shape (n,), below 2**31.
        row: Rows, shape (n,), below 2**32.
    """
    if not len(row):
        return ()
    # One number for both, because one sort is all that this costs.
    both = np.sort((partition << 32) | row)
    number, steps = both >> 32, both & 0xFFFF_FFFF
    is_first = np.ones(len(both), np.bool_)
    is_first[1:] = number[1:] != number[:-1]
    starts = np.flatnonzero(is_first)
    steps[1:] = np.where(is_first[1:], steps[1:], steps[1:] - steps[:-1])
    is_narrow = (np.maximum.reduceat(steps, starts) < 1 << 16).tolist()
    narrow, wide = steps.astype("<u2").tobytes(), steps.astype("<u4").tobytes()
    ends = [*starts[1:].tolist(), len(steps)]
    return tuple(
        (one, 2, narrow[2 * start : 2 * end]) if fits else (one, 4, wide[4 * start : 4 * end])
        for one, start, end, fits in zip(
            number[starts].tolist(), starts.tolist(), ends, is_narrow, strict=True
        )
    )


def unpack_rows(
    blocks: Iterable[tuple[int, int, bytes]],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Partitions and rows, by partition and row; the inverse of `pack_rows`."""
    partitions: list[NDArray[np.int64]] = []
    rows: list[NDArray[np.int64]] = []
    for number, width, steps in blocks:
        found = np.cumsum(np.frombuffer(steps, f"<u{width}").astype(np.int64))
        rows.append(found)
        partitions.append(np.full(len(found), number, np.int64))
    if not rows:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(partitions), np.concatenate(rows)


def action_key(trajectory_id: str, index: int) -> str:
    """Key of an action and of its outcome."""
    return f"{trajectory_id}/{index}"


def split_key(key: str) -> tuple[str, int]:
    """Trajectory id and action index of an action's key."""
    trajectory_id, _, index = key.rpartition("/")
    return trajectory_id, int(index)
