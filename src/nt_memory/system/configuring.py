"""What a memory is opened on: a configuration, a directory or a URL, as one configuration."""

from __future__ import annotations

import os

from nt_memory.config import MemoryConfig
from nt_memory.errors import InvalidInputError
from nt_memory.transport.nats.address import parse_url


def to_config(target: MemoryConfig | str | os.PathLike[str] | None) -> MemoryConfig:
    """The configuration that a target stands for.

    Raises:
        InvalidInputError: it is none of these, or a malformed URL.
    """
    if target is None:
        return MemoryConfig()
    if isinstance(target, MemoryConfig):
        return target
    if isinstance(target, str) and "://" in target:
        _, swarm = parse_url(target)
        return MemoryConfig(url=target, swarm=swarm) if swarm else MemoryConfig(url=target)
    if not isinstance(target, str | os.PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInputError(
            f"open takes a path, a URL or a MemoryConfig, not {type(target).__name__}"
        )
    return MemoryConfig(storage_path=target)
