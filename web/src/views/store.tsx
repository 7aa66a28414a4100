import { bytes, int, num, percent, rate, seconds } from "../format";
import { useLive } from "../hooks";
import { Empty, Figure, Panel, Scroll } from "../parts";
import type { Latencies, Tier } from "../types";
import { Flow } from "./desk";

export function Store() {
  const { look, points } = useLive();
  if (!look) return null;
  const { stats } = look;
  const last = points[points.length - 1];
  return (
    <div class="grid">
      <Panel title="Tiers" live>
        <Scroll label="Tiers">
          <table>
            <thead><tr><th>Tier</th><th class="n">Entries</th><th class="n">Memory</th><th class="n">Hits</th><th class="n">Misses</th><th class="n">Hit rate</th><th class="n">Evicted</th></tr></thead>
            <tbody>
              <Row name="L1 hot" id="l1" tier={stats.l1} /><Row name="L2 vectors" id="l2" tier={stats.l2} />
              <tr><th scope="row">L3 on disk</th><td class="n">–</td><td class="n">{bytes(stats.l3_bytes)}</td><td class="n">–</td><td class="n">–</td><td class="n">–</td><td class="n">–</td></tr>
            </tbody>
          </table>
        </Scroll>
        <p class="dim small">Counts since the store was opened. L2: rows; memory apart from {bytes(stats.l2.mapped_bytes)} mapped from index files.</p>
      </Panel>
      <Panel title="Latency" aside="of requests to this server" live><Histograms found={look.latencies} /></Panel>
      <Panel title="Journal and disk" live>
        <dl class="figures">
          <Figure name="Visible revision" value={int(stats.revision)} note={`${rate(last?.entries ?? 0)} per s`} />
          <Figure name="Lag" value={int(stats.lag)} note="entries" tone={stats.lag > 1000 ? "warn" : ""} />
          <Figure name="Waiting" value={bytes(stats.pending_bytes)} note="for the journal" />
          <Figure name="Journal" value={bytes(stats.journal_bytes)} /><Figure name="Views" value={bytes(stats.l3_bytes)} />
          <Figure name="Value files" value={bytes(stats.value_bytes)} /><Figure name="Compactions" value={int(stats.compactions)} note={stats.compaction_failure ? `failed: ${stats.compaction_failure}` : undefined} tone={stats.compaction_failure ? "bad" : ""} />
          <Figure name="Clock moved" value={`${num(stats.clock_jump_s, 3)} s`} tone={Math.abs(stats.clock_jump_s) > 1 ? "warn" : ""} />
        </dl>
      </Panel>
      <Panel title="Vector index and handles" live>
        <dl class="figures">
          <Figure name="Graphs" value={int(stats.l2.graphs)} note={stats.l2.is_idle ? "at rest" : "at work"} /><Figure name="Not indexed" value={int(stats.l2.pending)} />
          <Figure name="Loads" value={int(stats.l2.loads)} /><Figure name="Merges" value={int(stats.l2.merges)} />
          <Figure name="Index written" value={bytes(stats.l2.written_bytes)} /><Figure name="Filter tables" value={bytes(stats.l2_filter_bytes)} />
          <Figure name="Pins" value={int(stats.pins)} /><Figure name="Subscribers" value={int(stats.subscribers)} note="this page is one" />
          <Figure name="Messages" value={int(stats.messages)} /><Figure name="Locks" value={int(stats.locks)} />
          <Figure name="Calls denied" value={int(stats.denied)} tone={stats.denied ? "warn" : ""} /><Figure name="Streams" value={int(look.server.streams)} note="to this server" />
        </dl>
      </Panel>
      <Flow />
    </div>
  );
}

function Row({ name, id, tier }: { name: string; id: string; tier: Tier }) {
  const asked = tier.hits + tier.misses;
  return (
    <tr>
      <th scope="row">{name}</th><td class="n" data-figure={`${id}.entries`}>{int(tier.entries)}</td><td class="n">{bytes(tier.bytes)}</td>
      <td class="n" data-figure={`${id}.hits`}>{int(tier.hits)}</td><td class="n" data-figure={`${id}.misses`}>{int(tier.misses)}</td>
      <td class="n">{asked ? percent(tier.hits / asked) : "–"}</td><td class="n">{int(tier.evictions)}</td>
    </tr>
  );
}

const TIERS: Record<string, string> = {
  get: "L1, L3", put: "journal", observe: "journal, L2", search: "L2, L3", advise: "L2 and bank", vote: "journal",
};

function Histograms({ found }: { found: Latencies }) {
  const names = Object.keys(found.groups);
  if (names.length === 0) return <Empty>No request yet. Calls of agents in this server's own process are not timed; calls over HTTP are.</Empty>;
  return (
    <Scroll label="Latency histograms">
      <table class="hist">
        <thead><tr><th>Call</th><th>Distribution</th><th class="n">p50</th><th class="n">p99</th><th class="n">Count</th></tr></thead>
        <tbody>{names.map((name) => {
          const { counts } = found.groups[name]!;
          const total = counts.reduce((a, b) => a + b, 0), most = Math.max(...counts);
          return (
            <tr key={name}>
              <th scope="row">{name} <span class="dim">{TIERS[name]}</span></th>
              <td><span class="bars" role="img" aria-label={`${name}: ${counts.map((n, i) => (n ? `${n} up to ${bound(found, i)}` : "")).filter(Boolean).join(", ")}`}>
                {counts.map((n, i) => <i key={i} title={`${int(n)} up to ${bound(found, i)}`} style={{ height: n ? `${Math.max(8, (n / most) * 100)}%` : "1px" }} />)}
              </span></td>
              <td class="n">{quantile(found, counts, 0.5, total)}</td><td class="n">{quantile(found, counts, 0.99, total)}</td><td class="n">{int(total)}</td>
            </tr>
          );
        })}</tbody>
      </table>
      <p class="dim small">Buckets from {seconds(found.bounds[0] ?? 0)} to {seconds(found.bounds[found.bounds.length - 1] ?? 0)}; quantiles are the upper ends of theirs.</p>
    </Scroll>
  );
}

const bound = (found: Latencies, i: number): string => (i < found.bounds.length ? seconds(found.bounds[i]!) : "longer");

function quantile(found: Latencies, counts: number[], q: number, total: number): string {
  let seen = 0;
  for (let i = 0; i < counts.length; i += 1) {
    seen += counts[i]!;
    if (seen >= q * total) return i < found.bounds.length ? `≤ ${seconds(found.bounds[i]!)}` : `> ${seconds(found.bounds[found.bounds.length - 1]!)}`;
  }
  return "–";
}
