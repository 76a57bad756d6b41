// The conversation: streams, stops, versions, waiting, keys, faults, attacks.
import { ask, assert, drawn, equal, kept, open, picture, test, violations } from "./harness.js";
import { Mock } from "./mock.js";

const shown = (page) => page.textContent(".message.assistant:last-of-type .prose");

test("a question, its answer as text and as tokens, kept over a reload", async () => {
  const mock = await new Mock().start();
  mock.says = ["**Bo", "ld** ", "and `code`", ",", " <b>raw</b>", ".\n\n- one\n- two"];
  const page = await open(mock.address);
  await ask(page, "Hi");
  equal(await page.textContent(".prose strong"), "Bold", "Markdown");
  equal(await page.locator(".prose li").count(), 2, "a list");
  assert((await shown(page)).includes("<b>raw</b>"), "HTML is text");
  await page.click("text=Tokens");
  equal(await page.locator(".token").count(), 6, "a button for each token");
  await page.click(".token >> nth=3");
  await drawn(page);
  const card = await page.textContent(".token-card");
  assert(card.includes("number 10") && card.includes("74 %") && card.includes("other"), `the token's card: ${card}`);
  await page.check("text=The prompt's tokens too");
  equal(await page.locator(".token.prompt").count(), 6, "the prompt's tokens");
  equal(mock.requests[0].messages, [{ role: "user", content: "Hi" }], "what was asked");
  assert(mock.requests[0].coterie.experts === true && Number.isInteger(mock.requests[0].seed), "experts, and a seed of its own");
  await page.waitForTimeout(300);
  await page.reload();
  await page.waitForSelector(".message.assistant");
  equal(await page.textContent(".message.user .plain"), "Hi", "after a reload");
  await page.click("text=Strip");
  await drawn(page);
  assert((await page.getAttribute(".grid", "aria-label")).includes("11 tokens"), "the strip too");
  await page.done();
  await mock.stop();
});

test("stop, retry, edit, versions, branch, export and import", async () => {
  const mock = await new Mock().start();
  mock.pace = 40;
  mock.says = Array.from({ length: 200 }, (_, i) => ` w${i}`);
  const page = await open(mock.address);
  await ask(page, "one", false);
  await page.waitForFunction(() => document.querySelector(".prose")?.textContent.includes("w5"));
  await page.keyboard.press("Escape");
  await page.waitForSelector(".progress.stopped");
  const half = await shown(page);
  await page.waitForTimeout(200);
  equal(await shown(page), half, "nothing comes after Escape");
  mock.pace = 0;
  mock.says = ["second"];
  await page.click("text=Retry");
  await page.waitForFunction(() => document.querySelector(".prose")?.textContent === "second");
  equal(await page.textContent(".siblings span"), "2 of 2", "versions");
  assert(mock.requests[0].seed !== mock.requests[1].seed, "another seed");
  await page.click("[aria-label='The version before']");
  await drawn(page);
  equal(await shown(page), half, "the first version");
  await page.click("text=Edit");
  await page.fill("form.message textarea", "two");
  await page.click("form.message >> text=Send");
  await page.waitForFunction(() => document.querySelector(".message.user .plain")?.textContent === "two");
  await page.waitForFunction(() => document.querySelector(".prose")?.textContent === "second");
  await page.click(".message.assistant >> text=Branch");
  await page.waitForFunction(() => document.querySelectorAll(".list li").length === 2);
  equal(await page.locator(".siblings").count(), 0, "a branch has one version");
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("text=Export")]);
  await page.setInputFiles("input[type=file]", await download.path());
  await page.waitForFunction(() => document.querySelectorAll(".list li").length === 4);
  await page.setInputFiles("input[type=file]", { name: "x.json", mimeType: "application/json", buffer: Buffer.from("{}") });
  await page.waitForSelector(".list [role=alert]");
  equal((await kept(page)).length, 4, "kept in the browser");
  await page.done();
  await mock.stop();
});

test("a reload in the middle of an answer", async () => {
  const mock = await new Mock().start();
  mock.pace = 50;
  mock.says = Array.from({ length: 400 }, (_, i) => ` w${i}`);
  const page = await open(mock.address);
  await ask(page, "one", false);
  await page.waitForFunction(() => document.querySelector(".prose")?.textContent.includes("w40"));
  await page.reload();
  await page.waitForSelector(".progress.interrupted");
  assert((await shown(page)).includes("w20"), "what had come is there");
  mock.pace = 0;
  mock.says = ["whole"];
  await page.click("text=Retry");
  await page.waitForFunction(() => document.querySelector(".prose")?.textContent === "whole");
  await page.done();
  await mock.stop();
});

test("the queue's place is told", async () => {
  const mock = await new Mock().start();
  mock.queue = 1;
  const page = await open(mock.address);
  await ask(page, "one", false);
  await page.waitForSelector(".progress.queued:has-text('3 before it in the queue')");
  await page.waitForFunction(() => document.querySelector(".prose")?.textContent.startsWith("Hello"));
  await page.done();
  await mock.stop();
});

test("the server goes and comes back", async () => {
  const mock = await new Mock().start();
  mock.pace = 30;
  mock.says = Array.from({ length: 300 }, (_, i) => ` w${i}`);
  const page = await open(mock.address, { expects: ["net::ERR", "Failed to load"] });
  await ask(page, "one", false);
  await page.waitForFunction(() => document.querySelector(".prose")?.textContent.includes("w9"));
  const port = mock.port;
  await mock.stop();
  await page.waitForSelector(".notice:has-text('cannot be reached')");
  await page.waitForSelector(".progress.interrupted");
  assert((await shown(page)).includes("w9"), "what had come stays");
  assert(await page.isDisabled(".ask button"), "nothing can be sent now");
  const again = await new Mock().start(port);
  await page.waitForSelector(".notice", { state: "detached" });
  await page.click("text=Retry");
  await page.waitForFunction(() => document.querySelector(".prose")?.textContent.startsWith("Hello"));
  await page.done();
  await again.stop();
});

test("a server with a key asks for it", async () => {
  const mock = await new Mock().start();
  mock.key = "secret";
  const page = await open(mock.address, { expects: ["401"], locked: true });
  await page.fill("#key", "wrong");
  await page.press("#key", "Enter");
  await page.waitForTimeout(200);
  equal(await violations(page), [], "axe");
  await page.fill("#key", "secret");
  await page.press("#key", "Enter");
  await page.waitForFunction(() => document.querySelector(".model")?.textContent !== "");
  await ask(page, "Hi");
  await page.done();
  await mock.stop();
});

const ATTACKS = [
  "<script>window.ran=1</script>", "<img src=x onerror=\"window.ran=1\">", "<svg onload=window.ran=1>", "<svg><script>window.ran=1</script></svg>",
  "<iframe srcdoc=\"<script>parent.ran=1</script>\"></iframe>", "[a](javascript:window.ran=1)", "![b](https://elsewhere.example/x.png)",
  "![c](//elsewhere.example/y.gif)", "<link rel=stylesheet href=https://elsewhere.example/z.css>", "<a href=\"javascript:window.ran=1\" id=bait>d</a>",
  "[e](data:text/html,<script>window.ran=1</script>)", "<form action=https://elsewhere.example><button>f</button></form>",
  "<meta http-equiv=refresh content=0;url=https://elsewhere.example>", "<base href=https://elsewhere.example>", "\"><script>window.ran=1</script>",
  "![g](data:image/svg+xml,<svg onload=window.ran=1>)", "<style>@import 'https://elsewhere.example/s.css'</style>", "<video src=https://elsewhere.example/v>",
  "```html\n<script>window.ran=1</script>\n```",
];

test("nothing that a model writes runs, and nothing is fetched", async () => {
  const mock = await new Mock().start();
  mock.says = ATTACKS.map((each) => `${each}\n\n`);
  const page = await open(mock.address);
  await ask(page, ATTACKS.join("\n"));
  for (const click of ["text=Tokens", "#tab-strip", "#tab-path", "#tab-find"]) await page.click(click);
  await page.click(".token >> nth=2");
  await page.click(".switch >> text=Text");
  for (const link of await page.locator(".prose a").all()) {
    const address = await link.getAttribute("href");
    assert(/^(https?:|mailto:)/.test(address), `a link to ${address}`);
  }
  equal(await page.locator(".prose img, .prose svg, .prose iframe, .prose script, .prose style, .prose form, .prose video").count(), 0, "elements of the attacks");
  equal(await page.evaluate(() => window.ran), undefined, "a script ran");
  equal(mock.outside, [], "fetched of the server");
  // The policy alone would stop it too.
  const refused = await page.evaluate(() => {
    const script = document.createElement("script");
    try {
      script.textContent = "window.ran=2";
    } catch { return "trusted types"; }
    document.body.append(script);
    return window.ran === 2 ? "ran" : "policy";
  });
  assert(refused !== "ran", "a script that is put into the page runs");
  page.faults = page.faults.filter((fault) => !/TrustedScript|Content Security Policy|requires 'TrustedScript'/.test(fault));
  await page.done();
  await mock.stop();
});

test("dense and soft mixtures are shown as what they are", async () => {
  const mock = await new Mock().start();
  mock.dense = true;
  const page = await open(mock.address);
  await ask(page, "Hi");
  assert((await page.textContent("#view")).includes("dense model"), "dense");
  assert(!("coterie" in mock.requests[0]), "no experts are asked for");
  await page.click("text=Tokens");
  assert(await page.locator(".token.level-4").count() > 0, "probabilities are there");
  equal(await violations(page), [], "axe");
  await picture(page, "dense");
  mock.dense = false;
  mock.soft = true;
  await page.reload();
  await page.waitForSelector("#view:has-text('Soft MoE')");
  await page.done();
  await mock.stop();
});
