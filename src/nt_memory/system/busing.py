"""Which bus carries an engine's messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nt_memory.transport.local_bus import LocalBus

if TYPE_CHECKING:
    from nt_memory.system.engine import Engine


def make_bus(engine: Engine) -> LocalBus:
    """The bus of this process alone, or of the cluster that the engine's journal is of."""
    if engine.journal is None or not engine.journal.is_shared:
        return LocalBus()
    from nt_memory.transport.nats.bus import NatsBus  # noqa: PLC0415 - who needs it has nats-py
    from nt_memory.transport.nats.journal import NatsJournal  # noqa: PLC0415

    assert isinstance(engine.journal, NatsJournal)  # noqa: S101 - no other is shared
    return NatsBus(engine.journal.link)
