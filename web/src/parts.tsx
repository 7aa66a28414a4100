import type { ComponentChildren } from "preact";
import { useEffect, useId } from "preact/hooks";

import { chooseIfNone, useAgent, useAsked } from "./hooks";
import { int, percent, share } from "./format";
import type { Proposal, Result, Vote } from "./types";

type Kids = { children?: ComponentChildren };

export function Panel({ title, aside, children, wide, live }: Kids & {
  title: string; aside?: ComponentChildren; wide?: boolean | undefined; live?: boolean | undefined;
}) {
  const id = useId();
  return (
    <section class={`panel${wide ? " wide" : ""}${live ? " only-live" : ""}`} aria-labelledby={id}>
      <header><h2 id={id}>{title}</h2>{aside && <div class="aside">{aside}</div>}</header>
      {children}
    </section>
  );
}

export function Empty({ children }: Kids) { return <p class="empty">{children}</p>; }

export function Problem({ text }: { text: string }) {
  return text ? <p class="problem" role="alert"><span aria-hidden="true">⚠ </span>{text}</p> : null;
}

/** A wide table scrolls by itself, also from the keyboard. */
export function Scroll({ label, children, tall }: Kids & { label: string; tall?: boolean }) {
  return <div class={`scroll${tall ? " tall" : ""}`} tabIndex={0} role="group" aria-label={label}>{children}</div>;
}

export function Figure({ name, value, note, tone }: { name: string; value: string; note?: string | undefined; tone?: string | undefined }) {
  return (
    <div class={`figure ${tone ?? ""}`}>
      <dt>{name}</dt>
      <dd><span class="value" data-figure={name}>{value}</span>{note && <span class="note">{note}</span>}</dd>
    </div>
  );
}

const MARKS: Record<string, [string, string]> = {
  approved: ["✓", "good"], rejected: ["✕", "bad"], pending: ["◷", "wait"],
  open: ["◷", "wait"], correct: ["✓", "good"], incorrect: ["≈", "wait"], very_wrong: ["✕", "bad"], insufficient: ["–", "dim"],
};

/** A state by sign, word and colour: never by colour alone. */
export function Mark({ kind }: { kind: string }) {
  const [sign, tone] = MARKS[kind] ?? ["•", "dim"];
  return <span class={`mark ${tone}`}><span aria-hidden="true">{sign}</span> {kind.replace("_", " ")}</span>;
}

export function proposalAt(one: Proposal, revision: number | null, at: string | null): Proposal | null {
  if (revision == null) return one;
  if (one.revision > revision) return null;
  const votes = one.votes.filter((vote) => vote.revision <= revision);
  const wasDecided = one.decided_at != null && (at != null ? one.decided_at <= at : votes.length === one.votes.length);
  const result: Result = wasDecided ? one.result : { status: "pending" };
  return { ...one, votes, result, decided_at: wasDecided ? one.decided_at : null };
}

export function VoteBar({ one }: { one: Proposal }) {
  const total = Object.values(one.electorate).reduce((sum, text) => sum + share(text), 0) || 1;
  const weigh = (votes: Vote[]): number => votes.reduce((sum, vote) => sum + share(vote.weight), 0) / total;
  const yes = weigh(one.votes.filter((vote) => vote.approve));
  const no = weigh(one.votes.filter((vote) => !vote.approve));
  const need = share(one.quorum);
  const text = `${percent(yes)} for, ${percent(no)} against, ${percent(need)} needed`;
  return (
    <div class="votebar" role="img" aria-label={text}>
      <span class="yes" style={{ width: `${yes * 100}%` }} />
      <span class="no" style={{ width: `${no * 100}%` }} />
      <span class="need" style={{ left: `${Math.min(need, 1) * 100}%` }} />
    </div>
  );
}

export function tally(one: Proposal): string {
  return `${int(one.votes.length)} of ${int(Object.keys(one.electorate).length)} voted`;
}

/** Chooses whom a view is about. */
export function AgentPicker({ label = "Agent" }: { label?: string }) {
  const [agent, choose] = useAgent();
  const { data } = useAsked<{ agents: string[] }>("/v1/agents", {}, 10_000, false);
  const id = useId();
  const names = data?.agents ?? [];
  useEffect(() => { if (!agent && names[0]) chooseIfNone(names[0]); }, [agent, names[0]]);
  return (
    <span class="field">
      <label for={id}>{label}</label>
      <select id={id} value={agent} onChange={(event) => choose(event.currentTarget.value)}>
        {agent && !names.includes(agent) && <option value={agent}>{agent}</option>}
        {names.map((name) => <option key={name} value={name}>{name}</option>)}
      </select>
    </span>
  );
}
