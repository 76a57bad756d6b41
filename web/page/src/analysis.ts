// Figures about traces. All pure: tests recompute them.
import { type Trace, NONE, choice, length, textAt } from "./trace";

/** How often each expert of a layer was chosen by positions from … to - 1. */
export function loads(trace: Trace, layer: number, experts: number, from = 0, to = trace.known): Float64Array {
  const counts = new Float64Array(experts), { layers, choices } = trace;
  for (let p = from; p < Math.min(to, trace.known); ++p)
    for (let at = (p * layers + layer) * choices, end = at + choices; at < end; ++at)
      if (trace.experts[at]! < experts) counts[trace.experts[at]!]! += 1;
  return counts;
}

/** The largest load over the mean one: 1 is even. NaN without any. */
export function imbalance(counts: ArrayLike<number>): number {
  let sum = 0, most = 0;
  for (let i = 0; i < counts.length; ++i) {
    sum += counts[i]!;
    most = Math.max(most, counts[i]!);
  }
  return sum > 0 ? (most * counts.length) / sum : NaN;
}

export interface Taken { layer: number; expert: number; took: number; of: number; all: number; score: number }

/**
 * Which experts take the tokens that match: `took` of the `of` matching ones, and `all` tokens of its own. The score is
 * the geometric mean of took / of and took / all: high where the expert takes most of them, and little else.
 */
export function whoTakes(trace: Trace, matches: (text: string) => boolean): Taken[] {
  const wanted: boolean[] = [];
  let of = 0;
  for (let p = 0; p < trace.known; ++p) {
    wanted.push(matches(textAt(trace, p)));
    if (wanted[p]) ++of;
  }
  const found: Taken[] = [];
  if (of === 0) return found;
  const { layers, choices, experts } = trace, most = NONE + 1;
  for (let layer = 0; layer < layers; ++layer) {
    const took = new Int32Array(most), all = new Int32Array(most), seen = new Set<number>();
    for (let p = 0; p < trace.known; ++p)
      for (let at = (p * layers + layer) * choices, end = at + choices; at < end; ++at) {
        const expert = experts[at]!;
        ++all[expert]!;
        if (!wanted[p] || expert === NONE) continue;
        ++took[expert]!;
        seen.add(expert);
      }
    for (const expert of seen) {
      const count = took[expert]!, own = all[expert]!;
      found.push({ layer, expert, took: count, of, all: own, score: count / Math.sqrt(of * own) });
    }
  }
  return found.sort((a, b) => b.score - a.score || a.layer - b.layer || a.expert - b.expert);
}

/**
 * How surprising each position's path is among the others', in bits a layer: the path is its first experts, and the
 * chance of one is that of a chain: p(e | expert before it) from all other positions, drawn towards the layer's own
 * shares as by one more token of those, and these towards even ones as by one token for each expert. So a path that
 * others take too costs little, one of its own much; even chances cost log2 E.
 */
export function surprises(trace: Trace, expertsOf: (layer: number) => number): Float64Array {
  const { layers, choices, known, experts } = trace, bits = new Float64Array(known);
  const first = (p: number, layer: number) => experts[(p * layers + layer) * choices]!;
  for (let layer = 0; layer < layers; ++layer) {
    const width = expertsOf(layer), before = layer > 0 ? expertsOf(layer - 1) : 1;
    const own = new Float64Array(width), pairs = new Float64Array(width * before), all = new Float64Array(before);
    const row = (p: number) => (layer > 0 ? first(p, layer - 1) : 0);
    let total = 0;
    for (let p = 0; p < known; ++p) {
      const e = first(p, layer), r = row(p);
      if (e >= width) continue;
      ++total;
      ++own[e]!;
      if (r >= before) continue;
      ++pairs[r * width + e]!;
      ++all[r]!;
    }
    for (let p = 0; p < known; ++p) {
      const e = first(p, layer), r = row(p);
      if (e >= width) continue;
      const share = (own[e]! - 1 + 1) / (total - 1 + width); // without itself, and one more for each expert
      const chance = r < before ? (pairs[r * width + e]! - 1 + share) / (all[r]! - 1 + 1) : share;
      bits[p]! -= Math.log2(chance) / layers;
    }
  }
  return bits;
}

/** Log2 of the number of experts, mean over the layers: what a path of even chances costs a layer. */
export function evenBits(trace: Trace, expertsOf: (layer: number) => number): number {
  let sum = 0;
  for (let layer = 0; layer < trace.layers; ++layer) sum += Math.log2(Math.max(expertsOf(layer), 1));
  return trace.layers ? sum / trace.layers : 0;
}

/** Of each of an ensemble's models: how many tokens it weighed most for, and its mean weight. */
export function answered(trace: Trace): { tokens: number; weight: number }[] {
  const sums = (trace.models ?? []).map(() => ({ tokens: 0, weight: 0 }));
  let all = 0;
  for (const weights of trace.modelWeights ?? []) {
    if (!weights) continue;
    ++all;
    weights.forEach((weight, i) => { if (sums[i]) sums[i].weight += weight; });
    const most = sums[weights.indexOf(Math.max(...weights))];
    if (most) ++most.tokens;
  }
  return sums.map(({ tokens, weight }) => ({ tokens, weight: all ? weight / all : NaN }));
}

export interface Use { position: number; weight: number; slot: number }

/** The positions that an expert was chosen for, strongest weight first. */
export function uses(trace: Trace, layer: number, expert: number): Use[] {
  const found: Use[] = [], { layers, choices } = trace;
  for (let p = 0; p < trace.known; ++p)
    for (let slot = 0, at = (p * layers + layer) * choices; slot < choices; ++slot, ++at)
      if (trace.experts[at] === expert) found.push({ position: p, weight: trace.weights[at]!, slot });
  return found.sort((a, b) => b.weight - a.weight || a.position - b.position);
}

export interface Partner { layer: number; expert: number; together: number; lift: number }

/** Experts of this layer and its neighbours that are chosen with it oftener than chance would have it. */
export function partners(trace: Trace, layer: number, expert: number, least = 3): Partner[] {
  const own = uses(trace, layer, expert);
  const found: Partner[] = [];
  for (const other of [layer - 1, layer, layer + 1]) {
    if (other < 0 || other >= trace.layers) continue;
    const together = new Map<number, number>();
    for (const { position } of own)
      for (let slot = 0; slot < trace.choices; ++slot) {
        const [chosen] = choice(trace, position, other, slot);
        if (chosen !== NONE && !(other === layer && chosen === expert))
          together.set(chosen, (together.get(chosen) ?? 0) + 1);
      }
    for (const [chosen, count] of together) {
      if (count < least) continue;
      const all = uses(trace, other, chosen).length;
      found.push({ layer: other, expert: chosen, together: count, lift: (count * trace.known) / (own.length * all) });
    }
  }
  return found.sort((a, b) => b.lift - a.lift || b.together - a.together);
}

/** Of two positions' experts, all layers: how many both have over how many either has (Jaccard). */
export function similarity(trace: Trace, a: number, b: number): number {
  let both = 0, either = 0;
  const { layers, choices, experts } = trace;
  for (let layer = 0; layer < layers; ++layer) {
    const first = (a * layers + layer) * choices, second = (b * layers + layer) * choices;
    for (let slot = 0; slot < choices; ++slot) {
      const theirs = experts[second + slot]!;
      if (experts[first + slot] !== NONE) ++either;
      if (theirs === NONE) continue;
      ++either;
      for (let other = first; other < first + choices; ++other)
        if (experts[other] === theirs) {
          ++both;
          break;
        }
    }
  }
  return either > both ? both / (either - both) : both > 0 ? 1 : 0;
}

export function nearest(trace: Trace, position: number, count: number): { position: number; similarity: number }[] {
  if (position >= trace.known) return [];
  const all = [];
  for (let p = 0; p < trace.known; ++p)
    if (p !== position) all.push({ position: p, similarity: similarity(trace, position, p) });
  return all.sort((a, b) => b.similarity - a.similarity || a.position - b.position).slice(0, count);
}

/** The first token that differs between two answers; -1 where neither does. */
export function firstDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  for (let i = 0; i < Math.max(a.length, b.length); ++i) if (a[i] !== b[i]) return i;
  return -1;
}

/**
 * Which tokens of two answers are in a longest common subsequence of both: the others are what differs. Of long
 * answers the ends that differ are not compared beyond `most` tokens each.
 */
export function common(a: number[], b: number[], most = 1500): [boolean[], boolean[]] {
  const inA = a.map(() => false), inB = b.map(() => false);
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) inA[head] = inB[head] = true, ++head;
  const rows = Math.min(a.length - head, most), columns = Math.min(b.length - head, most);
  const table = new Uint16Array((rows + 1) * (columns + 1));
  const at = (i: number, j: number) => i * (columns + 1) + j;
  for (let i = rows - 1; i >= 0; --i)
    for (let j = columns - 1; j >= 0; --j)
      table[at(i, j)] = a[head + i] === b[head + j]
        ? table[at(i + 1, j + 1)]! + 1
        : Math.max(table[at(i + 1, j)]!, table[at(i, j + 1)]!);
  for (let i = 0, j = 0; i < rows && j < columns;)
    if (a[head + i] === b[head + j]) inA[head + i++] = inB[head + j++] = true;
    else if (table[at(i + 1, j)]! >= table[at(i, j + 1)]!) ++i;
    else ++j;
  return [inA, inB];
}

/** How many of an answer's tokens contain a text. */
export function occurrences(trace: Trace, part: string): number {
  let count = 0;
  for (let p = trace.promptIds.length; p < length(trace); ++p) if (textAt(trace, p).includes(part)) ++count;
  return count;
}
