import { useEffect, useRef, useState } from "preact/hooks";

import { Refused, get, post, seg } from "../api";
import { hue } from "../chart";
import { int, line, num, percent, signed, stamp, zoneOf } from "../format";
import { useAgent, useAsked, useMoment } from "../hooks";
import { AgentPicker, Empty, Panel, Problem, Scroll } from "../parts";
import type { Hit, SituationMap } from "../types";

const COLOURS = ["--c0", "--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7"];

export function Situations() {
  const [agent] = useAgent();
  const [what, setWhat] = useState<"auto" | "observations">("auto");
  // An empty action type means observations; none, whatever the agent has.
  const query = what === "observations" ? { sample: 1500, action_type: "" } : { sample: 1500 };
  const { data, error, isLoading } = useAsked<SituationMap>(agent ? `/v1/map/${seg(agent)}` : null, query, 10_000);
  const [chosen, choose] = useState("");
  const at = data ? data.keys.indexOf(chosen) : -1;
  return (
    <div class="grid">
      <div class="tools wide">
        <AgentPicker />
        <label class="field"><span>Show</span>
          <select aria-label="Show" value={what} onChange={(e) => setWhat(e.currentTarget.value as "auto" | "observations")}>
            <option value="auto">situations of decisions, or observations</option><option value="observations">observations</option>
          </select></label>
      </div>
      <Panel title="Map" aside={data ? `${int(data.keys.length)} of ${int(data.total)} · axes show ${percent(data.explained[0] + data.explained[1])}` : ""}>
        <Problem text={error} />
        {data && data.keys.length === 0 ? (
          <Empty>{agent} remembers no situation{" "}here. <code>memory.observe</code> adds one; trajectories with embeddings do too.</Empty>
        ) : data ? <Scatter map={data} chosen={at} choose={(i) => choose(data.keys[i] ?? "")} /> : <Empty>{isLoading ? "Drawing…" : ""}</Empty>}
        {data && at >= 0 && (
          <p class="picked" aria-live="polite"><b class="cut">{data.keys[at]}</b> · {stamp(data.known_at[at])} {zoneOf(new Date())}
            {data.outcomes[at] != null && ` · outcome ${num(data.outcomes[at])}`}{data.scores[at] != null && ` · skill ${signed(data.scores[at])}`}
            {data.tags[at]?.length ? ` · ${data.tags[at]!.join(", ")}` : ""}</p>
        )}
      </Panel>
      <Panel title="Patterns" aside={data ? int(data.patterns.length) : ""}>
        {data && data.patterns.length === 0 ? (
          <Empty>Nothing distilled{" "}by then. <code>nt-memory distill {agent}</code> finds patterns once 50 outcomes are known.</Empty>
        ) : (
          <Scroll label="Patterns" tall>
            <ul class="patterns">{data?.patterns.map((one, i) => (
              <li key={one.id}>
                <div class="row"><strong><i class="dot" style={{ color: `var(${COLOURS[i % 8]})` }} aria-hidden="true">{mark(i)}</i> {one.id}</strong><span class="dim">n {int(one.n)}</span></div>
                <div class="row dim"><span>mean outcome {num(one.outcome_mean, 3)} {one.unit}</span><span>beat its baseline {percent(one.success_rate)}</span></div>
              </li>
            ))}</ul>
          </Scroll>
        )}
      </Panel>
      <Search agent={agent} map={data} chosen={chosen} />
    </div>
  );
}

const mark = (i: number): string => String.fromCharCode(65 + (i % 26));

function Scatter({ map, chosen, choose }: { map: SituationMap; chosen: number; choose: (i: number) => void }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [width, setWidth] = useState(0);
  const height = Math.min(420, Math.max(240, width * 0.62));
  const hues = hue();
  const xs = map.points.map((p) => p[0]).concat(map.patterns.map((p) => p.point[0]));
  const ys = map.points.map((p) => p[1]).concat(map.patterns.map((p) => p.point[1]));
  const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const pad = 16;
  // One scale for both axes: what is twice as far on the page is twice as far.
  const scale = Math.min((width - 2 * pad) / (x1 - x0 || 1), (height - 2 * pad) / (y1 - y0 || 1));
  const place = ([x, y]: [number, number]): [number, number] => [
    width / 2 + (x - (x0 + x1) / 2) * scale, height / 2 - (y - (y0 + y1) / 2) * scale];
  useEffect(() => {
    const host = canvas.current!.parentElement!;
    const sized = new ResizeObserver(() => setWidth(host.clientWidth));
    sized.observe(host);
    return () => sized.disconnect();
  }, []);
  useEffect(() => {
    const it = canvas.current!, dots = devicePixelRatio || 1;
    it.width = width * dots; it.height = height * dots;
    const pen = it.getContext("2d")!;
    pen.scale(dots, dots);
    const style = getComputedStyle(document.documentElement);
    const read = (name: string): string => style.getPropertyValue(name).trim();
    const inks = COLOURS.map(read);
    map.points.forEach((point, i) => {
      const [x, y] = place(point);
      const near = map.nearest[i] ?? -1;
      pen.fillStyle = near < 0 ? read("--accent") : inks[near % 8]!;
      pen.globalAlpha = 0.6;
      pen.beginPath(); pen.arc(x, y, 2.4, 0, 7); pen.fill();
    });
    pen.globalAlpha = 1;
    pen.font = "600 11px system-ui, sans-serif"; pen.textAlign = "center"; pen.textBaseline = "middle";
    map.patterns.forEach((one, i) => {
      const [x, y] = place(one.point);
      pen.fillStyle = read("--surface"); pen.strokeStyle = inks[i % 8]!; pen.lineWidth = 2;
      pen.beginPath(); pen.arc(x, y, 9, 0, 7); pen.fill(); pen.stroke();
      pen.fillStyle = read("--ink"); pen.fillText(mark(i), x, y + 0.5);
    });
    if (chosen >= 0) {
      const [x, y] = place(map.points[chosen]!);
      pen.strokeStyle = read("--ink"); pen.lineWidth = 2;
      pen.beginPath(); pen.arc(x, y, 7, 0, 7); pen.stroke();
    }
  }, [map, width, height, chosen, hues]);
  const pick = (event: MouseEvent): void => {
    const box = canvas.current!.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    let best = -1, far = 24 * 24;
    map.points.forEach((point, i) => {
      const [x, y] = place(point), d = (x - px) ** 2 + (y - py) ** 2;
      if (d < far) { far = d; best = i; }
    });
    choose(best);
  };
  const step = (event: KeyboardEvent): void => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, PageDown: 25, PageUp: -25 }[event.key];
    if (by == null && event.key !== "Home" && event.key !== "End") return;
    event.preventDefault();
    const last = map.points.length - 1;
    choose(event.key === "Home" ? 0 : event.key === "End" ? last : Math.min(last, Math.max(0, chosen + by!)));
  };
  return (
    <div class="scatter">
      <canvas ref={canvas} tabIndex={0} role="slider" aria-valuemin={0} aria-valuemax={map.points.length - 1} aria-valuenow={Math.max(chosen, 0)}
        aria-valuetext={chosen >= 0 ? map.keys[chosen] : "nothing chosen"} aria-label={`Map of ${map.points.length} situations; arrow keys choose one, in the order of time`}
        style={{ width: "100%", height: `${height}px` }} onClick={pick} onKeyDown={step} />
    </div>
  );
}

function Search({ agent, map, chosen }: { agent: string; map: SituationMap | null; chosen: string }) {
  const { revision } = useMoment();
  const [text, setText] = useState("");
  const [hits, setHits] = useState<Hit[] | null>(null);
  const [said, setSaid] = useState("");
  const [error, setError] = useState("");
  const run = async (find: () => Promise<void>): Promise<void> => {
    setError(""); setSaid(""); setHits(null);
    try { await find(); } catch (e) { setError(e instanceof Refused ? e.message : "the server cannot be reached"); }
  };
  const similar = async (query: Record<string, unknown>): Promise<void> => {
    const body = { agents: [agent], top_k: 10, ...query, ...(revision == null ? {} : { as_of: revision }) };
    setHits((await post<{ hits: Hit[] }>("/v1/search", body)).hits);
  };
  const byExample = (): Promise<void> => run(async () => {
    const asOf = { as_of: revision };
    if (!map?.action_type) {
      const { embedding } = await get<{ embedding: number[] }>(`/v1/embeddings/${seg(agent)}/${seg(chosen)}`, asOf);
      await similar({ embedding });
      return;
    }
    const found = await get<{ observations: { embedding: number[] | null }[] }>(`/v1/trajectories/${seg(chosen)}`, asOf);
    const embedding = found.observations.findLast((one) => one.embedding)?.embedding;
    if (!embedding) throw new Refused(404, "NotFound", "this trajectory has no situation");
    const advice = await post<{ text: string; recalled: Record<string, unknown>[] }>("/v1/advice", {
      agents: [agent], embedding, action_type: map.action_type, ...(revision == null ? {} : { as_of: revision }),
    });
    setSaid(advice.text);
  });
  return (
    <Panel title="Search by example" wide aside={revision == null ? "" : "as of the moment chosen above"}>
      <form class="tools" onSubmit={(event) => { event.preventDefault(); void run(() => similar({ text })); }}>
        <button type="button" class="main" disabled={!chosen} onClick={() => void byExample()}>{chosen ? `Like ${line(chosen, 40)}` : "Choose a point on the map"}</button>
        <label class="field grow"><span>Or a text</span><input type="search" value={text} placeholder="for observations that were embedded as texts" onInput={(e) => setText(e.currentTarget.value)} /></label>
        <button type="submit" disabled={!text || !agent}>Search</button>
      </form>
      <Problem text={error} />
      {said && <pre class="said">{said}</pre>}
      {hits && (hits.length === 0 ? <Empty>Nothing similar was known{revision == null ? "" : " then"}.</Empty> : (
        <Scroll label="Similar observations">
          <table>
            <thead><tr><th class="n">Similarity</th><th>Observation</th><th>Data</th><th>Known at, {zoneOf(new Date())}</th></tr></thead>
            <tbody>{hits.map((one) => (
              <tr key={`${one.agent}/${one.key}`}><td class="n">{one.score.toFixed(3)}</td><th scope="row" class="cut">{one.key}</th><td class="cut">{line(one.data)}</td><td class="t">{stamp(one.known_at)}</td></tr>
            ))}</tbody>
          </table>
        </Scroll>
      ))}
      {!hits && !said && !error && <Empty>Choose a point, or write a text: what is most like it shows here, with what came of it.</Empty>}
    </Panel>
  );
}
