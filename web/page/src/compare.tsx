// Two answers to the same prompt, side by side: what differs in their settings, and from where on in their words.
import { common, firstDifference, occurrences, whoTakes } from "./analysis";
import { compareWith } from "./answer";
import { type Message, type Settings, describeSettings } from "./conversation";
import { NumberField } from "./settings";
import { changed, expertsOf, lastAnswer, layerLabel, routesOf, state } from "./state";
import { Strip } from "./strip";
import { type Trace, textAt, visible } from "./trace";
import { useState } from "preact/hooks";

function Words({ message, marks }: { message: Message; marks: boolean[] }) {
  const trace = message.trace;
  if (!trace) return <p class="plain">{message.text}</p>;
  const parts: { text: string; marked: boolean }[] = [];
  trace.ids.forEach((_, i) => {
    const text = textAt(trace, trace.promptIds.length + i), marked = !marks[i];
    const last = parts.at(-1);
    if (last && last.marked === marked) last.text += text;
    else parts.push({ text, marked });
  });
  return <p class="plain">{parts.map((part, i) => part.marked ? <ins key={i}>{part.text}</ins> : <span key={i}>{part.text}</span>)}</p>;
}

const only = (own: string[], other: string[]) => own.filter((each) => !other.includes(each)).join(", ") || "the model as it is";

/** How far the loads of two answers' own tokens are apart: the share of a layer's choices that differs, mean over the layers. */
export function moved(a: Trace, b: Trace): number {
  const shares = (trace: Trace, layer: number) => {
    const counts = new Float64Array(expertsOf(layer));
    let sum = 0;
    for (let p = trace.promptIds.length; p < trace.known; ++p)
      for (let slot = 0; slot < trace.choices; ++slot) {
        const expert = trace.experts[(p * trace.layers + layer) * trace.choices + slot]!;
        if (expert < counts.length) counts[expert]! += 1, ++sum;
      }
    return counts.map((count) => count / Math.max(sum, 1));
  };
  let all = 0;
  for (let layer = 0; layer < a.layers; ++layer) {
    const x = shares(a, layer), y = shares(b, layer);
    all += x.reduce((sum, share, e) => sum + Math.abs(share - y[e]!), 0) / 2;
  }
  return a.layers ? all / a.layers : 0;
}

/** Of experts that are silenced in one answer alone: who takes the wanted tokens there instead. */
function instead(message: Message, other: Message, trace: Trace, wanted: string): string {
  const routed = state.model!.routed_layers;
  return (message.settings?.silence ?? []).filter((name) => !other.settings?.silence.includes(name)).map((name) => {
    const [number, expert] = name.split(":").map(Number) as [number, number];
    const most = whoTakes(trace, (text) => text.trim() === wanted).filter(({ layer }) => layer === routed.indexOf(number)).sort((x, y) => y.took - x.took)[0];
    return most ? ` Without expert ${expert} of layer ${layerLabel(most.layer)}, expert ${most.expert} of that layer takes most of them: ${most.took} of ${most.of}.` : "";
  }).join("");
}

function Pair({ a, b }: { a: Message; b: Message }) {
  const traceA = routesOf(a) ?? a.trace, traceB = routesOf(b) ?? b.trace;
  const idsA = traceA?.ids ?? [], idsB = traceB?.ids ?? [];
  const [inA, inB] = common(idsA, idsB);
  const running = state.running.has(a.id) || state.running.has(b.id);
  // While one is being written what it has not got yet is no difference.
  const reach = running ? Math.min(idsA.length, idsB.length) : Infinity;
  const first = firstDifference(idsA.slice(0, reach), idsB.slice(0, reach));
  const settingsA = describeSettings(a.settings), settingsB = describeSettings(b.settings);
  const wanted = state.wanted.trim();
  return (
    <>
      <p class="answer" aria-live="polite">
        {first < 0
          ? running ? `Equal so far: ${reach} tokens.` : `Equal: all ${idsA.length} tokens.`
          : <>The answers part at token {first + 1}: “{visible(traceA ? textAt(traceA, traceA.promptIds.length + first) : "")}” against “{visible(traceB ? textAt(traceB, traceB.promptIds.length + first) : "")}”.</>}
        {wanted && traceA && traceB && ` Tokens with “${visible(wanted)}”: ${occurrences(traceA, wanted)} against ${occurrences(traceB, wanted)}.`}
        {wanted && !running && traceA && traceB && traceA.layers > 0 && traceB.layers > 0 && instead(a, b, traceA, wanted) + instead(b, a, traceB, wanted)}
        {traceA && traceB && traceA.layers > 0 && traceB.layers > 0 && !running && ` The experts' loads differ by ${Math.round(100 * moved(traceA, traceB))} %.`}
      </p>
      <div class="pair">
        <section aria-label="First answer"><h3>{only(settingsA, settingsB)}</h3><Words message={a} marks={inA} /></section>
        <section aria-label="Second answer"><h3>{only(settingsB, settingsA)}</h3><Words message={b} marks={inB} /></section>
      </div>
      <p class="note">Underlined: in this answer alone. Both have the seed {a.settings?.seed}{a.settings?.seed !== b.settings?.seed && ` and ${b.settings?.seed}`}, and the server gives the same answer to the same request, so that the difference is that of the settings.</p>
      {routesOf(a) && <><h3>Experts of the first</h3><Strip message={a} trace={routesOf(a)!} name="first" /></>}
      {routesOf(b) && <><h3>Experts of the second</h3><Strip message={b} trace={routesOf(b)!} name="second" /></>}
    </>
  );
}

function Ask({ message }: { message: Message }) {
  const own = message.settings ?? state.current!.settings;
  const [change, setChange] = useState<Partial<Settings>>({});
  const now = { ...own, ...change };
  const set = (part: Partial<Settings>) => setChange({ ...change, ...part });
  const most = Math.max(1, ...(state.model?.layers ?? []).map((layer) => layer.experts_per_token ?? 0));
  return (
    // The fields say themselves what is wrong; a browser's own check asks for whole steps as well.
    <form class="compare-ask" noValidate onSubmit={(event) => { event.preventDefault(); compareWith(message, change); setChange({}); }}>
      <p>Answer the last question again with</p>
      <div class="fields">
        {state.model?.changeable && <NumberField label="experts per token" value={now.expertsPerToken} least={1} most={most} step={1} empty={String(most)} onChange={(expertsPerToken) => set({ expertsPerToken })} />}
        {state.model?.changeable && <NumberField label="router temperature" value={now.routerTemperature} least={0.01} most={10} step={0.1} empty="none" onChange={(routerTemperature) => set({ routerTemperature })} />}
        <NumberField label="temperature" value={now.temperature} least={0} most={10} step={0.1} onChange={(temperature) => set({ temperature: temperature! })} />
        <NumberField label="seed" value={now.seed} least={0} most={2 ** 31 - 1} step={1} onChange={(seed) => set({ seed: seed! })} />
      </div>
      <button type="submit" class="primary" disabled={!Object.keys(change).length || state.running.size > 0}>Answer and compare</button>
    </form>
  );
}

export function Compare() {
  const conversation = state.current!, last = lastAnswer();
  if (!last) return <p class="note">There is no answer yet.</p>;
  const pair = state.compare?.map((id) => conversation.messages[id]) ?? [];
  const siblings = Object.values(conversation.messages).filter((m) => m.parent === last.parent && m.role === "assistant");
  const [a, b] = pair[0] && pair[1] ? pair : [siblings[0], siblings.length > 1 ? siblings.at(-1) : undefined];
  const label = (message: Message, i: number) => `${i + 1}: ${describeSettings(message.settings).join(", ")}`;
  const choose = (first: string, second: string) => { state.compare = [first, second]; changed(); };
  const list = a ? Object.values(conversation.messages).filter((m) => m.parent === a.parent && m.role === "assistant") : [];
  return (
    <section aria-label="Two settings compared">
      {a && b
        ? (
          <>
            {list.length > 2 && (
              <div class="fields">
                <label>First <select value={a.id} onChange={(e) => choose(e.currentTarget.value, b.id)}>{list.map((m, i) => <option key={m.id} value={m.id}>{label(m, i)}</option>)}</select></label>
                <label>Second <select value={b.id} onChange={(e) => choose(a.id, e.currentTarget.value)}>{list.map((m, i) => <option key={m.id} value={m.id}>{label(m, i)}</option>)}</select></label>
              </div>
            )}
            <Pair a={a} b={b} />
          </>
        )
        : <p class="note">Change something below, or silence an expert: both answers are shown here, with what differs marked.</p>}
      <Ask key={last.id} message={last} />
    </section>
  );
}
