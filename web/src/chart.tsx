import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

import { clock, day, num } from "./format";

export type Columns = (number | null)[][];

export interface Line { label: string; colour: string; dash?: number[]; fill?: string; points?: boolean; width?: number }

const read = (name: string): string => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** A time chart; `lines` are drawn in order, `band` fills between two of them (upper, lower). */
export function Chart({ data, lines, height, label, band, hues, unit = "" }: {
  data: Columns; lines: Line[]; height: number; label: string; band?: [number, number]; hues: string; unit?: string;
}) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const shape = JSON.stringify([lines, band, hues, height]);
  useEffect(() => {
    const host = box.current!;
    const ink = read("--muted");
    const grid = { stroke: read("--grid"), width: 1 };
    const font = "11px system-ui, sans-serif";
    const axis = { stroke: ink, grid, ticks: { show: false }, font };
    const options: uPlot.Options = {
      width: host.clientWidth || 300, height, legend: { show: false },
      cursor: { y: false, points: { size: 6 } },
      scales: { x: { time: true } },
      axes: [
        { ...axis, space: 90, size: 26, values: (_, ticks) => ticks.map((t, i) => axisTime(t, ticks, i)) },
        { ...axis, size: 52, space: 34, values: (_, ticks) => ticks.map((t) => num(t, 4)) },
      ],
      series: [{}, ...lines.map((one): uPlot.Series => ({
        label: one.label, stroke: read(one.colour), width: one.width ?? 1.5, spanGaps: false,
        ...(one.dash ? { dash: one.dash } : {}), ...(one.fill ? { fill: read(one.fill) } : {}),
        points: { show: one.points ?? false, size: 5, fill: read(one.colour) },
        ...(one.width === 0 && one.points ? { paths: () => null } : {}),
      }))],
      ...(band ? { bands: [{ series: band, fill: read("--band") }] } : {}),
    };
    plot.current = new uPlot(options, data as uPlot.AlignedData, host);
    const sized = new ResizeObserver(() => plot.current?.setSize({ width: host.clientWidth, height }));
    sized.observe(host);
    return () => { sized.disconnect(); plot.current?.destroy(); plot.current = null; };
  }, [shape]);
  useEffect(() => plot.current?.setData(data as uPlot.AlignedData), [data]);
  return (
    <figure class="chart">
      <div ref={box} role="img" aria-label={label} style={{ height: `${height}px` }} />
      <figcaption>{lines.filter((one) => one.label).map((one) => (
        <span key={one.label} class="key"><i class={one.points ? "dot" : one.dash ? "dash" : ""} style={{ color: `var(${one.colour})` }} />{one.label}</span>
      ))}{unit && <span class="dim">{unit}</span>}</figcaption>
    </figure>
  );
}

function axisTime(t: number, ticks: number[], i: number): string {
  const span = (ticks[ticks.length - 1] ?? t) - (ticks[0] ?? t);
  const at = new Date(t * 1000);
  if (span > 2 * 86_400) return day(at);
  return i === 0 && span > 3600 ? `${day(at).slice(5)} ${clock(at).slice(0, 5)}` : clock(at);
}

/** Changes when the colours do, so that canvases are drawn again. */
export function hue(): string {
  return `${document.documentElement.dataset.theme ?? ""}${matchMedia("(prefers-color-scheme: dark)").matches}`;
}
