// What is known of the tokens of one answer and of its prompt: texts, probabilities, and what the routers did. A plain
// object, so that the browser's database keeps it as it is. Positions count the prompt's tokens first.

export interface Alternative { text: string; logprob: number }

export interface Trace {
  promptIds: number[];
  promptTexts: string[];
  ids: number[];
  texts: string[];
  logprobs: number[]; // NaN where the server gave none
  tops: Alternative[][];
  layers: number; // with a router
  choices: number; // K, the most of any layer
  known: number; // positions whose routes are here: all but an answer's last token, which nothing was computed of
  experts: Uint16Array; // [known, layers, choices], best first
  weights: Float32Array; // the same
  entropy: Float32Array; // [known, layers], in nats
  cached: number; // of the prompt's tokens, found in the server's cache
  models?: string[]; // of an ensemble
  modelWeights?: (number[] | null)[]; // of each token of the answer: what its gate gave each of them
  reads?: Read[]; // where experts are read from the disk
}

/** What the step that evaluated positions first … end - 1 read from the disk, for `tokens` of all its sequences. */
export interface Read { first: number; end: number; bytes: number; tokens: number }

export const NONE = 65535;

/** As the server writes them: little-endian, base64. */
export interface RoutesPiece {
  first: number;
  positions: number;
  layers: number;
  experts_per_token: number;
  experts: string;
  weights: string;
  entropy: string;
  disk_bytes?: number;
  step_tokens?: number;
}

export function newTrace(): Trace {
  return {
    promptIds: [], promptTexts: [], ids: [], texts: [], logprobs: [], tops: [], layers: 0, choices: 0, known: 0,
    experts: new Uint16Array(0), weights: new Float32Array(0), entropy: new Float32Array(0), cached: 0,
  };
}

export function halfToNumber(half: number): number {
  const exponent = (half >> 10) & 31, fraction = half & 1023, sign = half & 0x8000 ? -1 : 1;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

let halves: Float32Array | null = null;
function half(value: number): number {
  if (!halves) halves = Float32Array.from({ length: 65536 }, (_, i) => halfToNumber(i));
  return halves[value]!;
}

export function words(base64: string): Uint16Array {
  const bytes = atob(base64);
  const result = new Uint16Array(bytes.length / 2);
  for (let i = 0; i < result.length; ++i) result[i] = bytes.charCodeAt(2 * i) | (bytes.charCodeAt(2 * i + 1) << 8);
  return result;
}

function grown<T extends Uint16Array | Float32Array>(array: T, size: number): T {
  if (array.length >= size) return array;
  const larger = new (array.constructor as new (n: number) => T)(Math.max(size, 2 * array.length));
  larger.set(array as never);
  return larger;
}

export function addRoutes(trace: Trace, piece: RoutesPiece): void {
  const { first, positions, layers, experts_per_token: k } = piece;
  trace.layers = layers;
  trace.choices = k;
  const end = first + positions;
  trace.experts = grown(trace.experts, end * layers * k);
  trace.weights = grown(trace.weights, end * layers * k);
  trace.entropy = grown(trace.entropy, end * layers);
  trace.experts.set(words(piece.experts), first * layers * k);
  const weights = words(piece.weights), entropy = words(piece.entropy);
  for (let i = 0; i < weights.length; ++i) trace.weights[first * layers * k + i] = half(weights[i]!);
  for (let i = 0; i < entropy.length; ++i) trace.entropy[first * layers + i] = half(entropy[i]!);
  trace.known = Math.max(trace.known, end);
  if (piece.disk_bytes !== undefined)
    (trace.reads ??= []).push({ first, end, bytes: piece.disk_bytes, tokens: piece.step_tokens ?? positions });
}

/** The step that evaluated a position, where experts are read from the disk. */
export const readOf = (trace: Trace, position: number): Read | undefined =>
  trace.reads?.findLast((read) => read.first <= position && position < read.end);

/** What an ensemble's gate gave its models for a position: an answer's tokens have it. */
export const weightsOf = (trace: Trace, position: number): number[] | null =>
  trace.modelWeights?.[position - trace.promptIds.length] ?? null;

/** The model that weighed most, or -1. */
export function answering(trace: Trace, position: number): number {
  const weights = weightsOf(trace, position);
  return weights ? weights.indexOf(Math.max(...weights)) : -1;
}

/** Without the room that growing left. */
export function trimmed(trace: Trace): Trace {
  const cells = trace.known * trace.layers * trace.choices;
  return {
    ...trace, experts: trace.experts.slice(0, cells), weights: trace.weights.slice(0, cells),
    entropy: trace.entropy.slice(0, trace.known * trace.layers),
  };
}

export const length = (trace: Trace): number => trace.promptIds.length + trace.ids.length;
export const idAt = (trace: Trace, position: number): number =>
  position < trace.promptIds.length ? trace.promptIds[position]! : trace.ids[position - trace.promptIds.length]!;
export const textAt = (trace: Trace, position: number): string =>
  (position < trace.promptIds.length ? trace.promptTexts[position]
    : trace.texts[position - trace.promptIds.length]) ?? "";

/** An expert of a position, and what its output is multiplied by; NONE where there is none. */
export function choice(trace: Trace, position: number, layer: number, slot: number): [number, number] {
  if (position >= trace.known) return [NONE, 0];
  const at = (position * trace.layers + layer) * trace.choices + slot;
  return [trace.experts[at]!, trace.weights[at]!];
}

/** The share that the first expert has of a token's weights in a layer; 0 where there are none. */
export function firstShare(trace: Trace, position: number, layer: number): number {
  let all = 0;
  for (let slot = 0; slot < trace.choices; ++slot) all += Math.abs(choice(trace, position, layer, slot)[1]);
  return all > 0 ? Math.abs(choice(trace, position, layer, 0)[1]) / all : 0;
}

/** The same, mean over the layers; NaN where nothing is known. */
export function certainty(trace: Trace, position: number): number {
  if (position >= trace.known || trace.layers === 0) return NaN;
  let sum = 0;
  for (let layer = 0; layer < trace.layers; ++layer) sum += firstShare(trace, position, layer);
  return sum / trace.layers;
}

/** Of the text around a position: what stands before it, itself, and what follows; line ends as a sign. */
export function context(trace: Trace, position: number, reach = 5): [string, string, string] {
  const text = (from: number, to: number) => {
    let all = "";
    for (let p = Math.max(from, 0); p < Math.min(to, length(trace)); ++p) all += textAt(trace, p);
    return all.replaceAll(/\n+/g, "⏎ ");
  };
  return [text(position - reach, position), text(position, position + 1), text(position + 1, position + 1 + reach)];
}

/** A token as people can see it: its spaces and line ends too. */
export function visible(text: string): string {
  if (text === "") return "∅";
  return text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length));
}
