// The pictures of experts: each view, by mouse and by keyboard, in both themes, at all sizes; and how fast they scroll.
import { ask, assert, drawn, equal, open, picture, test, violations } from "./harness.js";
import { checkStrip } from "./cells.js";
import { Mock, expertAt } from "./mock.js";

const VIEWS = ["find", "strip", "map", "path", "expert", "compare"];

for (const theme of ["light", "dark"])
  test(`every view without a violation of WCAG 2.2 AA, ${theme}`, async () => {
    const mock = await new Mock().start();
    mock.says = Array.from({ length: 40 }, (_, i) => (i % 5 === 4 ? "," : ` word${i}`));
    const page = await open(mock.address, { theme });
    equal(await violations(page), [], "empty");
    await picture(page, `${theme}-empty`);
    await ask(page, "Hi");
    await page.click("text=Settings of this conversation");
    equal(await violations(page), [], "settings");
    await page.click("text=Settings of this conversation");
    for (const view of VIEWS) {
      await page.click(`#tab-${view}`);
      await drawn(page);
      if (view === "strip") {
        await page.press(".grid", "Enter"); // an expert is chosen, so that its view has something to show
        await page.waitForSelector("#tab-expert[aria-selected=true]");
        await page.click("#tab-strip");
        await drawn(page);
      }
      const table = page.locator("#view button:text-is('Table')");
      if (await table.count()) await table.click();
      equal(await violations(page), [], view);
      await picture(page, `${theme}-${view}`);
    }
    await page.click("#tab-find");
    await page.click("[aria-label^='Silence it'] >> nth=0");
    await page.waitForSelector("#tab-compare[aria-selected=true]");
    await page.waitForFunction(() => document.querySelector(".pair"));
    await page.waitForTimeout(200);
    equal(await violations(page), [], "compared");
    await picture(page, `${theme}-compared`);
    equal(mock.requests[1].coterie.silence?.length, 1, "an expert is silenced");
    equal(mock.requests[1].seed, mock.requests[0].seed, "the same seed");
    await page.click("text=Tokens");
    await page.click(".bar");
    await page.waitForSelector(".server-grid");
    equal(await violations(page), [], "server and tokens");
    await picture(page, `${theme}-server`);
    await page.keyboard.press("Escape");
    await page.done();
    await mock.stop();
  });

test("the keyboard alone", async () => {
  const mock = await new Mock().start();
  mock.says = Array.from({ length: 30 }, (_, i) => (i % 5 === 4 ? "," : ` word${i}`));
  const page = await open(mock.address);
  const focused = () => page.evaluate(() => document.activeElement?.id || document.activeElement?.className || document.activeElement?.tagName);
  const tabTo = async (wanted) => {
    for (let i = 0; i < 60; ++i) {
      await page.keyboard.press("Tab");
      if ((await focused()).includes(wanted)) return;
    }
    throw new Error(`Tab never comes to ${wanted}`);
  };
  await tabTo("ask");
  await page.keyboard.type("Hello there");
  await page.keyboard.press("Enter");
  await page.waitForSelector(".figures summary:has-text('tokens')");
  await tabTo("tab-find");
  await page.keyboard.press("ArrowRight");
  await page.waitForSelector("#tab-strip[aria-selected=true]");
  await page.waitForFunction(() => document.activeElement?.id === "tab-strip");
  await tabTo("grid");
  const line = async () => {
    await drawn(page);
    return page.textContent("#strip-line");
  };
  const before = await line();
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowDown");
  const after = await line();
  assert(before !== after && after.includes("layer 1"), `the cell is told: ${after}`);
  await page.keyboard.press("End");
  assert((await line()).startsWith("Token 35,"), await line());
  await page.keyboard.press("Home");
  assert((await line()).startsWith("Token 1,"), await line());
  await page.keyboard.press("Enter");
  await page.waitForSelector("#tab-expert[aria-selected=true]");
  await page.keyboard.press("Alt+KeyT");
  await page.waitForSelector(".token");
  await page.focus(".token >> nth=0");
  await page.keyboard.press("ArrowRight");
  equal(await page.evaluate(() => document.activeElement.dataset.position), "7", "the next token");
  await page.keyboard.press("Alt+Digit3");
  await page.waitForSelector("#tab-map[aria-selected=true]");
  await page.focus("#tab-map");
  await page.keyboard.press("?");
  await page.waitForSelector("dialog[open]");
  equal(await violations(page), [], "the dialog");
  await page.keyboard.press("Escape");
  await page.waitForSelector("dialog[open]", { state: "detached" }).catch(() => {});
  // Whatever has the focus can be seen.
  await page.keyboard.press("Tab");
  const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  equal(outline, "solid", "the focus is marked");
  await page.done();
  await mock.stop();
});

for (const [width, height] of [[360, 740], [768, 1024], [1280, 800], [1920, 1080], [3840, 2160]])
  test(`the layout at ${width} × ${height}`, async () => {
    const mock = await new Mock().start();
    mock.says = Array.from({ length: 60 }, (_, i) => (i % 5 === 4 ? "," : ` word${i}`));
    const page = await open(mock.address, { width, height, hasTouch: width < 800 });
    await ask(page, "A question that is somewhat longer than the others, so that it has to be broken into lines.");
    const narrow = width <= 900;
    for (const view of VIEWS) {
      if (narrow) await page.click(".columns-switch >> text=Experts");
      await page.click(`#tab-${view}`);
      await drawn(page);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert(wide <= 0, `${view}: ${wide} pixels wider than the screen`);
      if (width === 360) equal(await violations(page), [], view);
      if (view === "strip" || view === "find") await picture(page, `${width}-${view}`);
    }
    if (narrow) {
      await page.click(".columns-switch >> text=Server");
      await page.waitForSelector(".server-grid");
      await picture(page, `${width}-server`);
      await page.click(".columns-switch >> text=Chat");
    }
    await picture(page, `${width}-chat`);
    const small = await page.evaluate(() => [...document.querySelectorAll("button, select, input, summary")]
      .filter((e) => e.offsetParent && !e.classList.contains("hidden")).map((e) => [e.textContent || e.id || e.className, e.getBoundingClientRect()])
      .filter(([, box]) => box.width > 0 && (box.height < 23.5 || box.width < 23.5)).map(([name, box]) => `${name} ${box.width}×${box.height}`)
      .filter((each) => !/^(on |\s*13|undefined)/.test(each)));
    equal(small.filter((each) => !each.includes("13×13")), [], "targets below 24 pixels");
    await page.done();
    await mock.stop();
  });

for (const theme of ["light", "dark"])
  test(`an ensemble says which model answered each token, ${theme}`, async () => {
    const mock = await new Mock().start();
    Object.assign(mock, { models: ["poet", "prophet"], dense: true, says: Array.from({ length: 70 }, (_, i) => ` word${i}`) });
    const page = await open(mock.address, { theme });
    await ask(page, "Hi");
    equal(await page.locator("[role=tab]").allTextContents(), ["Models", "Compare"], "views");
    await page.click("#tab-models");
    await drawn(page);
    equal(await page.locator("#view table >> nth=0 >> tbody tr").allTextContents(), [" 1poet3550.0 %", " 2prophet3550.0 %"], "who answered");
    equal(await page.locator("#view table >> nth=1 >> tbody tr >> nth=1 >> td").allTextContents(), ["␣word1", " 2", "25.0 %", "75.0 %"], "the second token");
    await page.click("text=Next tokens");
    await drawn(page);
    equal(await page.locator("#view table >> nth=1 >> tbody tr").count(), 10, "the last page");
    equal(await violations(page), [], "models");
    await page.click("text=Tokens >> nth=0");
    await page.selectOption(".chat select", "model");
    await drawn(page);
    equal(await page.locator(".token").evaluateAll((all) => all.slice(0, 3).map((each) => each.dataset.model)), ["1", "2", "1"], "numbers at the tokens");
    equal(await violations(page), [], "tokens");
    await picture(page, `${theme}-models`);
    await page.done();
    await mock.stop();
  });

test("experts on the disk are told, and what a step read of them", async () => {
  const mock = await new Mock().start();
  mock.disk = true;
  const page = await open(mock.address);
  await ask(page, "Hi");
  await page.click("#tab-map");
  await drawn(page);
  assert((await page.textContent("#view")).includes("Its step read 3.0 MB of experts from the disk, for 2 tokens: 1.5 MB each."), "bytes");
  await page.click("#tab-find");
  await page.fill("#view input", "Hello");
  await page.click("[aria-label^='Open layer'] >> nth=0");
  await page.waitForFunction(() => /slot that another expert may get|on the disk: it is read/.test(document.querySelector("#view").textContent));
  await page.click("text=Tokens >> nth=0");
  await page.selectOption(".chat select", "surprise");
  await page.click(".token >> nth=1");
  assert(/Surprise of its way\d+\.\d bits/.test(await page.textContent(".token-card")), await page.textContent(".token-card"));
  equal(await violations(page), [], "the card");
  await page.done();
  await mock.stop();
});

test("the strip grows with the answer, and shows the version that is chosen", async () => {
  const mock = await new Mock().start();
  Object.assign(mock, { pace: 40, says: Array.from({ length: 200 }, (_, i) => ` w${i}`) });
  const page = await open(mock.address);
  const check = () => checkStrip(page, (p, l) => expertAt(p, l, 0, mock.experts, mock.shift));
  await ask(page, "Hi", false);
  await page.click("#tab-strip");
  for (const tokens of [10, 40, 90]) { // within a tile, and beyond it
    await page.waitForFunction((least) => Number(/Strip of (\d+)/.exec(document.querySelector(".grid")?.getAttribute("aria-label"))?.[1]) >= least, tokens);
    assert(await check() > 20, "cells while it is written");
  }
  await page.keyboard.press("Escape");
  await page.waitForSelector(".progress.stopped");
  Object.assign(mock, { pace: 0, shift: 4, says: mock.says.slice(0, 80) });
  await page.click("text=Retry");
  await page.waitForSelector(".figures summary:has-text('80 tokens')");
  await check();
  mock.shift = 9;
  await page.click("text=Retry");
  await page.waitForFunction(() => document.querySelector(".siblings")?.textContent.includes("3 of 3") && document.querySelector(".figures summary")?.textContent.includes("80 tokens"));
  await check();
  mock.shift = 4; // of as many tokens, with other experts
  await page.click("[aria-label='The version before']");
  await check();
  const map = async () => {
    await drawn(page);
    return page.evaluate(() => document.querySelector(".grid canvas").toDataURL());
  };
  await page.click("#tab-map");
  const before = await map();
  await page.click("[aria-label='The next version']");
  assert(before !== await map(), "the map of the other version");
  await page.done();
  await mock.stop();
});

test("motion is not asked for where it is not wanted, and 200 % zoom has room", async () => {
  const mock = await new Mock().start();
  const page = await open(mock.address, { width: 640, height: 400, reducedMotion: "reduce", deviceScaleFactor: 2 });
  await ask(page, "Hi");
  const moving = await page.evaluate(() => document.getAnimations().length);
  equal(moving, 0, "animations");
  assert(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "wider than the screen");
  await page.done();
  await mock.stop();
});

test("10,000 tokens × 48 layers scroll at 50 frames a second", async () => {
  const mock = await new Mock().start();
  Object.assign(mock, { layers: 48, k: 8, experts: 128, says: Array.from({ length: 10000 }, (_, i) => ` w${i}`) });
  const page = await open(mock.address);
  await ask(page, "Hi");
  await page.click("#tab-strip");
  await page.click("[aria-label='Larger cells']");
  await page.waitForTimeout(500);
  const frames = await page.evaluate(() => new Promise((resolve) => {
    const box = document.querySelector(".grid"), times = [];
    box.scrollLeft = 0;
    let last = performance.now(), count = 0;
    const step = (now) => {
      times.push(now - last);
      last = now;
      box.scrollLeft += 40;
      if (++count < 240) requestAnimationFrame(step);
      else resolve(times.slice(5).sort((a, b) => a - b));
    };
    requestAnimationFrame(step);
  }));
  const p95 = frames[Math.floor(frames.length * 0.95)], median = frames[Math.floor(frames.length / 2)];
  await picture(page, "10000x48");
  assert(p95 <= 20, `95 % of frames within ${p95.toFixed(1)} ms, expected 20 (median ${median.toFixed(1)}, largest ${frames.at(-1).toFixed(1)})`);
  await page.done();
  await mock.stop();
  return `95 % of frames within ${p95.toFixed(1)} ms, median ${median.toFixed(1)}, largest ${frames.at(-1).toFixed(1)}`;
});
