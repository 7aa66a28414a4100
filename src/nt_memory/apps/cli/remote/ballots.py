"""Proposals and votes behind a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from nt_memory.apps.cli.remote.paths import of_agent, of_name
from nt_memory.apps.cli.remote.reading import ReadProposal, ReadResult, read
from nt_memory.apps.cli.remote.refusals import AbsentError
from nt_memory.codec.plain import to_plain
from nt_memory.coordination.proposals import read_quorum, read_weight
from nt_memory.errors import UnknownProposalError
from nt_memory.namespace import check_agent, check_label

if TYPE_CHECKING:
    from nt_memory.apps.cli.asking import Result
    from nt_memory.apps.cli.remote.client import Client
    from nt_memory.coordination.proposals import Proposal, ProposalRecord, Vote

PAGE = 1_000


class RemoteBallots:
    """The calls of `Consensus` that commands make."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def register_agent(self, agent: str, weight: str) -> int:
        """Make an agent a voter of later proposals."""
        body = {"weight": str(read_weight(weight))}
        answer = await self._client.ask("PUT", f"{of_agent('agents', agent)}/vote", body)
        return read(answer, _Written).revision

    async def submit_proposal(self, proposal: Proposal) -> str:
        """Put it to the vote."""
        weights = proposal.weights
        body: dict[str, Any] = {
            "data": to_plain(proposal.data),
            "proposer": check_agent(proposal.proposer),
            "quorum": str(read_quorum(proposal.quorum)),
            "deadline": None if proposal.deadline is None else proposal.deadline.isoformat(),
            "weights": None
            if weights is None
            else {check_agent(name): str(read_weight(one)) for name, one in weights.items()},
            "id": check_label(proposal.id, "proposal id") if proposal.id else "",
        }
        return read(await self._client.ask("POST", "/proposals", body), _Submitted).id

    async def vote(self, vote: Vote) -> Result:
        """Cast one vote."""
        body = {
            "proposal_id": check_label(vote.proposal_id, "proposal id"),
            "voter": check_agent(vote.voter),
            "approve": vote.approve,
        }
        return read(await self._client.ask("POST", "/votes", body), ReadResult).result()

    async def get_result(self, proposal_id: str) -> Result:
        """Where it stands."""
        found = await self.get_proposal(proposal_id)
        if found is None:
            raise UnknownProposalError(f"no proposal has the id {proposal_id!r}")
        return found.result

    async def get_proposal(self, proposal_id: str) -> ProposalRecord | None:
        """One proposal, or None."""
        path = of_name("proposals", check_label(proposal_id, "proposal id"))
        try:
            answer = await self._client.ask("GET", path)
        except AbsentError:
            return None
        return read(answer, ReadProposal).proposal()

    async def list_proposals(self) -> list[ProposalRecord]:
        """All of them, oldest first."""
        found: list[ProposalRecord] = []
        after: int | None = 0
        while after is not None:
            query = {"after": after, "limit": PAGE}
            page = read(await self._client.ask("GET", "/proposals", query=query), _Page)
            found.extend(one.proposal() for one in page.proposals)
            after = page.next
        return found


class _Written(msgspec.Struct):
    revision: int


class _Submitted(msgspec.Struct):
    id: str


class _Page(msgspec.Struct):
    proposals: list[ReadProposal]
    next: int | None
