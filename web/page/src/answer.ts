// Has the server answer, and keeps what comes.
import { type ChatLogprobs, type Chunk, type TextLogprobs, type Waiting, Refusal, stream, tokenize } from "./api";
import { type Conversation, type Message, type Settings, addMessage, before, describeSettings } from "./conversation";
import * as db from "./db";
import { addRoutes, newTrace, trimmed } from "./trace";
import { changed, connect, lastAnswer, say, state } from "./state";

const ALTERNATIVES = 4;

function sampling(settings: Settings): Record<string, unknown> {
  const ours: Record<string, unknown> = {};
  if (state.model!.routed_layers.length > 0 || state.model!.models?.length) ours.experts = true;
  if (settings.silence.length) ours.silence = settings.silence;
  if (settings.expertsPerToken !== null) ours.experts_per_token = settings.expertsPerToken;
  if (settings.routerTemperature !== null) ours.router = `sample:${settings.routerTemperature}`;
  return {
    model: state.model!.name, stream: true, stream_options: { include_usage: true }, return_progress: true,
    return_token_ids: true, temperature: settings.temperature, top_p: settings.topP, seed: settings.seed,
    max_tokens: settings.maxTokens, ...(Object.keys(ours).length ? { coterie: ours } : {}),
  };
}

/** Of a model without a chat template: all that was written so far, to go on with; tokens that are known as they were. */
async function textSoFar(messages: Message[], signal: AbortSignal): Promise<{ ids: number[]; texts: string[] }> {
  let ids: number[] = [], texts: string[] = [];
  for (const message of messages) {
    const trace = message.role === "assistant" ? message.trace : null;
    if (trace && message.status !== "failed") {
      const shown = trace.texts.filter((text) => text !== END).length;
      ids = [...trace.promptIds, ...trace.ids.slice(0, shown)];
      texts = [...trace.promptTexts, ...trace.texts.slice(0, shown)];
    } else {
      const more = await tokenize(message.text, ids.length === 0, signal);
      ids = [...ids, ...more.ids];
      texts = [...texts, ...more.texts];
    }
  }
  return { ids, texts };
}

export const END = "⟨end⟩";

function noteOf(waiting: Waiting): string {
  if (waiting.state === "queued") {
    const wait = waiting.wait_seconds ? `, about ${Math.ceil(waiting.wait_seconds)} s` : "";
    return waiting.ahead === 0 ? `next in the queue${wait}` : `${waiting.ahead} before it in the queue${wait}`;
  }
  if (waiting.state !== "reading" || !waiting.total) return "";
  const cached = waiting.cached ? `, ${waiting.cached} from the cache` : "";
  const left = waiting.remaining_seconds ? `, about ${Math.ceil(waiting.remaining_seconds)} s left` : "";
  return `read ${waiting.done} of ${waiting.total} tokens${cached}${left}`;
}

function take(message: Message, chunk: Chunk): void {
  const trace = message.trace!;
  if (chunk.prompt_token_ids) trace.promptIds = chunk.prompt_token_ids;
  const progress = chunk.prompt_progress;
  if (progress) {
    message.status = "reading";
    trace.cached = progress.cache;
    const rate = (progress.processed - progress.cache) / Math.max(progress.time_ms, 1) * 1000;
    message.note = noteOf({
      state: "reading", done: progress.processed, cached: progress.cache, total: progress.total,
      remaining_seconds: rate > 0 ? (progress.total - progress.processed) / rate : 0,
    });
  }
  const part = chunk.choices[0];
  if (part) {
    for (const piece of part.coterie?.routes ?? []) addRoutes(trace, piece);
    if (part.coterie?.models) (trace.modelWeights ??= []).push(...part.coterie.models);
    message.text += part.delta?.content ?? part.text ?? "";
    message.reasoning += part.delta?.reasoning_content ?? "";
    for (const id of part.token_ids ?? []) addToken(message, id, part.logprobs ?? null);
    if (part.token_ids?.length) {
      // The first token of the answer is what one looks at first.
      const at = state.selection;
      if (message.status !== "writing" && at?.message === message.id) at.position = trace.promptIds.length;
      message.status = "writing";
      message.note = "";
    }
    if (part.finish_reason) finishOf(message, part.finish_reason);
  }
  if (chunk.usage && chunk.timings)
    message.stats = {
      promptTokens: chunk.usage.prompt_tokens, cachedTokens: chunk.usage.prompt_tokens_details?.cached_tokens ?? 0,
      tokens: chunk.usage.completion_tokens, firstTokenMs: chunk.timings.first_token_ms,
      perSecond: chunk.timings.predicted_per_second, finish: message.stats?.finish ?? "",
      cacheMiss: chunk.timings.cache_miss ?? "",
    };
}

function finishOf(message: Message, reason: string): void {
  message.stats ??= { promptTokens: 0, cachedTokens: 0, tokens: 0, firstTokenMs: 0, perSecond: 0, finish: "", cacheMiss: "" };
  message.stats.finish = reason === "length" ? "the longest answer was reached" : "the model ended it";
}

function addToken(message: Message, id: number, logprobs: ChatLogprobs | TextLogprobs | null): void {
  const trace = message.trace!;
  trace.ids.push(id);
  const chat = logprobs && "content" in logprobs ? logprobs.content[0] : undefined;
  const text = logprobs && "tokens" in logprobs ? logprobs : undefined;
  if (chat) {
    trace.texts.push(chat.token);
    trace.logprobs.push(chat.logprob);
    trace.tops.push(chat.top_logprobs.map(({ token, logprob }) => ({ text: token, logprob })));
  } else if (text) {
    trace.texts.push(text.tokens[0] ?? "");
    trace.logprobs.push(text.token_logprobs[0] ?? NaN);
    const top = Object.entries(text.top_logprobs[0] ?? {}).map(([token, logprob]) => ({ text: token, logprob }));
    trace.tops.push(top.sort((a, b) => b.logprob - a.logprob).slice(0, ALTERNATIVES));
  } else {
    trace.texts.push(END);
    trace.logprobs.push(NaN);
    trace.tops.push([]);
  }
}

/** Sentences are said when they are whole, not word by word. */
function sayWhole(message: Message, said: number): number {
  const end = Math.max(...[". ", "! ", "? ", "\n"].map((mark) => message.text.lastIndexOf(mark)));
  if (end <= said) return said;
  say(message.text.slice(said, end + 1));
  return end + 1;
}

export async function run(conversation: Conversation, message: Message): Promise<void> {
  const stop = new AbortController();
  state.running.set(message.id, stop);
  const settings = message.settings!;
  const trace = (message.trace = newTrace());
  if (state.model!.models?.length) trace.models = state.model!.models;
  if (!state.selection || state.selection.message !== message.id)
    state.selection = { message: message.id, position: 0, layer: state.selection?.layer ?? 0, expert: state.selection?.expert ?? null };
  let said = 0, saved = performance.now() + 500;
  changed();
  try {
    const messages = before(conversation, message);
    let endpoint = "/v1/chat/completions", body: Record<string, unknown>;
    if (state.model!.chat) {
      const system = settings.system.trim() ? [{ role: "system", content: settings.system }] : [];
      body = {
        messages: [...system, ...messages.map(({ role, text }) => ({ role, content: text }))],
        logprobs: true, top_logprobs: ALTERNATIVES, ...sampling(settings),
      };
    } else {
      endpoint = "/v1/completions";
      const prompt = await textSoFar(messages, stop.signal);
      trace.promptIds = prompt.ids;
      trace.promptTexts = prompt.texts;
      body = { prompt: prompt.ids, logprobs: ALTERNATIVES, ...sampling(settings) };
    }
    let asked = trace.promptTexts.length > 0;
    await stream(endpoint, body, stop.signal, (chunk) => {
      take(message, chunk);
      if (!asked && trace.promptIds.length) {
        asked = true;
        void tokenize(trace.promptIds, false).then((prompt) => {
          message.trace!.promptTexts = prompt.texts;
          void db.save(conversation);
          changed();
        });
      }
      said = sayWhole(message, said);
      if (performance.now() > saved) {
        // It copies the whole conversation: what that costs is not to be felt.
        const began = performance.now();
        void db.save(conversation);
        saved = performance.now() + Math.max(1500, 50 * (performance.now() - began));
      }
      changed();
    }, (waiting) => {
      if (waiting.state !== "writing") message.status = waiting.state;
      message.note = noteOf(waiting);
      changed();
    });
    message.status = "done";
  } catch (error) {
    fail(message, error, stop.signal);
  }
  message.note = message.status === "failed" ? message.note : "";
  message.trace = trimmed(trace);
  state.running.delete(message.id);
  conversation.updated = Date.now();
  if (message.status === "done") say(message.text.slice(said));
  void db.save(conversation);
  changed();
}

function fail(message: Message, error: unknown, signal: AbortSignal): void {
  if (signal.aborted) {
    message.status = "stopped";
    return;
  }
  const broken = error instanceof TypeError || (error instanceof Refusal && error.status === 0);
  message.status = broken && message.text ? "interrupted" : "failed";
  message.note = broken ? "The server cannot be reached. The page goes on trying." : (error as Error).message;
  if (error instanceof Refusal && error.status === 429) message.note += ` Try again in ${error.retryAfter} s.`;
  if (error instanceof Refusal && error.status === 401) state.connection = "key";
  if (broken) {
    state.connection = "lost";
    void connect();
  }
}

const drawSeed = () => Math.floor(Math.random() * 2 ** 31);

function settingsFor(conversation: Conversation, change: Partial<Settings> = {}): Settings {
  const settings = { ...conversation.settings, ...change };
  return { ...settings, silence: [...settings.silence], seed: settings.seed ?? drawSeed() };
}

export function send(text: string, parent: string | null): void {
  const conversation = state.current!;
  const asked = addMessage(conversation, parent, "user", text, null);
  const answer = addMessage(conversation, asked.id, "assistant", "", settingsFor(conversation));
  void run(conversation, answer);
}

/** Another answer in the place of this one, which stays beside it. */
export function again(message: Message, change: Partial<Settings> = {}): Message {
  const conversation = state.current!;
  const own = message.settings ?? conversation.settings;
  const changesRouting = Object.keys(change).length > 0;
  const settings: Settings = changesRouting ? { ...own, ...change } : settingsFor(conversation);
  if (settings.seed === null) settings.seed = drawSeed();
  const answer = addMessage(conversation, message.parent, "assistant", "", settings);
  void run(conversation, answer);
  return answer;
}

/** The same answer, to the same seed, with something changed; both are shown side by side. */
export function compareWith(message: Message, change: Partial<Settings>): void {
  const answer = again(message, change);
  state.compare = [message.id, answer.id];
  state.view = "compare";
  state.column = "experts";
  say(`Answering again: ${describeSettings(answer.settings)[0]}`);
}

/** Goes on where an answer ended: for models that continue texts. */
export function goOn(): void {
  const conversation = state.current!;
  const last = lastAnswer();
  if (!last) return;
  void run(conversation, addMessage(conversation, last.id, "assistant", "", settingsFor(conversation)));
}

export function stop(message: Message): void {
  state.running.get(message.id)?.abort();
}
