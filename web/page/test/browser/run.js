// Tries the page in Chromium:  node run.js --binary build/release/coterie --model MODEL [--only WORDS] [--pictures FOLDER]
import { runAll } from "./harness.js";
import "./chat.js";
import "./views.js";
import "./server.js";
import "./streamed.js";
import "./pictures.js";

await runAll();
