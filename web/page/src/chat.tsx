// The conversation.
import { useEffect, useRef, useState } from "preact/hooks";
import { again, compareWith, goOn, send, stop, END } from "./answer";
import { type Message, branch, children, choose, describeSettings, path } from "./conversation";
import * as db from "./db";
import { Markdown } from "./markdown";
import { SettingsForm } from "./settings";
import { add, changed, lastAnswer, select, state } from "./state";
import { TokenCard, TokenList } from "./tokens";

const BEGINNINGS = ["And it came to pass", "In the beginning", "The king said to his men,"];
const QUESTIONS = ["What is gravity, in two sentences?", "Write a haiku about the sea.", "List three uses of salt."];

function Siblings({ message }: { message: Message }) {
  const all = children(state.current!, message.parent);
  if (all.length < 2) return null;
  const at = all.indexOf(message);
  const go = (step: number) => {
    choose(state.current!, all[at + step]!);
    if (all[at + step]!.trace) select(all[at + step]!, 0);
    void db.save(state.current!);
    changed();
  };
  return (
    <span class="siblings">
      <button type="button" class="quiet" disabled={at === 0} onClick={() => go(-1)} aria-label="The version before">‹</button>
      <span>{at + 1} of {all.length}</span>
      <button type="button" class="quiet" disabled={at === all.length - 1} onClick={() => go(1)} aria-label="The next version">›</button>
    </span>
  );
}

function Asked({ message }: { message: Message }) {
  const [text, setText] = useState<string | null>(null);
  if (text !== null)
    return (
      <form class="message user" onSubmit={(e) => { e.preventDefault(); send(text, message.parent); setText(null); }}>
        <label class="hidden" for={`edit-${message.id}`}>Edit the message</label>
        <textarea id={`edit-${message.id}`} rows={3} value={text} onInput={(e) => setText(e.currentTarget.value)} />
        <div class="actions"><button type="submit" class="primary">Send</button><button type="button" onClick={() => setText(null)}>Cancel</button></div>
      </form>
    );
  return (
    <article class="message user" aria-label="You">
      <p class="plain">{message.text}</p>
      <div class="actions">
        <Siblings message={message} />
        <button type="button" class="quiet" onClick={() => setText(message.text)}>Edit</button>
        <button type="button" class="quiet" onClick={() => add(branch(state.current!, message))}>Branch</button>
      </div>
    </article>
  );
}

const WORDS: Record<Message["status"], string> = {
  queued: "Queued", reading: "Reading", writing: "Writing", done: "", stopped: "Stopped", interrupted: "Interrupted",
  failed: "Failed",
};

function Progress({ message }: { message: Message }) {
  if (message.status === "done") return null;
  const read = /^read (\d+) of (\d+)/.exec(message.note);
  return (
    <p class={`progress ${message.status}`} role={message.status === "failed" ? "alert" : undefined}>
      {WORDS[message.status]}{message.note && `: ${message.note}`}
      {message.status === "interrupted" && !message.note && ": the page was left, or the server was, before it ended"}
      {read && <progress max={Number(read[2])} value={Number(read[1])} aria-label="Tokens of the prompt that are read" />}
    </p>
  );
}

function Figures({ message }: { message: Message }) {
  const stats = message.stats;
  const parts = describeSettings(message.settings);
  if (stats && stats.tokens)
    parts.unshift(`${stats.tokens} tokens`, `${stats.perSecond.toFixed(1)} a second`, `first after ${(stats.firstTokenMs / 1000).toFixed(2)} s`,
      `${stats.cachedTokens} of ${stats.promptTokens} prompt tokens from the cache`);
  return (
    <details class="figures">
      <summary>{parts.slice(0, 2).join(" · ")}</summary>
      <p>{parts.slice(2).join(" · ")}{stats?.finish ? ` · ${stats.finish}` : ""}</p>
      {stats?.cacheMiss && <p>Of the cache: {stats.cacheMiss}</p>}
    </details>
  );
}

function Answered({ message, last }: { message: Message; last: boolean }) {
  const running = state.running.has(message.id);
  const [prompt, setPrompt] = useState(false);
  const silenced = message.settings?.silence ?? [];
  return (
    <article class={`message assistant${silenced.length ? " changed" : ""}`} aria-label={silenced.length ? `Answer without expert ${silenced.join(", ")}` : "Answer"} aria-busy={running}>
      {silenced.length > 0 && <p class="badge">without expert {silenced.join(", ")}</p>}
      {message.reasoning && (
        <details class="reasoning"><summary>Reasoning{running && !message.text ? " …" : ""}</summary><Markdown text={message.reasoning} /></details>
      )}
      {state.tokens && message.trace
        ? (
          <>
            <label class="check"><input type="checkbox" checked={prompt} onChange={() => setPrompt(!prompt)} /> The prompt's tokens too</label>
            <TokenList message={message} withPrompt={prompt} />
            <TokenCard message={message} />
          </>
        )
        : state.model?.chat === false ? <p class="plain">{message.text}</p> : <Markdown text={message.text} />}
      <Progress message={message} />
      <div class="actions">
        <Siblings message={message} />
        {running
          ? <button type="button" class="primary" onClick={() => stop(message)}>Stop</button>
          : (
            <>
              <button type="button" class="quiet" onClick={() => again(message)}>Retry</button>
              {!state.model?.chat && last && message.text && message.trace?.texts.at(-1) !== END &&
                <button type="button" class="quiet" onClick={goOn}>Go on</button>}
              <button type="button" class="quiet" onClick={() => void navigator.clipboard?.writeText(message.text)}>Copy</button>
              <button type="button" class="quiet" onClick={() => add(branch(state.current!, message))}>Branch</button>
              {silenced.length > 0 &&
                <button type="button" class="quiet" onClick={() => compareWith(message, { silence: [] })}>Answer with it</button>}
            </>
          )}
        <Figures message={message} />
      </div>
    </article>
  );
}

function Measures() {
  return (
    <div class="row tools" role="group" aria-label="How answers are shown">
      <div class="switch" role="group" aria-label="Text or tokens">
        <button type="button" aria-pressed={!state.tokens} onClick={() => { state.tokens = false; changed(); }}>Text</button>
        <button type="button" aria-pressed={state.tokens} onClick={() => { state.tokens = true; changed(); }}>Tokens</button>
      </div>
      {state.tokens && (
        <label>underlined by <select value={state.measure} onChange={(e) => { state.measure = e.currentTarget.value as typeof state.measure; changed(); }}>
          <option value="probability">probability</option>
          <option value="certainty" disabled={!state.model?.routed_layers.length}>router certainty</option>
          <option value="surprise" disabled={!state.model?.routed_layers.length}>surprise of its way</option>
          {state.model?.models?.length ? <option value="model">which model answered</option> : null}
          <option value="expert" disabled={state.selection?.expert == null}>the chosen expert's weight</option>
        </select></label>
      )}
    </div>
  );
}

export function Chat() {
  const [text, setText] = useState("");
  const box = useRef<HTMLDivElement>(null);
  const conversation = state.current;
  const messages = conversation ? path(conversation) : [];
  const last = lastAnswer();
  const busy = last !== null && state.running.has(last.id);
  const atEnd = useRef(true);
  useEffect(() => {
    if (busy && atEnd.current && box.current && !state.tokens) box.current.scrollTop = box.current.scrollHeight;
  });
  const submit = () => {
    if (!text.trim() || busy || state.connection !== "ok") return;
    atEnd.current = true;
    send(state.model?.chat ? text.trim() : text, messages.at(-1)?.id ?? null);
    setText("");
  };
  const examples = state.model?.chat ? QUESTIONS : BEGINNINGS;
  return (
    <section class="column chat" aria-label="Conversation">
      <Measures />
      <div class="messages" ref={box} tabIndex={0} role="region" aria-label="Messages"
        onScroll={() => { const b = box.current!; atEnd.current = b.scrollTop + b.clientHeight >= b.scrollHeight - 40; }}>
        {messages.length === 0 && state.model && (
          <div class="empty">
            <h2>{state.model.chat ? "Ask something" : "Write a beginning"}</h2>
            <p>{state.model.chat
              ? "The answer comes token by token. "
              : "This model has no chat template: it goes on with what you write. "}
              {state.model.routed_layers.length > 0 && "The experts that each token goes to are shown beside it."}</p>
            <p class="examples">{examples.map((each) => <button type="button" key={each} onClick={() => send(each, null)}>{each}</button>)}</p>
          </div>
        )}
        {messages.map((message) => message.role === "user"
          ? <Asked key={message.id} message={message} />
          : <Answered key={message.id} message={message} last={message === messages.at(-1)} />)}
      </div>
      <form class="ask" onSubmit={(e) => { e.preventDefault(); submit(); }}>
        <label class="hidden" for="ask">{state.model?.chat ? "Message" : "Text to go on with"}</label>
        <textarea id="ask" rows={2} value={text} placeholder={state.model?.chat ? "Message (Enter sends, Shift+Enter is a new line)" : "A beginning (Enter sends)"}
          onInput={(e) => setText(e.currentTarget.value)}
          onKeyDown={(e) => { if (e.key === "Enter" && !e.shiftKey && !e.isComposing) { e.preventDefault(); submit(); } }} />
        {busy
          ? <button type="button" class="primary" onClick={() => stop(last!)}>Stop</button>
          : <button type="submit" class="primary" disabled={!text.trim() || state.connection !== "ok"}>Send</button>}
      </form>
      {conversation && <SettingsForm key={conversation.id} />}
    </section>
  );
}
