import { clock, int, line, num, share, when, zoneOf } from "../format";
import { useLive, useMoment } from "../hooks";
import { Empty, Mark, Panel, Scroll, VoteBar, proposalAt, tally } from "../parts";
import { Locks } from "./desk";

export function Votes() {
  const { proposals, fresh } = useLive();
  const { revision, recordedAt } = useMoment();
  const shown = [...proposals.values()].map((one) => proposalAt(one, revision, recordedAt))
    .filter((one) => one != null).sort((a, b) => b.revision - a.revision);
  return (
    <div class="grid">
      <Panel title="Proposals" wide aside={shown.length >= 50 ? "the newest 50" : int(shown.length)}>
        {shown.length === 0 ? (
          <Empty>Nothing was put to the vote{revision == null ? ". nt-memory propose does, and votes show here as they fall" : " by then"}.</Empty>
        ) : shown.map((one) => (
          <article key={one.id} class={`proposal${fresh.has(one.id) ? " fresh" : ""}`} data-proposal={one.id}>
            <header><h3 class="cut">{one.id}</h3><Mark kind={one.result.status} /></header>
            <p class="data">{line(one.data, 400)}</p>
            <VoteBar one={one} />
            <p class="dim">
              {one.proposer} · {tally(one)} · needs {one.quorum}
              {one.result.votes_needed != null && one.result.status === "pending" && ` · ${int(one.result.votes_needed)} more would do`}
              {" · put "}{when(one.submitted_at)}
              {one.deadline && ` · until ${when(one.deadline)}`}
              {one.decided_at && ` · decided ${when(one.decided_at)}`}
            </p>
            {one.votes.length > 0 && (
              <Scroll label={`Votes on ${one.id}`}>
                <ul class="votes">{one.votes.map((vote) => (
                  <li key={vote.voter} class={vote.approve ? "good" : "bad"}>
                    <span aria-hidden="true">{vote.approve ? "✓ " : "✕ "}</span><span class="sr">{vote.approve ? "for: " : "against: "}</span>
                    {vote.voter}{share(vote.weight) !== 1 && ` ×${num(share(vote.weight), 3)}`}
                    <span class="t dim"> {vote.at ? `${clock(vote.at)} ${zoneOf(new Date(vote.at))}` : ""}</span>
                  </li>
                ))}</ul>
              </Scroll>
            )}
          </article>
        ))}
      </Panel>
      <Locks />
    </div>
  );
}
