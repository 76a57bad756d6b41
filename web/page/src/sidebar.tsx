// The conversations that this browser keeps.
import { useRef, useState } from "preact/hooks";
import { exported, imported } from "./conversation";
import * as db from "./db";
import { add, forget, open, say, startNew, state, changed } from "./state";

export function Sidebar() {
  const file = useRef<HTMLInputElement>(null);
  const [wrong, setWrong] = useState("");
  const save = () => {
    const address = URL.createObjectURL(new Blob([exported(state.conversations)], { type: "application/json" }));
    const link = Object.assign(document.createElement("a"), { href: address, download: "coterie-conversations.json" });
    link.click();
    URL.revokeObjectURL(address);
  };
  const load = async (chosen: File | undefined) => {
    if (!chosen) return;
    try {
      const list = imported(await chosen.text());
      for (const conversation of list) add(conversation);
      setWrong("");
      say(`${list.length} conversations were added`);
    } catch (error) {
      setWrong((error as Error).message);
    }
  };
  return (
    <nav class="column list" aria-label="Conversations">
      <div class="row">
        <h2>Conversations</h2>
        <button type="button" class="primary" onClick={startNew}>New</button>
      </div>
      <ul>
        {state.conversations.map((each) => (
          <li key={each.id} class="row">
            <button type="button" class="name" aria-current={each === state.current ? "true" : undefined}
              onClick={() => { open(each); state.column = "chat"; }}>
              {each.title}
              <small>{new Date(each.updated).toLocaleString(undefined, { dateStyle: "short", timeStyle: "short" })}</small>
            </button>
            <button type="button" class="quiet" aria-label={`Delete ${each.title}`} title="Delete"
              onClick={() => { if (confirm(`Delete “${each.title}”?`)) forget(each); }}>✕</button>
          </li>
        ))}
      </ul>
      <div class="row foot">
        <button type="button" onClick={save}>Export</button>
        <button type="button" onClick={() => file.current!.click()}>Import</button>
        <input ref={file} type="file" accept="application/json,.json" hidden tabIndex={-1} aria-label="A file of conversations"
          onChange={(event) => { void load(event.currentTarget.files?.[0]); event.currentTarget.value = ""; }} />
      </div>
      {wrong && <p class="wrong" role="alert">{wrong}</p>}
      <p class="note">They are kept in this browser. Nothing leaves this machine but to the server above.</p>
    </nav>
  );
}

export function rename(title: string): void {
  if (!state.current || !title.trim()) return;
  state.current.title = title.trim().slice(0, 70);
  void db.save(state.current);
  changed();
}
