// What the browser's tests share: a browser, pages that fail on whatever they complain of, axe, pictures.
import { readFileSync, mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { spawn } from "node:child_process";
import { chromium } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

export const options = {};
for (let i = 2; i < process.argv.length; i += 2) options[process.argv[i].replace(/^--/, "")] = process.argv[i + 1];

export function assert(good, what) {
  if (!good) throw new Error(what);
}
export function equal(found, expected, what) {
  const [a, b] = [JSON.stringify(found), JSON.stringify(expected)];
  if (a !== b) throw new Error(`${what}: expected ${b.slice(0, 400)}, found ${a?.slice(0, 400)}`);
}

export const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", "--disable-gpu"] });

const WAIT = 60000; // ms, of whatever is waited for: a busy machine is no fault of the page
const opened = []; // pages and servers of the test that runs, to be ended with it

/**
 * A page whose errors, dialogs and requests for other places are collected in `faults`. What a click, a key or a field
 * changes is drawn with the next frame: these wait for it.
 */
export async function open(address, { width = 1280, height = 800, theme = "light", expects = [], locked = false, ...more } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: theme, ...more });
  const page = await context.newPage();
  page.setDefaultTimeout(WAIT);
  page.faults = [];
  opened.push({ page, end: () => context.close() });
  for (const act of ["click", "press", "fill", "check", "selectOption"]) {
    const plain = page[act].bind(page);
    page[act] = async (...more) => {
      await plain(...more);
      await drawn(page);
    };
  }
  const expected = (text) => expects.some((each) => text.includes(each));
  page.on("pageerror", (error) => page.faults.push(`error: ${error.message}`));
  page.on("console", (message) => { if (message.type() === "error" && !expected(message.text())) page.faults.push(`console: ${message.text()}`); });
  page.on("dialog", (dialog) => { page.faults.push(`dialog: ${dialog.message()}`); void dialog.dismiss(); });
  page.on("request", (request) => { if (!request.url().startsWith(address) && !request.url().startsWith("data:")) page.faults.push(`asks ${request.url()}`); });
  await page.goto(address);
  await page.waitForSelector("#ask");
  if (!locked) await page.waitForFunction(() => document.querySelector(".model")?.textContent !== "");
  page.done = async () => {
    equal(page.faults, [], "the page complained");
    await context.close();
  };
  return page;
}

export async function ask(page, text, wait = true) {
  await page.fill("#ask", text);
  await page.press("#ask", "Enter");
  if (wait) await page.waitForSelector(".message.assistant:last-of-type .figures summary:has-text('tokens')", { timeout: 2 * WAIT });
}

/** Until what was changed has been drawn. */
export const drawn = (page) => page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));

/** Violations of WCAG 2.2 A and AA, and of axe's best practices. */
export async function violations(page) {
  await drawn(page);
  await page.evaluate(axe);
  const found = await page.evaluate(() => window.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));
  return found.violations.map((each) => `${each.id}: ${each.nodes.map((node) => `${node.target.join(" ")} (${node.failureSummary.split("\n")[1]?.trim()})`).slice(0, 3).join("; ")}`);
}

export async function picture(page, name) {
  if (!options.pictures) return;
  mkdirSync(options.pictures, { recursive: true });
  await page.screenshot({ path: `${options.pictures}/${name}.png` });
}

/** All conversations as the browser keeps them; typed arrays as lists. */
export const kept = (page) => page.evaluate(() => new Promise((resolve) => {
  const request = indexedDB.open("coterie", 1);
  request.onsuccess = () => {
    const all = request.result.transaction("conversations").objectStore("conversations").getAll();
    all.onsuccess = () => resolve(JSON.parse(JSON.stringify(all.result, (_, value) => ArrayBuffer.isView(value) ? Array.from(value) : value)));
  };
}));

/** coterie serve on a free port. */
export async function serve(model, ...more) {
  const process_ = spawn(options.binary, ["serve", model, "--port", "0", "--quiet", ...more], { stdio: ["ignore", "pipe", "inherit"] });
  const address = await new Promise((resolve, reject) => {
    let text = "";
    process_.stdout.on("data", (part) => {
      text += part;
      const found = /listening on (http:\S+)/.exec(text);
      if (found) resolve(`${found[1]}/`);
    });
    process_.on("exit", (code) => reject(new Error(`coterie serve ended with ${code}`)));
  });
  const stop = () => new Promise((resolve) => {
    if (process_.exitCode !== null) return resolve();
    process_.on("exit", resolve);
    process_.kill("SIGTERM");
  });
  opened.push({ end: stop });
  return { address, stop };
}

const tests = [];
export const test = (name, run) => tests.push({ name, run });

export async function runAll() {
  let failed = 0, passed = 0;
  for (const { name, run } of tests) {
    if (options.only && !name.includes(options.only)) continue;
    const began = performance.now();
    try {
      const note = await run();
      ++passed;
      console.log(`ok      ${name} (${((performance.now() - began) / 1000).toFixed(1)} s)${note ? `: ${note}` : ""}`);
    } catch (error) {
      ++failed;
      const line = /test\/browser\/(?!harness)[a-z]+\.js:\d+/.exec(error.stack ?? "")?.[0] ?? "";
      console.log(`FAILED  ${name}: ${error.message.split("\n")[0]} (${line})`);
      for (const { page } of opened.filter((each) => each.page && !each.page.isClosed())) {
        for (const fault of page.faults) console.log(`        the page complained: ${fault}`);
        await picture(page, `failed-${failed}`).catch(() => {});
      }
    }
    for (const each of opened.splice(0)) await each.end().catch(() => {});
  }
  await browser.close();
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed ? 1 : 0);
}
