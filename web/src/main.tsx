import { render } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import "./app.css";
import { hasToken, setToken } from "./api";
import { findOldest, show, showNow } from "./asof";
import { age, clock, day, int, when, zoneOf } from "./format";
import { useLive, useMoment, useNow, useRoute } from "./hooks";
import { restart, start } from "./live";
import { Agents } from "./views/agents";
import { Decisions } from "./views/decisions";
import { Desk } from "./views/desk";
import { Situations } from "./views/situations";
import { Store } from "./views/store";
import { Votes } from "./views/votes";

const VIEWS: [string, string][] = [
  ["", "Desk"], ["agents", "Agents"], ["votes", "Votes and locks"], ["decisions", "Decisions"], ["situations", "Situations"], ["store", "Store"],
];

function App() {
  const { status, look } = useLive();
  const [view, detail] = useRoute();
  const { revision } = useMoment();
  const known = VIEWS.some(([name]) => name === view) ? view : "";
  const title = VIEWS.find(([name]) => name === known)![1];
  const asks = status === "token" || (status === "refused" && !look);
  useEffect(() => { document.title = `${title} · nt-memory`; }, [title]);
  useEffect(() => { if (status === "live") void findOldest(); }, [status]);
  return (
    <div class={`page${revision == null ? "" : " past"}${status === "lost" ? " lost" : ""}`}>
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); document.getElementById("main")?.focus(); }}>Skip to the figures</a>
      <header class="top">
        <a class="brand" href="#/"><img src="/dashboard/icon.svg" alt="" width="20" height="20" />nt-memory</a>
        <Health />
        <Now />
        <Theme />
        {hasToken() && <button type="button" onClick={() => { setToken(""); restart(); }}>Forget token</button>}
      </header>
      <nav aria-label="Views"><ul>{VIEWS.map(([name, text]) => (
        <li key={name}><a href={`#/${name}`} aria-current={name === known ? "page" : undefined}>{text}</a></li>
      ))}</ul></nav>
      {!asks && look && <AsOf />}
      <main id="main" tabIndex={-1}>
        <h1 class="sr">{title}</h1>
        {asks ? <TokenForm /> : !look ? <p class="empty">{status === "lost" ? "The server cannot be reached. Trying again…" : "Connecting…"}</p> : (
          known === "agents" ? <Agents detail={detail} /> : known === "votes" ? <Votes /> : known === "decisions" ? <Decisions />
            : known === "situations" ? <Situations /> : known === "store" ? <Store /> : <Desk />
        )}
      </main>
    </div>
  );
}

function Health() {
  const { status, cameAt, why, look } = useLive();
  useNow();
  const old = performance.now() - cameAt;
  const texts: Record<string, [string, string, string]> = {
    connecting: ["◌", "wait", "connecting"], live: ["●", "good", "live"],
    lost: ["▲", "bad", look ? `connection lost, figures are ${age(old)} old` : "no connection"],
    paused: ["❚❚", "wait", "paused"], token: ["■", "wait", "token needed"], refused: ["■", "bad", "refused"],
  };
  const [sign, tone, text] = texts[status]!;
  return <span class={`health ${tone}`} role="status" data-status={status} title={why}><span aria-hidden="true">{sign}</span> {text}</span>;
}

function Now() {
  const { look } = useLive();
  const now = new Date(useNow());
  const { timeline } = look ?? {};
  return (
    <span class="now t">
      {timeline?.is_backtest && <span class="tag">backtest at {timeline.now ? when(timeline.now) : "its start"}</span>}
      <time dateTime={now.toISOString()}>{day(now)} {clock(now)} {zoneOf(now)}</time>
    </span>
  );
}

const THEMES = ["auto", "light", "dark"] as const;

function Theme() {
  const [theme, set] = useState(() => { try { return localStorage.getItem("nt-memory-theme") ?? "auto"; } catch { return "auto"; } });
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
    try { localStorage.setItem("nt-memory-theme", theme); } catch { /* private windows may refuse */ }
    dispatchEvent(new Event("hashchange")); // charts take the new colours
  }, [theme]);
  useEffect(() => {
    const system = matchMedia("(prefers-color-scheme: dark)");
    const changed = (): void => void dispatchEvent(new Event("hashchange"));
    system.addEventListener("change", changed);
    return () => system.removeEventListener("change", changed);
  }, []);
  return (
    <span class="theme">
      <select aria-label="Colours" value={theme} onChange={(e) => set(e.currentTarget.value)}>{THEMES.map((one) => <option key={one} value={one}>{one}</option>)}</select>
    </span>
  );
}

function AsOf() {
  const { look } = useLive();
  const { revision, recordedAt, oldest } = useMoment();
  const newest = look?.stats.revision ?? 0;
  const low = Math.min(oldest, newest);
  const at = revision ?? newest;
  const range = useRef<HTMLInputElement>(null);
  // While it shows now, the slider stays at its end, whatever comes.
  useEffect(() => { if (range.current) range.current.value = String(at); }, [at, newest]);
  const move = (to: number): void => (to >= newest ? showNow() : show(Math.max(low, to)));
  return (
    <section class="asof" aria-label="As of">
      <label for="asof">As of</label>
      <button type="button" aria-label="One revision back" onClick={() => move(at - 1)} disabled={at <= low}>◂</button>
      <input id="asof" ref={range} type="range" min={low} max={newest} step={1} aria-valuetext={revision == null ? "now" : `revision ${revision}, ${recordedAt ? when(recordedAt) : ""}`}
        onInput={(e) => move(Number(e.currentTarget.value))} />
      <button type="button" aria-label="One revision on" onClick={() => move(at + 1)} disabled={revision == null}>▸</button>
      <span class="moment t">{revision == null ? `now, revision ${int(newest)}` : `revision ${int(revision)}${recordedAt ? ` · ${when(recordedAt)}` : ""}`}</span>
      <button type="button" class={revision == null ? "" : "main"} onClick={showNow} disabled={revision == null}>Back to now</button>
      {revision != null && <p class="banner">What was known then. Dimmed panels show the present: they have no past.</p>}
    </section>
  );
}

function TokenForm() {
  const { why, status } = useLive();
  const [text, set] = useState("");
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => input.current?.focus(), []);
  return (
    <form class="token panel" onSubmit={(event) => { event.preventDefault(); setToken(text); set(""); restart(); }}>
      <h2>This server wants a token</h2>
      <p>The operator makes one with <code>nt-memory token NAME --tokens FILE</code>. The page shows what its agent may see. It is kept in this tab only, and gone when you close it.</p>
      {hasToken() && <p class="problem" role="alert">⚠ {status === "refused" ? why : "That token is not valid."}</p>}
      <label class="field"><span>Token</span>
        <input ref={input} type="password" autocomplete="off" value={text} required onInput={(e) => set(e.currentTarget.value)} /></label>
      <button type="submit" class="main">Show</button>
    </form>
  );
}

document.documentElement.dataset.theme = (() => { try { return localStorage.getItem("nt-memory-theme") ?? "auto"; } catch { return "auto"; } })();
render(<App />, document.getElementById("app")!);
start();
