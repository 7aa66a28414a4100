// Requests to the server. The token lives in sessionStorage: it ends with the tab.
const KEY = "nt-memory-token";

let token = sessionStorage.getItem(KEY) ?? "";

export class Refused extends Error {
  constructor(readonly status: number, readonly title: string, detail: string) {
    super(detail);
  }
}

export function setToken(text: string): void {
  token = text.trim();
  if (token) sessionStorage.setItem(KEY, token);
  else sessionStorage.removeItem(KEY);
}

export const hasToken = (): boolean => token !== "";

export type Query = Record<string, string | number | null | undefined>;

export async function call(path: string, query: Query = {}, options: RequestInit = {}): Promise<Response> {
  const asked = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value != null) asked.set(name, String(value));
  }
  const headers = new Headers(options.headers);
  if (token) headers.set("authorization", `Bearer ${token}`);
  const text = asked.toString();
  const response = await fetch(text ? `${path}?${text}` : path, {
    ...options, headers, cache: "no-store", credentials: "omit", redirect: "error",
  });
  if (response.ok) return response;
  let title = "Refused";
  let detail = `the server answered ${response.status}`;
  try {
    const problem = await response.json();
    title = String(problem.title);
    detail = String(problem.detail);
  } catch { /* not a problem document */ }
  throw new Refused(response.status, title, detail);
}

export async function get<T>(path: string, query: Query = {}, signal?: AbortSignal): Promise<T> {
  return (await call(path, query, signal ? { signal } : {})).json() as Promise<T>;
}

export async function post<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
  const options: RequestInit = {
    method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" },
  };
  if (signal) options.signal = signal;
  return (await call(path, {}, options)).json() as Promise<T>;
}

/** Names in paths may have anything in them; levels of keys stay levels. */
export const seg = (name: string): string => name.split("/").map(encodeURIComponent).join("/");
