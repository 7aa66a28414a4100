"""Configuration: frozen values, and the only reader of TOML files and the environment."""

from __future__ import annotations

import dataclasses
import math
import os
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nt_memory.errors import InvalidInputError
from nt_memory.namespace import check_agent

if typing.TYPE_CHECKING:
    from collections.abc import Mapping

MIN_MAP_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """L1 settings; they belong to the node.

    Attributes:
        max_entries: Most records kept hot, >= 1.
        ttl: Seconds after which a copy that nobody read is swept out; staleness does not depend
            on it, because L1 is refreshed with every change.
        track_access: Count reads per record.
    """

    max_entries: int = 100_000
    ttl: float = 3600.0
    track_access: bool = True

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        if self.max_entries < 1 or not 0 < self.ttl < math.inf:
            raise InvalidInputError("cache_config: max_entries must be >= 1 and ttl finite and > 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig:
    """Settings of one memory.

    `timeline` and `history` change decisions and therefore belong to the swarm: they are fixed
    when the store is made, and opening it with others raises `ConfigMismatchError`. The rest
    belongs to the node.

    Attributes:
        storage_path: Directory of the embedded store; made when missing.
        cache_config: L1 settings.
        agentdb_url: Server that observations are searched on, or None: here.
        enable_compression: Compress values of 512 bytes and more when that makes them smaller.
        max_memory_bytes: Budget of L1 and L2 together, bytes of anonymous memory.
        url: `nats://` URL of a cluster, or None for the embedded store. In a cluster the node's own
            replica is in `<storage_path>.nodes`.
        swarm: Name of the swarm.
        agent: Who writes; recorded as `actor`. Empty: unnamed.
        durability: "commit": on disk when a write returns. "relaxed": visible at once, on disk
            at most 50 ms later.
        timeline: "live" or "backtest".
        history: Superseded versions kept per key; None keeps all.
        max_map_bytes: Address space reserved for the views; costs no memory or disk.
        compact_at_bytes: A live store that drops old versions, by `history` or retention, compacts
            itself once the journal behind its base takes more than this, and more than four times
            what the base takes; None: only when it is told to.
        credentials_file: NATS credentials, with JWT and seed, that this node shows the servers.
        nkey_file: A file with an nkey seed, likewise.
        tls_ca_file: Certificates that the servers' are checked against; None: the system's.
        tls_cert_file: This node's certificate.
        tls_key_file: Its key.
    """

    storage_path: str | os.PathLike[str] = "./data/memory"
    cache_config: CacheConfig = field(default_factory=CacheConfig)
    agentdb_url: str | None = None
    enable_compression: bool = True
    max_memory_bytes: int = 1 << 30
    url: str | None = None
    swarm: str = "default"
    agent: str = ""
    durability: Literal["commit", "relaxed"] = "commit"
    timeline: Literal["live", "backtest"] = "live"
    history: int | None = None
    max_map_bytes: int = 1 << 40
    compact_at_bytes: int | None = 64 << 20
    credentials_file: str | os.PathLike[str] | None = None
    nkey_file: str | os.PathLike[str] | None = None
    tls_ca_file: str | os.PathLike[str] | None = None
    tls_cert_file: str | os.PathLike[str] | None = None
    tls_key_file: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        check_agent(self.swarm)
        if self.agent:
            check_agent(self.agent)
        if self.durability not in {"commit", "relaxed"}:
            raise InvalidInputError(
                f'durability must be "commit" or "relaxed", not {self.durability!r}'
            )
        if self.timeline not in {"live", "backtest"}:
            raise InvalidInputError(f'timeline must be "live" or "backtest", not {self.timeline!r}')
        if self.history is not None and self.history < 0:
            raise InvalidInputError("history must be >= 0, or None to keep all")
        if self.compact_at_bytes is not None and self.compact_at_bytes < 1:
            raise InvalidInputError("compact_at_bytes must be >= 1, or None for never")
        if self.max_memory_bytes < MIN_MAP_BYTES or self.max_map_bytes < MIN_MAP_BYTES:
            raise InvalidInputError("max_memory_bytes and max_map_bytes must be at least 1 MiB")

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> MemoryConfig:
        """Read a TOML file: top-level keys are the attributes, `[cache_config]` a table.

        Raises:
            InvalidInputError: the file is not TOML, has an unknown key or a value of a wrong type.
            OSError: it cannot be read.
        """
        with Path(path).open("rb") as file:
            try:
                table = tomllib.load(file)
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                raise InvalidInputError(f"{os.fspath(path)}: {error}") from None
        cache = table.pop("cache_config", {})
        if not isinstance(cache, dict):
            raise InvalidInputError(f"{os.fspath(path)}: cache_config must be a table")
        where = os.fspath(path)
        return cls(
            **_checked(cls, table, where),
            cache_config=CacheConfig(**_checked(CacheConfig, cache, f"{where} [cache_config]")),
        )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> MemoryConfig:
        """Read `NT_MEMORY_<ATTRIBUTE>` and `NT_MEMORY_CACHE_<ATTRIBUTE>`, for example
        `NT_MEMORY_STORAGE_PATH` and `NT_MEMORY_CACHE_MAX_ENTRIES`.

        Raises:
            InvalidInputError: an unknown `NT_MEMORY_` name, or a value of a wrong type.
        """  # noqa: D205
        source = os.environ if environ is None else environ
        plain: dict[str, object] = {}
        cache: dict[str, object] = {}
        for name, text in source.items():
            if not name.startswith("NT_MEMORY_") or name in _OF_CLIENTS:
                continue
            attribute = name.removeprefix("NT_MEMORY_").lower()
            if attribute.startswith("cache_"):
                attribute = attribute.removeprefix("cache_")
                cache[attribute] = _parse_text(CacheConfig, attribute, text, name)
            else:
                plain[attribute] = _parse_text(cls, attribute, text, name)
        return cls(
            **_checked(cls, plain, "environment"),
            cache_config=CacheConfig(**_checked(CacheConfig, cache, "environment")),
        )


_OF_CLIENTS = frozenset({"NT_MEMORY_TOKEN", "NT_MEMORY_TOKEN_FILE"})
"""What a client of a server reads (`secret_from_env`); no setting of a memory."""
_OF_THE_SWARM = ("swarm", "timeline", "history")


def names_swarm_settings(environ: Mapping[str, str] | None = None) -> bool:
    """Whether the environment sets what belongs to the swarm, and a store must not differ from."""
    source = os.environ if environ is None else environ
    return any(f"NT_MEMORY_{name.upper()}" in source for name in _OF_THE_SWARM)


def _attribute_types(cls: type) -> dict[str, object]:
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.name != "cache_config"}


def _alternatives(hint: object) -> tuple[object, ...]:
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        return typing.get_args(hint)
    return (hint,)


def _parse_text(cls: type, attribute: str, text: str, name: str) -> object:
    known = _attribute_types(cls)
    if attribute not in known:
        raise InvalidInputError(f"environment: {name} is not a setting of nt-memory")
    kinds = _alternatives(known[attribute])
    if type(None) in kinds and text == "":
        return None
    try:
        if bool in kinds:
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[
                text.lower()
            ]
        if int in kinds:
            return int(text)
        if float in kinds:
            return float(text)
    except (KeyError, ValueError):
        raise InvalidInputError(f"environment: {name}={text!r} has the wrong type") from None
    return text


def _checked(cls: type, table: dict[str, object], where: str) -> dict[str, typing.Any]:
    known = _attribute_types(cls)
    for key, value in table.items():
        if key not in known:
            raise InvalidInputError(
                f"{where}: unknown setting {key!r}; known are {', '.join(sorted(known))}"
            )
        kinds = _alternatives(known[key])
        is_plain = any(
            typing.get_origin(kind) is Literal
            or (isinstance(kind, type) and type(value) is kind)
            or (kind is float and type(value) is int)
            for kind in kinds
        )
        if not is_plain:
            raise InvalidInputError(f"{where}: {key} = {value!r} has the wrong type")
    return dict(table)


def secret_from_env(name: str, environ: Mapping[str, str] | None = None) -> str | None:
    """A secret that is set in the environment, without the blanks around it; None if it is not."""
    source = os.environ if environ is None else environ
    return source.get(name, "").strip() or None
