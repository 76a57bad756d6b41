// Conversations as trees: an edited message or another answer is a sibling, and `chosen` says which one is shown.
import type { Trace } from "./trace";

export interface Settings {
  system: string;
  temperature: number;
  topP: number;
  maxTokens: number;
  seed: number | null; // null: another one for each answer
  expertsPerToken: number | null; // null: the model's own
  routerTemperature: number | null; // null: the best experts; else they are drawn
  silence: string[]; // "LAYER:EXPERT"
}

export type Status = "queued" | "reading" | "writing" | "done" | "stopped" | "interrupted" | "failed";

export interface Stats {
  promptTokens: number;
  cachedTokens: number;
  tokens: number;
  firstTokenMs: number;
  perSecond: number;
  finish: string;
  cacheMiss: string;
}

export interface Message {
  id: string;
  parent: string | null;
  role: "user" | "assistant";
  text: string;
  reasoning: string;
  status: Status;
  note: string; // why it failed; where it stands in the queue; how much is read
  settings: Settings | null; // an answer's own, with the seed that it was made with
  stats: Stats | null;
  trace: Trace | null;
}

export interface Conversation {
  id: string;
  title: string;
  model: string;
  created: number;
  updated: number;
  settings: Settings;
  messages: Record<string, Message>;
  chosen: Record<string, string>; // of a parent ("" is the beginning) the child that is shown
}

let counter = 0;
export function freshId(): string {
  return `${Date.now().toString(36)}-${(++counter).toString(36)}-${Math.floor(Math.random() * 2 ** 32).toString(36)}`;
}

export function newConversation(settings: Settings, model: string): Conversation {
  const now = Date.now();
  return {
    id: freshId(), title: "New conversation", model, created: now, updated: now, settings: { ...settings },
    messages: {}, chosen: {},
  };
}

export function addMessage(
  conversation: Conversation, parent: string | null, role: Message["role"], text: string, settings: Settings | null,
): Message {
  const message: Message = {
    id: freshId(), parent, role, text, reasoning: "", status: role === "user" ? "done" : "queued", note: "", settings,
    stats: null, trace: null,
  };
  conversation.messages[message.id] = message;
  conversation.chosen[parent ?? ""] = message.id;
  conversation.updated = Date.now();
  if (role === "user" && parent === null) conversation.title = text.trim().slice(0, 60) || "New conversation";
  return message;
}

export function children(conversation: Conversation, parent: string | null): Message[] {
  return Object.values(conversation.messages).filter((message) => message.parent === parent);
}

/** The messages that are shown, from the beginning. */
export function path(conversation: Conversation): Message[] {
  const shown: Message[] = [];
  for (let at = ""; ;) {
    const next = conversation.messages[conversation.chosen[at] ?? ""];
    if (!next) return shown;
    shown.push(next);
    at = next.id;
  }
}

/** Those before a message, from the beginning. */
export function before(conversation: Conversation, message: Message): Message[] {
  const list: Message[] = [];
  for (let at = message.parent; at !== null;) {
    const parent: Message = conversation.messages[at]!;
    list.unshift(parent);
    at = parent.parent;
  }
  return list;
}

export function choose(conversation: Conversation, message: Message): void {
  for (let at: Message | undefined = message; at; at = at.parent === null ? undefined : conversation.messages[at.parent])
    conversation.chosen[at.parent ?? ""] = at.id;
}

/** A conversation of its own out of a message and those before it. */
export function branch(conversation: Conversation, message: Message): Conversation {
  const copy = newConversation(conversation.settings, conversation.model);
  copy.title = `${conversation.title} (branch)`.slice(0, 70);
  for (const each of [...before(conversation, message), message]) {
    copy.messages[each.id] = { ...each };
    copy.chosen[each.parent ?? ""] = each.id;
  }
  return copy;
}

/** What differs between two answers' settings, for people. */
export function describeSettings(settings: Settings | null): string[] {
  if (!settings) return [];
  const list: string[] = [];
  if (settings.silence.length) list.push(`without expert ${settings.silence.join(", ")}`);
  if (settings.expertsPerToken !== null) list.push(`${settings.expertsPerToken} experts a token`);
  if (settings.routerTemperature !== null) list.push(`experts drawn at temperature ${settings.routerTemperature}`);
  list.push(`temperature ${settings.temperature}`);
  if (settings.seed !== null) list.push(`seed ${settings.seed}`);
  return list;
}

/** Conversations in a file: JSON without traces, which can be had again. */
export function exported(conversations: Conversation[]): string {
  const plain = conversations.map((each) => ({
    ...each,
    messages: Object.fromEntries(Object.entries(each.messages).map(([id, m]) => [id, { ...m, trace: null }])),
  }));
  return JSON.stringify({ coterie: 1, conversations: plain }, null, 1);
}

/** Throws an Error that says what is wrong. */
export function imported(text: string): Conversation[] {
  let file: unknown;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error("The file is not JSON.");
  }
  const list = (file as { coterie?: unknown; conversations?: unknown })?.conversations;
  if ((file as { coterie?: unknown })?.coterie !== 1 || !Array.isArray(list))
    throw new Error("The file is not one that this page has exported.");
  return list.map((each: Conversation) => {
    const strings = typeof each?.id === "string" && typeof each.title === "string";
    if (!strings || typeof each.messages !== "object" || typeof each.chosen !== "object" || !each.settings)
      throw new Error("A conversation in the file is not complete.");
    for (const message of Object.values(each.messages))
      if (typeof message?.text !== "string" || (message.role !== "user" && message.role !== "assistant"))
        throw new Error("A message in the file is not complete.");
    return { ...each, id: freshId() };
  });
}
