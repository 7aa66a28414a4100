"""`nt-memory trajectories`, `patterns`, `advise` and `distill`: decisions and what they teach."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nt_memory.apps.cli import printing
from nt_memory.apps.cli.commands import Family
from nt_memory.apps.cli.exits import NotThereError
from nt_memory.apps.cli.inputs import parse_as_of, with_embedding
from nt_memory.apps.cli.options import (
    Acting,
    Agent,
    Agents,
    AsJson,
    AsOfText,
    Like,
    Limit,
    Store,
    Text,
    Vector,
    Wait,
)
from nt_memory.apps.cli.running import over_store

if TYPE_CHECKING:
    from nt_memory import Pattern
    from nt_memory.apps.cli.asking import Memory, Told

_progress = contextmanager(printing.progress)

ActionType = Annotated[
    str | None, typer.Option("--action-type", metavar="TYPE", help="About which kind of actions.")
]


def trajectories(
    agent: Agent,
    trajectory_id: Annotated[
        str | None, typer.Argument(help="Only this one, with its verdicts.", show_default=False)
    ] = None,
    *,
    limit: Limit = None,
    as_of: AsOfText = None,
    store: Store = None,
    acting: Acting = None,
    json: AsJson = False,
) -> None:
    """Print what an agent saw, did, and how it turned out, by trajectory."""

    async def body(memory: Memory) -> None:
        from nt_memory.apps.cli import lessons  # noqa: PLC0415 - numpy

        moment = parse_as_of(as_of)
        if trajectory_id is None:
            found = await memory.bank.trajectories(agent, limit=limit, as_of=moment)
            shown = [lessons.trajectory_document(one) for one in found]
        else:
            one = await memory.bank.trajectory(trajectory_id, as_of=moment)
            if one is None or one.agent_id != agent:
                raise NotThereError(f"{agent} has no trajectory {trajectory_id}")
            # Verdicts are of now: as of earlier there may have been no outcome yet.
            verdicts = await memory.bank.judge(one) if moment is None else []
            shown = [lessons.trajectory_document(one, verdicts)]
        if json:
            for doc in shown:
                printing.document(doc)
        elif trajectory_id is None:
            printing.table(lessons.TRAJECTORY_HEAD, map(lessons.trajectory_cells, shown))
        else:
            for text in lessons.trajectory_lines(shown[0]):
                printing.line(text)

    over_store(body, store, acting=acting)


def patterns(
    agent: Agent,
    *,
    as_of: AsOfText = None,
    store: Store = None,
    acting: Acting = None,
    json: AsJson = False,
) -> None:
    """Print what kinds of situations an agent has been in, and what they led to."""

    async def body(memory: Memory) -> None:
        _print_patterns(await memory.bank.patterns(agent, as_of=parse_as_of(as_of)), json)

    over_store(body, store, acting=acting)


def distill(
    agent: Agent,
    *,
    look: Annotated[
        bool,
        typer.Option(
            "--look", help="Test for promotion: takes one of the looks that were declared."
        ),
    ] = False,
    request_id: Annotated[
        str | None,
        typer.Option(
            "--request-id",
            metavar="ID",
            help="Repeated under the same id, it goes on where it was killed, and acts once.",
        ),
    ] = None,
    as_of: AsOfText = None,
    store: Store = None,
    acting: Acting = None,
    wait: Wait = 0.0,
    json: AsJson = False,
) -> None:
    """Cluster an agent's situations, store what each cluster led to, and print the patterns.

    An action type needs 50 situations whose outcomes are known.
    """

    async def body(memory: Memory) -> None:
        with _progress() as told:
            found = await memory.bank.distill(
                agent,
                as_of=parse_as_of(as_of),
                look=look,
                progress=printing.named(told, "distilled"),
                request_id=request_id,
            )
        _print_patterns(found, json)

    over_store(body, store, writes=True, acting=acting, wait=wait, must_exist=True)


def advise(
    agents: Agents,
    *,
    vector: Vector = None,
    text: Text = None,
    like: Like = None,
    action_type: ActionType = None,
    level: Annotated[float, typer.Option(help="Coverage wanted of the interval.")] = 0.8,
    baseline: Annotated[
        float | None, typer.Option(metavar="X", help="What the naive forecast says.")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Scan instead of searching.")] = False,
    as_of: AsOfText = None,
    store: Store = None,
    acting: Acting = None,
    json: AsJson = False,
) -> None:
    """Print what the most similar past situations say about one; nothing is written.

    Abstaining, because nothing similar is known, is an answer too: exit code 0.
    """

    async def body(memory: Memory) -> None:
        async def use(embedding: Any) -> Told:
            return await memory.bank.advise(
                agents,
                embedding,
                action_type=action_type,
                as_of=parse_as_of(as_of),
                level=level,
                baseline=baseline,
                exact=exact,
            )

        advice = await with_embedding(memory, agents[0], (vector, text, like), use)
        if json:
            from nt_memory.apps.cli import documents  # noqa: PLC0415 - numpy

            plain: dict[str, Any] = {**advice.to_dict(), "as_of": advice.as_of}
            printing.document(documents.Advice(**plain, text=advice.as_text()))
        else:
            printing.line(advice.as_text(2_000))

    over_store(body, store, acting=acting)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = Family(app, "ReasoningBank")
    family.add(
        trajectories,
        "trajectories AAPL -n 5",
        "trajectories AAPL AAPL/2022-12-01",
        "trajectories AAPL --json | jq .score",
        document="Trajectory",
        streams=True,
    )
    family.add(
        patterns,
        "patterns AAPL",
        "patterns AAPL --as-of 2020-03-02T00:00:00Z --json",
        document="Pattern",
        streams=True,
    )
    family.add(
        advise,
        "advise AAPL MSFT --vector '[0.9, 0.1, 0.4]'",
        "advise AAPL --vector @today.json --action-type forecast --json",
        document="Advice",
    )
    family.add(
        distill,
        "distill AAPL",
        "distill AAPL --look --request-id first-look",
        document="Pattern",
        streams=True,
    )


def _print_patterns(found: list[Pattern], as_json: bool) -> None:  # noqa: FBT001 - private
    from nt_memory.apps.cli import lessons  # noqa: PLC0415 - numpy

    docs = list(map(lessons.pattern_document, found))
    if as_json:
        for doc in docs:
            printing.document(doc)
    else:
        printing.table(lessons.PATTERN_HEAD, map(lessons.pattern_cells, docs))
