"""What an engine has of its cluster: the bus that carries its messages, and what audits its replica."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nt_memory.system.auditing import Auditor, Statement, Voice
from nt_memory.transport.local_bus import LocalBus

if TYPE_CHECKING:
    from array import array

    from nt_memory.system.engine import Engine


def make_bus(engine: Engine) -> LocalBus:
    """The bus of this process alone, or of the cluster that the engine's journal is of."""
    if engine.journal is None or not engine.journal.is_shared:
        return LocalBus()
    from nt_memory.transport.nats.bus import NatsBus  # noqa: PLC0415 - who needs it has nats-py
    from nt_memory.transport.nats.journal import NatsJournal  # noqa: PLC0415

    assert isinstance(engine.journal, NatsJournal)  # noqa: S101 - no other is shared
    return NatsBus(engine.journal.link)


def make_auditor(engine: Engine) -> Auditor:
    """What holds an engine's replica against those of the other nodes; to be `run`."""
    from nt_memory.transport.nats.journal import NatsJournal  # noqa: PLC0415 - as above
    from nt_memory.transport.nats.statements import Statements  # noqa: PLC0415

    journal = engine.journal
    assert isinstance(journal, NatsJournal)  # noqa: S101 - no other is shared

    def hear(author: str, session: str, first: int, digests: array[int]) -> None:
        auditor.hear(Voice(author, session), Statement(first, digests))

    def state(statement: Statement) -> None:
        statements.state(*statement)

    me = Voice(journal.link.agent, journal.session)
    auditor = Auditor(engine, me, state=state, stop=journal.lose)
    statements = Statements(journal.link, journal.stream, journal.session, hear)
    return auditor
