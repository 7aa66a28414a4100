// The one stream that the page keeps open, and what it has told so far. A hidden tab stops it.
import { Refused, call } from "./api";
import type { Entry, Look, Message, Proposal } from "./types";

export type Status = "connecting" | "live" | "lost" | "paused" | "token" | "refused";

const KEPT_POINTS = 240;
const KEPT_ROWS = 60;
const SILENCE_MS = 8_000;

export interface Point { at: number; entries: number; messages: number }

export interface State {
  status: Status;
  why: string;
  look: Look | null;
  /** When the last look came, on performance.now(). */
  cameAt: number;
  points: Point[];
  entries: Entry[] | null;
  messages: (Message & { at: string })[] | null;
  topics: Map<string, { total: number; rate: number; last: string }>;
  dropped: number;
  proposals: Map<string, Proposal>;
  /** Proposals that changed in the last look: they are marked for a moment. */
  fresh: Set<string>;
}

const empty = (): State => ({
  status: "connecting", why: "", look: null, cameAt: 0, points: [], entries: [], messages: [],
  topics: new Map(), dropped: 0, proposals: new Map(), fresh: new Set(),
});

let state = empty();
const listeners = new Set<() => void>();
let aborter: AbortController | null = null;
let retry: number | undefined;
let watchdog: number | undefined;
let waitMs = 500;
let drawAt: number | undefined;

export const current = (): State => state;

export function listen(changed: () => void): () => void {
  listeners.add(changed);
  return () => void listeners.delete(changed);
}

function set(some: Partial<State>): void {
  state = { ...state, ...some };
  // One drawing a frame, however much comes.
  drawAt ??= requestAnimationFrame(() => {
    drawAt = undefined;
    for (const changed of listeners) changed();
  });
}

export function start(): void {
  stop();
  if (document.hidden) { set({ status: "paused" }); return; }
  set({ status: state.look ? state.status : "connecting" });
  aborter = new AbortController();
  void run(aborter.signal);
}

function stop(): void {
  clearTimeout(retry);
  clearTimeout(watchdog);
  aborter?.abort();
  aborter = null;
}

/** Forget everything, as after another token. */
export function restart(): void {
  stop();
  state = empty();
  set({});
  start();
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) { stop(); set({ status: "paused" }); } else start();
});
addEventListener("online", start);

function lose(why: string): void {
  stop();
  set({ status: "lost", why });
  retry = window.setTimeout(start, waitMs);
  waitMs = Math.min(waitMs * 2, 10_000);
}

async function run(signal: AbortSignal): Promise<void> {
  try {
    const response = await call("/v1/live", { interval: 0.5 }, { signal, headers: { accept: "text/event-stream" } });
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      clearTimeout(watchdog);
      watchdog = window.setTimeout(() => lose("nothing came for a while"), SILENCE_MS);
      const { done, value } = await reader.read();
      if (signal.aborted) return;
      if (done) break;
      rest += value;
      const parts = rest.split("\n\n");
      rest = parts.pop() ?? "";
      for (const part of parts) handle(part);
    }
    lose("the server ended the stream");
  } catch (error) {
    if (signal.aborted) return;
    if (error instanceof Refused && error.status === 401) { stop(); set({ status: "token", why: error.message }); return; }
    if (error instanceof Refused && error.status === 403) { stop(); set({ status: "refused", why: error.message }); return; }
    lose(error instanceof Refused ? error.message : "the server cannot be reached");
  }
}

function handle(part: string): void {
  let kind = "";
  let data = "";
  for (const row of part.split("\n")) {
    if (row.startsWith("event: ")) kind = row.slice(7);
    else if (row.startsWith("data: ")) data += row.slice(6);
  }
  if (kind === "look") take(JSON.parse(data) as Look);
  else if (kind === "end") lose("the server is stopping, or the token was revoked");
  else if (kind === "error") lose(String((JSON.parse(data) as { detail?: string }).detail ?? "an error"));
}

function take(look: Look): void {
  waitMs = 500;
  const at = Date.parse(look.at);
  const before = state.look;
  const s = before ? (at - Date.parse(before.at)) / 1000 : 0;
  let points = state.points;
  // A store that was opened anew counts from the start again.
  if (before && s > 0 && look.stats.messages >= before.stats.messages) {
    points = [...points.slice(-(KEPT_POINTS - 1)), {
      at: at / 1000,
      entries: Math.max(0, look.stats.revision - before.stats.revision) / s,
      messages: (look.stats.messages - before.stats.messages) / s,
    }];
  }
  const topics = new Map(state.topics);
  for (const [name, row] of topics) topics.set(name, { ...row, rate: 0 });
  for (const [name, count] of look.messages?.topics ?? []) {
    topics.set(name, { total: (topics.get(name)?.total ?? 0) + count, rate: s > 0 ? count / s : 0, last: look.at });
  }
  if (topics.size > 200) {
    const oldest = [...topics].sort((a, b) => a[1].last.localeCompare(b[1].last)).slice(0, topics.size - 200);
    for (const [name] of oldest) topics.delete(name);
  }
  let proposals = state.proposals;
  const fresh = new Set<string>();
  if (look.proposals.length) {
    proposals = new Map(proposals);
    for (const one of look.proposals) { proposals.set(one.id, one); if (before) fresh.add(one.id); }
  }
  set({
    status: "live", why: "", look, cameAt: performance.now(), points, topics, proposals, fresh,
    dropped: look.messages?.dropped ?? 0,
    entries: look.entries && [...look.entries, ...(state.entries ?? [])].slice(0, KEPT_ROWS),
    messages: look.messages && [
      ...look.messages.newest.map((one) => ({ ...one, at: look.at })).reverse(), ...(state.messages ?? []),
    ].slice(0, KEPT_ROWS),
  });
}
