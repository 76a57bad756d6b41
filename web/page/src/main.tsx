// The page of coterie serve: conversations, the chat, and what the experts did.
import { render } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { stop } from "./answer";
import { Chat } from "./chat";
import { Experts } from "./experts";
import { ServerDrawer } from "./server";
import { Sidebar } from "./sidebar";
import { type Column, changed, giveKey, lastAnswer, onDraw, start, state } from "./state";
import "./style.css";

const COLUMNS: [Column, string][] = [["list", "List"], ["chat", "Chat"], ["experts", "Experts"], ["server", "Server"]];
const KEYS: [string, string][] = [
  ["Enter", "sends; Shift+Enter is a new line"], ["Esc", "stops the answer"], ["Alt+N", "begins a new conversation"],
  ["Alt+T", "switches between text and tokens"], ["Alt+1 … Alt+6", "the views of the experts"],
  ["arrows, Home, End", "move in pictures and among tokens; Enter opens what is there"], ["?", "shows these keys"],
];

function applyTheme(): void {
  if (state.theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = state.theme;
}

function Theme() {
  return (
    <label class="theme"><span class="hidden">Colours</span>
      <select value={state.theme} onChange={(event) => {
        state.theme = event.currentTarget.value as typeof state.theme;
        localStorage.setItem("coterie-theme", state.theme);
        applyTheme();
        changed();
      }}>
        <option value="auto">Colours: system</option><option value="light">Light</option><option value="dark">Dark</option>
      </select>
    </label>
  );
}

function Key() {
  const [value, setValue] = useState("");
  return (
    <form class="notice" aria-label="The server's key" onSubmit={(event) => { event.preventDefault(); void giveKey(value); }}>
      <label for="key">This server asks for a key</label>
      <input id="key" type="password" autocomplete="off" value={value} onInput={(e) => setValue(e.currentTarget.value)} />
      <button type="submit" class="primary">Use it</button>
    </form>
  );
}

function Help() {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const show = () => { if (!dialog.current!.open) dialog.current!.showModal(); };
    document.addEventListener("coterie-help", show);
    return () => document.removeEventListener("coterie-help", show);
  }, []);
  return (
    <dialog ref={dialog} aria-labelledby="help-title">
      <h2 id="help-title">Keys</h2>
      <dl>{KEYS.map(([key, what]) => <><dt><kbd>{key}</kbd></dt><dd>{what}</dd></>)}</dl>
      <form method="dialog"><button type="submit" class="primary">Close</button></form>
    </dialog>
  );
}

function modelLine(): string {
  const model = state.model;
  if (!model) return "";
  const size = model.parameters >= 1e9 ? `${(model.parameters / 1e9).toFixed(1)}B` : `${(model.parameters / 1e6).toFixed(1)}M`;
  const moe = model.layers.find((layer) => layer.experts_per_token);
  const experts = model.routed_layers.length && moe
    ? `, ${moe.experts} experts, ${moe.experts_per_token} a token, in ${model.routed_layers.length} layers` : model.models?.length ? "" : ", dense";
  const gated = model.models?.length ? `ensemble of ${model.models.length} models, ` : "";
  return `${model.name}: ${gated}${size} parameters${experts}`;
}

function Page() {
  return (
    <div class={`page show-${state.column}`}>
      <header>
        <h1>Coterie</h1>
        <p class="model">{modelLine()}</p>
        <button type="button" class="quiet" onClick={() => document.dispatchEvent(new Event("coterie-help"))}>Keys</button>
        <Theme />
      </header>
      {state.connection === "lost" && <p class="notice" role="alert">The server cannot be reached. The page tries again every two seconds; nothing of the conversation is lost.</p>}
      {state.connection === "key" && <Key />}
      <main>
      <div class="columns-switch switch" role="group" aria-label="Parts of the page">
        {COLUMNS.map(([name, label]) => <button key={name} type="button" aria-pressed={state.column === name}
          onClick={() => { state.column = name; if (name === "server") state.server = true; changed(); }}>{label}</button>)}
      </div>
      <Sidebar />
      <Chat />
      <Experts />
      <ServerDrawer />
      </main>
      <p class="hidden" aria-live="polite">{state.said}</p>
      <Help />
    </div>
  );
}

document.addEventListener("keydown", (event) => {
  const typing = event.target instanceof HTMLElement && /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
  const last = lastAnswer();
  if (event.key === "Escape" && last && state.running.has(last.id)) stop(last);
  else if (event.key === "?" && !typing) document.dispatchEvent(new Event("coterie-help"));
  else if (event.altKey && event.code === "KeyT") state.tokens = !state.tokens;
  else if (event.altKey && event.code === "KeyN") document.querySelector<HTMLButtonElement>(".list .primary")?.click();
  else if (event.altKey && /^Digit[1-6]$/.test(event.code)) {
    document.getElementById(`tab-${(["find", "strip", "map", "path", "expert", "compare"] as const)[Number(event.code[5]) - 1]}`)?.click();
    state.column = "experts";
  } else return;
  event.preventDefault();
  changed();
});

applyTheme();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
const root = document.getElementById("page")!;
onDraw(() => render(<Page />, root));
void start();
