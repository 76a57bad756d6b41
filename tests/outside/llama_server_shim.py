#!/usr/bin/env python3
"""Stands in for llama-server: turns its options into those of `coterie serve`, so that llama.cpp's own server tests
(LLAMA_SERVER_BIN_PATH) run against it. COTERIE names the binary, COTERIE_MODEL the model that is used whatever
repository is asked for, COTERIE_CHAT_TEMPLATE a template for it,
COTERIE_MODEL_CONTEXT its context.
"""

import os
import signal
import sys

# Options that change nothing here, and how many values they have.
PASSED_OVER = {"--offline": 0, "--hf-repo": 1, "--hf-file": 1, "--model-url": 1, "--batch-size": 1, "--ubatch-size": 1, "--cont-batching": 0,
               "--metrics": 0, "--kv-unified": 0, "--swa-full": 0, "--slots": 0, "--no-slots": 0, "-fa": 1, "--no-ui": 0, "--jinja": 0,
               "--no-jinja": 0, "--verbose": 0, "--n-gpu-layers": 1, "--cache-ram": 1, "--no-cache-idle-slots": 0, "--no-mmproj": 0, "--tags": 1,
               "-ctk": 1, "-ctv": 1, "--reasoning-format": 1}
# Options of the same meaning.
KEPT = {"--port": "--port", "--host": "--host", "--temp": "--temperature", "--seed": "--seed", "--threads": "--threads",
        "--parallel": "--parallel", "--api-key": "--api-key", "--n-predict": "--tokens"}


def main():
    given, options, values = sys.argv[1:], [], {}
    while given:
        name = given.pop(0)
        if name in PASSED_OVER:
            del given[: PASSED_OVER[name]]
        elif name == "--reasoning" and given[0] == "auto":
            given.pop(0)
        elif name == "--cors-origins":
            options += [word for origin in given.pop(0).split(",") if origin != "localhost" for word in ("--allow-origin", origin)]
        elif name in KEPT or name in ("--alias", "--ctx-size", "--model", "--chat-template", "--chat-template-file"):
            values[name] = given.pop(0)
        else:
            sys.exit(f"llama_server_shim: {name} asks for a feature that coterie serve has not")
    slots = int(values.get("--parallel", 4))
    for name, ours in KEPT.items():
        if name in values:
            options += [ours, values[name]]
    if "--ctx-size" in values:
        context = int(values["--ctx-size"]) // slots  # theirs is shared out among the slots
        options += ["--context", str(context)]
        if context > int(os.environ.get("COTERIE_MODEL_CONTEXT", context)):
            options += ["--rope-scaling", "yarn"]  # longer than the model was made for
    for alias in sorted(values.get("--alias", "").split(",")):
        options += ["--alias", alias] if alias else []
    template = values.get("--chat-template-file") or os.environ.get("COTERIE_CHAT_TEMPLATE", "")
    if template:
        options += ["--chat-template", template]
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    coterie = os.environ["COTERIE"]
    os.execv(coterie, [coterie, "serve", os.environ["COTERIE_MODEL"], "--lenient", "--metrics-names", "llamacpp", "--cache-memory", "64M",
                       "--parallel", str(slots), *options])


if __name__ == "__main__":
    main()
