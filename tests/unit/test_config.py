import dataclasses
from pathlib import Path

import pytest

from nt_memory.config import CacheConfig, MemoryConfig
from nt_memory.errors import InvalidInputError, UnsupportedError
from nt_memory.system import MemorySystem


def test_defaults_are_those_of_the_reference():
    """The documented defaults hold."""
    config = MemoryConfig()
    assert config.storage_path == "./data/memory"
    assert config.cache_config == CacheConfig(max_entries=100_000, ttl=3600.0, track_access=True)
    assert (config.agentdb_url, config.url, config.history, config.agent) == (None, None, None, "")
    assert config.enable_compression is True
    assert config.max_memory_bytes == 1 << 30
    assert (config.swarm, config.durability, config.timeline) == ("default", "commit", "live")
    assert config.max_map_bytes == 1 << 40


def test_configuration_is_frozen():
    """Settings cannot change under a running memory."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        MemoryConfig().swarm = "other"
    with pytest.raises(dataclasses.FrozenInstanceError):
        CacheConfig().ttl = 1.0


BAD = [
    {"durability": "maybe"},
    {"timeline": "past"},
    {"history": -1},
    {"swarm": ""},
    {"swarm": "a/b"},
    {"agent": "a b"},
    {"max_memory_bytes": 0},
    {"max_map_bytes": 100},
]
BAD_CACHE = [
    {"max_entries": 0},
    {"max_entries": -1},
    {"ttl": 0},
    {"ttl": -1.0},
    {"ttl": float("nan")},
    {"ttl": float("inf")},
]


@pytest.mark.parametrize("settings", BAD, ids=range(len(BAD)))
def test_impossible_settings_are_refused(settings):
    """A setting that cannot work is refused when made, not when first used."""
    with pytest.raises(InvalidInputError):
        MemoryConfig(**settings)


@pytest.mark.parametrize("settings", BAD_CACHE, ids=range(len(BAD_CACHE)))
def test_impossible_cache_settings_are_refused(settings):
    """Likewise for the cache: no zero, negative, endless or undefined bound."""
    with pytest.raises(InvalidInputError, match="cache_config"):
        CacheConfig(**settings)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "memory.toml"
    path.write_text(text)
    return path


def test_toml_sets_every_attribute(tmp_path):
    """Top-level keys are attributes and [cache_config] is a table; ints serve as floats."""
    path = write(
        tmp_path,
        'storage_path = "/tmp/x"\nagentdb_url = "http://h"\nenable_compression = false\n'
        'max_memory_bytes = 2097152\nurl = "nats://h"\nswarm = "s"\nagent = "a"\n'
        'durability = "relaxed"\ntimeline = "backtest"\nhistory = 3\nmax_map_bytes = 1048576\n'
        "[cache_config]\nmax_entries = 5\nttl = 7\ntrack_access = false\n",
    )
    assert MemoryConfig.from_toml(path) == MemoryConfig(
        storage_path="/tmp/x",  # noqa: S108
        agentdb_url="http://h",
        enable_compression=False,
        max_memory_bytes=2_097_152,
        url="nats://h",
        swarm="s",
        agent="a",
        durability="relaxed",
        timeline="backtest",
        history=3,
        max_map_bytes=1_048_576,
        cache_config=CacheConfig(max_entries=5, ttl=7.0, track_access=False),
    )
    assert MemoryConfig.from_toml(str(write(tmp_path, ""))) == MemoryConfig()


BAD_TOML = {
    "=": "memory.toml",
    'colour = "red"': "unknown setting 'colour'",
    "storage_path = 5": "storage_path = 5 has the wrong type",
    "enable_compression = 1": "wrong type",
    "max_memory_bytes = 1.5": "wrong type",
    "history = true": "wrong type",
    "durability = 1": "wrong type|durability must be",
    'durability = "x"': "durability must be",
    "cache_config = 1": "cache_config must be a table",
    "[cache_config]\nsize = 1": r"\[cache_config\]: unknown setting 'size'",
    '[cache_config]\nttl = "long"': "ttl = 'long' has the wrong type",
    "[cache_config]\nmax_entries = true": "wrong type",
}


@pytest.mark.parametrize("text", BAD_TOML, ids=range(len(BAD_TOML)))
def test_a_bad_file_is_refused_with_the_setting(tmp_path, text):
    """A file with an unknown key, a wrong type or no TOML raises and names what is wrong."""
    with pytest.raises(InvalidInputError, match=BAD_TOML[text]):
        MemoryConfig.from_toml(write(tmp_path, text))


def test_a_file_that_is_not_text_is_refused(tmp_path):
    """Bytes that are no UTF-8 are not TOML."""
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInputError, match=r"binary\.toml"):
        MemoryConfig.from_toml(path)


def test_a_missing_file_raises_os_error(tmp_path):
    """A path that is not there is an OSError, not a default configuration."""
    with pytest.raises(FileNotFoundError):
        MemoryConfig.from_toml(tmp_path / "none.toml")


def test_environment_sets_every_kind_of_attribute():
    """NT_MEMORY_* and NT_MEMORY_CACHE_* are read; the rest of the environment is not."""
    config = MemoryConfig.from_env(
        {
            "HOME": "/root",
            "NT_MEMORY_STORAGE_PATH": "/data",
            "NT_MEMORY_ENABLE_COMPRESSION": "No",
            "NT_MEMORY_HISTORY": "4",
            "NT_MEMORY_URL": "",
            "NT_MEMORY_DURABILITY": "relaxed",
            "NT_MEMORY_CACHE_TTL": "1.5",
            "NT_MEMORY_CACHE_MAX_ENTRIES": "9",
            "NT_MEMORY_CACHE_TRACK_ACCESS": "true",
        }
    )
    assert config == MemoryConfig(
        storage_path="/data",
        enable_compression=False,
        history=4,
        durability="relaxed",
        cache_config=CacheConfig(max_entries=9, ttl=1.5),
    )


def test_environment_of_the_process_is_the_default_source(monkeypatch):
    """Without an argument the process's own environment is read."""
    monkeypatch.setenv("NT_MEMORY_SWARM", "from_env")
    assert MemoryConfig.from_env().swarm == "from_env"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("NT_MEMORY_COLOUR", "red"),
        ("NT_MEMORY_CACHE_CONFIG", "x"),
        ("NT_MEMORY_HISTORY", "many"),
        ("NT_MEMORY_ENABLE_COMPRESSION", "maybe"),
        ("NT_MEMORY_CACHE_TTL", "soon"),
        ("NT_MEMORY_DURABILITY", "maybe"),
    ],
)
def test_a_bad_environment_is_refused_with_the_name(name, text):
    """An unknown name or a wrong type raises and says which."""
    with pytest.raises(
        InvalidInputError, match=name if name != "NT_MEMORY_DURABILITY" else "maybe"
    ):
        MemoryConfig.from_env({name: text})


def test_a_cluster_keeps_its_vectors_itself(run):
    """Both at once would have every node deliver to the other server; refused before anything is made."""

    async def main():
        config = MemoryConfig(url="nats://127.0.0.1:9", agentdb_url="http://127.0.0.1:9")
        with pytest.raises(UnsupportedError, match="agentdb_url"):
            await MemorySystem.open(config)

    run(main())
