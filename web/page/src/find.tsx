// Which expert takes a certain token, and what becomes of the answer without it.
import { useMemo } from "preact/hooks";
import { whoTakes } from "./analysis";
import { compareWith } from "./answer";
import type { Message } from "./conversation";
import { changed, layerLabel, layerName, openExpert, state } from "./state";
import { type Trace, textAt, visible } from "./trace";

/** The commonest tokens of a trace that are not words alone: what one may want to ask about. */
function suggestions(trace: Trace): string[] {
  const counts = new Map<string, number>();
  for (let p = 0; p < trace.known; ++p) {
    const text = textAt(trace, p).trim();
    if (text) counts.set(text, (counts.get(text) ?? 0) + 1);
  }
  return [...counts].filter(([, count]) => count > 1).sort((a, b) => b[1] - a[1]).slice(0, 8).map(([text]) => text);
}

const percent = (share: number) => `${Math.round(100 * share)} %`;

export function Find({ message, trace }: { message: Message; trace: Trace }) {
  const wanted = state.wanted;
  const busy = state.running.size > 0;
  // Of long answers all is counted again now and then alone while they are written.
  const pace = Math.max(1, Math.floor(trace.known / 64));
  const until = state.running.has(message.id) ? Math.floor(trace.known / pace) : trace.known;
  const found = useMemo(
    () => (wanted.trim() ? whoTakes(trace, (text) => text.trim() === wanted.trim()) : []),
    [message.id, wanted, until, trace.promptTexts.length],
  );
  return (
    <section aria-label="Which expert takes a token">
      <form class="row tools" onSubmit={(event) => event.preventDefault()}>
        <label for="wanted">Which expert takes</label>
        <input id="wanted" type="text" size={8} value={wanted} onInput={(e) => { state.wanted = e.currentTarget.value; changed(); }} />
        <span aria-hidden="true">?</span>
      </form>
      <p class="chips" role="group" aria-label="Tokens of this chat">{suggestions(trace).map((text) => (
        <button key={text} type="button" class="chip" aria-pressed={text === wanted.trim()} onClick={() => { state.wanted = text; changed(); }}>{visible(text)}</button>
      ))}</p>
      {found.length === 0
        ? <p class="note">{wanted.trim() ? `No token of this chat is “${visible(wanted.trim())}”. Longer answers have more of them.` : "Write a token, such as a comma."}</p>
        : (
          <>
            <p class="answer" aria-live="polite">
              <strong>Layer {layerLabel(found[0]!.layer)}, expert {found[0]!.expert}</strong> takes {found[0]!.took} of
              the {found[0]!.of} tokens “{visible(wanted.trim())}”; they are {percent(found[0]!.took / found[0]!.all)} of
              the {found[0]!.all} tokens it takes.
            </p>
            <table class="rows">
              <caption>Experts that take “{visible(wanted.trim())}”, best first</caption>
              <thead><tr><th scope="col">Layer</th><th scope="col">Expert</th><th scope="col">Takes</th><th scope="col">Of its own</th><th scope="col">Without it</th></tr></thead>
              <tbody>{found.slice(0, 8).map((each) => (
                <tr key={`${each.layer}:${each.expert}`}>
                  <td>{layerLabel(each.layer)}</td>
                  <td><button type="button" class="chip" onClick={() => openExpert(each.layer, each.expert)} aria-label={`Open layer ${layerLabel(each.layer)}, expert ${each.expert}`}>{each.expert}</button></td>
                  <td>{each.took} of {each.of}</td>
                  <td>{percent(each.took / each.all)} of {each.all}</td>
                  <td>{state.model!.changeable && (
                    <button type="button" disabled={busy} aria-label={`Silence it, answer again: layer ${layerLabel(each.layer)}, expert ${each.expert}`}
                      onClick={() => compareWith(message, { silence: [...new Set([...(message.settings?.silence ?? []), `${layerName(each.layer)}:${each.expert}`])] })}>
                      Silence it, answer again</button>)}</td>
                </tr>
              ))}</tbody>
            </table>
          </>
        )}
      <p class="note">Counted over the {trace.known} tokens of this chat that were read, all {trace.choices} experts of each. Best: takes the most of them and little else.</p>
    </section>
  );
}
