// Which model of an ensemble answered each token: what the gate gave them.
import { answered } from "./analysis";
import { css, expertColour } from "./colours";
import { select, shownAnswer, state } from "./state";
import { type Trace, answering, textAt, visible, weightsOf } from "./trace";

const SHOWN = 60, BINS = 240, HEIGHT = 72;

/** Shares of the models along the answer, each of its bins one column: stacked, in the order of their numbers. */
function Shares({ trace }: { trace: Trace }) {
  const all = (trace.modelWeights ?? []).map((weights) => weights ?? []);
  const bins = Math.min(BINS, all.length), names = trace.models ?? [];
  const columns = Array.from({ length: bins }, (_, bin) => {
    const part = all.slice(Math.floor((bin * all.length) / bins), Math.floor(((bin + 1) * all.length) / bins)).filter((w) => w.length);
    return names.map((_, i) => part.reduce((sum, weights) => sum + weights[i]!, 0) / Math.max(part.length, 1));
  });
  return (
    <svg class="shares" shape-rendering="crispEdges" viewBox={`0 0 ${Math.max(bins, 1)} ${HEIGHT}`} preserveAspectRatio="none" role="img"
      aria-label="Weights of the models along the answer, the first at the bottom; the tables below have the figures">
      {columns.flatMap((shares, bin) => {
        let top = HEIGHT;
        return shares.map((share, i) => (
          <rect key={`${bin} ${i}`} x={bin} width={1.02} y={(top -= share * HEIGHT)} height={share * HEIGHT} fill={css(expertColour(i))} />));
      })}
    </svg>
  );
}

export function Models() {
  const message = shownAnswer(), trace = message?.trace;
  const gate = state.model?.gate === "uniform" ? "Every model has the same weight for every token." : "A gate reads the text so far and weighs the models for each token that comes.";
  if (!message || !trace?.modelWeights?.length)
    return <p class="note">{gate} As soon as a token is chosen, what they weighed is shown here.</p>;
  const names = trace.models ?? [], sums = answered(trace), begin = trace.promptIds.length;
  const own = state.selection?.message === message.id ? state.selection.position - begin : 0;
  const from = Math.max(0, Math.floor(Math.min(Math.max(own, 0), trace.ids.length - 1) / SHOWN) * SHOWN);
  const to = Math.min(from + SHOWN, trace.ids.length);
  return (
    <section aria-label="Which model answered">
      <p class="note">{gate} The next token is drawn from the mixture of what they think likely.</p>
      <table class="small">
        <caption>Of {trace.modelWeights.filter(Boolean).length} tokens of this answer</caption>
        <thead><tr><th scope="col">No.</th><th scope="col">Model</th><th scope="col">Weighed most for</th><th scope="col">Mean weight</th></tr></thead>
        <tbody>{names.map((name, i) => (
          <tr key={i}><td><span class="swatch" style={{ background: css(expertColour(i)) }} aria-hidden="true" /> {i + 1}</td><th scope="row">{name}</th>
            <td>{sums[i]?.tokens}</td><td>{((sums[i]?.weight ?? 0) * 100).toFixed(1)} %</td></tr>))}</tbody>
      </table>
      <Shares trace={trace} />
      <div class="scroll tall" tabIndex={0} role="region" aria-label="Models of each token">
        <table class="small">
          <caption>Tokens {from + 1} to {to} of {trace.ids.length}</caption>
          <thead><tr><th scope="col">Token</th><th scope="col">Most</th>{names.map((name, i) => <th key={i} scope="col">{name}</th>)}</tr></thead>
          <tbody>{Array.from({ length: to - from }, (_, i) => begin + from + i).map((p) => {
            const weights = weightsOf(trace, p), most = answering(trace, p);
            return (
              <tr key={p}>
                <td><button type="button" class="chip" aria-pressed={p - begin === own} onClick={() => select(message, p)} aria-label={`Token ${p + 1}, ${visible(textAt(trace, p))}`}>{visible(textAt(trace, p))}</button></td>
                <td>{most < 0 ? "–" : <><span class="swatch" style={{ background: css(expertColour(most)) }} aria-hidden="true" /> {most + 1}</>}</td>
                {names.map((_, j) => <td key={j}>{weights ? `${(100 * weights[j]!).toFixed(1)} %` : "–"}</td>)}
              </tr>
            );
          })}</tbody>
        </table>
      </div>
      <div class="row tools"><button type="button" disabled={from === 0} onClick={() => select(message, begin + from - SHOWN)}>‹ Tokens before</button>
        <button type="button" disabled={to >= trace.ids.length} onClick={() => select(message, begin + to)}>Next tokens ›</button></div>
    </section>
  );
}
