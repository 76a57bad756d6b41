// A server in the place of coterie's, for what a real model does not do when it is wanted: long answers at once, attacks,
// queues, keys, faults. It serves the page with the headers that the real one sends.
import { createServer } from "node:http";
import { readFileSync } from "node:fs";

const page = readFileSync(new URL("../../page.html", import.meta.url), "utf8");
const policy = /http-equiv="Content-Security-Policy" content="([^"]*)"/.exec(page)[1] + "; frame-ancestors 'none'";

const half = new Float32Array(1), bits = new Uint32Array(half.buffer);
function toHalf(value) {
  half[0] = value;
  const b = bits[0], exponent = ((b >> 23) & 255) - 112;
  return value === 0 ? 0 : (exponent << 10) | ((b >> 13) & 1023);
}
const base64 = (values) => Buffer.from(Uint16Array.from(values).buffer).toString("base64");

/** Of layer l, token p goes to these experts, best first: s is the slot. */
export const expertAt = (p, l, s, experts, shift = 0) => (p * 7 + l * 3 + s * 5 + shift) % experts;

/** Routes of positions first … end - 1. */
export function routes(first, end, layers, k, experts, shift) {
  const ids = [], weights = [], entropy = [];
  for (let p = first; p < end; ++p)
    for (let l = 0; l < layers; ++l) {
      for (let s = 0; s < k; ++s) ids.push(expertAt(p, l, s, experts, shift)), weights.push(toHalf(2 ** -(s + 1)));
      entropy.push(toHalf(1.5));
    }
  return { first, positions: end - first, layers, experts_per_token: k, experts: base64(ids), weights: base64(weights), entropy: base64(entropy) };
}

export class Mock {
  says = ["Hello", ",", " world", "."];
  layers = 4; k = 2; experts = 16; shift = 0;
  dense = false; soft = false;
  models = []; // of an ensemble
  disk = false; // experts are read from there
  key = "";
  pace = 0; // ms between tokens
  queue = 0; // seconds before the prompt is read
  requests = []; // bodies
  outside = []; // requests for paths that nobody should ask for

  async start(port = 0) {
    this.server = createServer((request, response) => void this.answer(request, response));
    await new Promise((resolve) => this.server.listen(port, "127.0.0.1", resolve));
    this.port = this.server.address().port;
    return this;
  }
  stop() {
    this.server.closeAllConnections();
    return new Promise((resolve) => this.server.close(resolve));
  }
  get address() { return `http://127.0.0.1:${this.port}/`; }

  model() {
    const routed = this.dense || this.soft ? [] : Array.from({ length: this.layers }, (_, i) => i);
    return {
      name: "mock", version: "0", family: "mock", chat: true, context: 32768, vocabulary: 1000, parameters: 3e6, file_bytes: 6e6,
      dense_bytes: 1e6, read_bytes_per_second: 2e10, routed_layers: routed, changeable: routed.length > 0, parallel: 16, stall_seconds: 0.5,
      defaults: { temperature: 1, top_p: 1, max_tokens: 4096 },
      models: this.models, gate: this.models.length ? "token" : "",
      layers: Array.from({ length: this.layers }, (_, layer) => this.dense ? { layer, kind: "dense" }
        : { layer, kind: this.soft ? "soft" : "top_k", experts: this.experts, experts_per_token: this.k, expert_bytes: 1e5 }),
    };
  }

  async answer(request, response) {
    const path = request.url.split("?")[0];
    const json = (status, body) => { response.writeHead(status, { "Content-Type": "application/json" }); response.end(JSON.stringify(body)); };
    if (path === "/") {
      response.writeHead(200, { "Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy });
      return response.end(page);
    }
    if (this.key && request.headers.authorization !== `Bearer ${this.key}`) return json(401, { error: { message: "an API key is needed" } });
    let text = "";
    for await (const part of request) text += part;
    const body = text ? JSON.parse(text) : {};
    const histogram = { upper: [], counts: [0], sum: 0, count: 0 };
    if (path === "/coterie/model") return json(200, this.model());
    if (path === "/coterie/experts") return json(200, { layers: [], tokens: Array.from({ length: this.layers }, (_, l) => Array.from({ length: this.experts }, (_, e) => (e + l) % 5)),
      place_names: ["mapped", "large pages", "repacked", "read", "decoded", "in a slot", "on the disk"],
      places: Array.from({ length: this.layers }, () => Array.from({ length: this.experts }, (_, e) => this.disk ? 5 + (e % 2) : 2)) });
    if (path === "/coterie/live")
      return json(200, {
        requests: [{ state: "decoding", prompt_tokens: 40, cached_tokens: 16, evaluated_tokens: 40, generated_tokens: 7, max_tokens: 100, seconds: 1.5 },
          { state: "queued", prompt_tokens: 400, cached_tokens: 0, evaluated_tokens: 0, generated_tokens: 0, max_tokens: 100, seconds: 0.5 }],
        running: 1, waiting: 1, paused: 0, step_running_seconds: 0, step_expected_seconds: 0.03, prompt_tokens_per_second: 300, decode_tokens_per_second: 30,
        wait_seconds: 0, memory: { budget: 1e9, pages_running: 1e8, pages_cached: 3e8, pages_free: 1e7, states: 0, routes: 1e6, nodes: 1e5 }, counters: {},
        step_seconds: histogram, step_tokens: histogram, step_sequences: histogram, distinct_experts: histogram,
        recent: [{ time: "2026-01-01T10:00:00.000Z", path: "/v1/chat/completions", status: 200, result: "ok", finish: "end token", prompt_tokens: 4, completion_tokens: 9, seconds: 0.5 }],
      });
    if (path === "/tokenize") return json(200, { tokens: body.content.map((id) => ({ id, piece: ` p${id}` })) });
    if (path !== "/v1/chat/completions") { this.outside.push(path); return json(404, { error: { message: "not here" } }); }
    this.requests.push(body);
    await this.chat(body, request, response);
  }

  async chat(body, request, response) {
    let gone = false;
    response.on("close", () => { gone = true; });
    const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    const send = (chunk) => response.write(`data: ${JSON.stringify(chunk)}\n\n`);
    const prompt = Array.from({ length: 6 }, (_, i) => i);
    send({ prompt_token_ids: prompt, choices: [{ delta: { role: "assistant", content: null } }] });
    for (let left = this.queue; left > 0 && !gone; left -= 0.2) {
      response.write(`: ping {"state":"queued","ahead":3,"wait_seconds":${Math.ceil(left)}}\n\n`);
      await sleep(200);
    }
    const gated = this.models.length > 0 && body.coterie?.experts;
    const told = !this.dense && !this.soft && body.coterie?.experts;
    const says = this.says;
    for (let i = 0; i < says.length && !gone; ++i) {
      const first = i === 0 ? 0 : prompt.length + i - 1, end = prompt.length + i;
      const content = says[i];
      send({ choices: [{
        delta: { content }, token_ids: [10 + (i % 900)],
        logprobs: { content: [{ token: content, logprob: -0.1 * (i % 40), top_logprobs: [{ token: content, logprob: -0.1 }, { token: "other", logprob: -2.5 }] }] },
        ...(told || gated ? { coterie: {
          ...(told ? { routes: [{ ...routes(first, end, this.layers, this.k, this.experts, this.shift), ...(this.disk ? { disk_bytes: 3e6, step_tokens: 2 } : {}) }] } : {}),
          ...(gated ? { models: [this.models.map((_, m) => (m === i % this.models.length ? 0.75 : 0.25 / (this.models.length - 1)))] } : {}) } } : {}) }] });
      if (this.pace) await sleep(this.pace);
      else if (i % 200 === 199) await sleep(1);
    }
    send({ choices: [{ delta: {}, finish_reason: "stop" }] });
    send({ choices: [], usage: { prompt_tokens: 6, completion_tokens: says.length, prompt_tokens_details: { cached_tokens: 2 } }, timings: { first_token_ms: 12, predicted_per_second: 34.5 } });
    response.end("data: [DONE]\n\n");
  }
}
