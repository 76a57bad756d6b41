// One expert: what it takes, with whom, what it costs, and what the answer is without it.
import { useEffect, useState } from "preact/hooks";
import { partners, uses } from "./analysis";
import { compareWith } from "./answer";
import { type ExpertsAnswer, get } from "./api";
import type { Message } from "./conversation";
import { bytesText } from "./map";
import { expertsOf, layerName, layerLabel, openExpert, select, state } from "./state";
import { type Trace, context, visible } from "./trace";

const SHOWN = 24;

// The server's names of the places where an expert may lie, in words.
const PLACES: Record<string, string> = {
  "mapped": "in the model's file, mapped: in memory as far as the system keeps it there",
  "large pages": "in memory, copied to large pages",
  "repacked": "in memory, repacked in the order of the kernels",
  "read": "in memory, read from the file",
  "decoded": "in memory, decoded when the model was opened",
  "in a slot": "in memory, in a slot that another expert may get",
  "on the disk": "on the disk: it is read when a token needs it",
};

/** In which memory an expert lies now. */
function Place({ layer, expert }: { layer: number; expert: number }) {
  const [answer, setAnswer] = useState<ExpertsAnswer | null>(null);
  useEffect(() => {
    const ask = () => get<ExpertsAnswer>("/coterie/experts").then(setAnswer).catch(() => {});
    void ask();
    const timer = setInterval(ask, 2000);
    return () => clearInterval(timer);
  }, []);
  const name = answer?.place_names?.[answer.places?.[layer]?.[expert] ?? -1];
  return <>{name ? PLACES[name] ?? name : answer ? "not known" : "…"}</>;
}

export function ExpertCard({ message, trace }: { message: Message; trace: Trace }) {
  const at = state.selection;
  const layer = Math.min(at?.layer ?? 0, trace.layers - 1), expert = at?.expert ?? null;
  if (expert === null)
    return <p class="note">No expert is chosen. Choose one in the strip, on the map or by what it takes.</p>;
  const own = uses(trace, layer, expert), model = state.model!, info = model.layers[layerName(layer)];
  const name = `${layerName(layer)}:${expert}`;
  const silenced = message.settings?.silence.includes(name) ?? false;
  const others = partners(trace, layer, expert).slice(0, 6);
  const step = (by: number) => openExpert(layer, (expert + by + expertsOf(layer)) % expertsOf(layer));
  return (
    <section class="card" aria-label={`Expert ${expert} of layer ${layerLabel(layer)}`}>
      <div class="row">
        <h3>Layer {layerLabel(layer)}, expert {expert}</h3>
        <div class="switch"><button type="button" onClick={() => step(-1)} aria-label="The expert before">‹</button><button type="button" onClick={() => step(1)} aria-label="The next expert">›</button></div>
      </div>
      <dl>
        <dt>Chosen</dt><dd>for {own.length} of {trace.known} tokens of this chat: {(own.length * expertsOf(layer) / Math.max(1, trace.known * (info?.experts_per_token ?? 1))).toFixed(2)} times an even share</dd>
        <dt>Size</dt><dd>{info?.expert_bytes ? `about ${bytesText(info.expert_bytes)}, read for each step that uses it` : "not known"}</dd>
        <dt>Where it lies</dt><dd><Place layer={layer} expert={expert} /></dd>
      </dl>
      {model.changeable && (
        <p class="actions">
          {silenced
            ? <button type="button" class="primary" disabled={state.running.size > 0} onClick={() => compareWith(message, { silence: message.settings!.silence.filter((each) => each !== name) })}>Answer with it</button>
            : <button type="button" class="primary" disabled={state.running.size > 0} onClick={() => compareWith(message, { silence: [...(message.settings?.silence ?? []), name] })}>Silence it and answer again</button>}
        </p>
      )}
      {own.length > 0 && (
        <div class="scroll tall" tabIndex={0} role="region" aria-label="Its tokens">
          <table class="small">
            <caption>Its tokens, the strongest first{own.length > SHOWN ? ` (${SHOWN} of ${own.length})` : ""}</caption>
            <thead><tr><th scope="col">Token</th><th scope="col">In context</th><th scope="col">Weight</th></tr></thead>
            <tbody>{own.slice(0, SHOWN).map((use) => {
              const [left, text, right] = context(trace, use.position);
              return (
                <tr key={use.position}>
                  <td><button type="button" class="chip" onClick={() => select(message, use.position, layer)} aria-label={`Token ${use.position + 1}, ${visible(text)}`}>{visible(text)}</button></td>
                  <td class="context"><span>{left}</span><mark>{text}</mark><span>{right}</span></td>
                  <td>{use.weight.toFixed(2)}</td>
                </tr>
              );
            })}</tbody>
          </table>
        </div>
      )}
      {others.length > 0 && (
        <table class="small rows">
          <caption>Chosen with it oftener than by chance</caption>
          <thead><tr><th scope="col">Layer</th><th scope="col">Expert</th><th scope="col">Together</th><th scope="col">Times chance</th></tr></thead>
          <tbody>{others.map((each) => (
            <tr key={`${each.layer}:${each.expert}`}><td>{layerLabel(each.layer)}</td>
              <td><button type="button" class="chip" onClick={() => openExpert(each.layer, each.expert)} aria-label={`Open layer ${layerLabel(each.layer)}, expert ${each.expert}`}>{each.expert}</button></td>
              <td>{each.together}</td><td>{each.lift.toFixed(1)}</td></tr>))}</tbody>
        </table>
      )}
    </section>
  );
}
