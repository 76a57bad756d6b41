// The map: layers by experts, as bright as an expert's share is above or below an even one.
import { useEffect, useState } from "preact/hooks";
import { loads, imbalance } from "./analysis";
import { type ExpertsAnswer, get } from "./api";
import { contrast, css, heat, isDark, pixel } from "./colours";
import type { Message } from "./conversation";
import { Grid, type GridDrawing } from "./grid";
import { expertsOf, layerName, layerLabel, openExpert, select, state } from "./state";
import { type Trace, NONE, choice, readOf } from "./trace";

type Scope = "token" | "reply" | "chat" | "start";
const SCOPES: [Scope, string][] = [["token", "This token"], ["reply", "This reply"], ["chat", "This chat"], ["start", "Since start"]];

/** From an eighth of an even share (0) to eight times it (1); an even one is in the middle. */
export const brightness = (relative: number): number => (relative <= 0 ? 0 : Math.min(1, Math.max(0.06, 0.5 + Math.log2(relative) / 6)));

function countsOf(trace: Trace, scope: Scope, position: number, since: number[][] | null): ArrayLike<number>[] {
  if (scope === "start") return since ?? [];
  return Array.from({ length: trace.layers }, (_, layer) => {
    if (scope === "token") {
      const weights = new Float64Array(expertsOf(layer));
      for (let slot = 0; slot < trace.choices; ++slot) {
        const [expert, weight] = choice(trace, position, layer, slot);
        if (expert !== NONE) weights[expert] = weight;
      }
      return weights;
    }
    return loads(trace, layer, expertsOf(layer), scope === "reply" ? trace.promptIds.length : 0);
  });
}

function bytesText(bytes: number): string {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.round(bytes / 1e3)} kB`;
}

/** What a token reads: all that each reads, and its own experts. */
export function bytesOf(trace: Trace, position: number): number {
  let bytes = state.model!.dense_bytes;
  for (let layer = 0; layer < trace.layers; ++layer)
    for (let slot = 0; slot < trace.choices; ++slot)
      if (choice(trace, position, layer, slot)[0] !== NONE) bytes += state.model!.layers[layerName(layer)]?.expert_bytes ?? 0;
  return bytes;
}

function drawingOf(counts: ArrayLike<number>[], size: number, ring: Set<string>, columns: number, version: string): GridDrawing {
  const dark = isDark();
  const shades = Array.from({ length: 65 }, (_, i) => heat(i / 64, dark)), pixels64 = shades.map(pixel);
  const none = dark ? 0xff241d1a : 0xffffffff;
  const sums = counts.map((row) => Array.from(row).reduce((a, b) => a + b, 0));
  const shade = (layer: number, expert: number) => Math.round(64 * brightness(((counts[layer]![expert] ?? 0) * counts[layer]!.length) / Math.max(sums[layer]!, 1e-9)));
  return {
    columns, rows: counts.length, cellWidth: size, cellHeight: Math.max(size, 12), head: 0, version, growing: false,
    fill(pixels, width, height, from, to, scale) {
      pixels.fill(none);
      for (let expert = from; expert < to; ++expert)
        for (let layer = 0; layer < counts.length; ++layer) {
          if (expert >= counts[layer]!.length || !counts[layer]![expert]) continue;
          const colour = pixels64[shade(layer, expert)]!;
          const left = Math.round((expert - from) * size * scale), right = Math.min(width, Math.round((expert - from + 1) * size * scale) - 1);
          const top = Math.round(layer * this.cellHeight * scale), bottom = Math.min(height, Math.round((layer + 1) * this.cellHeight * scale) - 1);
          for (let y = top; y < bottom; ++y) pixels.fill(colour, y * width + left, y * width + right);
        }
    },
    write(canvas, from, to, scale) {
      canvas.font = `${Math.round((size >= 40 ? 13 : 9) * scale)}px system-ui, sans-serif`;
      canvas.textBaseline = "middle";
      for (let layer = 0; layer < counts.length; ++layer)
        for (let expert = from; expert < Math.min(to, counts[layer]!.length); ++expert) {
          const x = (expert - from) * size * scale, y = layer * this.cellHeight * scale, h = this.cellHeight * scale;
          const has = Boolean(counts[layer]![expert]);
          const ground: [number, number, number] = has ? shades[shade(layer, expert)]! : dark ? [26, 29, 36] : [255, 255, 255];
          const ink = contrast(ground, [0, 0, 0]) > contrast(ground, [255, 255, 255]) ? "#000" : "#fff";
          if (!has) {
            // Idle ones can be counted: an empty square.
            canvas.strokeStyle = dark ? "#5a5f68" : "#b9b4ae";
            canvas.lineWidth = 1;
            canvas.strokeRect(x + 1.5, y + 1.5, size * scale - 4, h - 4);
          }
          canvas.fillStyle = ink;
          if (size >= 22) canvas.fillText(String(expert), x + 3 * scale, y + h / 2);
          if (ring.has(`${layer}:${expert}`)) {
            canvas.strokeStyle = ink;
            canvas.lineWidth = 2 * scale;
            canvas.beginPath();
            canvas.arc(x + (size * scale) / 2, y + h / 2, Math.min(size * scale, h) / 2 - 2 * scale, 0, 7);
            canvas.stroke();
          }
        }
    },
  };
}

export function ExpertMap({ message, trace, ringOnly }: { message: Message; trace: Trace; ringOnly?: boolean }) {
  const [scope, setScope] = useState<Scope>("reply");
  const [since, setSince] = useState<number[][] | null>(null);
  const [table, setTable] = useState(false);
  const [cursor, setCursor] = useState({ column: 0, row: 0 });
  useEffect(() => {
    if (scope !== "start") return;
    const ask = () => get<ExpertsAnswer>("/coterie/experts").then((answer) => setSince(answer.tokens)).catch(() => {});
    void ask();
    const timer = setInterval(ask, 2000);
    return () => clearInterval(timer);
  }, [scope]);
  const position = Math.min(state.selection?.message === message.id ? state.selection.position : 0, trace.known - 1);
  const counts = countsOf(trace, scope, position, since);
  const columns = Math.max(1, ...counts.map((row) => row.length));
  const large = innerWidth >= 2200, size = Math.max(8, Math.min(large ? 44 : 28, Math.floor((large ? 1200 : 520) / columns)));
  const ring = new Set<string>();
  for (let layer = 0; layer < trace.layers; ++layer)
    for (let slot = 0; slot < trace.choices; ++slot) ring.add(`${layer}:${choice(trace, position, layer, slot)[0]}`);
  const totals = counts.map((row) => Array.from(row).reduce((a, b) => a + b, 0));
  const idle = counts.map((row) => Array.from(row).filter((count) => !count).length);
  const version = `${message.id} ${scope} ${position} ${size} ${isDark()} ${trace.known} ${totals.join(",")}`;
  const row = Math.min(cursor.row, counts.length - 1), expert = cursor.column;
  const count = counts[row]?.[expert] ?? 0;
  const share = totals[row] ? count / totals[row]! : 0;
  const read = readOf(trace, position);
  return (
    <section aria-label="Map of layers and experts">
      {!ringOnly && (
        <div class="row tools">
          <div class="switch" role="group" aria-label="What is counted">
            {SCOPES.map(([name, label]) => <button key={name} type="button" aria-pressed={scope === name} onClick={() => setScope(name)}>{label}</button>)}
          </div>
          <button type="button" aria-pressed={table} onClick={() => setTable(!table)}>Table</button>
        </div>
      )}
      {counts.length > 0 && (
        <Grid drawing={drawingOf(counts, size, ring, columns, version)} cursor={{ column: Math.min(expert, columns - 1), row }} follow={false}
          label={`Map of ${counts.length} layers and ${columns} experts. Rings: the chosen token's. Arrows move, Enter opens the expert.`} describedBy="map-line"
          onMove={(column, to) => { setCursor({ column, row: to }); select(message, position, to); }}
          onOpen={(column, to) => openExpert(to, column)} />
      )}
      <p id="map-line" class="line" aria-live="polite">
        Layer {layerLabel(row)}, expert {expert}: {scope === "token" ? `weight ${count.toFixed(2)}` : `${count} of ${totals[row] ?? 0}, ${(share * (counts[row]?.length ?? 0)).toFixed(2)} times an even share`}
        {" "}<button type="button" class="chip" onClick={() => openExpert(row, expert)}>open</button>
      </p>
      <p class="note">Rings mark the experts of the chosen token, empty squares are idle. It reads {bytesText(bytesOf(trace, position))} of weights
        {state.model!.read_bytes_per_second > 0 && `, at best ${(1000 * bytesOf(trace, position) / state.model!.read_bytes_per_second).toFixed(2)} ms of this machine's memory`}.
        {read && ` Its step read ${bytesText(read.bytes)} of experts from the disk, for ${read.tokens} ${read.tokens === 1 ? "token" : "tokens"}${read.tokens > 1 ? `: ${bytesText(read.bytes / read.tokens)} each` : ""}.`}</p>
      {scope !== "token" && <Imbalance counts={counts} idle={idle} totals={totals} />}
      {table && <MapTable counts={counts} totals={totals} />}
      <p class="legend" aria-hidden="true">⅛ <span class="ramp" style={{ background: `linear-gradient(to right, ${[0.06, 0.25, 0.5, 0.75, 1].map((t) => css(heat(t, isDark()))).join(",")})` }} /> 8 times an even share</p>
    </section>
  );
}

function Imbalance({ counts, idle, totals }: { counts: ArrayLike<number>[]; idle: number[]; totals: number[] }) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Balance of the layers">
      <table class="small">
        <caption>Balance: 1 is even</caption>
        <thead><tr><th scope="col">Layer</th>{counts.map((_, layer) => <th key={layer} scope="col">{layerLabel(layer)}</th>)}</tr></thead>
        <tbody>
          <tr><th scope="row">Largest over mean</th>{counts.map((row, layer) => <td key={layer}>{totals[layer] ? imbalance(row).toFixed(1) : "–"}</td>)}</tr>
          <tr><th scope="row">Idle experts</th>{idle.map((count, layer) => <td key={layer}>{count}</td>)}</tr>
        </tbody>
      </table>
    </div>
  );
}

function MapTable({ counts, totals }: { counts: ArrayLike<number>[]; totals: number[] }) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Shares of the experts">
      <table class="small">
        <caption>Share of each layer's choices, in per cent</caption>
        <thead><tr><th scope="col">Expert</th>{counts.map((_, layer) => <th key={layer} scope="col">Layer {layerLabel(layer)}</th>)}</tr></thead>
        <tbody>{Array.from({ length: Math.max(0, ...counts.map((row) => row.length)) }, (_, expert) => (
          <tr key={expert}><th scope="row">{expert}</th>{counts.map((row, layer) => (
            <td key={layer}>{expert < row.length ? ((100 * row[expert]!) / Math.max(totals[layer]!, 1e-9)).toFixed(1) : ""}</td>))}</tr>
        ))}</tbody>
      </table>
    </div>
  );
}

export { bytesText };
