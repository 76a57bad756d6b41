// The server's API, as the page uses it.
import type { RoutesPiece } from "./trace";

export interface Layer {
  layer: number; kind: string; experts?: number; experts_per_token?: number; expert_bytes?: number;
  model?: number; number?: number; // of an ensemble: whose layer it is, and which of that model's
}

export interface Model {
  name: string;
  version: string;
  family: string;
  chat: boolean;
  context: number;
  vocabulary: number;
  parameters: number;
  file_bytes: number;
  dense_bytes: number;
  read_bytes_per_second: number;
  routed_layers: number[];
  changeable: boolean;
  models: string[]; // of an ensemble; none for one model
  gate: string; // how it weighs them: "token", "uniform"
  layers: Layer[];
  defaults: { temperature: number; top_p: number; max_tokens: number };
  parallel: number;
  stall_seconds: number;
}

/** Tokens of each expert since the start, and in which memory it lies: an index into place_names. */
export interface ExpertsAnswer { layers: number[]; tokens: number[][]; places?: number[][]; place_names?: string[] }

export interface Histogram { upper: number[]; counts: number[]; sum: number; count: number }

export interface Live {
  requests: {
    state: string; prompt_tokens: number; cached_tokens: number; evaluated_tokens: number; generated_tokens: number;
    max_tokens: number; seconds: number;
  }[];
  running: number; waiting: number; paused: number;
  step_running_seconds: number; step_expected_seconds: number;
  prompt_tokens_per_second: number; decode_tokens_per_second: number; wait_seconds: number;
  reads: {
    slots: number; experts: number; slot_bytes: number; bytes_per_second: number; disk_share: number | null;
    reader: string; direct: boolean;
    decode: { tokens: number; hit_share: number; bytes_per_token: number; stalled_seconds: number };
    prompt: { tokens: number; hit_share: number; bytes_per_token: number; stalled_seconds: number };
  } | null;
  memory: Record<string, number>;
  counters: Record<string, number>;
  step_seconds: Histogram; step_tokens: Histogram; step_sequences: Histogram; distinct_experts: Histogram;
  recent: Record<string, string | number>[];
}

/** What the server said that it will not do. `status` 401: it wants a key. */
export class Refusal extends Error {
  constructor(readonly status: number, message: string, readonly retryAfter = 0) {
    super(message);
  }
}

export const key = {
  get: () => sessionStorage.getItem("coterie-key") ?? "",
  set: (value: string) => sessionStorage.setItem("coterie-key", value),
};

function headers(): Record<string, string> {
  const all: Record<string, string> = { "Content-Type": "application/json" };
  if (key.get()) all["Authorization"] = `Bearer ${key.get()}`;
  return all;
}

async function refusal(response: Response): Promise<Refusal> {
  let message = `The server answered ${response.status}.`;
  try {
    message = (await response.json()).error.message;
  } catch { /* not JSON: the status has to do */ }
  return new Refusal(response.status, message, Number(response.headers.get("Retry-After") ?? 0));
}

export async function get<T>(path: string): Promise<T> {
  const response = await fetch(path, { headers: headers() });
  if (!response.ok) throw await refusal(response);
  return response.json();
}

export async function post<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
  const response = await fetch(path, { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
  if (!response.ok) throw await refusal(response);
  return response.json();
}

function textOf(piece: string | number[]): string {
  return typeof piece === "string" ? piece : new TextDecoder().decode(Uint8Array.from(piece));
}

/** The ids of a text, or of ids, each with its text alone. */
export async function tokenize(content: string | number[], special: boolean, signal?: AbortSignal)
  : Promise<{ ids: number[]; texts: string[] }> {
  if (content.length === 0) return { ids: [], texts: [] };
  type Answer = { tokens: { id: number; piece: string | number[] }[] };
  const answer = await post<Answer>("/tokenize", { content, add_special: special, with_pieces: true }, signal);
  return { ids: answer.tokens.map((t) => t.id), texts: answer.tokens.map((t) => textOf(t.piece)) };
}

export interface Waiting {
  state: "queued" | "reading" | "writing";
  ahead?: number; wait_seconds?: number;
  done?: number; cached?: number; total?: number; remaining_seconds?: number;
}

type TopLogprob = { token: string; logprob: number };
export interface ChatLogprobs { content: { token: string; logprob: number; top_logprobs: TopLogprob[] }[] }
export interface TextLogprobs {
  tokens: string[]; token_logprobs: (number | null)[]; top_logprobs: (Record<string, number> | null)[];
}

export interface Chunk {
  error?: { message: string };
  prompt_token_ids?: number[];
  prompt_progress?: { total: number; cache: number; processed: number; time_ms: number };
  usage?: { prompt_tokens: number; completion_tokens: number; prompt_tokens_details?: { cached_tokens: number } } | null;
  timings?: { first_token_ms: number; predicted_per_second: number; cache_miss?: string };
  choices: {
    text?: string;
    delta?: { content?: string | null; reasoning_content?: string };
    logprobs?: ChatLogprobs | TextLogprobs | null;
    token_ids?: number[];
    finish_reason?: string | null;
    coterie?: { routes?: RoutesPiece[]; models?: (number[] | null)[] };
  }[];
}

/** Takes a stream of server-sent events apart, however it is cut: its data, and the comments that tell of waiting. */
export class EventReader {
  private rest = "";
  constructor(private readonly data: (json: string) => void, private readonly ping: (state: Waiting) => void) {}

  push(text: string): void {
    this.rest += text;
    for (let end; (end = this.rest.indexOf("\n")) >= 0;) {
      const line = this.rest.slice(0, end).replace(/\r$/, "");
      this.rest = this.rest.slice(end + 1);
      if (line.startsWith("data: ")) this.data(line.slice(6));
      else if (line.startsWith(": ping ")) this.ping(JSON.parse(line.slice(7)) as Waiting);
    }
  }
}

export async function stream(
  path: string, body: unknown, signal: AbortSignal, chunk: (chunk: Chunk) => void, waiting: (state: Waiting) => void,
): Promise<void> {
  const response = await fetch(path, { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
  if (!response.ok) throw await refusal(response);
  let whole = false;
  const reader = new EventReader((json) => {
    if (json === "[DONE]") return void (whole = true);
    const parsed = JSON.parse(json) as Chunk;
    if (parsed.error) throw new Refusal(500, parsed.error.message);
    chunk(parsed);
  }, waiting);
  const bytes = response.body!.getReader();
  const decoder = new TextDecoder();
  for (;;) {
    const { done, value } = await bytes.read();
    if (done) break;
    reader.push(decoder.decode(value, { stream: true }));
  }
  if (!whole) throw new Refusal(0, "The connection to the server broke off.");
}
