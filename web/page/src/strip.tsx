// The strip: a column a token, a row a layer with a router; in each cell the token's experts, as wide as their weights.
import { useState } from "preact/hooks";
import { expertColour, inkOn, isDark, pixel } from "./colours";
import type { Message } from "./conversation";
import { Grid, type GridDrawing } from "./grid";
import { layerLabel, openExpert, select, state } from "./state";
import { type Trace, NONE, choice, firstShare, length, textAt, visible } from "./trace";

const SIZES: [number, number][] = [[6, 6], [10, 9], [16, 12], [26, 16], [40, 20], [60, 28]];
/** Where it begins: the more layers the smaller, and larger on large screens. */
const firstSize = (layers: number): number => (layers > 24 ? 1 : layers > 12 ? 2 : 3) + (innerWidth >= 2200 ? 2 : 0);

const COLOURS = Array.from({ length: 24 }, (_, i) => pixel(expertColour(i)));

export function drawingOf(message: Message, trace: Trace, size: number, running: boolean, highlight: { layer: number; expert: number } | null): GridDrawing {
  const [cellWidth, cellHeight] = SIZES[size]!;
  const dark = isDark(), letters = cellHeight >= 28 ? 14 : 10, head = letters + 6;
  const ground = dark ? 0xff241d1a : 0xfff7f4f2, faint = dark ? 0xff3a322d : 0xffe2ddd8;
  return {
    columns: trace.known, rows: trace.layers, cellWidth, cellHeight, head,
    version: `${message.id} ${size} ${dark} ${highlight ? `${highlight.layer}:${highlight.expert}` : ""} ${trace.promptTexts.length}`,
    growing: running,
    fill(pixels, width, height, from, to, scale) {
      pixels.fill(ground);
      for (let p = from; p < to; ++p)
        for (let layer = 0; layer < trace.layers; ++layer) {
          const left = Math.round((p - from) * cellWidth * scale), right = Math.min(width, Math.round((p - from + 1) * cellWidth * scale) - 1);
          const top = Math.round((head + layer * cellHeight) * scale), bottom = Math.min(height, Math.round((head + (layer + 1) * cellHeight) * scale) - 1);
          let all = 0;
          for (let slot = 0; slot < trace.choices; ++slot) all += Math.abs(choice(trace, p, layer, slot)[1]);
          let x = left, sum = 0;
          for (let slot = 0; slot < trace.choices; ++slot) {
            const [expert, weight] = choice(trace, p, layer, slot);
            if (expert === NONE) continue;
            sum += Math.abs(weight);
            const end = all > 0 ? left + Math.round(((right - left) * sum) / all) : right;
            const lit = !highlight || highlight.layer !== layer || highlight.expert === expert;
            const colour = lit ? COLOURS[expert % COLOURS.length]! : faint;
            for (let y = top; y < bottom; ++y) pixels.fill(colour, y * width + x, y * width + end);
            x = end;
          }
        }
    },
    write(canvas, from, to, scale) {
      canvas.font = `${Math.round(letters * scale)}px system-ui, sans-serif`;
      canvas.textBaseline = "middle";
      canvas.fillStyle = dark ? "#e8e2dc" : "#1c1917";
      if (cellWidth >= 16)
        for (let p = from; p < to; ++p) {
          canvas.save();
          canvas.beginPath();
          canvas.rect((p - from) * cellWidth * scale, 0, (cellWidth - 1) * scale, head * scale);
          canvas.clip();
          canvas.fillText(visible(textAt(trace, p)), ((p - from) * cellWidth + 1) * scale, (head / 2) * scale);
          canvas.restore();
        }
      const prompt = (trace.promptIds.length - from) * cellWidth * scale;
      if (trace.promptIds.length > from && trace.promptIds.length <= to) canvas.fillRect(prompt - scale, 0, 2 * scale, canvas.canvas.height);
      if (cellWidth < 26) return;
      canvas.textAlign = "left";
      for (let p = from; p < to; ++p)
        for (let layer = 0; layer < trace.layers; ++layer) {
          const [expert] = choice(trace, p, layer, 0);
          // A number that is wider than its expert's part would stand on the next one's colour.
          const narrow = cellWidth * scale * firstShare(trace, p, layer) < canvas.measureText(String(expert)).width + 3 * scale;
          if (expert === NONE || narrow || (highlight && highlight.layer === layer && highlight.expert !== expert)) continue;
          canvas.fillStyle = inkOn(expert);
          canvas.fillText(String(expert), ((p - from) * cellWidth + 2) * scale, (head + (layer + 0.5) * cellHeight) * scale);
        }
    },
  };
}

export function describeCell(trace: Trace, position: number, layer: number): string {
  const list = [];
  for (let slot = 0; slot < trace.choices; ++slot) {
    const [expert, weight] = choice(trace, position, layer, slot);
    if (expert !== NONE) list.push(`expert ${expert} with weight ${weight.toFixed(2)}`);
  }
  const name = `Token ${position + 1}, “${visible(textAt(trace, position))}”, layer ${layerLabel(layer)}`;
  return `${name}: ${list.join(", ") || "no expert"}; entropy ${trace.entropy[position * trace.layers + layer]?.toFixed(2)} nats`;
}

export function StripTable({ trace, at, name }: { trace: Trace; at: number; name: string }) {
  const from = Math.max(0, Math.min(at - 12, trace.known - 25)), to = Math.min(trace.known, from + 25);
  const rows = [];
  for (let p = from; p < to; ++p)
    rows.push(
      <tr key={p} class={p === at ? "chosen" : undefined}>
        <th scope="row">{p + 1} <code>{visible(textAt(trace, p))}</code></th>
        {Array.from({ length: trace.layers }, (_, layer) => (
          <td key={layer}>{Array.from({ length: trace.choices }, (_, slot) => {
            const [expert, weight] = choice(trace, p, layer, slot);
            return expert === NONE ? "" : `${expert} (${weight.toFixed(2)})`;
          }).filter(Boolean).join(", ")}</td>
        ))}
      </tr>,
    );
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={`Experts of the tokens around the chosen one, ${name}`}>
      <table class="small">
        <caption>Tokens {from + 1} to {to} of {length(trace)}: experts of each layer, with their weights</caption>
        <thead><tr><th scope="col">Token</th>{Array.from({ length: trace.layers }, (_, layer) => <th key={layer} scope="col">Layer {layerLabel(layer)}</th>)}</tr></thead>
        <tbody>{rows}</tbody>
      </table>
    </div>
  );
}

export function Strip({ message, trace, name = "strip" }: { message: Message; trace: Trace; name?: string }) {
  const [size, setSize] = useState(firstSize(trace.layers));
  const [table, setTable] = useState(false);
  const running = state.running.has(message.id);
  const mine = state.selection?.message === message.id ? state.selection : null;
  const position = Math.min(mine?.position ?? 0, trace.known - 1), layer = Math.min(mine?.layer ?? 0, trace.layers - 1);
  // Of two answers side by side all cells are to be seen: a silenced expert has none.
  const highlight = name === "strip" && mine && mine.expert !== null ? { layer: mine.layer, expert: mine.expert } : null;
  const line = `${name}-line`;
  return (
    <section aria-label={name === "strip" ? "Experts of each token" : `Experts of each token, ${name} answer`}>
      <div class="row tools">
        <div role="group" aria-label="Zoom" class="switch">
          <button type="button" onClick={() => setSize(Math.max(0, size - 1))} disabled={size === 0} aria-label="Smaller cells">−</button>
          <button type="button" onClick={() => setSize(Math.min(SIZES.length - 1, size + 1))} disabled={size === SIZES.length - 1} aria-label="Larger cells">+</button>
        </div>
        <button type="button" aria-pressed={table} onClick={() => setTable(!table)}>Table</button>
        {highlight && <button type="button" onClick={() => select(message, position, layer, null)}>All experts again</button>}
      </div>
      <Grid drawing={drawingOf(message, trace, size, running, highlight)} cursor={{ column: position, row: layer }} follow={running}
        label={`Strip of ${trace.known} tokens and ${trace.layers} layers. Arrows move, Enter opens the first expert.`} describedBy={line}
        onMove={(column, row) => select(message, column, row)}
        onOpen={(column, row) => { const [expert] = choice(trace, column, row, 0); if (expert !== NONE) { select(message, column, row); openExpert(row, expert); } }} />
      <p id={line} class="line" aria-live="polite">{describeCell(trace, position, layer)}</p>
      <p class="chips">{Array.from({ length: trace.choices }, (_, slot) => choice(trace, position, layer, slot)[0]).filter((e) => e !== NONE).map((expert) => (
        <button key={expert} type="button" class="chip" onClick={() => openExpert(layer, expert)}>expert {expert}</button>))}</p>
      {table && <StripTable trace={trace} at={position} name={name} />}
    </section>
  );
}
