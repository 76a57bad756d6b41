// What the experts did, in six views of one selection.
import { Compare } from "./compare";
import { ExpertCard } from "./expert";
import { Find } from "./find";
import { ExpertMap } from "./map";
import { Models } from "./models";
import { Path } from "./path";
import { type View, changed, routesOf, shownAnswer, state } from "./state";
import { Strip } from "./strip";

const VIEWS: [View, string][] = [
  ["find", "Who takes …"], ["strip", "Strip"], ["map", "Map"], ["path", "Path"], ["expert", "Expert"], ["models", "Models"],
  ["compare", "Compare"],
];
/** Those that the model has something for: of an ensemble, which model answered; of dense ones, no experts. */
function views(): [View, string][] {
  const gated = Boolean(state.model?.models?.length), routed = state.model?.routed_layers.length !== 0;
  return VIEWS.filter(([name]) => (name === "models" ? gated : name === "compare" || routed || !gated));
}

function onKey(event: KeyboardEvent): void {
  const all = views(), at = all.findIndex(([name]) => name === state.view);
  const moves: Record<string, number> = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: all.length - 1 };
  const to = moves[event.key];
  if (to === undefined) return;
  state.view = all[(to + all.length) % all.length]![0];
  changed();
  event.preventDefault();
  requestAnimationFrame(() => requestAnimationFrame(() => document.getElementById(`tab-${state.view}`)?.focus()));
}

function Body() {
  const model = state.model;
  if (!model) return null;
  if (state.view === "compare") return <Compare />;
  if (state.view === "models") return <Models />;
  const kinds = new Set(model.layers.map((layer) => layer.kind));
  if (model.routed_layers.length === 0)
    return (
      <div class="note">
        <p>{kinds.has("soft")
          ? "This is a Soft MoE: every expert reads a mixture of all tokens, and every token gets a mixture of what all experts make of it. Nobody is chosen, so there is no way to show."
          : "This is a dense model: each token goes through all of its weights, and there are no experts to choose from."}</p>
        <p>The switch Tokens above the conversation shows how probable each token was and what could have come instead.</p>
      </div>
    );
  const message = shownAnswer(), trace = routesOf(message);
  if (!message || !trace) return <p class="note">As soon as a token is read, its experts are shown here.</p>;
  switch (state.view) {
    case "strip": return <Strip message={message} trace={trace} />;
    case "map": return <ExpertMap message={message} trace={trace} />;
    case "path": return <Path message={message} trace={trace} />;
    case "expert": return <ExpertCard message={message} trace={trace} />;
    default: return <Find message={message} trace={trace} />;
  }
}

export function Experts() {
  const all = views();
  if (!all.some(([name]) => name === state.view)) state.view = all[0]![0];
  return (
    <section class="column experts" aria-label="Experts">
      <div class="tabs" role="tablist" aria-label="Views of the experts" onKeyDown={onKey}>
        {all.map(([name, label]) => (
          <button key={name} type="button" role="tab" id={`tab-${name}`} aria-selected={state.view === name} aria-controls="view"
            tabIndex={state.view === name ? 0 : -1} onClick={() => { state.view = name; changed(); }}>{label}</button>
        ))}
      </div>
      <div id="view" role="tabpanel" aria-labelledby={`tab-${state.view}`} tabIndex={0}><Body /></div>
    </section>
  );
}
