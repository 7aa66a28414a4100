// Figures and times as the page writes them.
const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

export const int = (n: number | null | undefined): string => (n == null ? "–" : whole.format(n));

export function num(n: number | null | undefined, digits = 4): string {
  if (n == null || !Number.isFinite(n)) return "–";
  if (n !== 0 && (Math.abs(n) >= 1e6 || Math.abs(n) < 1e-4)) return n.toExponential(2);
  return n.toLocaleString("en-US", { maximumSignificantDigits: digits }).replace("-", "−");
}

export function signed(n: number | null | undefined, digits = 3): string {
  return n != null && n > 0 ? `+${num(n, digits)}` : num(n, digits);
}

export const percent = (share: number | null | undefined): string =>
  share == null || !Number.isFinite(share) ? "–" : `${(share * 100).toFixed(share > 0.0995 || share === 0 ? 0 : 1)} %`;

export function rate(n: number): string {
  return n >= 100 || n === 0 ? int(n) : n.toFixed(1);
}

export function bytes(n: number | null | undefined): string {
  if (n == null) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (n >= 1024 && at < units.length - 1) { n /= 1024; at += 1; }
  return `${at && n < 100 ? n.toFixed(1) : int(n)} ${units[at]}`;
}

export function seconds(s: number): string {
  if (s < 1e-3) return `${int(s * 1e6)} µs`;
  if (s < 1) return `${num(s * 1e3, 3)} ms`;
  return `${num(s, 3)} s`;
}

/** How long ago; coarse on purpose, so that a column of ages can be scanned. */
export function age(ms: number): string {
  const s = Math.max(0, ms) / 1000;
  if (s < 1) return "now";
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h`;
  if (s < 730 * 86_400) return `${Math.floor(s / 86_400)} d`;
  return `${Math.floor(s / (365.25 * 86_400))} y`;
}

const zone = new Intl.DateTimeFormat(undefined, { timeZoneName: "short" });

export function zoneOf(when: Date): string {
  return zone.formatToParts(when).find((part) => part.type === "timeZoneName")?.value ?? "";
}

const two = (n: number): string => String(n).padStart(2, "0");

export function clock(text: string | Date, millis = false): string {
  const t = typeof text === "string" ? new Date(text) : text;
  const base = `${two(t.getHours())}:${two(t.getMinutes())}:${two(t.getSeconds())}`;
  return millis ? `${base}.${String(t.getMilliseconds()).padStart(3, "0")}` : base;
}

export function day(text: string | Date): string {
  const t = typeof text === "string" ? new Date(text) : text;
  return `${t.getFullYear()}-${two(t.getMonth() + 1)}-${two(t.getDate())}`;
}

/** A time in the reader's zone, with the zone's name. */
export function when(text: string | null | undefined): string {
  if (!text) return "–";
  const t = new Date(text);
  return `${day(t)} ${clock(t)} ${zoneOf(t)}`;
}

/** A time without its zone, for columns whose head names the zone. */
export const stamp = (text: string | null | undefined): string =>
  text ? `${day(text)} ${clock(text)}` : "–";

/** A value on one line. It is only ever put into text nodes. */
export function line(value: unknown, most = 120): string {
  let text: string;
  if (value === undefined) return "";
  if (typeof value === "string") text = value;
  else if (value && typeof value === "object" && !Array.isArray(value)) {
    text = Object.entries(value).map(([k, v]) => `${k} ${short(v)}`).join(" · ");
  } else text = short(value);
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

function short(value: unknown): string {
  // A value is somebody's position: it is shown to the last digit.
  if (typeof value === "number") return value.toLocaleString("en-US", { maximumSignificantDigits: 17 }).replace("-", "−");
  if (typeof value === "string") return value;
  return JSON.stringify(value) ?? "";
}

export function share(text: string): number {
  const [over, under] = text.split("/");
  return Number(over) / Number(under ?? 1);
}
