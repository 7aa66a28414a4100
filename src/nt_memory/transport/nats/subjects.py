"""How a swarm's names are spelled as NATS subjects: one layout, for clients and for permissions.

    ntm.<swarm>.journal.<author>                  an entry, or several packed in one message
    ntm.<swarm>.bus.<publisher>.<level>.<level>   a message between agents
    ntm.<swarm>.reply.<requester>.<level>.<level> an answer to a request of that agent
    ntm.<swarm>.value.<author>.<digest>.<copy>.<part>  a piece of a value too large for an entry
    ntm.<swarm>.snapshot._operator.<id>.<part>    a piece of a snapshot; which there are, says
    ntm.<swarm>.journal._snapshots                the catalogue, which only the operator writes
    ntm.<swarm>.ledger.<author>                   what a node states of its replica
    ntm.<swarm>.inbox.<agent>.>                   what servers answer to that agent's clients

The name after the kind is who publishes, so that a server that knows only subjects can enforce who
says what, and every node can hold an entry's actor against it. Who has no name is the operator.

A name becomes one token: letters, digits, `_` and `-` stand for themselves, every other byte of its
UTF-8 is `~` and two hexadecimal digits. So no name spells a dot, a wildcard or a `$`, two names never
spell the same, and the operator's token, which begins with `_`, is no agent's.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from nt_memory.errors import InvalidNameError
from nt_memory.topics import OWN

ROOT = "ntm"
OPERATOR = "_operator"
"""Stands for who has no name."""
CATALOGUE = "_snapshots"
"""Is nobody, and so can be nobody's actor."""

_PLAIN = re.compile(rb"[A-Za-z0-9_-]")
_TOKEN = re.compile(r"(?:[A-Za-z0-9_-]|~[0-9a-f]{2})+", re.ASCII)
_REPLIES = f"{OWN}reply"


class Place(NamedTuple):
    """A subject, read.

    Attributes:
        kind: "journal", "bus", "reply", "value", "snapshot", "ledger" or "inbox".
        agent: Whose it is; "" is the operator.
        rest: The tokens after it, unescaped.
    """

    kind: str
    agent: str
    rest: tuple[str, ...]


def token(name: str) -> str:
    """A name as one token of a subject."""
    return "".join(
        chr(byte) if _PLAIN.match(bytes([byte])) else f"~{byte:02x}" for byte in name.encode()
    )


def agent_token(agent: str) -> str:
    """An agent's token; that of "" is the operator's."""
    return token(agent) if agent else OPERATOR


def name_of(spelled: str) -> str:
    """The name that a token spells.

    Raises:
        InvalidNameError: no name is spelled so.
    """
    if _TOKEN.fullmatch(spelled) is None:
        raise InvalidNameError(f"{spelled[:80]!r} is no token of a subject of nt-memory")
    raw = re.sub(r"~([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), spelled)
    try:
        name = raw.encode("latin-1").decode()
    except UnicodeDecodeError:
        raise InvalidNameError(f"{spelled[:80]!r} spells no UTF-8") from None
    if token(name) != spelled:  # one name has one spelling, or permissions could be walked around
        raise InvalidNameError(f"{spelled[:80]!r} is not how {name!r} is spelled")
    return name


class Subjects:
    """The subjects of a swarm.

    Args:
        swarm: Its name.

    Attributes:
        stream: Name of the JetStream stream that holds its journal.
        values: Name of the stream that holds its large values.
        snapshots: Name of the stream that holds its snapshots' pieces.
    """

    def __init__(self, swarm: str) -> None:
        spelled = token(swarm)
        self._root = f"{ROOT}.{spelled}"
        self.stream: str = f"ntm_{spelled}"
        # No swarm's name is spelled with a `~` that is not two hexadecimal digits' own, so these are no
        # other swarm's journal.
        self.values: str = f"ntm_{spelled}~values"
        self.snapshots: str = f"ntm_{spelled}~snapshots"

    def journal(self, author: str) -> str:
        """What an agent's entries are published under."""
        return f"{self._root}.journal.{agent_token(author)}"

    @property
    def journals(self) -> str:
        """Filter for the entries of all."""
        return f"{self._root}.journal.*"

    def value(self, author: str, digest: str, copy: str, part: int) -> str:
        """What a piece of a copy of a large value is published under."""
        return f"{self._root}.value.{agent_token(author)}.{token(digest)}.{token(copy)}.{part}"

    def copies(self, author: str, digest: str) -> str:
        """Filter for the pieces of all copies of a large value."""
        return f"{self._root}.value.{agent_token(author)}.{token(digest)}.>"

    def values_of(self, author: str) -> str:
        """Filter for the large values of an agent."""
        return f"{self._root}.value.{agent_token(author)}.>"

    @property
    def all_values(self) -> str:
        """Filter for the large values of all."""
        return f"{self._root}.value.>"

    @property
    def catalogue(self) -> str:
        """What the catalogue of snapshots is published under, in the journal."""
        return f"{self._root}.journal.{CATALOGUE}"

    def snapshot(self, id_: str, part: int) -> str:
        """What a piece of a snapshot is published under."""
        return f"{self._root}.snapshot.{OPERATOR}.{token(id_)}.{part}"

    def pieces(self, id_: str) -> str:
        """Filter for the pieces of a snapshot."""
        return f"{self._root}.snapshot.{OPERATOR}.{token(id_)}.*"

    @property
    def all_snapshots(self) -> str:
        """Filter for the pieces of all snapshots."""
        return f"{self._root}.snapshot.{OPERATOR}.*.*"

    def statement(self, author: str) -> str:
        """What a node's statements of its replica are published under."""
        return f"{self._root}.ledger.{agent_token(author)}"

    @property
    def statements(self) -> str:
        """Filter for the statements of all nodes."""
        return f"{self._root}.ledger.*"

    def inbox(self, agent: str) -> str:
        """Prefix of the subjects at which an agent's clients take the servers' answers."""
        return f"{self._root}.inbox.{agent_token(agent)}"

    def message(self, publisher: str, topic: str) -> str:
        """What a message under a topic, which passes `check_topic`, is published under.

        A topic `$reply/<requester>/...` is that of an answer, and nobody's own.
        """
        levels = topic.split("/")
        if levels[0] == _REPLIES:
            requester, *rest = levels[1:]
            return ".".join((self._root, "reply", requester, *map(token, rest)))
        return ".".join((self._root, "bus", agent_token(publisher), *map(token, levels)))

    def messages(self, pattern: str, publisher: str = "*") -> str:
        """Filter for messages under topics that match, of one publisher's token or of all.

        `pattern` passes `check_pattern`, whose wildcards mean what those of NATS do: `*` one level,
        `**` all that remain, at least one.
        """
        return ".".join((self._root, "bus", publisher, *map(_spelled, pattern.split("/"))))

    def replies(self, requester: str, pattern: str = "**") -> str:
        """Filter for answers to an agent's requests."""
        levels = pattern.split("/")
        return ".".join((self._root, "reply", agent_token(requester), *map(_spelled, levels)))

    @property
    def all_replies(self) -> str:
        """Filter for answers to anybody's requests: what those who answer publish to."""
        return f"{self._root}.reply.*.>"

    def read(self, subject: str) -> Place:
        """What a subject of this swarm says.

        Receivers must hold what they are delivered against it: JetStream delivers to any subject that
        a consumer's maker names, but what it delivers bears the subject that it was stored under.

        Raises:
            InvalidNameError: it is none of this swarm's.
        """
        if not subject.startswith(f"{self._root}."):
            raise InvalidNameError(f"subject {subject[:200]!r} is none of this swarm's")
        kind, _, rest = subject[len(self._root) + 1 :].partition(".")
        agent, *levels = rest.split(".")
        name = "" if agent == OPERATOR else name_of(agent)
        return Place(kind, name, tuple(map(name_of, levels)))


def reply_topic(requester: str, inbox: str) -> str:
    """Topic under which an answer reaches an agent that asked with `$reply/...` as its inbox."""
    return "/".join((_REPLIES, agent_token(requester), *inbox.split("/")[1:]))


def _spelled(level: str) -> str:
    return {"*": "*", "**": ">"}.get(level) or token(level)
