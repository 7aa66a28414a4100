"""The configuration that servers are started with.

What it sets, and why:

- `sync_interval: always`: JetStream acknowledges only what is on disk. By default it syncs every two
  minutes, and a power failure loses what was acknowledged since.
- `max_file_store` is given, because otherwise a server offers three quarters of the free disk.
- Routes between servers ask for a password: who may connect as a server may do anything.
- No monitoring port, unless one is asked for: it asks for no credentials, and names all consumers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from nt_memory.transport.nats.rights import Rights

SYSTEM_ACCOUNT = "SYS"
MAX_PAYLOAD_BYTES = 1 << 20
_ROUTE_USER = "route"


@dataclass(frozen=True, slots=True)
class User:
    """Who may connect.

    Attributes:
        public_key: Of an nkey of the user type.
        rights: What it may do in its account; None: anything.
        name: For whoever reads the file.
    """

    public_key: str
    rights: Rights | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Account:
    """Subjects and streams of their own, and who has part in them."""

    name: str
    users: tuple[User, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """One server.

    Attributes:
        name: Unique in its cluster, and kept for good: the streams' copies belong to it.
        client: Port for clients.
        route: Port for the other servers; 0 if there are none.
        monitor: Port of the monitoring pages; 0: none.
    """

    name: str
    client: int
    route: int = 0
    monitor: int = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """What all servers of a cluster share.

    Attributes:
        cluster: Its name.
        host: Address that servers listen on.
        nodes: All of them.
        system: Who may ask the servers about themselves.
        accounts: Who may do what.
        route_password: Which servers show each other.
        advertised: Where each server reaches each other: the route ports by default, or what lies
            between them, such as a proxy that can be cut; by the names of both.
        hosts: Addresses of single servers, by their names, where not all listen on `host`.
        sync_always: See above. Without it a bench shows what it costs.
        max_file_bytes: Most bytes of streams a server keeps.
    """

    cluster: str
    host: str
    nodes: tuple[Node, ...]
    system: User
    accounts: tuple[Account, ...]
    route_password: str
    advertised: tuple[tuple[str, str, int], ...] = ()
    hosts: tuple[tuple[str, str], ...] = ()
    sync_always: bool = True
    max_file_bytes: int = 1 << 40

    def host_of(self, node: Node) -> str:
        """The address that a server listens on."""
        return dict(self.hosts).get(node.name, self.host)


def render(settings: Settings, node: Node, store: Path) -> str:
    """The configuration file of one server."""
    lines = [
        "# Written by nt-memory: changes are lost when it starts the server again.",
        f"server_name: {_text(node.name)}",
        f"listen: {_text(f'{settings.host_of(node)}:{node.client}')}",
        f"max_payload: {MAX_PAYLOAD_BYTES}",
        *([f"http: {_text(f'127.0.0.1:{node.monitor}')}"] if node.monitor else []),
        "jetstream {",
        f"  store_dir: {_text(str(store))}",
        *(["  sync_interval: always"] if settings.sync_always else []),
        f"  max_file_store: {settings.max_file_bytes}",
        "}",
        *(_routes(settings, node) if node.route else ()),
        "accounts {",
        f"  {SYSTEM_ACCOUNT} {{ users: [",
        *_user(settings.system),
        "  ] }",
    ]
    for account in settings.accounts:
        lines += [f"  {_text(account.name)} {{", "    jetstream: enabled", "    users: ["]
        lines += [line for user in account.users for line in _user(user)]
        lines += ["    ]", "  }"]
    lines += ["}", f"system_account: {SYSTEM_ACCOUNT}", ""]
    return "\n".join(lines)


def _routes(settings: Settings, node: Node) -> list[str]:
    by_names = {(mine, other): port for mine, other, port in settings.advertised}
    password = settings.route_password
    routes = [
        _text(
            f"nats-route://{_ROUTE_USER}:{password}@{settings.host_of(other)}:"
            f"{by_names.get((node.name, other.name), other.route)}"
        )
        for other in settings.nodes
        if other != node
    ]
    return [
        "cluster {",
        f"  name: {_text(settings.cluster)}",
        f"  listen: {_text(f'{settings.host_of(node)}:{node.route}')}",
        # Servers would otherwise tell each other, and clients, ports that a proxy stands before.
        "  no_advertise: true",
        # One connection a pair, and none that servers find by hearsay: they tell each other where the
        # third one is, and would go there past the proxy. Nobody listens at the port they are told.
        *(["  pool_size: -1", '  advertise: "127.0.0.1:1"'] if settings.advertised else []),
        f"  authorization {{ user: {_text(_ROUTE_USER)}, password: {_text(password)}, timeout: 5 }}",
        f"  routes: [{', '.join(routes)}]",
        "}",
    ]


def _user(user: User) -> list[str]:
    named = [f"    # {user.name}"] if user.name else []
    if user.rights is None:
        return [*named, f"    {{ nkey: {user.public_key} }}"]
    return [
        *named,
        f"    {{ nkey: {user.public_key}, permissions: {{",
        f"      publish: {{ allow: {_list(user.rights.publish)} }}",
        f"      subscribe: {{ allow: {_list(user.rights.subscribe)} }}",
        "    } }",
    ]


def _list(subjects: Sequence[str]) -> str:
    return f"[{', '.join(map(_text, subjects))}]"


def _text(text: str) -> str:
    """A string that is taken as it stands: without quotes, `$` would begin a variable."""
    return json.dumps(text, ensure_ascii=False)
