// Colours as numbers, for canvases: 0xAABBGGRR, as their pixels lie in memory.

function oklch(l: number, c: number, degrees: number): [number, number, number] {
  const a = c * Math.cos((degrees * Math.PI) / 180), b = c * Math.sin((degrees * Math.PI) / 180);
  const cube = (x: number) => x ** 3;
  const L = cube(l + 0.3963377774 * a + 0.2158037573 * b), M = cube(l - 0.1055613458 * a - 0.0638541728 * b),
    S = cube(l - 0.0894841775 * a - 1.291485548 * b);
  const linear = [
    4.0767416621 * L - 3.3077115913 * M + 0.2309699292 * S, -1.2684380046 * L + 2.6097574011 * M - 0.3413193965 * S,
    -0.0041960863 * L - 0.7034186147 * M + 1.707614701 * S,
  ];
  return linear.map((x) => {
    const clipped = Math.min(Math.max(x, 0), 1);
    return Math.round(255 * (clipped <= 0.0031308 ? 12.92 * clipped : 1.055 * clipped ** (1 / 2.4) - 0.055));
  }) as [number, number, number];
}

export const pixel = ([r, g, b]: [number, number, number]): number => (0xff000000 | (b << 16) | (g << 8) | r) >>> 0;
export const css = ([r, g, b]: [number, number, number]): string => `rgb(${r} ${g} ${b})`;

// Twelve hues by two lightnesses. Neighbouring numbers are far apart in hue and differ in lightness, which is what is
// left of them to eyes that see fewer colours. The number itself is in the cell, the line below, and the table.
const IDENTITY = Array.from({ length: 24 }, (_, i) => oklch(i % 2 ? 0.82 : 0.58, i % 2 ? 0.1 : 0.14, (i * 150 + 20) % 360));
export const expertColour = (expert: number): [number, number, number] => IDENTITY[expert % IDENTITY.length]!;
/** Black or white, whichever is easier to read on it. */
export const inkOn = (expert: number): string => (expert % 2 ? "#000" : "#fff");

/** From nothing (0) to all (1): darker to lighter, or the other way on a light page. */
export function heat(share: number, dark: boolean): [number, number, number] {
  const t = Math.min(Math.max(share, 0), 1);
  return dark ? oklch(0.22 + 0.68 * t, 0.02 + 0.13 * t, 250 - 170 * t) : oklch(0.97 - 0.6 * t, 0.01 + 0.13 * t, 90 + 170 * t);
}
export const isDark = (): boolean =>
  document.documentElement.dataset.theme === "dark" ||
  (document.documentElement.dataset.theme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);

const channels = ([r, g, b]: [number, number, number]) => [r, g, b].map((v) => {
  const x = v / 255;
  return x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
});
/** WCAG's contrast between two colours: 1 to 21. */
export function contrast(a: [number, number, number], b: [number, number, number]): number {
  const light = (c: [number, number, number]) => {
    const [r, g, bl] = channels(c) as [number, number, number];
    return 0.2126 * r + 0.7152 * g + 0.0722 * bl + 0.05;
  };
  const [x, y] = [light(a), light(b)];
  return Math.max(x, y) / Math.min(x, y);
}
