import assert from "node:assert/strict";
import test from "node:test";
import { answered, common, evenBits, firstDifference, imbalance, loads, nearest, occurrences, partners, similarity, surprises, uses, whoTakes } from "../../src/analysis";
import { type Trace, NONE, addRoutes, answering, certainty, choice, context, halfToNumber, newTrace, readOf, textAt, trimmed, visible, weightsOf, words } from "../../src/trace";

const base64 = (values: number[]) => Buffer.from(Uint16Array.from(values).buffer).toString("base64");
const HALF = 0x3800, ONE = 0x3c00;

/** Two layers, two experts a token; commas go to expert 3 of layer 1, everything else never does. */
function planted(texts: string[]): Trace {
  const trace = newTrace();
  trace.promptIds = texts.map((_, i) => i);
  trace.promptTexts = texts;
  const experts = texts.flatMap((text, i) => [i % 4, (i + 1) % 4, text === "," ? 3 : i % 3, 4]);
  addRoutes(trace, {
    first: 0, positions: texts.length, layers: 2, experts_per_token: 2, experts: base64(experts),
    weights: base64(experts.map((_, i) => (i % 2 ? HALF : ONE))), entropy: base64(texts.flatMap(() => [ONE, HALF])),
  });
  return trace;
}

test("halves are read as IEEE has them", () => {
  for (const [bits, value] of [[0, 0], [ONE, 1], [HALF, 0.5], [0xc000, -2], [1, 2 ** -24], [0x7bff, 65504], [0x7c00, Infinity]])
    assert.equal(halfToNumber(bits!), value);
  assert.ok(Number.isNaN(halfToNumber(0x7e00)));
  assert.deepEqual([...words(base64([0, 1, 65535, 258]))], [0, 1, 65535, 258]);
});

test("pieces of routes are put where their positions are, whatever their order", () => {
  const trace = newTrace();
  const piece = (first: number, expert: number) => ({
    first, positions: 1, layers: 1, experts_per_token: 1, experts: base64([expert]), weights: base64([ONE]), entropy: base64([0]) });
  addRoutes(trace, piece(0, 7));
  addRoutes(trace, piece(1, 8));
  addRoutes(trace, piece(0, 9)); // evaluated anew
  assert.deepEqual([choice(trace, 0, 0, 0), choice(trace, 1, 0, 0), choice(trace, 2, 0, 0)], [[9, 1], [8, 1], [NONE, 0]]);
  assert.equal(trace.known, 2);
  assert.equal(trimmed(trace).experts.length, 2);
});

test("who takes the commas", () => {
  const texts = ["a", ",", "b", "c", ",", "d", "e", ",", "f"];
  const found = whoTakes(planted(texts), (text) => text === ",");
  assert.deepEqual({ ...found[0] }, { layer: 1, expert: 3, took: 3, of: 3, all: 3, score: 1 });
  assert.ok(found.slice(1).every((each) => each.score < 1));
  assert.deepEqual(whoTakes(planted(texts), (text) => text === "x"), []);
});

test("loads, imbalance, uses and partners", () => {
  const trace = planted(["a", ",", "b", "c"]);
  assert.deepEqual([...loads(trace, 0, 4)], [2, 2, 2, 2]);
  assert.deepEqual([...loads(trace, 1, 5)], [2, 0, 1, 1, 4]);
  assert.deepEqual([...loads(trace, 0, 4, 3)], [1, 0, 0, 1]);
  assert.equal(imbalance([2, 2, 2, 2]), 1);
  assert.equal(imbalance([4, 0, 0, 0]), 4);
  assert.ok(Number.isNaN(imbalance([0, 0])));
  assert.deepEqual(uses(trace, 1, 3), [{ position: 1, weight: 1, slot: 0 }]);
  const own = partners(trace, 1, 0, 2);
  assert.ok(own.some((each) => each.layer === 1 && each.expert === 4 && each.together === 2 && each.lift === 1));
});

test("ways are compared by the experts that both have", () => {
  const trace = planted(["a", "b", "c", "d", "e"]);
  assert.equal(similarity(trace, 0, 0), 1);
  assert.equal(similarity(trace, 0, 1), 2 / 6); // of four experts each, expert 1 of layer 0 and expert 4 of layer 1
  assert.deepEqual(nearest(trace, 0, 2), [3, 4].map((position) => ({ position, similarity: 3 / 5 }))); // the earlier first
  assert.equal(certainty(trace, 0), 1 / 1.5);
});

test("a path that others take costs little, one of its own much", () => {
  // Of ten tokens nine go 0 → 1, one goes 0 → 2.
  const trace = newTrace(), experts = Array.from({ length: 10 }, (_, i) => [0, i === 4 ? 2 : 1]).flat();
  trace.promptIds = experts.slice(10);
  addRoutes(trace, { first: 0, positions: 10, layers: 2, experts_per_token: 1, experts: base64(experts),
    weights: base64(experts.map(() => ONE)), entropy: base64(experts.map(() => ONE)) });
  const bits = surprises(trace, () => 4);
  // Counted by hand: of the nine others all take expert 0, one more for each of four experts: 10/13, and drawn towards
  // that (9 + 10/13) / 10. In the second layer after expert 0: 8 of 9 others take 1, 9/13; none takes 2, 1/13.
  const first = -Math.log2((9 + 10 / 13) / 10);
  const near = (a: number, b: number) => assert.ok(Math.abs(a - b) < 1e-12, `${a} ${b}`);
  near(bits[0]!, (first - Math.log2((8 + 9 / 13) / 10)) / 2);
  near(bits[4]!, (first - Math.log2(1 / 13 / 10)) / 2);
  assert.equal(evenBits(trace, () => 4), 2);
  // The chances of all experts that one token could have gone to make one.
  let sum = 0;
  for (let e = 0; e < 4; ++e) {
    const other = { ...trace, experts: trace.experts.slice() };
    other.experts[4 * 2 + 1] = e;
    sum += 2 ** -(2 * surprises(other, () => 4)[4]! - first);
  }
  near(sum, 1);
});

test("which model of an ensemble answered", () => {
  const trace = newTrace();
  trace.promptIds = [1, 2];
  trace.models = ["sea", "sums"];
  trace.modelWeights = [[0.25, 0.75], null, [0.5, 0.5], [1, 0]];
  assert.deepEqual([0, 2, 3, 4, 5, 6].map((p) => answering(trace, p)), [-1, 1, -1, 0, 0, -1]);
  assert.deepEqual(weightsOf(trace, 2), [0.25, 0.75]);
  assert.deepEqual(answered(trace), [{ tokens: 2, weight: 1.75 / 3 }, { tokens: 1, weight: 1.25 / 3 }]);
});

test("what a step read from the disk belongs to its positions", () => {
  const trace = newTrace();
  const piece = (first: number, positions: number) => ({ first, positions, layers: 1, experts_per_token: 1, experts: base64(Array(positions).fill(0)),
    weights: base64(Array(positions).fill(ONE)), entropy: base64(Array(positions).fill(ONE)) });
  addRoutes(trace, { ...piece(0, 3), disk_bytes: 600, step_tokens: 6 });
  addRoutes(trace, { ...piece(3, 1), disk_bytes: 0, step_tokens: 1 });
  addRoutes(trace, piece(4, 1));
  assert.deepEqual(readOf(trace, 2), { first: 0, end: 3, bytes: 600, tokens: 6 });
  assert.equal(readOf(trace, 3)?.bytes, 0);
  assert.equal(readOf(trace, 4), undefined);
});

test("differences of answers", () => {
  assert.equal(firstDifference([1, 2, 3], [1, 2, 3]), -1);
  assert.equal(firstDifference([1, 2, 3], [1, 2]), 2);
  assert.equal(firstDifference([1, 2, 3], [1, 5, 3]), 1);
  const [a, b] = common([1, 2, 3, 4, 5], [1, 3, 9, 4]);
  assert.deepEqual(a, [true, false, true, true, false]);
  assert.deepEqual(b, [true, true, false, true]);
});

test("tokens as people see them", () => {
  assert.equal(visible(" a\n"), "␣a⏎");
  assert.equal(visible(""), "∅");
  const trace = planted(["a", ",", "b"]);
  assert.deepEqual(context(trace, 1, 1), ["a", ",", "b"]);
  assert.equal(textAt(trace, 9), "");
  assert.equal(occurrences(trace, ","), 0); // of the answer, which has none
});
