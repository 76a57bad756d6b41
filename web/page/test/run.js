// Bundles the unit tests (Node 20 reads no TypeScript) and runs them with Node's own runner.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "vite";

const here = fileURLToPath(new URL(".", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "coterie-page-"));
const files = readdirSync(join(here, "unit")).filter((name) => name.endsWith(".test.tsx") || name.endsWith(".test.ts"));
await build({
  root: here, configFile: false, logLevel: "error",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  ssr: { noExternal: true },
  build: {
    ssr: true, outDir: folder, minify: false, target: "node20",
    rollupOptions: { input: files.map((name) => join(here, "unit", name)), output: { entryFileNames: "[name].mjs" } },
  },
});
const result = spawnSync(process.execPath, ["--test", ...files.map((name) => join(folder, name.replace(/\.tsx?$/, ".mjs")))], { stdio: "inherit" });
rmSync(folder, { recursive: true });
process.exit(result.status ?? 1);
