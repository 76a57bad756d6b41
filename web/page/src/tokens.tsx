// The tokens of an answer as buttons: each says what it is, how probable it was, and what the routers made of it.
import { Component } from "preact";
import { answering, choice, certainty, context, idAt, length, textAt, visible, weightsOf, NONE, type Trace } from "./trace";
import type { Message } from "./conversation";
import { layerLabel, expertsOf, openExpert, select, state } from "./state";
import { evenBits, nearest, surprises } from "./analysis";

const GROUP = 48; // tokens that are drawn again together

// Of the trace that was asked for last: each new token changes all of them, so while one is written they are counted
// again only when a twentieth is new.
let counted: { trace: Trace | null; known: number; bits: Float64Array } = { trace: null, known: 0, bits: new Float64Array(0) };
/** Bits a layer of a position's path; NaN where nothing is known. */
export function surpriseAt(trace: Trace, position: number): number {
  const stale = trace.known > counted.known * 1.05 || (trace.known > counted.known && !state.running.size);
  if (counted.trace !== trace || trace.known < counted.known || stale)
    counted = { trace, known: trace.known, bits: surprises(trace, expertsOf) };
  return counted.bits[position] ?? NaN;
}

function measure(trace: Trace, position: number): number {
  if (state.measure === "certainty") return certainty(trace, position);
  if (state.measure === "surprise") return Math.min(1, surpriseAt(trace, position) / Math.max(evenBits(trace, expertsOf), 1e-9));
  if (state.measure === "model") return Math.max(...(weightsOf(trace, position) ?? [NaN]));
  if (state.measure === "expert") {
    const at = state.selection;
    if (!at || at.expert === null || position >= trace.known) return NaN;
    for (let slot = 0; slot < trace.choices; ++slot) {
      const [expert, weight] = choice(trace, position, at.layer, slot);
      if (expert === at.expert) return Math.max(weight, 0.05);
    }
    return 0;
  }
  const logprob = trace.logprobs[position - trace.promptIds.length];
  return logprob === undefined ? NaN : Math.exp(logprob);
}

const percent = (share: number): string =>
  Number.isNaN(share) ? "–" : share >= 0.1 ? `${Math.round(100 * share)} %` : `${(100 * share).toFixed(1)} %`;

function labelOf(trace: Trace, position: number): string {
  const own = trace.logprobs[position - trace.promptIds.length];
  const parts = [`token ${position + 1}, ${visible(textAt(trace, position))}`];
  if (own !== undefined && !Number.isNaN(own)) parts.push(`probability ${percent(Math.exp(own))}`);
  const sure = certainty(trace, position);
  if (!Number.isNaN(sure)) parts.push(`first experts have ${percent(sure)} of the weight`);
  if (state.measure === "surprise" && position < trace.known) parts.push(`surprise of its way ${surpriseAt(trace, position).toFixed(1)} bits a layer`);
  const whose = answering(trace, position);
  if (whose >= 0) parts.push(`${trace.models?.[whose]} weighed most, ${percent(weightsOf(trace, position)![whose]!)}`);
  return parts.join(", ");
}

interface GroupProps { message: Message; from: number; to: number; chosen: number; version: string }

class Group extends Component<GroupProps> {
  override shouldComponentUpdate(next: GroupProps): boolean {
    const now = this.props;
    return next.version !== now.version || next.chosen !== now.chosen || next.to !== now.to || next.message !== now.message;
  }
  render({ message, from, to, chosen }: GroupProps) {
    const trace = message.trace!;
    const buttons = [];
    for (let p = from; p < to; ++p) {
      const share = measure(trace, p), text = textAt(trace, p);
      const level = Number.isNaN(share) ? "none" : Math.min(4, Math.floor(share * 5)).toString();
      const prompt = p < trace.promptIds.length;
      buttons.push(
        <button
          key={p} type="button" class={`token level-${level}${prompt ? " prompt" : ""}${prompt && p < trace.cached ? " cached" : ""}`}
          data-position={p} data-model={state.measure === "model" && answering(trace, p) >= 0 ? answering(trace, p) + 1 : undefined} aria-pressed={p === chosen} aria-label={labelOf(trace, p)} title={labelOf(trace, p)}
          onClick={() => select(message, p)} onFocus={() => { if (p !== chosen) select(message, p); }}
        >{visible(text)}</button>,
      );
      if (text.includes("\n")) buttons.push(<br key={`${p} line`} />);
    }
    return <>{buttons}</>;
  }
}

/** Of one answer: its own tokens, and its prompt's where they are wanted. */
export function TokenList({ message, withPrompt }: { message: Message; withPrompt: boolean }) {
  const trace = message.trace!;
  const begin = withPrompt ? 0 : trace.promptIds.length, end = length(trace);
  const at = state.selection?.message === message.id ? state.selection.position : -1;
  const base = `${state.measure} ${state.measure === "expert" ? `${state.selection?.layer}:${state.selection?.expert}` : ""}`;
  const groups = [];
  for (let from = begin; from < end; from += GROUP) {
    const to = Math.min(from + GROUP, end);
    const settled = `${Math.min(trace.known, to)} ${trace.modelWeights?.length ?? 0}`, named = trace.promptTexts.length;
    groups.push(
      <Group key={from} message={message} from={from} to={to} chosen={at >= from && at < to ? at : -1}
        version={`${base} ${settled} ${named}`} />,
    );
  }
  return <div class="tokens" onKeyDown={moveFocus}>{groups}</div>;
}

function moveFocus(event: KeyboardEvent): void {
  const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
  const own = event.target as HTMLElement;
  if (!step || own.dataset.position === undefined) return;
  const next = (event.currentTarget as HTMLElement).querySelector<HTMLElement>(
    `[data-position="${Number(own.dataset.position) + step}"]`);
  next?.focus();
  event.preventDefault();
}

/** What is known of the chosen token. */
export function TokenCard({ message }: { message: Message }) {
  const trace = message.trace, at = state.selection;
  if (!trace || !at || at.message !== message.id || at.position >= length(trace)) return null;
  const own = at.position - trace.promptIds.length;
  const top = trace.tops[own] ?? [], logprob = trace.logprobs[own];
  const [left, text, right] = context(trace, at.position, 4);
  const sure = certainty(trace, at.position);
  return (
    <section class="card token-card" aria-label="The chosen token">
      <p class="context"><span>{left}</span><mark>{visible(text)}</mark><span>{right}</span></p>
      <dl>
        <dt>Token</dt><dd>number {at.position + 1}, id {idAt(trace, at.position)}{own < 0 ? (at.position < trace.cached ? ", of the prompt, from the cache" : ", of the prompt") : ""}</dd>
        {logprob !== undefined && !Number.isNaN(logprob) && <><dt>Probability</dt><dd>{percent(Math.exp(logprob))}</dd></>}
        {!Number.isNaN(sure) && <><dt>Router certainty</dt><dd>{percent(sure)} of the weight goes to the first experts, mean over {trace.layers} layers</dd></>}
        {trace.layers > 0 && at.position < trace.known && <><dt>Surprise of its way</dt><dd>{(trace.layers * surpriseAt(trace, at.position)).toFixed(1)} bits among this chat's ways, {surpriseAt(trace, at.position).toFixed(2)} a layer; even chances would cost {evenBits(trace, expertsOf).toFixed(2)}</dd></>}
        {weightsOf(trace, at.position) && <><dt>Models</dt><dd>{weightsOf(trace, at.position)!.map((weight, i) => `${trace.models?.[i]} ${percent(weight)}`).join(", ")}</dd></>}
      </dl>
      {top.length > 0 && (
        <table class="small">
          <caption>What could have come</caption>
          <tbody>{top.map((each) => (
            <tr key={each.text}><th scope="row"><code>{visible(each.text)}</code></th><td>{percent(Math.exp(each.logprob))}</td>
              <td><meter min={0} max={1} value={Math.exp(each.logprob)} aria-label={`probability of ${visible(each.text)}`}>{percent(Math.exp(each.logprob))}</meter></td></tr>
          ))}</tbody>
        </table>
      )}
      <PathLine trace={trace} position={at.position} />
    </section>
  );
}

export function PathLine({ trace, position }: { trace: Trace; position: number }) {
  if (trace.layers === 0) return null;
  if (position >= trace.known)
    return <p class="note">No experts: an answer's last token is chosen, and not read any more.</p>;
  const layers = Array.from({ length: trace.layers }, (_, layer) => choice(trace, position, layer, 0)[0]);
  return (
    <details>
      <summary>Its way: the first expert of each layer</summary>
      <p class="way">{layers.map((expert, layer) => expert === NONE ? <span key={layer}>·</span> : (
        <button key={layer} type="button" class="chip" onClick={() => openExpert(layer, expert)}
          aria-label={`layer ${layerLabel(layer)}, expert ${expert}`}>{layerLabel(layer)}:{expert}</button>
      ))}</p>
      <p class="note">Nearest by its way: {nearest(trace, position, 3).map((each) => `“${visible(textAt(trace, each.position))}” (${percent(each.similarity)})`).join(", ") || "none yet"}</p>
    </details>
  );
}
