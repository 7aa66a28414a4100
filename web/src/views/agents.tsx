import { useState } from "preact/hooks";

import { seg } from "../api";
import { bytes, int, line, stamp, zoneOf } from "../format";
import { useAsked, useMoment, useNow } from "../hooks";
import { Empty, Panel, Problem, Scroll } from "../parts";
import type { Rec, Standing } from "../types";
import { Staleness } from "./desk";

const NAME = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/;

type Column = "agent" | "age" | "keys" | "bytes" | "vectors";

export function Agents({ detail }: { detail: string }) {
  const [key, setKey] = useState("position");
  const [filter, setFilter] = useState("");
  const [sort, setSort] = useState<Column>("agent");
  const { data, error } = useAsked<{ agents: Standing[]; next: string | null }>("/v1/swarm", { key: key || "position", limit: 500 }, 2000);
  const now = useNow();
  const { recordedAt } = useMoment();
  const asNow = recordedAt ? Date.parse(recordedAt) : now;
  const rows = (data?.agents ?? []).filter((one) => one.agent.toLowerCase().includes(filter.toLowerCase()));
  const by = (one: Standing): number | string =>
    sort === "agent" ? one.agent : sort === "age" ? (one.known_at ? asNow - Date.parse(one.known_at) : -1) : (one[sort] ?? -1);
  rows.sort((a, b) => { const x = by(a), y = by(b); return sort === "agent" ? (x < y ? -1 : 1) : x > y ? -1 : 1; });
  const head = (name: Column, text: string, n = true) => (
    <th class={n ? "n" : ""} aria-sort={sort === name ? (name === "agent" ? "ascending" : "descending") : "none"}>
      <button type="button" class="sort" onClick={() => setSort(name)}>{text}{sort === name ? (name === "agent" ? " ↑" : " ↓") : ""}</button>
    </th>
  );
  return (
    <div class="grid">
      <Panel title="Agents" wide aside={data ? `${int(rows.length)} shown` : ""}>
        <form class="tools" onSubmit={(event) => event.preventDefault()}>
          <label class="field"><span>Find</span><input type="search" value={filter} placeholder="part of a name" onInput={(e) => setFilter(e.currentTarget.value)} /></label>
          <label class="field"><span>Key shown</span><input value={key} spellcheck={false} onChange={(e) => setKey(e.currentTarget.value.trim())} /></label>
        </form>
        <Problem text={error} />
        {data && data.agents.length === 0 ? (
          <Empty>No agent has stored anything{recordedAt ? " by then" : ". Try nt-memory put agent_1 position 10"}.</Empty>
        ) : (
          <Scroll label="Agents" tall>
            <table>
              <thead><tr>{head("agent", "Agent", false)}<th>{key || "position"}</th>{head("age", "Age")}{head("keys", "Keys")}{head("vectors", "Vectors")}{head("bytes", "Bytes")}</tr></thead>
              <tbody>{rows.map((one) => (
                <tr key={one.agent} class={one.agent === detail ? "chosen" : ""}>
                  <th scope="row"><a href={`#/agents/${encodeURIComponent(one.agent)}`} aria-current={one.agent === detail ? "true" : undefined}>{one.agent}</a></th>
                  <td class="cut">{one.is_left_out ? "large value" : one.revision == null ? "–" : line(one.value)}</td>
                  {one.known_at ? <Staleness ms={asNow - Date.parse(one.known_at)} /> : <td class="n">–</td>}
                  <td class="n">{int(one.keys)}</td><td class="n">{int(one.vectors)}</td><td class="n">{bytes(one.bytes)}</td>
                </tr>
              ))}</tbody>
            </table>
          </Scroll>
        )}
        {data?.next && <p class="empty">Only the first 500 by name are here.</p>}
      </Panel>
      {detail && (NAME.test(detail) ? <Detail agent={detail} /> : <Panel title="No such agent" wide><p>{detail} cannot be the name of an agent.</p></Panel>)}
    </div>
  );
}

function Detail({ agent }: { agent: string }) {
  const [prefix, setPrefix] = useState("");
  const [key, setKey] = useState("");
  const { data, error } = useAsked<{ records: Rec[]; next: string | null }>(`/v1/state/${seg(agent)}`, { prefix, limit: 200 }, 2000);
  const zone = zoneOf(new Date());
  return (
    <>
      <Panel title={`Keys of ${agent}`} aside={data?.next ? "the first 200" : data ? int(data.records.length) : ""} wide={!key}>
        <form class="tools" onSubmit={(event) => event.preventDefault()}>
          <label class="field"><span>Prefix</span><input value={prefix} spellcheck={false} onInput={(e) => setPrefix(e.currentTarget.value)} /></label>
        </form>
        <Problem text={error} />
        {data && data.records.length === 0 ? <Empty>Nothing under this prefix.</Empty> : (
          <Scroll label={`Keys of ${agent}`} tall>
            <table>
              <thead><tr><th>Key</th><th>Value</th><th>Known at, {zone}</th><th class="n">Revision</th></tr></thead>
              <tbody>{data?.records.map((one) => (
                <tr key={one.key} class={one.key === key ? "chosen" : ""}>
                  <th scope="row" class="cut"><button type="button" class="link" onClick={() => setKey(one.key === key ? "" : one.key)} aria-pressed={one.key === key}>{one.key}</button></th>
                  <td class="cut">{line(one.value)}</td><td class="t">{stamp(one.known_at)}</td><td class="n">{int(one.revision)}</td>
                </tr>
              ))}</tbody>
            </table>
          </Scroll>
        )}
      </Panel>
      {key && <History agent={agent} name={key} />}
    </>
  );
}

function History({ agent, name }: { agent: string; name: string }) {
  const { revision } = useMoment();
  const { data, error } = useAsked<{ records: Rec[] }>(`/v1/history/${seg(agent)}/${seg(name)}`, { limit: 50 }, 2000, false);
  const rows = data?.records.filter((one) => revision == null || one.revision <= revision) ?? [];
  return (
    <Panel title={`History of ${name}`} aside="newest first">
      <Problem text={error} />
      <Scroll label={`History of ${name}`} tall>
        <table>
          <thead><tr><th>Known at, {zoneOf(new Date())}</th><th>Value</th><th>By</th><th class="n">Revision</th></tr></thead>
          <tbody>{rows.map((one) => (
            <tr key={one.revision}><td class="t">{stamp(one.known_at)}</td><td class="cut">{line(one.value)}</td><td>{one.actor || "–"}</td><td class="n">{int(one.revision)}</td></tr>
          ))}</tbody>
        </table>
      </Scroll>
    </Panel>
  );
}
