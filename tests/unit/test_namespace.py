import pytest

from nt_memory.errors import InvalidNameError
from nt_memory.namespace import Name, Namespace, check_agent, check_key, check_label, check_prefix

AGENTS = ["a", "A1", "0", "agent_1", "a.b-c_d", "x" * 64]
BAD_AGENTS = [
    "",
    "x" * 65,
    "_a",
    ".a",
    "-a",
    "a/b",
    "a b",
    "a\n",
    "a\0",
    "ä",
    "١",
    "*",
    None,
    1,
    b"a",
]
KEYS = ["k", "position/AAPL", "Zürich", "a b", "...", ".hidden", "a..b", "€", "x" * 256, "*"]
BAD_KEYS = [
    *("", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "./a"),
    *("x" * 257, "é" * 129, "a\0b", "a\n", "a\x7f", "\ud800", "\u200b", "\u2028", None, 1, b"k"),
]


@pytest.mark.parametrize("agent", AGENTS, ids=range(len(AGENTS)))
@pytest.mark.parametrize("key", KEYS, ids=range(len(KEYS)))
def test_build_and_parse_are_inverse(agent, key):
    """Every valid name has one full form, and parsing that gives the name back."""
    full = Namespace.build(agent, key)
    assert full == f"swarm/{agent}/{key}"
    assert Namespace.parse(full) == Name(agent, key)
    assert Namespace.is_valid(full)


@pytest.mark.parametrize("agent", BAD_AGENTS, ids=range(len(BAD_AGENTS)))
def test_malformed_agents_are_refused(agent):
    """An agent is 1 to 64 ASCII letters, digits, _ . - starting with a letter or digit."""
    with pytest.raises(InvalidNameError, match="agent"):
        check_agent(agent)
    with pytest.raises(InvalidNameError):
        Namespace.build(agent, "k")


@pytest.mark.parametrize("key", BAD_KEYS, ids=range(len(BAD_KEYS)))
def test_malformed_keys_are_refused(key):
    """A key is 1 to 256 printable bytes of UTF-8 without empty, '.' or '..' levels."""
    with pytest.raises(InvalidNameError, match="key"):
        check_key(key)
    if isinstance(key, str):
        assert not Namespace.is_valid(f"swarm/a/{key}")


@pytest.mark.parametrize(
    "full",
    [
        "",
        "swarm",
        "swarm/a",
        "swarm/a/",
        "other/a/k",
        "/swarm/a/k",
        "swarm//k",
        None,
        5,
        b"swarm/a/k",
    ],
)
def test_what_is_not_a_full_form_is_refused(full):
    """`parse` raises and `is_valid` says no, for anything but swarm/<agent>/<key>."""
    assert not Namespace.is_valid(full)
    with pytest.raises(InvalidNameError):
        Namespace.parse(full)


@pytest.mark.parametrize("name", [[], {}, bytearray(b"a")], ids=["list", "dict", "bytearray"])
def test_unhashable_names_are_refused_like_other_wrong_types(name):
    """A list where a name belongs is a malformed name, not a crash inside a cache."""
    for check in (check_agent, check_key, check_prefix):
        with pytest.raises(InvalidNameError):
            check(name)


@pytest.mark.parametrize(
    "prefix", ["", "a", "a/", "a/b", "a/.", "a/..", ".", "x" * 255, "x" * 256, "é" * 128]
)
def test_prefixes_of_valid_keys_are_accepted(prefix):
    """A prefix may end anywhere inside a key, within a level or after one, or be the whole key."""
    assert check_prefix(prefix) == prefix


@pytest.mark.parametrize(
    "prefix",
    ["/", "a//", "../", "a/./b", "a\0", "\ud800", "\0" * 300, "x" * 257, "é" * 129, None, 1],
)
def test_prefixes_of_no_valid_key_are_refused(prefix):
    """A prefix that no key can start with is an error, not an empty answer."""
    with pytest.raises(InvalidNameError):
        check_prefix(prefix)


def test_labels():
    """Resources, holders, tags and ids are 1 to 128 printable characters."""
    assert check_label("portfolio/AAPL *", "resource") == "portfolio/AAPL *"
    for bad in ("", "x" * 129, "a\n", "\0", None, 3):
        with pytest.raises(InvalidNameError, match=r"^resource"):
            check_label(bad, "resource")


def test_messages_stay_short():
    """A giant malformed name does not end up whole in the error."""
    with pytest.raises(InvalidNameError) as caught:
        check_key("x" * 100_000)
    assert len(str(caught.value)) < 200
