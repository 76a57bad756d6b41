// The page with coterie serve and a real model: its pictures are what the server says, and what a newcomer would try.
import { checkStrip, numpy } from "./cells.js";
import { ask, assert, drawn, equal, kept, open, options, picture, serve, test } from "./harness.js";

if (options.binary)
  test("the picture's cells are the server's routed_experts", async () => {
    const server = await serve(options.model);
    const page = await open(server.address);
    await page.click("text=Settings of this conversation");
    await page.getByLabel("Longest answer").first().fill("48");
    await ask(page, "And it came to pass");
    await page.waitForTimeout(500);
    const conversation = (await kept(page))[0];
    const answer = Object.values(conversation.messages).find((message) => message.role === "assistant");
    const trace = answer.trace;
    const model = await (await fetch(`${server.address}coterie/model`)).json();
    const again = await (await fetch(`${server.address}v1/completions`, {
      method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ prompt: trace.promptIds, max_tokens: 48, seed: answer.settings.seed, temperature: answer.settings.temperature,
        top_p: answer.settings.topP, routed_experts: true, return_token_ids: true }),
    })).json();
    equal(again.choices[0].token_ids, trace.ids, "the same request has the same answer");
    equal(again.choices[0].text, answer.text, "its text");
    const { shape, values } = numpy(again.choices[0].routed_experts);
    equal([trace.known, trace.layers, trace.choices], [shape[0], model.routed_layers.length, shape[2]], "shape");
    let compared = 0;
    for (let p = 0; p < trace.known; ++p)
      for (let layer = 0; layer < trace.layers; ++layer)
        for (let slot = 0; slot < trace.choices; ++slot, ++compared) {
          const there = values[(p * shape[1] + model.routed_layers[layer]) * shape[2] + slot];
          if (trace.experts[(p * trace.layers + layer) * trace.choices + slot] !== there) throw new Error(`token ${p}, layer ${layer}, slot ${slot} differs`);
        }
    await page.click("#tab-strip");
    const painted = await checkStrip(page, (p, layer) => trace.experts[(p * trace.layers + layer) * trace.choices]);
    assert(painted >= 10, `${painted} cells were painted`);
    await page.done();
    await server.stop();
    return `${compared} experts, ${painted} painted cells`;
  });

if (options.binary)
  for (const theme of ["light", "dark"])
    test(`which expert takes the commas, and what happens without it, ${theme}`, async () => {
      const server = await serve(options.model);
      const page = await open(server.address, { theme });
      const began = performance.now();
      // What a newcomer does: the first button there is, then the answer to the question that stands at the right.
      await page.click(".examples button >> nth=0");
      const answered = () => page.waitForFunction(() => !document.querySelector("[aria-busy=true]") &&
        document.querySelector(".message.assistant .figures summary")?.textContent.includes("tokens"), null, { timeout: 120000 });
      await answered();
      for (let i = 0; i < 5 && !await page.locator("#view .answer").count(); ++i) { // a text may have no comma
        await page.click("text=Retry");
        await answered();
      }
      const found = await page.textContent("#view .answer");
      await picture(page, `real-${theme}-find`);
      await page.click("[aria-label^='Silence it'] >> nth=0");
      await page.waitForSelector(".badge");
      await page.waitForFunction(() => document.querySelector("#view .answer")?.textContent.includes("loads differ by"), null, { timeout: 120000 });
      const what = await page.textContent("#view .answer");
      await picture(page, `real-${theme}-compare`);
      const seconds = (performance.now() - began) / 1000;
      assert(/Layer \d+, expert \d+ takes \d+ of/.test(found), found);
      assert(/part at token \d+|Equal/.test(what), what);
      assert(/“,”: \d+ against 0/.test(what) || /Without expert \d+ of layer \d+, expert \d+ of that layer takes most of them/.test(what), what);
      const conversation = (await kept(page))[0];
      const changed = Object.values(conversation.messages).find((message) => message.settings?.silence.length);
      const [layer, expert] = changed.settings.silence[0].split(":").map(Number);
      const model = await (await fetch(`${server.address}coterie/model`)).json();
      const routed = model.routed_layers.indexOf(layer), { trace } = changed;
      for (let p = 0; p < trace.known; ++p)
        for (let slot = 0; slot < trace.choices; ++slot)
          assert(trace.experts[(p * trace.layers + routed) * trace.choices + slot] !== expert, `token ${p} went to the silenced expert`);
      for (const view of ["strip", "map", "path", "expert"]) {
        await page.click(`#tab-${view}`);
        await drawn(page);
        if (view === "expert") { await page.click("#tab-find"); await drawn(page); await page.click("[aria-label^='Open layer'] >> nth=0"); await drawn(page); }
        await picture(page, `real-${theme}-${view}`);
      }
      await page.click("text=Tokens");
      await page.click(".token >> nth=-1");
      await page.click("#tab-strip");
      await drawn(page);
      await picture(page, `real-${theme}-tokens`);
      assert(seconds < 120, `it took ${seconds.toFixed(0)} s`);
      await page.done();
      await server.stop();
      return `${seconds.toFixed(1)} s. ${found.replaceAll(/\s+/g, " ")} ${what}`;
    });

/** A seed with which answers to `prompt` do not end before `tokens`, whatever is asked of the experts. */
async function lastingSeed(address, prompt, tokens, changes) {
  for (let seed = 1; seed < 100; ++seed) {
    const ends = await Promise.all(changes.map(async (coterie) => {
      const answer = await (await fetch(`${address}v1/completions`, {
        method: "POST", headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ prompt, max_tokens: tokens, seed, temperature: 0.8, top_p: 0.95, coterie }),
      })).json();
      return answer.choices[0].finish_reason;
    }));
    if (ends.every((reason) => reason === "length")) return seed;
  }
  throw new Error(`every answer ends before ${tokens} tokens`);
}

if (options.binary)
  test("temperature of routers, fewer experts, going on and the server's drawer", async () => {
    const server = await serve(options.model);
    const page = await open(server.address);
    await page.click("text=Settings of this conversation");
    await page.getByLabel("Longest answer").first().fill("24");
    const seed = await lastingSeed(server.address, "In the beginning", 24, [{}, { experts_per_token: 1 }, { experts_per_token: 1, router: "sample:2" }]);
    await page.getByLabel("Seed").first().fill(String(seed));
    await ask(page, "In the beginning");
    await page.click("#tab-compare");
    await page.locator(".compare-ask").getByLabel("experts per token").fill("1");
    await page.click("text=Answer and compare");
    await page.waitForSelector(".pair");
    await page.waitForFunction(() => /part at token|Equal: all/.test(document.querySelector("#view .answer")?.textContent));
    await page.waitForSelector(".message.assistant .figures summary:has-text('tokens')");
    await page.locator(".compare-ask").getByLabel("router temperature").fill("2");
    await page.click("text=Answer and compare");
    await page.waitForFunction(() => document.querySelector(".siblings")?.textContent.includes("3 of 3"));
    await page.waitForSelector(".message.assistant .figures summary:has-text('tokens')");
    await page.click("text=Go on");
    await page.waitForFunction(() => document.querySelectorAll(".message.assistant").length === 2);
    await page.waitForFunction(() => [...document.querySelectorAll(".message.assistant .figures summary")].at(-1)?.textContent.includes("tokens"));
    await page.click(".bar");
    await page.waitForSelector(".server-grid");
    await page.waitForFunction(() => document.querySelectorAll("[aria-label='The last requests'] tbody tr").length >= 4);
    await page.waitForTimeout(600);
    const all = Object.values((await kept(page))[0].messages).filter((message) => message.role === "assistant");
    const counts = all.map((message) => message.trace.ids.length);
    equal(counts.slice(0, 3), [24, 24, 24], "tokens");
    assert(counts.length === 4 && counts[3] >= 1, "what goes on");
    const fewer = all.find((message) => message.settings.expertsPerToken === 1).trace;
    for (let row = 0; row < fewer.known * fewer.layers; ++row) equal(fewer.experts[row * fewer.choices + 1], 65535, "the second expert");
    await page.done();
    await server.stop();
  });
