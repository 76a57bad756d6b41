// Builds the page into one file, page.html, which is committed and embedded into the program (cmake/embed.cmake).
//   node build.js            writes it
//   node build.js --check    fails where the committed one is not what would be written
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "vite";

const here = fileURLToPath(new URL(".", import.meta.url));
const read = (name) => readFileSync(here + name, "utf8");

const result = await build({
  root: here,
  configFile: false,
  logLevel: "warn",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    write: false, target: "es2022", modulePreload: false, cssCodeSplit: false,
    rollupOptions: { input: here + "src/main.tsx", output: { format: "iife", entryFileNames: "page.js" } },
  },
});
const output = (Array.isArray(result) ? result[0] : result).output;
const script = output.find((part) => part.type === "chunk").code.trim();
const style = String(output.find((part) => part.fileName.endsWith(".css")).source).trim();
for (const [name, text] of [["script", script], ["style", style]])
  if (text.toLowerCase().includes(`</${name}`)) throw new Error(`the ${name} would end its own element`);
if ((script + style).includes(')embedded"')) throw new Error("the page would end the literal that holds it");

const hash = (text) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;
// Nothing but this script and this style, and connections to the server that the page came from.
const policy = [
  "default-src 'none'", `script-src ${hash(script)}`, `style-src ${hash(style)}`, "connect-src 'self'",
  "img-src data:", "base-uri 'none'", "form-action 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'",
].join("; ");

const licences = ["preact", "marked"].map((name) => {
  const about = JSON.parse(read(`node_modules/${name}/package.json`));
  const file = ["LICENSE", "LICENSE.md"].find((each) => { try { return read(`node_modules/${name}/${each}`); } catch { return ""; } });
  return `${name} ${about.version}, ${about.license}\n\n${read(`node_modules/${name}/${file}`).trim()}`;
}).join("\n\n").replaceAll("--", "- -");

const page = `<!doctype html>
<!--
The page of coterie serve. Made by web/page/build.js from web/page/src: do not edit. In it are

${licences}
-->
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Coterie</title>
<link rel="icon" href="data:,">
<style>${style}</style>
</head>
<body>
<div id="page"></div>
<noscript>This page needs JavaScript. Programs find the API at /v1; /openapi.json describes it.</noscript>
<script>${script}</script>
</body>
</html>
`;
if (process.argv.includes("--check")) {
  if (read("page.html") !== page) {
    console.error("web/page/page.html is not what web/page/src makes: run ./dev page build and commit it");
    process.exit(1);
  }
} else {
  writeFileSync(here + "page.html", page);
  console.log(`page.html: ${Math.round(page.length / 1024)} KiB`);
}
