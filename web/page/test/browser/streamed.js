// The page with coterie serve where experts are read from the disk: its bytes, places and cells are the server's.
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { checkStrip, numpy } from "./cells.js";
import { ask, assert, drawn, equal, kept, open, options, picture, serve, test } from "./harness.js";

/** A server with room for some experts alone; it says itself how much is the least. */
async function streamed(file) {
  const more = ["--parallel", "2", "--cache-memory", "4M", "--memory"];
  const refused = spawnSync(options.binary, ["serve", file, "--port", "0", ...more, "1M"], { encoding: "utf8" });
  const least = /takes at least ([\d.]+) MB/.exec(refused.stderr);
  assert(least, `the least memory of a model whose experts are streamed: ${refused.stderr}`);
  return serve(file, ...more, `${Math.ceil(Number(least[1])) + 10}M`);
}

if (options.binary)
  test("experts from the disk: cells, places, bytes and the drawer are the server's", async () => {
    const folder = mkdtempSync(join(tmpdir(), "coterie-page-")), file = join(folder, "f32.gguf");
    try {
      const made = spawnSync(options.binary, ["convert", options.model, "--to", "f32", "-o", file], { encoding: "utf8" });
      equal(made.status, 0, `coterie convert: ${made.stderr}`);
      const server = await streamed(file);
      const get = async (path) => (await fetch(server.address + path)).json();
      const read = ({ reads }) => Math.round(["decode", "prompt"].reduce((sum, kind) => sum + reads[kind].tokens * reads[kind].bytes_per_token, 0));
      const model = await get("coterie/model"), before = await get("coterie/live");
      assert(before.reads, "the server reads experts from the disk");
      const page = await open(server.address);
      await page.click("text=Settings of this conversation");
      await page.getByLabel("Longest answer").first().fill("48");
      await ask(page, "And it came to pass");
      const after = await get("coterie/live"), where = await get("coterie/experts");
      await page.waitForTimeout(600);
      const answer = Object.values((await kept(page))[0].messages).find((message) => message.role === "assistant"), { trace } = answer;
      equal(trace.reads.reduce((sum, each) => sum + each.bytes, 0), read(after) - read(before), "bytes of all steps, and of the server");
      assert(read(after) > read(before), "something was read");
      // The same request again, of a server with room for all: the same tokens and experts.
      const roomy = await serve(file);
      const again = await (await fetch(`${roomy.address}v1/completions`, {
        method: "POST", headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ prompt: trace.promptIds, max_tokens: 48, seed: answer.settings.seed, temperature: answer.settings.temperature,
          top_p: answer.settings.topP, routed_experts: true, return_token_ids: true }),
      })).json();
      await roomy.stop();
      equal(again.choices[0].token_ids, trace.ids, "tokens");
      const { shape, values } = numpy(again.choices[0].routed_experts);
      const expertAt = (p, layer, slot = 0) => values[(p * shape[1] + model.routed_layers[layer]) * shape[2] + slot];
      for (let p = 0; p < trace.known; ++p)
        for (let layer = 0; layer < trace.layers; ++layer)
          for (let slot = 0; slot < trace.choices; ++slot)
            equal(trace.experts[(p * trace.layers + layer) * trace.choices + slot], expertAt(p, layer, slot), `token ${p}, layer ${layer}, slot ${slot}`);
      await page.click("#tab-strip");
      assert(await checkStrip(page, expertAt) >= 10, "painted cells");
      // Where an expert lies.
      const words = { "in a slot": "in a slot that another expert may get", "on the disk": "on the disk: it is read" };
      const seen = new Set();
      for (let expert = 0; expert < 64 && seen.size < 2; ++expert) {
        const place = where.place_names[where.places[0]?.[expert]];
        if (place === undefined || seen.has(place)) continue;
        seen.add(place);
        await page.click("#tab-map");
        await page.press(".grid", "Home");
        for (let i = 0; i < expert; ++i) await page.press(".grid", "ArrowRight");
        await page.press(".grid", "Enter");
        await page.waitForFunction((text) => document.querySelector("#view").textContent.includes(text), words[place]);
        assert((await page.textContent("#view h3")).endsWith(`expert ${expert}`), `expert ${expert}`);
      }
      equal([...seen].sort(), ["in a slot", "on the disk"], "places");
      // The drawer, once nothing runs any more.
      await page.click(".bar");
      await page.waitForSelector(".server-grid");
      await drawn(page);
      const { reads } = after, drawer = await page.textContent("[aria-label='Experts from the disk']");
      for (const part of [`${reads.slots} of ${reads.experts} experts`, `${(100 * reads.decode.hit_share).toFixed(1)} % found there`,
        `${(reads.decode.bytes_per_token / 1e6).toFixed(1)} MB read a token`]) assert(drawer.includes(part), `${part} in: ${drawer}`);
      assert((await page.textContent(".server-grid")).includes("0 running, 0 queued, 0 paused; 2 at once"), "lanes");
      const last = await page.locator("[aria-label='The last requests'] tbody tr").allTextContents();
      assert(last.some((row) => row.includes(`${trace.promptIds.length} + ${trace.ids.length}`)), `the request among the last: ${last}`);
      await picture(page, "streamed-server");
      await page.done();
      await server.stop();
      return `${(read(after) / 1e6).toFixed(1)} MB read, ${reads.slots} of ${reads.experts} experts in memory`;
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
