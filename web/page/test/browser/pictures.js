// Pictures to be looked at, of a real answer, in both themes and at three sizes:  run.js … --pictures FOLDER
import { ask, drawn, open, options, picture, serve, test } from "./harness.js";

if (options.binary && options.pictures)
  test("pictures of all views, 360, 1280 and 2560 pixels wide", async () => {
    const server = await serve(options.model);
    for (const theme of ["light", "dark"])
      for (const [width, height] of [[360, 740], [1280, 800], [2560, 1440]]) {
        const page = await open(server.address, { theme, width, height, hasTouch: width < 800 });
        const narrow = width <= 900, name = (view) => `${theme}-${width}-${view}`;
        const column = (which) => narrow && page.click(`.columns-switch >> text=${which}`);
        await picture(page, name("0-empty"));
        await ask(page, "And it came to pass");
        await picture(page, name("1-chat"));
        await page.click("text=Tokens >> nth=0");
        await page.click(".token >> nth=12");
        await picture(page, name("2-tokens"));
        await page.click("text=Settings of this conversation");
        await picture(page, name("3-settings"));
        await page.click("text=Settings of this conversation");
        await column("Experts");
        for (const view of ["find", "strip", "map", "path", "expert"]) {
          if (view === "expert") {
            await page.click("#tab-find");
            await page.click("[aria-label^='Open layer'] >> nth=0");
          } else await page.click(`#tab-${view}`);
          await picture(page, name(`4-${view}`));
          const table = page.locator("#view button:text-is('Table')");
          if (view === "strip" || view === "map") {
            await table.click();
            await drawn(page);
            await picture(page, name(`5-${view}-table`));
          }
        }
        await page.click("#tab-find");
        await page.click("[aria-label^='Silence it'] >> nth=0");
        await page.waitForFunction(() => /differ by/.test(document.querySelector("#view .answer")?.textContent), null, { timeout: 120000 });
        await picture(page, name("6-compare"));
        await page.evaluate(() => { document.querySelector("#view").scrollTop = 1e6; });
        await picture(page, name("7-compare-end"));
        if (narrow) await column("Server");
        else await page.click(".bar");
        await page.waitForSelector(".server-grid");
        await drawn(page);
        await picture(page, name("8-server"));
        await page.done();
      }
    await server.stop();
  });
