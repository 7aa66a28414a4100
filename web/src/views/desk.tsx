import { useMemo } from "preact/hooks";

import { Chart, hue } from "../chart";
import { age, clock, int, line, rate, zoneOf } from "../format";
import { useAsked, useLive, useMoment, useNow } from "../hooks";
import { Empty, Figure, Mark, Panel, Problem, Scroll, VoteBar, proposalAt, tally } from "../parts";
import type { Entry, Standing } from "../types";

export function Desk() {
  return (
    <div class="grid">
      <Headline />
      <Activity />
      <Swarm />
      <OpenProposals />
      <Locks short />
      <Feed />
      <Flow short />
    </div>
  );
}

function Headline() {
  const { look, points, proposals } = useLive();
  if (!look) return null;
  const last = points.slice(-4);
  const mean = (pick: "entries" | "messages"): number =>
    last.length ? last.reduce((sum, one) => sum + one[pick], 0) / last.length : 0;
  const open = [...proposals.values()].filter((one) => one.result.status === "pending").length;
  const waits = look.locks.reduce((sum, one) => sum + one.waiters.length, 0);
  const { stats } = look;
  return (
    <section class="headline wide only-live" aria-label="Key figures">
      <dl>
        <Figure name="Revision" value={int(stats.revision)} />
        <Figure name="Entries/s" value={rate(mean("entries"))} />
        <Figure name="Messages/s" value={rate(mean("messages"))} />
        <Figure name="Agents" value={int(look.agents)} />
        <Figure name="Locks held" value={int(stats.locks)} note={waits ? `${int(waits)} waiting` : undefined} tone={waits ? "warn" : ""} />
        <Figure name="Open votes" value={int(open)} />
        <Figure name="Vectors" value={int(stats.l2.entries)} note={stats.l2_pending ? `${int(stats.l2_pending)} not indexed` : undefined} />
        <Figure name="Denied" value={int(stats.denied)} tone={stats.denied ? "warn" : ""} />
      </dl>
    </section>
  );
}

function Activity() {
  const { points } = useLive();
  const data = useMemo(() => [points.map((p) => p.at), points.map((p) => p.entries), points.map((p) => p.messages)], [points]);
  const last = points[points.length - 1];
  return (
    <Panel title="Activity" aside="per second, last two minutes" wide live>
      <Chart data={data} height={130} hues={hue()} label={`Entries and messages a second; now ${rate(last?.entries ?? 0)} and ${rate(last?.messages ?? 0)}`}
        lines={[{ label: "entries", colour: "--accent", fill: "--fill" }, { label: "messages", colour: "--second" }]} />
    </Panel>
  );
}

function Swarm() {
  const now = useNow();
  const { data, error } = useAsked<{ agents: Standing[]; next: string | null }>("/v1/swarm", { key: "position", limit: 200 }, 1000);
  const rows = data?.agents.filter((one) => one.revision != null) ?? [];
  const { recordedAt } = useMoment();
  const asNow = recordedAt ? Date.parse(recordedAt) : now;
  return (
    <Panel title="Positions" aside={data ? `${int(rows.length)} of ${int(data.agents.length)}${data.next ? "+" : ""} agents` : ""}>
      <Problem text={error} />
      {data && rows.length === 0 ? (
        <Empty>No agent keeps the key <code>position</code>. Agents whose key has another name are under <a href="#/agents">Agents</a>.</Empty>
      ) : (
        <Scroll label="Positions" tall>
          <table class="slim">
            <thead><tr><th>Agent</th><th>Position</th><th class="n">Age</th></tr></thead>
            <tbody>{rows.map((one) => (
              <tr key={one.agent}>
                <th scope="row"><a href={`#/agents/${encodeURIComponent(one.agent)}`}>{one.agent}</a></th>
                <td class="cut main">{one.is_left_out ? "large value" : line(one.value)}</td>
                <Staleness ms={asNow - Date.parse(one.known_at ?? "")} />
              </tr>
            ))}</tbody>
          </table>
        </Scroll>
      )}
    </Panel>
  );
}

const STALE_MS = 5 * 60_000;

export function Staleness({ ms }: { ms: number }) {
  const isStale = ms > STALE_MS;
  return <td class={`n ${isStale ? "warn" : ""}`}>{isStale && <span title="older than five minutes">◔ <span class="sr">stale: </span></span>}{age(ms)}</td>;
}

function OpenProposals() {
  const { proposals, fresh } = useLive();
  const { revision, recordedAt } = useMoment();
  const shown = [...proposals.values()].map((one) => proposalAt(one, revision, recordedAt))
    .filter((one) => one != null).sort((a, b) => b.revision - a.revision).slice(0, 6);
  return (
    <Panel title="Proposals" aside={<a href="#/votes">all votes</a>}>
      {shown.length === 0 ? (
        <Empty>Nothing was put to the vote. <code>nt-memory propose</code> does, and votes show here as they fall.</Empty>
      ) : (
        <ul class="ballots">{shown.map((one) => (
          <li key={one.id} class={fresh.has(one.id) ? "fresh" : ""}>
            <div class="row"><strong class="cut">{one.id}</strong><Mark kind={one.result.status} /></div>
            <div class="cut dim">{one.proposer}: {line(one.data, 90)}</div>
            <VoteBar one={one} />
            <div class="row dim"><span>{tally(one)}</span><span>needs {one.quorum}</span></div>
          </li>
        ))}</ul>
      )}
    </Panel>
  );
}

export function Locks({ short }: { short?: boolean }) {
  const { look } = useLive();
  const locks = look?.locks ?? [];
  const shown = short ? locks.slice(0, 8) : locks;
  return (
    <Panel title="Locks and queues" aside={look ? `${int(look.locks_total)} in use` : ""} live wide={!short}>
      {shown.length === 0 ? (
        <Empty>Nobody holds or waits for a lock.</Empty>
      ) : (
        <Scroll label="Locks">
          <table>
            <thead><tr><th>Resource</th><th>Holder</th><th class="n">Lease</th><th>Queue</th>{!short && <th class="n">Fence</th>}</tr></thead>
            <tbody>{shown.map((one) => (
              <tr key={one.resource}>
                <th scope="row" class="cut">{one.resource}</th>
                <td class="cut">{one.holder || "nobody"}</td>
                <td class={`n ${one.holder && one.lease_left < 3 ? "warn" : ""}`}>{one.holder ? `${one.lease_left.toFixed(0)} s` : "–"}</td>
                <td class="cut">{one.waiters.length ? `${int(one.waiters.length)}: ${one.waiters.join(", ")}` : "–"}</td>
                {!short && <td class="n">{int(one.fence)}</td>}
              </tr>
            ))}</tbody>
          </table>
        </Scroll>
      )}
    </Panel>
  );
}

function told(one: Entry): string {
  if (one.changes.length) {
    const more = one.changes_total > one.changes.length ? ` and ${int(one.changes_total - one.changes.length)} more` : "";
    return one.changes.map((c) => `${c.agent}/${c.key}${c.value === undefined || c.value === null ? "" : ` = ${line(c.value, 60)}`}`).join(", ") + more;
  }
  return one.detail && typeof one.detail === "object" && Object.keys(one.detail).length ? line(one.detail, 90) : "";
}

function Feed() {
  const { entries } = useLive();
  const zone = zoneOf(new Date());
  return (
    <Panel title="Journal" aside="newest first" live>
      {entries == null ? (
        <Empty>Entries of the whole swarm are for those who may read everything. This token may not.</Empty>
      ) : entries.length === 0 ? (
        <Empty>Nothing was written yet. Try <code>nt-memory put agent_1 position 10</code>.</Empty>
      ) : (
        <Scroll label="Newest entries" tall>
          <table class="feed">
            <thead><tr><th>{zone}</th><th>Entry</th><th>By</th><th>What</th></tr></thead>
            <tbody>{entries.slice(0, 30).map((one) => (
              <tr key={one.revision}>
                <td class="t">{clock(one.recorded_at, true)}</td><td>{one.kind}</td><td class="cut">{one.actor || "–"}</td><td class="cut">{told(one)}</td>
              </tr>
            ))}</tbody>
          </table>
        </Scroll>
      )}
    </Panel>
  );
}

export function Flow({ short }: { short?: boolean }) {
  const { messages, topics, dropped } = useLive();
  const busiest = [...topics].sort((a, b) => b[1].total - a[1].total).slice(0, short ? 8 : 40);
  const most = busiest[0]?.[1].total ?? 1;
  return (
    <Panel title="Messages" aside={dropped ? `${int(dropped)} not shown: too many` : "since the page was opened"} live wide={!short}>
      {messages == null ? (
        <Empty>This token may not subscribe to any topic.</Empty>
      ) : busiest.length === 0 ? (
        <Empty>No message came since the page was opened. Try <code>nt-memory publish agent_1/signal '"buy"'</code> with this server's URL.</Empty>
      ) : (
        <>
          <table>
            <thead><tr><th>Topic</th><th aria-hidden="true" /><th class="n">Count</th><th class="n">Per s</th></tr></thead>
            <tbody>{busiest.map(([name, row]) => (
              <tr key={name}>
                <th scope="row" class="cut">{name}</th>
                <td class="barcell" aria-hidden="true"><span class="bar" style={{ width: `${(row.total / most) * 100}%` }} /></td>
                <td class="n">{int(row.total)}</td><td class="n">{rate(row.rate)}</td>
              </tr>
            ))}</tbody>
          </table>
          <Scroll label="Newest messages" tall>
            <ol class="lines">{messages.slice(0, short ? 12 : 60).map((one, i) => (
              <li key={`${one.at}${i}`} class="cut"><span class="t">{clock(one.at)}</span> <b>{one.topic}</b> {one.is_left_out ? "large" : line(one.message)}</li>
            ))}</ol>
          </Scroll>
        </>
      )}
    </Panel>
  );
}
