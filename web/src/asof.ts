// Which moment the page shows: now, or what was known right after a revision.
import { Refused, get } from "./api";
import { current } from "./live";

export interface Moment {
  /** Null: now. */
  revision: number | null;
  /** When that revision was recorded; null while unknown, or not to be seen. */
  recordedAt: string | null;
  oldest: number;
}

let moment: Moment = { revision: null, recordedAt: null, oldest: 1 };
const listeners = new Set<() => void>();
let asked: AbortController | null = null;
let later: number | undefined;

export const currentMoment = (): Moment => moment;

export function listenMoment(changed: () => void): () => void {
  listeners.add(changed);
  return () => void listeners.delete(changed);
}

function set(some: Partial<Moment>): void {
  moment = { ...moment, ...some };
  for (const changed of listeners) changed();
}

export function showNow(): void {
  asked?.abort();
  clearTimeout(later);
  set({ revision: null, recordedAt: null });
}

export function show(revision: number): void {
  asked?.abort();
  clearTimeout(later);
  set({ revision, recordedAt: null });
  // A slider that is dragged asks for where it rests, not for all it passes.
  later = window.setTimeout(() => void describe(revision), 120);
}

/** Times of revisions are in the journal, which not everybody may read; looking back needs none. */
const mayAsk = (): boolean => current().look?.entries != null;

async function describe(revision: number): Promise<void> {
  if (!mayAsk()) return;
  asked = new AbortController();
  try {
    const found = await get<{ revision: number; recorded_at: string; oldest: number }>(
      `/v1/moments/${revision}`, {}, asked.signal);
    const oldest = found.oldest;
    if (revision < oldest) set({ revision: oldest, recordedAt: found.recorded_at, oldest });
    else set({ recordedAt: found.recorded_at, oldest });
  } catch (error) {
    if (!(error instanceof Refused)) return;
  }
}

export async function findOldest(): Promise<void> {
  if (!mayAsk()) return;
  try {
    set({ oldest: (await get<{ oldest: number }>("/v1/moments/0")).oldest });
  } catch { /* an agent may not read the journal; it can still look back */ }
}
