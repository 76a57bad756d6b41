// What the strip has painted, against what it has to.
import { fileURLToPath } from "node:url";
import { build } from "vite";
import { equal } from "./harness.js";

/** A module of the page, for figures that are counted again here. */
export async function source(name) {
  const made = await build({
    root: fileURLToPath(new URL("../..", import.meta.url)), configFile: false, logLevel: "error",
    build: { ssr: fileURLToPath(new URL(`../../src/${name}.ts`, import.meta.url)), write: false, minify: false, target: "node20" },
  });
  return import(`data:text/javascript,${encodeURIComponent(made.output[0].code)}`);
}

/** The bytes of a .npy of u1 or u2, and its shape. */
export function numpy(base64) {
  const bytes = Buffer.from(base64, "base64"), size = bytes.readUInt16LE(8);
  const head = bytes.subarray(10, 10 + size).toString();
  const shape = /\(([^)]*)\)/.exec(head)[1].split(",").map(Number), width = head.includes("<u2") ? 2 : 1;
  const body = bytes.subarray(10 + size), values = [];
  for (let i = 0; i < body.length; i += width) values.push(width === 2 ? body.readUInt16LE(i) : body[i]);
  return { shape, values };
}

const WIDTH = 16, HEIGHT = 12, HEAD = 16; // pixels of a cell in the middle size, and of the line above the cells

/** Of the columns that can be seen: [column, layer, [red, green, blue]] at the left of each cell, and how many there are. */
const cells = (page) => page.evaluate(([width, height, head]) => {
  const box = document.querySelector(".grid"), canvas = box.querySelector("canvas"), found = [];
  const context = canvas.getContext("2d");
  for (let column = Math.ceil(box.scrollLeft / width); (column + 1) * width <= box.scrollLeft + canvas.width; ++column)
    for (let layer = 0; head + (layer + 1) * height <= canvas.height; ++layer)
      found.push([column, layer, [...context.getImageData(column * width - box.scrollLeft + 1, head + layer * height + 5, 1, 1).data.slice(0, 3)]]);
  const number = (pattern, text) => Number(pattern.exec(text)[1]);
  return {
    found, columns: number(/Strip of (\d+)/, box.getAttribute("aria-label")),
    chosen: number(/Token (\d+)/, document.querySelector("#strip-line").textContent) - 1, cell: document.querySelector(".sheet").offsetWidth,
  };
}, [WIDTH, HEIGHT, HEAD]);

/**
 * Compares the cells of the strip that can be seen, but for the chosen token's and its neighbours', which a frame
 * covers, with the colour of the expert that is the first at (column, layer). Returns how many were compared.
 */
export async function checkStrip(page, expertAt) {
  const { expertColour } = await source("colours");
  const { columns, cell } = await cells(page);
  if (cell > columns * WIDTH) await page.click("[aria-label='Smaller cells']");
  const { found, chosen, columns: now } = await cells(page);
  const compared = found.filter(([column]) => Math.abs(column - chosen) > 1);
  for (const [column, layer, colour] of compared)
    equal(colour, expertColour(expertAt(column, layer)), `the colour of token ${column + 1} of ${now}, layer ${layer}`);
  return compared.length;
}
