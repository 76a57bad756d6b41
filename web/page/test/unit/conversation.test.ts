import assert from "node:assert/strict";
import test from "node:test";
import { EventReader, type Waiting } from "../../src/api";
import { type Settings, addMessage, before, branch, children, choose, describeSettings, exported, imported, newConversation, path } from "../../src/conversation";

const settings: Settings = {
  system: "", temperature: 1, topP: 1, maxTokens: 10, seed: 3, expertsPerToken: null, routerTemperature: null, silence: [] };

test("an edited message and another answer are siblings", () => {
  const talk = newConversation(settings, "m");
  const asked = addMessage(talk, null, "user", "one", null);
  const first = addMessage(talk, asked.id, "assistant", "A", settings);
  const second = addMessage(talk, asked.id, "assistant", "B", settings);
  assert.deepEqual(path(talk).map((m) => m.text), ["one", "B"]);
  choose(talk, first);
  assert.deepEqual(path(talk).map((m) => m.text), ["one", "A"]);
  const edited = addMessage(talk, null, "user", "two", null);
  assert.deepEqual(path(talk).map((m) => m.text), ["two"]);
  choose(talk, second);
  assert.deepEqual(path(talk).map((m) => m.text), ["one", "B"]);
  assert.equal(children(talk, null).length, 2);
  assert.deepEqual(before(talk, second).map((m) => m.text), ["one"]);
  assert.equal(talk.title, "two");
  assert.ok(edited.status === "done" && first.status === "queued");
  const copy = branch(talk, second);
  assert.deepEqual(path(copy).map((m) => m.text), ["one", "B"]);
  assert.notEqual(copy.id, talk.id);
});

test("what is exported can be imported, and nothing else", () => {
  const talk = newConversation(settings, "m");
  addMessage(talk, null, "user", "one", null);
  const again = imported(exported([talk]));
  assert.deepEqual(path(again[0]!).map((m) => m.text), ["one"]);
  for (const bad of ["", "{}", "[]", '{"coterie": 1}', '{"coterie": 1, "conversations": [{"id": "x"}]}'])
    assert.throws(() => imported(bad), /file/);
});

test("settings in words", () => {
  assert.deepEqual(describeSettings({ ...settings, silence: ["3:7"], expertsPerToken: 2 }),
    ["without expert 3:7", "2 experts a token", "temperature 1", "seed 3"]);
});

test("events of a stream, however it is cut", () => {
  const text = ':\n\n: ping {"state":"queued","ahead":2}\n\ndata: {"a":1}\r\n\r\ndata: [DONE]\n\n';
  for (let cut = 1; cut < text.length; ++cut) {
    const data: string[] = [], pings: Waiting[] = [];
    const reader = new EventReader((json) => data.push(json), (state) => pings.push(state));
    for (let at = 0; at < text.length; at += cut) reader.push(text.slice(at, at + cut));
    assert.deepEqual(data, ['{"a":1}', "[DONE]"]);
    assert.deepEqual(pings, [{ state: "queued", ahead: 2 }]);
  }
});
