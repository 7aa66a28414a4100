"""`nt-memory recent`, `calibration`, `rank`, `uplift` and `weights`: how good agents have been."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from nt_memory.apps.cli import printing
from nt_memory.apps.cli.commands import Family
from nt_memory.apps.cli.inputs import parse_as_of, parse_time, with_embedding
from nt_memory.apps.cli.learning import ActionType
from nt_memory.apps.cli.options import (
    Acting,
    Agent,
    Agents,
    AsJson,
    AsOfText,
    Like,
    Store,
    Text,
    Vector,
)
from nt_memory.apps.cli.running import over_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import msgspec

    from nt_memory.apps.cli.asking import Memory, VerdictKind
    from nt_memory.reasoningbank import Ranked


def recent(
    agent: Agent,
    *,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, help="At most so many.")
    ] = 20,
    skip: Annotated[
        int, typer.Option(metavar="N", min=0, help="Leave out so many of the newest.")
    ] = 0,
    action_type: ActionType = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only those taken then or later.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only those taken before.")
    ] = None,
    verdict: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Only those judged so: correct, incorrect, very_wrong or insufficient; "
            "pending: whose outcome is not known.",
        ),
    ] = None,
    tag: Annotated[
        str | None, typer.Option(metavar="TAG", help="Only of trajectories with this tag.")
    ] = None,
    as_of: AsOfText = None,
    store: Store = None,
    acting: Acting = None,
    json: AsJson = False,
) -> None:
    """Print an agent's actions, newest first by when they were taken."""

    async def body(memory: Memory) -> None:
        from nt_memory.apps.cli import standings  # noqa: PLC0415 - numpy

        found = await memory.bank.recent(
            agent,
            limit,
            skip=skip,
            action_type=action_type,
            since=None if since is None else parse_time(since, "--since"),
            until=None if until is None else parse_time(until, "--until"),
            # Any other word is refused by the bank.
            verdict=cast("VerdictKind | None", verdict),
            tag=tag,
            as_of=parse_as_of(as_of),
        )
        docs = map(standings.decision_document, found)
        _show(docs, standings.DECISION_HEAD, standings.decision_cells, json)

    over_store(body, store, acting=acting)


def calibration(
    agent: Agent,
    *,
    action_type: ActionType = None,
    level: Annotated[float, typer.Option(help="Of the intervals counted.")] = 0.8,
    by_regime: Annotated[
        bool,
        typer.Option(
            "--by-regime", help="A record for each of its patterns: of situations nearest to it."
        ),
    ] = False,
    as_of: AsOfText = None,
    store: Store = None,
    acting: Acting = None,
    json: AsJson = False,
) -> None:
    """Print how far an agent's forecasts can be trusted, with 95 % intervals that count dependence."""

    async def body(memory: Memory) -> None:
        from nt_memory.apps.cli import standings  # noqa: PLC0415 - numpy

        found = await memory.bank.calibration(
            agent,
            action_type=action_type,
            level=level,
            by_regime=by_regime,
            as_of=parse_as_of(as_of),
        )
        docs = map(standings.calibration_document, found)
        _show(docs, standings.CALIBRATION_HEAD, standings.calibration_cells, json)

    over_store(body, store, acting=acting)


def rank(
    agents: Agents,
    *,
    vector: Vector = None,
    text: Text = None,
    like: Like = None,
    action_type: ActionType = None,
    as_of: AsOfText = None,
    store: Store = None,
    acting: Acting = None,
    json: AsJson = False,
) -> None:
    """Print agents by how good their forecasts were in situations like one, best first."""

    async def body(memory: Memory) -> None:
        from nt_memory.apps.cli import standings  # noqa: PLC0415 - numpy

        async def use(embedding: Any) -> Sequence[Ranked]:
            return await memory.bank.rank(
                agents, embedding, action_type=action_type, as_of=parse_as_of(as_of)
            )

        found = await with_embedding(memory, agents[0], (vector, text, like), use)
        docs = map(standings.rank_document, found)
        _show(docs, standings.RANK_HEAD, standings.rank_cells, json)

    over_store(body, store, acting=acting)


def uplift(
    agent: Agent,
    *,
    action_type: ActionType = None,
    as_of: AsOfText = None,
    store: Store = None,
    acting: Acting = None,
    json: AsJson = False,
) -> None:
    """Print what showing advice was worth to an agent; needs advice withheld at random."""

    async def body(memory: Memory) -> None:
        from nt_memory.apps.cli import standings  # noqa: PLC0415 - numpy

        found = await memory.bank.uplift(agent, action_type=action_type, as_of=parse_as_of(as_of))
        docs = (standings.uplift_document(found),)
        _show(docs, standings.UPLIFT_HEAD, standings.uplift_cells, json)

    over_store(body, store, acting=acting)


def weights(
    agents: Agents,
    *,
    as_of: AsOfText = None,
    store: Store = None,
    acting: Acting = None,
    json: AsJson = False,
) -> None:
    """Print how much agents' votes should weigh, from their skill and whom they err with."""

    async def body(memory: Memory) -> None:
        from nt_memory.apps.cli import documents, standings  # noqa: PLC0415 - numpy

        found = await memory.bank.vote_weights(agents, as_of=parse_as_of(as_of))
        docs = (documents.Weight(agent=name, weight=weight) for name, weight in found.items())
        _show(docs, standings.WEIGHT_HEAD, lambda doc: (doc.agent, f"{doc.weight:.4g}"), json)

    over_store(body, store, acting=acting)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = Family(app, "ReasoningBank")
    family.add(
        recent,
        "recent AAPL --verdict very_wrong -n 5",
        "recent AAPL --since 2022-12-01T00:00:00Z --json",
        document="Decision",
        streams=True,
    )
    family.add(
        calibration,
        "calibration AAPL",
        "calibration AAPL --by-regime --json",
        document="Calibration",
        streams=True,
    )
    family.add(
        rank,
        "rank AAPL MSFT --vector '[0.9, 0.1, 0.4]'",
        document="Rank",
        streams=True,
    )
    family.add(uplift, "uplift AAPL --json", document="Uplift")
    family.add(weights, "weights AAPL MSFT", document="Weight", streams=True)


def _show(
    docs: Iterable[Any],
    head: Sequence[str],
    cells: Callable[[Any], Sequence[object]],
    as_json: bool,  # noqa: FBT001 - private
) -> None:
    shown: list[msgspec.Struct] = list(docs)
    if as_json:
        for doc in shown:
            printing.document(doc)
    else:
        printing.table(head, map(cells, shown))
