// A canvas of cells that scrolls: columns are drawn in tiles, once each, so that scrolling moves pictures alone.
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";

export interface GridDrawing {
  columns: number;
  rows: number;
  cellWidth: number; // CSS pixels
  cellHeight: number;
  head: number; // CSS pixels above the cells
  version: string; // of all that is drawn but for the number of columns; tiles of another one are drawn anew
  /** Fills cells of columns from … to - 1 into a tile, `scale` device pixels a CSS pixel. */
  fill(pixels: Uint32Array, width: number, height: number, from: number, to: number, scale: number): void;
  /** Writes over them (numbers, heads of columns). */
  write(canvas: CanvasRenderingContext2D, from: number, to: number, scale: number): void;
  /** Whether columns may still be added or changed: the last tile is then drawn each time. */
  growing: boolean;
}

const TILE = 64; // columns
const KEPT = 48; // tiles

interface Props {
  drawing: GridDrawing;
  cursor: { column: number; row: number } | null;
  label: string;
  describedBy: string;
  follow: boolean; // the right end, as columns come
  onMove(column: number, row: number): void;
  onOpen(column: number, row: number): void;
}

export function Grid({ drawing, cursor, label, describedBy, follow, onMove, onOpen }: Props) {
  const scroller = useRef<HTMLDivElement>(null), canvas = useRef<HTMLCanvasElement>(null);
  const tiles = useRef(new Map<string, HTMLCanvasElement>());
  const latest = useRef({ drawing, cursor });
  latest.current = { drawing, cursor };
  const wasAtEnd = useRef(true);
  const moved = useRef<{ column: number; row: number } | null>(null);
  moved.current = null;
  const height = drawing.head + drawing.rows * drawing.cellHeight;

  const tile = (number: number, scale: number): HTMLCanvasElement => {
    const { drawing: d } = latest.current;
    const from = number * TILE, to = Math.min(from + TILE, d.columns);
    const settled = !d.growing || from + TILE < d.columns;
    const name = `${number} ${d.version} ${scale}`;
    const known = settled && tiles.current.get(name);
    if (known) return known;
    const made = document.createElement("canvas");
    made.width = Math.max(1, Math.round((to - from) * d.cellWidth * scale));
    made.height = Math.max(1, Math.round((d.head + d.rows * d.cellHeight) * scale));
    const context = made.getContext("2d")!;
    const image = context.createImageData(made.width, made.height);
    d.fill(new Uint32Array(image.data.buffer), made.width, made.height, from, to, scale);
    context.putImageData(image, 0, 0);
    d.write(context, from, to, scale);
    if (tiles.current.size > KEPT) tiles.current.delete(tiles.current.keys().next().value!);
    if (settled) tiles.current.set(name, made);
    return made;
  };

  const paint = () => {
    const box = scroller.current, target = canvas.current;
    if (!box || !target) return;
    const { drawing: d, cursor: at } = latest.current;
    const scale = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.min(box.clientWidth, Math.ceil(d.columns * d.cellWidth)));
    const tall = d.head + d.rows * d.cellHeight;
    if (target.width !== Math.round(width * scale) || target.height !== Math.round(tall * scale)) {
      target.width = Math.round(width * scale);
      target.height = Math.round(tall * scale);
      target.style.width = `${width}px`;
      target.style.height = `${tall}px`;
    }
    const context = target.getContext("2d")!;
    context.clearRect(0, 0, target.width, target.height);
    const left = box.scrollLeft;
    const first = Math.floor(left / d.cellWidth / TILE), last = Math.floor((left + width) / d.cellWidth / TILE);
    for (let number = first; number <= last && number * TILE < d.columns; ++number)
      context.drawImage(tile(number, scale), Math.round((number * TILE * d.cellWidth - left) * scale), 0);
    if (at) {
      const x = at.column * d.cellWidth - left, y = d.head + at.row * d.cellHeight;
      const ink = getComputedStyle(box).getPropertyValue("--ink");
      context.strokeStyle = ink;
      context.lineWidth = 1 * scale;
      context.strokeRect((x + 0.5) * scale, 0.5 * scale, (d.cellWidth - 1) * scale, (tall - 1) * scale);
      context.lineWidth = 3 * scale;
      context.strokeRect((x - 0.5) * scale, (y - 0.5) * scale, (d.cellWidth + 1) * scale, (d.cellHeight + 1) * scale);
    }
  };

  useLayoutEffect(() => {
    const box = scroller.current!;
    if (follow && wasAtEnd.current) box.scrollLeft = box.scrollWidth;
    paint();
  });
  useEffect(() => {
    const box = scroller.current!;
    const watch = new ResizeObserver(paint);
    watch.observe(box);
    return () => watch.disconnect();
  }, []);
  // The cursor is kept in view when it moves, not when the view does.
  useEffect(() => {
    const box = scroller.current!;
    if (!cursor) return;
    const x = cursor.column * drawing.cellWidth;
    if (x < box.scrollLeft) box.scrollLeft = x;
    else if (x + drawing.cellWidth > box.scrollLeft + box.clientWidth)
      box.scrollLeft = x + drawing.cellWidth - box.clientWidth;
    paint();
  }, [cursor?.column, cursor?.row]);

  const cell = (event: MouseEvent): [number, number] | null => {
    const box = scroller.current!, bounds = box.getBoundingClientRect();
    const column = Math.floor((event.clientX - bounds.left + box.scrollLeft) / drawing.cellWidth);
    const row = Math.floor((event.clientY - bounds.top + box.scrollTop - drawing.head) / drawing.cellHeight);
    return column >= 0 && column < drawing.columns && row < drawing.rows ? [column, Math.max(row, 0)] : null;
  };
  const onKey = (event: KeyboardEvent) => {
    // Several keys may come before the page is drawn again.
    const at = moved.current ?? cursor ?? { column: 0, row: 0 };
    const page = Math.max(1, Math.floor(scroller.current!.clientWidth / drawing.cellWidth) - 1);
    const moves: Record<string, [number, number]> = {
      ArrowLeft: [at.column - 1, at.row], ArrowRight: [at.column + 1, at.row], ArrowUp: [at.column, at.row - 1],
      ArrowDown: [at.column, at.row + 1], Home: [0, at.row], End: [drawing.columns - 1, at.row],
      PageUp: [at.column - page, at.row], PageDown: [at.column + page, at.row],
    };
    if (event.key === "Enter" || event.key === " ") onOpen(at.column, at.row);
    else if (moves[event.key]) {
      const [x, y] = moves[event.key]!;
      const column = Math.max(0, Math.min(x, drawing.columns - 1)), row = Math.max(0, Math.min(y, drawing.rows - 1));
      moved.current = { column, row };
      onMove(column, row);
    } else return;
    event.preventDefault();
  };
  return (
    <div
      ref={scroller} class="grid" tabIndex={0} role="application" aria-roledescription="picture of cells" aria-label={label}
      aria-describedby={describedBy} onKeyDown={onKey}
      onScroll={() => {
        const box = scroller.current!;
        wasAtEnd.current = box.scrollLeft + box.clientWidth >= box.scrollWidth - 8;
        paint();
      }}
      onClick={(event) => { const at = cell(event); if (at) onMove(...at); }}
      onDblClick={(event) => { const at = cell(event); if (at) onOpen(...at); }}
    >
      <div class="sheet" style={{ width: `${drawing.columns * drawing.cellWidth}px`, height: `${height}px` }}>
        <canvas ref={canvas} aria-hidden="true" />
      </div>
    </div>
  );
}
