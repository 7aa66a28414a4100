"""`nt-memory propose`, `vote`, `proposals` and `agents`: decisions, and who takes part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nt_memory.apps.cli import printing
from nt_memory.apps.cli.asking import arrived
from nt_memory.apps.cli.commands import Family
from nt_memory.apps.cli.completing import agents as complete_agents
from nt_memory.apps.cli.completing import proposals as complete_proposals
from nt_memory.apps.cli.exits import NothingCameError, NotThereError
from nt_memory.apps.cli.inputs import parse_json, parse_time, read_text
from nt_memory.apps.cli.options import Acting, AsJson, Store, Timeout, Wait
from nt_memory.apps.cli.running import over_store
from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from nt_memory.apps.cli.asking import Memory
    from nt_memory.coordination.proposals import ProposalRecord

Voters = Annotated[
    list[str] | None,
    typer.Option(
        "--voter",
        metavar="AGENT[=WEIGHT]",
        help="Who may vote, and how much it counts; may be repeated. [default: who is registered]",
    ),
]
ProposalId = Annotated[
    str, typer.Argument(help="Which.", show_default=False, autocompletion=complete_proposals)
]


def propose(
    proposer: Annotated[
        str, typer.Argument(help="Who puts it.", autocompletion=complete_agents, show_default=False)
    ],
    data: Annotated[str, typer.Argument(help="What: JSON; - reads stdin.", show_default=False)],
    *,
    id_: Annotated[str, typer.Option("--id", help="Its name; made up when left out.")] = "",
    quorum: Annotated[str, typer.Option(help="Share of the weight that approves it.")] = "2/3",
    deadline: Annotated[
        str | None, typer.Option(metavar="TIME", help="Rejected if undecided by then.")
    ] = None,
    voter: Voters = None,
    store: Store = None,
    acting: Acting = None,
    wait: Wait = 0.0,
    json: AsJson = False,
) -> None:
    """Put something to the vote, and print the proposal's id."""
    parsed = parse_json(read_text(data), "DATA")
    until = None if deadline is None else parse_time(deadline, "--deadline")
    weights = None if not voter else dict(_voter(text) for text in voter)

    async def body(memory: Memory) -> None:
        from nt_memory.apps.cli import documents  # noqa: PLC0415 - numpy
        from nt_memory.coordination.proposals import Proposal  # noqa: PLC0415

        proposal = Proposal(proposer, parsed, quorum, until, weights, id_)
        name = await memory.consensus.submit_proposal(proposal)
        if json:
            printing.document(documents.Submitted(id=name))
        else:
            printing.line(name)

    over_store(body, store, writes=True, acting=acting, wait=wait)


def vote(
    proposal_id: ProposalId,
    voter: Annotated[
        str, typer.Argument(help="Whose vote.", autocompletion=complete_agents, show_default=False)
    ],
    choice: Annotated[
        Literal["yes", "no"], typer.Argument(help="For or against.", show_default=False)
    ],
    *,
    store: Store = None,
    acting: Acting = None,
    wait: Wait = 0.0,
    json: AsJson = False,
) -> None:
    """Cast a vote, and print where the proposal stands; casting it again is harmless."""

    async def body(memory: Memory) -> None:
        from nt_memory.apps.cli.ballots import standing_document, standing_line  # noqa: PLC0415
        from nt_memory.coordination.proposals import Vote  # noqa: PLC0415

        result = await memory.consensus.vote(Vote(proposal_id, voter, choice == "yes"))
        if json:
            printing.document(standing_document(proposal_id, result))
        else:
            printing.line(standing_line(result))

    over_store(body, store, writes=True, acting=acting, wait=wait, must_exist=True)


def proposals(
    proposal_id: Annotated[
        str | None,
        typer.Argument(
            help="Only this one, with its votes.",
            show_default=False,
            autocompletion=complete_proposals,
        ),
    ] = None,
    *,
    open_: Annotated[bool, typer.Option("--open", help="Only what is not decided.")] = False,
    decided: Annotated[
        bool, typer.Option("--decided", help="Wait until it is decided; needs a PROPOSAL_ID.")
    ] = False,
    timeout: Timeout = None,
    store: Store = None,
    acting: Acting = None,
    json: AsJson = False,
) -> None:
    """Print proposals, oldest first: what is proposed, the votes, where they stand."""
    if decided and proposal_id is None:
        raise InvalidInputError("--decided waits for one proposal: say which")

    async def body(memory: Memory) -> None:
        if proposal_id is not None and decided:
            await _until_decided(memory, proposal_id, timeout)
        if proposal_id is None:
            found = await memory.consensus.list_proposals()
        else:
            one = await memory.consensus.get_proposal(proposal_id)
            if one is None:
                raise NotThereError(f"no proposal has the id {proposal_id!r}")
            found = [one]
        _print_proposals(found, only_open=open_, in_full=proposal_id is not None, as_json=json)

    over_store(body, store, acting=acting)


def agents(
    *,
    register_: Annotated[
        list[str] | None,
        typer.Option(
            "--register",
            metavar="AGENT[=WEIGHT]",
            help="Make it a voter of later proposals; may be repeated.",
        ),
    ] = None,
    store: Store = None,
    acting: Acting = None,
    wait: Wait = 0.0,
    json: AsJson = False,
) -> None:
    """Print who has stored something: keys, bytes, observations with all their versions."""
    voters = [_voter(text) for text in register_ or ()]

    async def body(memory: Memory) -> None:
        from nt_memory.apps.cli import documents  # noqa: PLC0415 - numpy
        from nt_memory.apps.cli.rendering import size  # noqa: PLC0415

        for name, weight in voters:
            await memory.consensus.register_agent(name, weight)
        found: list[documents.Agent] = []
        for name in await memory.agents():
            usage = await arrived(memory.usage(name))
            found.append(
                documents.Agent(
                    agent=name,
                    keys=usage.keys,
                    bytes=usage.bytes,
                    vectors=usage.vectors,
                    has_policy=await arrived(memory.policy(name)) is not None,
                )
            )
        if json:
            for one in found:
                printing.document(one)
            return
        printing.table(
            ("agent", "keys", "size", "vectors", "policy"),
            [
                (one.agent, one.keys, size(one.bytes), one.vectors, "yes" if one.has_policy else "")
                for one in found
            ],
        )

    over_store(body, store, writes=bool(voters), acting=acting, wait=wait)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = Family(app, "Coordination")
    family.add(
        propose,
        'propose desk_1 \'{"sell": "AAPL"}\' --voter desk_1 --voter desk_2=2 --quorum 1/2',
        "propose desk_1 '{\"halt\": true}' --id halt-1 --deadline 2026-03-02T16:00:00-05:00",
        document="Submitted",
    )
    family.add(vote, "vote halt-1 desk_2 yes", "vote halt-1 desk_2 no --json", document="Standing")
    family.add(
        proposals,
        "proposals --open",
        "proposals halt-1",
        "proposals halt-1 --decided --timeout 60 --json | jq -r .status",
        "proposals --store http://127.0.0.1:3000",
        document="Proposal",
        streams=True,
    )
    family.add(
        agents,
        "agents",
        "agents --json | jq -r .agent",
        "agents --register desk_1 --register desk_2=2",
        document="Agent",
        streams=True,
    )


def _print_proposals(
    found: list[ProposalRecord], *, only_open: bool, in_full: bool, as_json: bool
) -> None:
    from nt_memory.apps.cli import ballots  # noqa: PLC0415 - numpy

    shown = [one for one in found if not only_open or ballots.status_of(one.result) == "pending"]
    if as_json:
        for one in shown:
            printing.document(ballots.proposal_document(one))
    elif in_full:
        for text in (text for one in shown for text in ballots.lines(one)):
            printing.line(text)
    else:
        printing.table(ballots.HEAD, map(ballots.cells, shown))


def _voter(text: str) -> tuple[str, str]:
    name, _, weight = text.partition("=")
    return name, weight or "1"


async def _until_decided(memory: Memory, proposal_id: str, timeout: float | None) -> None:
    """Wait for a decision that another process takes, entry by entry.

    Raises:
        NothingCameError: it was not taken in time.
        UnknownProposalError: there is no such proposal.
    """
    import asyncio  # noqa: PLC0415

    from nt_memory.coordination.proposals import Pending  # noqa: PLC0415

    try:
        async with asyncio.timeout(timeout):
            while isinstance(await memory.consensus.get_result(proposal_id), Pending):
                await memory.wait_for(memory.revision + 1)
    except TimeoutError:
        raise NothingCameError(
            f"proposal {proposal_id!r} was not decided within {timeout:g} s"
        ) from None
