// What the server is doing: who is answered, what a step costs, where its memory is.
import { useEffect, useRef, useState } from "preact/hooks";
import { type Histogram, type Live, get } from "./api";
import { bytesText } from "./map";
import { changed, state } from "./state";

interface Sample { at: number; step: number; tokens: number; sequences: number; experts: number; bytes: number }

const mean = (now: Histogram, before: Histogram): number =>
  now.count > before.count ? (now.sum - before.sum) / (now.count - before.count) : NaN;

/** Bytes that a step reads: what every step does, and in each layer the experts that some token was sent to. */
function stepBytes(distinct: number): number {
  const model = state.model!;
  if (!model.routed_layers.length) return model.dense_bytes;
  const each = model.routed_layers.reduce((sum, layer) => sum + (model.layers[layer]?.expert_bytes ?? 0), 0);
  return model.dense_bytes + (Number.isNaN(distinct) ? 0 : distinct * each);
}

function Line({ values, most, label, marked }: { values: number[]; most: number; label: string; marked?: number }) {
  const points = values.map((value, i) => `${(i / Math.max(values.length - 1, 1)) * 200},${40 - (Number.isNaN(value) ? 0 : (value / most) * 38)}`);
  return (
    <svg viewBox="0 0 200 42" preserveAspectRatio="none" class="spark" role="img" aria-label={label}>
      {marked !== undefined && <line x1={0} x2={200} y1={40 - (marked / most) * 38} y2={40 - (marked / most) * 38} class="budget" />}
      <polyline points={points.join(" ")} />
    </svg>
  );
}

function Memory({ memory }: { memory: Record<string, number> }) {
  const budget = Math.max(memory.budget ?? 0, 1);
  const parts: [string, number][] = [
    ["running", memory.pages_running ?? 0], ["kept for prefixes", memory.pages_cached ?? 0], ["free pages", memory.pages_free ?? 0],
    ["states", memory.states ?? 0], ["routes", (memory.routes ?? 0) + (memory.nodes ?? 0)],
  ];
  return (
    <table class="small"><caption>Cache: {bytesText(budget)} in all</caption><tbody>{parts.map(([name, bytes]) => (
      <tr key={name}><th scope="row">{name}</th><td>{bytesText(bytes)}</td>
        <td><meter min={0} max={budget} value={bytes} aria-label={`${name}, of the cache`}>{Math.round((100 * bytes) / budget)} %</meter></td></tr>))}</tbody></table>
  );
}

/** How experts that are read from the disk as they are needed have been found and read since the start. */
function Reads({ reads }: { reads: NonNullable<Live["reads"]> }) {
  const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
  return (
    <section aria-label="Experts from the disk">
      <h3>Experts from the disk</h3>
      <dl>
        <dt>In memory</dt><dd>{reads.slots} of {reads.experts} experts, {bytesText(reads.slot_bytes)}</dd>
        {(["decode", "prompt"] as const).filter((kind) => reads[kind].tokens > 0).map((kind) => (
          <><dt>{kind === "decode" ? "Answers, short prompts" : "Long prompts"}</dt><dd>{percent(reads[kind].hit_share)} found there, {(reads[kind].bytes_per_token / 1e6).toFixed(1)} MB read a token, {(1000 * reads[kind].stalled_seconds / reads[kind].tokens).toFixed(1)} ms waited a token</dd></>))}
        <dt>Disk</dt><dd>{reads.bytes_per_second > 0 ? `${(reads.bytes_per_second / 1e6).toFixed(0)} MB/s` : "–"}{reads.disk_share !== null && reads.bytes_per_second > 0 && `, ${percent(reads.disk_share)} of its rate at the start`} ({reads.reader}, {reads.direct ? "direct" : "buffered"})</dd>
      </dl>
    </section>
  );
}

function Lanes({ live }: { live: Live }) {
  return (
    <table class="small"><caption>{live.running} running, {live.waiting} queued, {live.paused} paused; {state.model!.parallel} at once</caption>
      <thead><tr><th scope="col">State</th><th scope="col">Prompt</th><th scope="col">Answer</th><th scope="col">Seconds</th></tr></thead>
      <tbody>{live.requests.length === 0 ? <tr><td colSpan={4}>nobody asks</td></tr> : live.requests.map((each, i) => (
        <tr key={i}><td><span class={`lane ${each.state}`}>{each.state === "decoding" ? "writing" : each.state}</span></td>
          <td><progress max={each.prompt_tokens} value={Math.min(each.evaluated_tokens, each.prompt_tokens)} aria-label="Prompt read" /> {each.prompt_tokens}{each.cached_tokens > 0 && `, ${each.cached_tokens} from the cache`}</td>
          <td>{each.generated_tokens}{each.max_tokens > 0 && ` of ${each.max_tokens}`}</td><td>{each.seconds.toFixed(1)}</td></tr>))}</tbody></table>
  );
}

function Recent({ live }: { live: Live }) {
  const seconds = (value: unknown) => typeof value === "number" ? value.toFixed(2) : "";
  return (
    <div class="scroll tall" tabIndex={0} role="region" aria-label="The last requests">
      <table class="small"><caption>The last {live.recent.length} requests</caption>
        <thead><tr><th scope="col">When</th><th scope="col">What</th><th scope="col">How it ended</th><th scope="col">Tokens</th><th scope="col">Seconds</th></tr></thead>
        <tbody>{live.recent.map((each, i) => (
          <tr key={i}><td>{String(each.time ?? "").slice(11, 19)}</td><td><code>{each.path}</code></td>
            <td>{each.status}{each.result !== "ok" ? ` ${String(each.result).replaceAll("_", " ")}` : each.finish ? ` ${each.finish}` : ""}</td>
            <td>{each.prompt_tokens !== undefined && `${each.prompt_tokens} + ${each.completion_tokens}`}</td><td>{seconds(each.seconds)}</td></tr>))}</tbody></table>
    </div>
  );
}

export function Server() {
  const [live, setLive] = useState<Live | null>(null);
  const [copied, setCopied] = useState("");
  const samples = useRef<Sample[]>([]), before = useRef<Live | null>(null);
  useEffect(() => {
    let over = false;
    const ask = async () => {
      try {
        const now = await get<Live>("/coterie/live");
        if (over) return;
        const last = before.current;
        if (last) {
          const step = mean(now.step_seconds, last.step_seconds), experts = mean(now.distinct_experts, last.distinct_experts);
          samples.current.push({ at: Date.now(), step, tokens: mean(now.step_tokens, last.step_tokens), sequences: mean(now.step_sequences, last.step_sequences), experts, bytes: stepBytes(experts) });
          if (samples.current.length > 60) samples.current.shift();
        }
        before.current = now;
        setLive(now);
      } catch { /* the page says by itself that the server is gone */ }
    };
    void ask();
    const timer = setInterval(ask, 1000);
    return () => { over = true; clearInterval(timer); };
  }, []);
  if (!live || !state.model) return <p class="note">Asking the server …</p>;
  const busy = [...samples.current].reverse().find((each) => !Number.isNaN(each.step));
  const steps = samples.current.map((each) => each.step), limit = state.model.read_bytes_per_second;
  const rate = busy ? busy.bytes / busy.step : 0;
  const address = location.origin;
  const curl = `curl ${address}${state.model.chat ? "/v1/chat/completions" : "/v1/completions"} -H 'Content-Type: application/json' -d '${
    state.model.chat ? '{"messages": [{"role": "user", "content": "Hello"}]}' : '{"prompt": "Hello"}'}'`;
  const query = "histogram_quantile(0.95, rate(coterie_time_to_first_token_seconds_bucket[5m]))";
  const copy = (text: string, what: string) => void navigator.clipboard?.writeText(text).then(() => setCopied(`${what} is copied`));
  const stall = state.model.stall_seconds;
  return (
    <div class="server-grid">
      <Lanes live={live} />
      <section aria-label="Steps">
        <h3>Steps</h3>
        <Line values={steps} most={Math.max(stall, ...steps.filter((s) => !Number.isNaN(s)))} marked={stall} label={`Seconds a step over the last minute; the dashed line is the limit of ${stall} s while somebody's answer runs`} />
        <dl>
          <dt>Step</dt><dd>{busy ? `${(1000 * busy.step).toFixed(1)} ms` : "–"} (at most {stall} s with a prompt beside)</dd>
          <dt>Batch</dt><dd>{busy ? `${busy.tokens.toFixed(1)} tokens of ${busy.sequences.toFixed(1)} streams` : "–"}</dd>
          {state.model.routed_layers.length > 0 && <><dt>Distinct experts</dt><dd>{busy && !Number.isNaN(busy.experts) ? `${busy.experts.toFixed(1)} a layer and step` : "–"}</dd></>}
          <dt>Memory</dt><dd>{busy ? `${(rate / 1e9).toFixed(2)} GB/s read` : "nothing read now"}{limit > 0 ? `; this machine reads at most ${(limit / 1e9).toFixed(1)} GB/s` : "; coterie info measures what the machine can read"}</dd>
          <dt>Rates</dt><dd>prompts {live.prompt_tokens_per_second.toFixed(0)}, answers {live.decode_tokens_per_second.toFixed(0)} tokens a second</dd>
        </dl>
      </section>
      <Memory memory={live.memory} />
      {live.reads && <Reads reads={live.reads} />}
      <Recent live={live} />
      <section aria-label="For programs">
        <h3>For programs</h3>
        <p class="actions"><button type="button" onClick={() => copy(curl, "The line for curl")}>Copy a curl line</button>
          <button type="button" onClick={() => copy(query, "The query")}>Copy a Prometheus query</button></p>
        <p class="note" aria-live="polite">{copied || <>The same figures are at <a href="/metrics">/metrics</a>, all that can be asked at <a href="/openapi.json">/openapi.json</a>.</>}</p>
      </section>
    </div>
  );
}

export function ServerDrawer() {
  return (
    <section class={`column server${state.server ? " open" : ""}`} aria-label="Server">
      <button type="button" class="bar" aria-expanded={state.server} onClick={() => { state.server = !state.server; changed(); }}>
        {state.server ? "▾" : "▸"} Server
      </button>
      {state.server && <Server />}
    </section>
  );
}
