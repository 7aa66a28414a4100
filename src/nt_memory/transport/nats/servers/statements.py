"""What servers say of their streams, asked for with the key of the system account."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from nt_memory.transport.nats.servers.configuration import Settings

_ASK_S = 1.0


async def ask(settings: Settings, seed: Path) -> dict[str, dict[str, Any]]:
    """By server, what it says of its streams (`JSZ`); those that do not answer are left out.

    Args:
        settings: Where they are.
        seed: File of the system account's key.

    Cost: a connection; up to a second.
    """
    import nats  # noqa: PLC0415 - of an extra
    from nats.errors import Error  # noqa: PLC0415

    async def ignore(_error: Exception) -> None:
        pass

    answers: dict[str, dict[str, Any]] = {}
    try:
        client = await nats.connect(
            [f"nats://{settings.host}:{node.client}" for node in settings.nodes],
            nkeys_seed=str(seed),
            allow_reconnect=False,
            connect_timeout=1,
            error_cb=ignore,
        )
    except (Error, OSError, TimeoutError):
        return {}
    try:
        inbox = client.new_inbox()
        taken = await client.subscribe(inbox)
        await client.publish("$SYS.REQ.SERVER.PING.JSZ", b"{}", reply=inbox)
        while len(answers) < len(settings.nodes):
            said = json.loads((await taken.next_msg(_ASK_S)).data)
            answers[said["server"]["name"]] = said.get("data") or {}
    except (Error, OSError, TimeoutError):
        pass  # fewer answers than servers
    finally:
        await client.close()
    return answers


def leader_of(answer: Mapping[str, Any]) -> str:
    """Who decides where streams lie, as a server sees it; empty: nobody."""
    return str(answer.get("meta_cluster", {}).get("leader", ""))


def has_given_up(answer: Mapping[str, Any]) -> bool:
    """Whether a server keeps no streams any more, since it could not write."""
    return bool(answer.get("disabled"))


def are_ready(answers: Mapping[str, Mapping[str, Any]], nodes: int) -> bool:
    """Whether streams can be made on all of so many servers."""
    if len(answers) < nodes or any(map(has_given_up, answers.values())):
        return False
    if nodes == 1:
        return all("config" in answer for answer in answers.values())
    leaders = {leader_of(answer) for answer in answers.values()}
    if len(leaders) != 1 or not leaders <= answers.keys():
        return False
    # Streams are laid only on servers that the leader has heard of. Of the others each knows the leader alone.
    followers = [
        peer
        for peer in answers[leaders.pop()].get("meta_cluster", {}).get("replicas", ())
        if peer.get("current") and not peer.get("offline")
    ]
    return len(followers) >= nodes - 1
