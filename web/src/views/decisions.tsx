import { useMemo, useState } from "preact/hooks";

import { seg } from "../api";
import { Chart, hue } from "../chart";
import { int, num, percent, signed, stamp, zoneOf } from "../format";
import { useAgent, useAsked } from "../hooks";
import { AgentPicker, Empty, Mark, Panel, Problem, Scroll } from "../parts";
import type { Calibration, Decision, Mean } from "../types";

export function Decisions() {
  const [agent] = useAgent();
  const [type, setType] = useState("");
  const { data, error } = useAsked<{ decisions: Decision[] }>(agent ? `/v1/decisions/${seg(agent)}` : null, { limit: 200 }, 3000);
  const calibration = useAsked<{ calibration: Calibration[] }>(agent ? `/v1/calibration/${seg(agent)}` : null, {}, 5000);
  const all = data?.decisions ?? [];
  const types = [...new Set(all.map((one) => one.action_type))].sort();
  const shownType = types.includes(type) ? type : (types[0] ?? "");
  const rows = all.filter((one) => one.action_type === shownType);
  return (
    <div class="grid">
      <div class="tools wide">
        <AgentPicker />
        {types.length > 1 && <label class="field"><span>Action type</span>
          <select aria-label="Action type" value={shownType} onChange={(e) => setType(e.currentTarget.value)}>{types.map((one) => <option key={one} value={one}>{one}</option>)}</select></label>}
      </div>
      <Panel title="Predicted against actual" wide aside={shownType}>
        <Problem text={error} />
        {data && rows.length === 0 ? (
          <Empty>{agent || "This agent"} has no decisions{" "}on record. <code>memory.track_trajectory</code> keeps them, with what was expected and what came.</Empty>
        ) : <Course rows={rows} />}
      </Panel>
      <Panel title="Calibration" wide aside="standard errors count dependence">
        <Problem text={calibration.error} />
        <CalibrationTable rows={calibration.data?.calibration ?? []} />
      </Panel>
      <Panel title="Decisions" wide aside={`newest first, ${zoneOf(new Date())}`}>
        {rows.length === 0 ? <Empty>Nothing to list.</Empty> : (
          <Scroll label="Decisions" tall>
            <table>
              <thead><tr><th>At</th><th>Trajectory</th><th class="n">Predicted</th><th class="n">Interval</th><th class="n">Baseline</th><th class="n">Actual</th><th class="n">Error</th><th class="n">Skill</th><th>Verdict</th></tr></thead>
              <tbody>{rows.map((one) => (
                <tr key={`${one.trajectory_id}/${one.action}`}>
                  <td class="t">{stamp(one.at)}</td><th scope="row" class="cut">{one.trajectory_id}</th>
                  <td class="n">{num(one.predicted)}</td>
                  <td class="n">{one.low == null ? "–" : `${num(one.low, 3)} to ${num(one.high, 3)}`}</td>
                  <td class="n">{num(one.baseline)}</td><td class="n">{num(one.actual)}</td>
                  <td class="n">{one.predicted == null || one.actual == null ? "–" : signed(one.predicted - one.actual)}</td>
                  <td class="n">{signed(one.skill)}</td>
                  <td title={one.feedback ?? ""}>{one.actual == null ? <Mark kind="open" /> : one.kind ? <Mark kind={one.kind} /> : "–"}</td>
                </tr>
              ))}</tbody>
            </table>
          </Scroll>
        )}
      </Panel>
    </div>
  );
}

function Course({ rows }: { rows: Decision[] }) {
  const data = useMemo(() => {
    const sorted = [...rows].reverse();
    // The chart wants times that only grow: of several at once the last is drawn.
    const unique = sorted.filter((one, i) => sorted[i + 1]?.at !== one.at);
    return [
      unique.map((one) => Date.parse(one.at) / 1000), unique.map((one) => one.high), unique.map((one) => one.low),
      unique.map((one) => one.baseline), unique.map((one) => one.predicted), unique.map((one) => one.actual),
    ];
  }, [rows]);
  const known = rows.filter((one) => one.actual != null && one.predicted != null);
  const mae = known.reduce((sum, one) => sum + Math.abs(one.predicted! - one.actual!), 0) / (known.length || 1);
  return (
    <Chart data={data} height={240} hues={hue()} band={[1, 2]}
      label={`${rows.length} forecasts, ${known.length} with outcomes; mean absolute error ${num(mae, 3)}`}
      unit={known.length ? `mean absolute error ${num(mae, 3)} over ${int(known.length)}` : ""}
      lines={[{ label: "", colour: "--edge", width: 0.5 }, { label: "interval", colour: "--edge", width: 0.5 },
        { label: "baseline", colour: "--muted", dash: [4, 4], width: 1 }, { label: "predicted", colour: "--accent" },
        { label: "actual", colour: "--second", points: true, width: 0 }]} />
  );
}

const give = (mean: Mean, show: (n: number | null) => string): string =>
  mean.n ? `${show(mean.value)}${mean.standard_error ? ` ± ${num(mean.standard_error, 2)}` : ""}` : "–";

function CalibrationTable({ rows }: { rows: Calibration[] }) {
  if (rows.length === 0) return <Empty>No outcome is known yet, so nothing can be said about trust.</Empty>;
  return (
    <Scroll label="Calibration">
      <table>
        <thead><tr><th>Action type</th><th class="n">Outcomes</th><th class="n">Skill</th><th class="n">Bias</th><th class="n">Loss</th><th class="n">Coverage</th><th class="n">Sharpness</th></tr></thead>
        <tbody>{rows.map((one) => (
          <tr key={one.action_type}>
            <th scope="row">{one.action_type}</th><td class="n">{int(one.n)}</td>
            <td class={`n ${one.skill.n && (one.skill.value ?? 0) < 0 ? "bad" : ""}`}>{give(one.skill, (n) => signed(n))}</td>
            <td class="n">{give(one.bias, (n) => signed(n))}</td><td class="n">{give(one.loss, (n) => num(n, 3))}</td>
            <td class="n"><Coverage one={one} /></td><td class="n">{give(one.sharpness, (n) => num(n, 3))}</td>
          </tr>
        ))}</tbody>
      </table>
      {rows.filter((one) => one.reliability.length).map((one) => <Reliable key={one.action_type} one={one} />)}
    </Scroll>
  );
}

function Coverage({ one }: { one: Calibration }) {
  if (!one.coverage.n || one.coverage.value == null) return <>–</>;
  return <>{percent(one.coverage.value)} of {percent(one.level)}</>;
}

function Reliable({ one }: { one: Calibration }) {
  return (
    <table class="small">
      <caption>{one.action_type}: probabilities claimed, and how often it came true</caption>
      <thead><tr><th class="n">Claimed</th><th class="n">Came true</th><th class="n">Forecasts</th></tr></thead>
      <tbody>{one.reliability.map((bin) => (
        <tr key={bin.claimed}><td class="n">{percent(bin.claimed)}</td><td class="n">{percent(bin.observed)}</td><td class="n">{int(bin.n)}</td></tr>
      ))}</tbody>
    </table>
  );
}
