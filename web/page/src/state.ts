// The state of the page, as one object that is changed in place; whoever changes it calls changed(), and the page is
// drawn again with the next frame.
import type { Model } from "./api";
import { key, get, Refusal } from "./api";
import * as db from "./db";
import { type Conversation, type Message, type Settings, newConversation, path } from "./conversation";
import { type Trace, length } from "./trace";

export type View = "find" | "strip" | "map" | "path" | "expert" | "models" | "compare";
export type Measure = "probability" | "certainty" | "surprise" | "expert" | "model";
export type Column = "list" | "chat" | "experts" | "server";

export interface Selection { message: string; position: number; layer: number; expert: number | null }

export const state = {
  model: null as Model | null,
  connection: "connecting" as "connecting" | "ok" | "lost" | "key",
  conversations: [] as Conversation[],
  current: null as Conversation | null,
  running: new Map<string, AbortController>(), // of answers that are being made, by their ids
  selection: null as Selection | null,
  view: "find" as View,
  column: "chat" as Column, // on narrow screens
  tokens: false, // Text or Tokens
  measure: "probability" as Measure,
  compare: null as [string, string] | null,
  wanted: ",", // whose expert is looked for
  server: false, // the drawer
  theme: (localStorage.getItem("coterie-theme") ?? "auto") as "auto" | "light" | "dark",
  said: "", // for screen readers
};

let draw: () => void = () => {};
let asked = false;
export function onDraw(f: () => void): void {
  draw = f;
}
export function changed(): void {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    draw();
  });
}

export function say(text: string): void {
  state.said = text;
  changed();
}

const SETTINGS = "coterie-settings";
export function defaultSettings(): Settings {
  const fresh: Settings = {
    system: "", temperature: 0.8, topP: 0.95, maxTokens: state.model?.chat ? 1024 : 200, seed: null,
    expertsPerToken: null, routerTemperature: null, silence: [],
  };
  try {
    return { ...fresh, ...JSON.parse(localStorage.getItem(SETTINGS) ?? "{}"), silence: [] };
  } catch {
    return fresh;
  }
}
export function rememberSettings(settings: Settings): void {
  const { system, temperature, topP } = settings;
  localStorage.setItem(SETTINGS, JSON.stringify({ system, temperature, topP }));
}

export async function connect(): Promise<void> {
  try {
    state.model = await get<Model>("/coterie/model");
    state.connection = "ok";
  } catch (error) {
    state.connection = error instanceof Refusal && error.status === 401 ? "key" : "lost";
  }
  changed();
}
export async function giveKey(value: string): Promise<void> {
  key.set(value);
  await connect();
}

export async function start(): Promise<void> {
  await connect();
  state.conversations = await db.all();
  for (const conversation of state.conversations)
    for (const message of Object.values(conversation.messages))
      if (message.status === "queued" || message.status === "reading" || message.status === "writing")
        message.status = "interrupted"; // the page was closed meanwhile
  const last = localStorage.getItem("coterie-current");
  open(state.conversations.find((each) => each.id === last) ?? state.conversations[0] ?? fresh());
  setInterval(() => {
    if (state.connection === "lost") void connect();
  }, 2000);
}

function fresh(): Conversation {
  const conversation = newConversation(defaultSettings(), state.model?.name ?? "");
  state.conversations.unshift(conversation);
  return conversation;
}

export function startNew(): void {
  // One that nothing was written into yet is new enough.
  const empty = state.conversations.find((each) => Object.keys(each.messages).length === 0);
  open(empty ?? fresh());
  state.column = "chat";
}

export function open(conversation: Conversation): void {
  state.current = conversation;
  state.compare = null;
  localStorage.setItem("coterie-current", conversation.id);
  const answer = lastAnswer();
  state.selection = answer?.trace ? { message: answer.id, position: answer.trace.promptIds.length, layer: 0, expert: null } : null;
  changed();
}

export function add(conversation: Conversation): void {
  state.conversations.unshift(conversation);
  void db.save(conversation);
  open(conversation);
}

export function forget(conversation: Conversation): void {
  for (const id of Object.keys(conversation.messages)) state.running.get(id)?.abort();
  state.conversations = state.conversations.filter((each) => each !== conversation);
  void db.remove(conversation.id);
  if (state.current === conversation) open(state.conversations[0] ?? fresh());
  changed();
}

export function lastAnswer(): Message | null {
  if (!state.current) return null;
  return path(state.current).filter((message) => message.role === "assistant").pop() ?? null;
}

/** The answer whose experts are shown: the one that a token was chosen of, else the last. */
export function shownAnswer(): Message | null {
  const chosen = state.selection && state.current?.messages[state.selection.message];
  return chosen?.trace ? chosen : lastAnswer();
}

export function select(message: Message, position: number, layer?: number, expert?: number | null): void {
  const trace = message.trace;
  if (!trace) return;
  const before = state.selection;
  state.selection = {
    message: message.id,
    position: Math.max(0, Math.min(position, length(trace) - 1)),
    layer: Math.max(0, Math.min(layer ?? before?.layer ?? 0, Math.max(trace.layers - 1, 0))),
    expert: expert === undefined ? before?.expert ?? null : expert,
  };
  changed();
}

export function openExpert(layer: number, expert: number): void {
  const answer = shownAnswer();
  if (!answer?.trace) return;
  state.selection = { message: answer.id, position: state.selection?.position ?? 0, layer, expert };
  state.view = "expert";
  state.column = "experts";
  changed();
}

/** E of the routed layer number `at`. */
export const expertsOf = (at: number): number => {
  const model = state.model;
  return model?.layers[model.routed_layers[at] ?? -1]?.experts ?? 0;
};
/** The model's own number of the routed layer number `at`. */
export const layerName = (at: number): number => state.model?.routed_layers[at] ?? at;
/** The same for people: of an ensemble, whose layer it is and that model's own number. */
export function layerLabel(at: number): string {
  const layer = layerName(at), info = state.model?.layers[layer];
  return info?.model === undefined ? String(layer) : `${state.model!.models[info.model]} ${info.number}`;
}

export const routesOf = (message: Message | null): Trace | null =>
  message?.trace && message.trace.layers > 0 && message.trace.known > 0 ? message.trace : null;
