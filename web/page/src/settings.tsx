// What a conversation's answers are made with.
import { useState } from "preact/hooks";
import type { Settings } from "./conversation";
import * as db from "./db";
import { changed, rememberSettings, state } from "./state";

interface NumberProps {
  label: string; hint?: string; value: number | null; least: number; most: number; step: number; empty?: string;
  onChange(value: number | null): void;
}

let fields = 0;

export function NumberField({ label, hint, value, least, most, step, empty, onChange }: NumberProps) {
  const [wrong, setWrong] = useState("");
  const [id] = useState(() => `field-${++fields}`);
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <input
        id={id} type="number" min={Math.ceil(least / step) * step} max={most} step={step} value={value ?? ""} placeholder={empty}
        aria-describedby={`${id}-hint`} aria-invalid={wrong !== ""}
        onInput={(event) => {
          const text = event.currentTarget.value, number = Number(text);
          const bad = (text === "" && empty === undefined) || Number.isNaN(number) || (text !== "" && (number < least || number > most));
          setWrong(bad ? `${least} to ${most}` : "");
          if (!bad) onChange(text === "" ? null : number);
        }}
      />
      <span id={`${id}-hint`} class={wrong ? "wrong" : "hint"}>{wrong || hint}</span>
    </div>
  );
}

export function SettingsForm() {
  const conversation = state.current!, settings = conversation.settings, model = state.model;
  const change = (part: Partial<Settings>) => {
    Object.assign(settings, part);
    rememberSettings(settings);
    if (Object.keys(conversation.messages).length) void db.save(conversation);
    changed();
  };
  const k = Math.max(0, ...(model?.layers ?? []).map((layer) => layer.experts_per_token ?? 0));
  return (
    <details class="settings">
      <summary>Settings of this conversation</summary>
      {model?.chat && (
        <div class="field wide">
          <label for="system">System prompt</label>
          <textarea id="system" rows={2} value={settings.system} onInput={(e) => change({ system: e.currentTarget.value })} />
        </div>
      )}
      <div class="fields">
        <NumberField label="Temperature" hint="0: the likeliest" value={settings.temperature} least={0} most={10} step={0.1}
          onChange={(temperature) => change({ temperature: temperature! })} />
        <NumberField label="Top p" value={settings.topP} least={0} most={1} step={0.05} onChange={(topP) => change({ topP: topP! })} />
        <NumberField label="Longest answer" hint="tokens" value={settings.maxTokens} least={1} most={1000000} step={1}
          onChange={(maxTokens) => change({ maxTokens: maxTokens! })} />
        <NumberField label="Seed" hint="empty: another each time" value={settings.seed} least={0} most={2 ** 31 - 1} step={1} empty="drawn"
          onChange={(seed) => change({ seed })} />
        {model?.changeable && (
          <>
            <NumberField label="Experts per token" hint={`the model's: ${k}`} value={settings.expertsPerToken} least={1} most={k} step={1}
              empty={String(k)} onChange={(expertsPerToken) => change({ expertsPerToken })} />
            <NumberField label="Router temperature" hint="empty: the best experts" value={settings.routerTemperature} least={0.01} most={10}
              step={0.1} empty="none" onChange={(routerTemperature) => change({ routerTemperature })} />
          </>
        )}
      </div>
      {settings.silence.length > 0 && (
        <p>Silenced: {settings.silence.map((each) => (
          <button type="button" class="chip" key={each} onClick={() => change({ silence: settings.silence.filter((s) => s !== each) })}
            aria-label={`Let expert ${each} work again`}>{each} ✕</button>
        ))}</p>
      )}
    </details>
  );
}
