"""What commands are given: moments, JSON, embeddings."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nt_memory.errors import DimensionError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime
    from typing import TypeVar

    import numpy as np
    from numpy.typing import NDArray

    from nt_memory.apps.cli.asking import Memory

    _T = TypeVar("_T")


def parse_as_of(text: str | None) -> datetime | int | None:
    """A revision, or a time.

    Raises:
        InvalidInputError: it is neither.
    """
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return int(text)
    return parse_time(text, "--as-of", "neither a revision nor a time")


def parse_time(text: str, option: str, otherwise: str = "not a time") -> datetime:
    """An ISO 8601 time; whether it has an offset is checked by what takes it.

    Raises:
        InvalidInputError: it is none.
    """
    from datetime import datetime  # noqa: PLC0415 - `--help` does without

    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInputError(
            f"{option} {text!r} is {otherwise} such as 2026-03-02T16:00:00-05:00"
        ) from None


def parse_json(text: str, what: str, hint: str = "") -> Any:
    """A value in JSON.

    Raises:
        InvalidInputError: it is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{what} is not JSON ({error}){hint}") from None


def read_text(given: str) -> str:
    """What is given, or stdin for `-`.

    Raises:
        InvalidInputError: stdin is not UTF-8.
    """
    if given != "-":
        return given
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"stdin is not text: {error}") from None


def read_vector(given: str) -> Any:
    """An embedding that was given by `--vector`.

    Raises:
        InvalidInputError: it is not JSON, or the file is no array.
        OSError: the file cannot be read.
    """
    if not given.startswith("@"):
        return parse_json(read_text(given), "--vector")
    path = Path(given[1:])
    if path.suffix != ".npy":
        return parse_json(path.read_text(), f"--vector {given}")
    import numpy as np  # noqa: PLC0415

    try:
        return np.load(path, allow_pickle=False)
    except ValueError as error:
        raise InvalidInputError(f"--vector {given}: {error}") from None


async def with_embedding(
    memory: Memory,
    agent: str,
    given: tuple[str | None, str | None, str | None],
    use: Callable[[Any], Awaitable[_T]],
) -> _T:
    """Call `use` with the embedding that `--vector`, `--text` or `--like` gives.

    A text is embedded to as many values as the observations have that it is compared with.

    Args:
        memory: Where `--like` looks.
        agent: Whose observation that is.
        given: The three options.
        use: What wants it.

    Raises:
        InvalidInputError: not exactly one was given, or there is no such observation.
    """
    vector, text, like = given
    if sum(one is not None for one in given) != 1:
        raise InvalidInputError("give one of --vector, --text and --like")
    if vector is not None:
        return await use(read_vector(vector))
    if like is not None:
        found = await memory.get_embedding(agent, like)
        if found is None:
            raise InvalidInputError(f"--like: {agent} has no observation {like}")
        return await use(found)
    words = read_text(text or "")
    try:
        return await use(_embedded(words, None))
    except DimensionError as error:
        return await use(_embedded(words, error.expected))


def _embedded(text: str, dim: int | None) -> NDArray[np.float32]:
    from nt_memory.embedders.hashing import HashingTextEmbedder  # noqa: PLC0415

    embedder = HashingTextEmbedder() if dim is None else HashingTextEmbedder(dim=dim)
    vector: NDArray[np.float32] = embedder.embed([text])[0]
    return vector
