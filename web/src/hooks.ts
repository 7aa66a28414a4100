import { useCallback, useEffect, useRef, useState } from "preact/hooks";

import { Refused, get, type Query } from "./api";
import { currentMoment, listenMoment, type Moment } from "./asof";
import { current, listen, type State } from "./live";

export function useLive(): State {
  const [state, set] = useState(current);
  useEffect(() => listen(() => set(current())), []);
  return state;
}

export function useMoment(): Moment {
  const [state, set] = useState(currentMoment);
  useEffect(() => listenMoment(() => set(currentMoment())), []);
  return state;
}

export interface Asked<T> { data: T | null; error: string; isLoading: boolean; again: () => void }

/**
 * What a path answers, as of the moment that the page shows. Asked again every `everyMs` while the page
 * shows now and is looked at, and only if the store has changed since.
 */
export function useAsked<T>(path: string | null, query: Query = {}, everyMs = 0, timed = true): Asked<T> {
  const { revision } = useMoment();
  const asOf = timed ? revision : null;
  const full = JSON.stringify([path, query, asOf]);
  const [found, set] = useState<{ path: string; full: string; data: T | null; error: string }>({ path: "", full: "", data: null, error: "" });
  const [turn, setTurn] = useState(0);
  const again = useCallback(() => setTurn((n) => n + 1), []);
  const seen = useRef(-1);
  useEffect(() => {
    if (path == null) return undefined;
    const stop = new AbortController();
    let timer: number | undefined;
    const ask = async (): Promise<void> => {
      const at = current().look?.stats.revision ?? 0;
      if (!document.hidden && (at !== seen.current || current().status === "lost")) {
        try {
          const data = await get<T>(path, { ...query, as_of: asOf }, stop.signal);
          seen.current = at;
          set({ path, full, data, error: "" });
        } catch (error) {
          if (stop.signal.aborted) return;
          const text = error instanceof Refused ? error.message : "the server cannot be reached";
          set((before) => ({ path, full, data: before.full === full ? before.data : null, error: text }));
        }
      }
      if (everyMs && asOf == null) timer = window.setTimeout(() => void ask(), everyMs);
    };
    seen.current = -1;
    const begin = window.setTimeout(() => void ask(), asOf == null ? 0 : 100);
    return () => { stop.abort(); clearTimeout(timer); clearTimeout(begin); };
  }, [full, everyMs, turn]);
  const isMine = found.full === full;
  // While it is asked anew the last answer stays, but never another agent's.
  return { data: found.path === path ? found.data : null, error: isMine ? found.error : "", isLoading: path != null && !isMine, again };
}

export function useRoute(): [string, string] {
  const read = (): [string, string] => {
    const [view = "", ...rest] = location.hash.replace(/^#\/?/, "").split("/");
    let detail = "";
    try { detail = decodeURIComponent(rest.join("/")); } catch { /* not one of ours */ }
    return [view, detail];
  };
  const [route, set] = useState(read);
  useEffect(() => {
    const changed = (): void => set(read());
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return route;
}

/** Which agent the views are about, kept while the page is open. */
let chosen = "";
const choosers = new Set<() => void>();

/** Choose for the reader, who may have chosen meanwhile. */
export function chooseIfNone(name: string): void {
  if (chosen) return;
  chosen = name;
  for (const changed of choosers) changed();
}

export function useAgent(): [string, (name: string) => void] {
  const [name, set] = useState(chosen);
  useEffect(() => {
    const changed = (): void => set(chosen);
    choosers.add(changed);
    changed();
    return () => void choosers.delete(changed);
  }, []);
  return [name, (wanted) => { chosen = wanted; for (const changed of choosers) changed(); }];
}

/** The time now, to the second, for ages. */
export function useNow(): number {
  const [now, set] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => { if (!document.hidden) set(Date.now()); }, 1000);
    return () => clearInterval(timer);
  }, []);
  return now;
}
