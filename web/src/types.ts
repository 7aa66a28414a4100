// What the server answers; docs/reference/http.md.
export interface Tier { entries: number; bytes: number; hits: number; misses: number; evictions: number }
export interface Stats {
  revision: number; lag: number; pending_bytes: number; l1: Tier;
  l2: Tier & { pending: number; graphs: number; mapped_bytes: number; loads: number; merges: number; written_bytes: number; is_idle: boolean };
  l2_pending: number; l2_filter_bytes: number; l3_bytes: number; journal_bytes: number; value_bytes: number;
  pins: number; locks: number; subscribers: number; messages: number; denied: number;
  clock_jump_s: number; compactions: number; compaction_failure: string;
}
export interface Lock { resource: string; holder: string; fence: number; lease_left: number; waiters: string[] }
export interface Vote { voter: string; approve: boolean; weight: string; at: string | null; revision: number }
export interface Result { status: "approved" | "rejected" | "pending"; approval_rate?: number; votes_needed?: number }
export interface Proposal {
  id: string; proposer: string; data: unknown; quorum: string; deadline: string | null;
  electorate: Record<string, string>; votes: Vote[]; result: Result;
  submitted_at: string | null; decided_at: string | null; revision: number;
}
export interface Entry {
  revision: number; recorded_at: string; kind: string; actor: string; detail?: unknown; changes_total: number;
  changes: { kind: string; agent: string; key: string; value?: unknown; is_left_out?: boolean }[];
}
export interface Message { topic: string; message: unknown; is_left_out?: boolean }
export interface Latencies { bounds: number[]; groups: Record<string, { counts: number[]; sum: number }> }
export interface Look {
  at: string; stats: Stats; server: { streams: number }; timeline: { is_backtest: boolean; now: string | null };
  agents: number; latencies: Latencies; locks: Lock[]; locks_total: number; proposals: Proposal[];
  messages: { total: number; dropped: number; topics: [string, number][]; newest: Message[] } | null;
  entries: Entry[] | null;
}
export interface Standing {
  agent: string; keys: number | null; bytes: number | null; vectors: number | null; value: unknown;
  is_left_out: boolean; revision: number | null; known_at: string | null; actor: string | null;
}
export interface Rec { agent: string; key: string; value: unknown; revision: number; known_at: string; recorded_at: string; actor: string; tags: string[] }
export interface Decision {
  trajectory_id: string; action: number; action_type: string; at: string; predicted: number | null;
  low: number | null; high: number | null; level: number | null; probability: number | null;
  baseline: number | null; actual: number | null; known_at: string | null; kind: string | null;
  skill: number | null; feedback: string | null;
}
export interface Mean { value: number | null; standard_error: number | null; n: number }
export interface Calibration {
  agent: string; action_type: string; level: number; n: number; coverage: Mean; bias: Mean; loss: Mean;
  skill: Mean; sharpness: Mean; reliability: { claimed: number; observed: number; n: number }[];
}
export interface Pattern { id: string; point: [number, number]; n: number; radius: number; outcome_mean: number | null; unit: string; success_rate: number | null; said: string }
export interface SituationMap {
  agent: string; action_type: string; explained: [number, number]; total: number; keys: string[];
  points: [number, number][]; known_at: string[]; outcomes: (number | null)[]; scores: (number | null)[];
  tags: string[][]; nearest: number[]; patterns: Pattern[];
}
export interface Hit { agent: string; key: string; score: number; data: unknown; known_at: string; revision: number }
