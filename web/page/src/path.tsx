// The way of one token through the layers, and the tokens whose ways are nearest.
import { nearest } from "./analysis";
import { expertColour, css } from "./colours";
import type { Message } from "./conversation";
import { expertsOf, layerLabel, openExpert, select, state } from "./state";
import { type Trace, NONE, choice, context, textAt, visible } from "./trace";

const ROW = 26;
/** Pixels: what a small screen has, so that letters keep their size. */
const pictureWidth = (): number => Math.max(280, Math.min(560, innerWidth - 24));

function Way({ trace, position, other }: { trace: Trace; position: number; other: number | null }) {
  const width = pictureWidth();
  const x = (layer: number, expert: number) => 46 + ((expert + 0.5) / Math.max(1, expertsOf(layer))) * (width - 60);
  const y = (layer: number) => (layer + 0.5) * ROW;
  const line = (p: number) => Array.from({ length: trace.layers }, (_, layer) => [layer, choice(trace, p, layer, 0)[0]] as const)
    .filter(([, expert]) => expert !== NONE).map(([layer, expert]) => `${x(layer, expert)},${y(layer)}`).join(" ");
  const dots = [];
  for (let layer = 0; layer < trace.layers; ++layer)
    for (let slot = 0; slot < trace.choices; ++slot) {
      const [expert, weight] = choice(trace, position, layer, slot);
      if (expert === NONE) continue;
      dots.push(<circle key={`${layer} ${slot}`} cx={x(layer, expert)} cy={y(layer)} r={3 + 6 * Math.sqrt(Math.min(weight, 1))} fill={css(expertColour(expert))} class="dot" />);
      if (slot === 0) dots.push(<text key={`${layer} name`} x={x(layer, expert) + 10} y={y(layer) + 4}>{expert}</text>);
    }
  return (
    <svg class="way-picture" viewBox={`0 0 ${width} ${trace.layers * ROW}`} role="img" aria-label={`The way of token ${position + 1}; the table below has its figures`}>
      {Array.from({ length: trace.layers }, (_, layer) => (
        <g key={layer}><text x={2} y={y(layer) + 4} class="faint">layer {layerLabel(layer)}</text><line x1={46} x2={width - 10} y1={y(layer)} y2={y(layer)} class="rule" /></g>))}
      {other !== null && <polyline points={line(other)} class="way-line other" />}
      <polyline points={line(position)} class="way-line" />
      {dots}
    </svg>
  );
}

export function Path({ message, trace }: { message: Message; trace: Trace }) {
  const at = state.selection?.message === message.id ? state.selection.position : 0;
  if (at >= trace.known) return <p class="note">This token was the last one: it was chosen and not read any more, so it has no way. Choose another one.</p>;
  const near = nearest(trace, at, 8);
  const [left, text, right] = context(trace, at);
  return (
    <section aria-label="The way of a token">
      <p class="context"><span>{left}</span><mark>{visible(text)}</mark><span>{right}</span></p>
      <div class="row tools"><button type="button" disabled={at === 0} onClick={() => select(message, at - 1)}>‹ Token before</button>
        <button type="button" disabled={at + 1 >= trace.known} onClick={() => select(message, at + 1)}>Next token ›</button></div>
      <Way trace={trace} position={at} other={near[0]?.position ?? null} />
      <p class="note">The line joins the first experts, the dashed one is that of the nearest token; dots are as large as weights.</p>
      <table class="small">
        <caption>Nearest by their experts: the share that both have of those that either has</caption>
        <thead><tr><th scope="col">Token</th><th scope="col">In context</th><th scope="col">Shared</th></tr></thead>
        <tbody>{near.map((each) => {
          const [l, t, r] = context(trace, each.position);
          return <tr key={each.position}><td><button type="button" class="chip" onClick={() => select(message, each.position)} aria-label={`Token ${each.position + 1}, ${visible(t)}`}>{visible(t)}</button></td>
            <td class="context"><span>{l}</span><mark>{t}</mark><span>{r}</span></td><td>{Math.round(100 * each.similarity)} %</td></tr>;
        })}</tbody>
      </table>
      <details><summary>Table of its way</summary>
        <table class="small"><caption>Experts of “{visible(textAt(trace, at))}”, best first</caption>
          <thead><tr><th scope="col">Layer</th><th scope="col">Experts and weights</th><th scope="col">Entropy</th></tr></thead>
          <tbody>{Array.from({ length: trace.layers }, (_, layer) => (
            <tr key={layer}><th scope="row">{layerLabel(layer)}</th>
              <td>{Array.from({ length: trace.choices }, (_, slot) => choice(trace, at, layer, slot)).filter(([e]) => e !== NONE).map(([expert, weight]) => (
                <button key={expert} type="button" class="chip" onClick={() => openExpert(layer, expert)} aria-label={`Open layer ${layerLabel(layer)}, expert ${expert}`}>{expert} ({weight.toFixed(2)})</button>))}</td>
              <td>{trace.entropy[at * trace.layers + layer]!.toFixed(2)}</td></tr>))}</tbody>
        </table></details>
    </section>
  );
}
