import assert from "node:assert/strict";
import test from "node:test";
import { common, firstDifference, imbalance, loads, nearest, occurrences, partners, similarity, uses, whoTakes } from "../../src/analysis";
import { type Trace, NONE, addRoutes, certainty, choice, context, halfToNumber, newTrace, textAt, trimmed, visible, words } from "../../src/trace";

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
