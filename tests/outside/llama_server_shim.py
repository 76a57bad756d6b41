#!/usr/bin/env python3
"""Stands in for llama-server: translates its options into those of `coterie serve`, so that llama.cpp's own server tests
(LLAMA_SERVER_BIN_PATH) run against it. COTERIE names the binary, COTERIE_MODEL the model that is used whatever
repository is asked for, COTERIE_MODEL_CONTEXT its context, COTERIE_CHAT_TEMPLATE a template for it."""

import datetime
import json
import os
import pathlib
import signal
import sys
import tempfile

# Options that change no answer here, and how many values they have.
PASSED_OVER = {"--offline": 0, "--hf-repo": 1, "--hf-file": 1, "--model-url": 1, "--batch-size": 1, "--ubatch-size": 1,
               "--cont-batching": 0, "--kv-unified": 0, "--swa-full": 0, "--slots": 0, "-fa": 1, "--no-ui": 0, "--jinja": 0,
               "--no-jinja": 0, "--verbose": 0, "--n-gpu-layers": 1, "--cache-ram": 1, "--no-cache-idle-slots": 0,
               "--no-mmproj": 0, "--tags": 1, "-ctk": 1, "-ctv": 1, "--reasoning-format": 1, "--embedding": 0,
               "--backend_sampling": 0}
# Options of the same meaning.
KEPT = {"--port": "--port", "--host": "--host", "--temp": "--temperature", "--seed": "--seed", "--threads": "--threads",
        "--parallel": "--parallel", "--api-key": "--api-key", "--n-predict": "--tokens", "--pooling": "--pooling"}
# llama-server lets every page ask unless it is told otherwise. Here origins are named, so these are those of its tests.
ORIGINS = ("localhost", "origin", "web.mydomain.fr")
# Templates that llama-server has by name.
TEMPLATES = {
    "chatml": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
              "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "llama3": "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
              "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    "command-r": "{% for m in messages %}<|START_OF_TURN_TOKEN|>{{ {'system': '<|SYSTEM_TOKEN|>', 'user': '<|USER_TOKEN|>', "
                 "'assistant': '<|CHATBOT_TOKEN|>'}[m.role] }}{{ m.content | trim }}<|END_OF_TURN_TOKEN|>{% endfor %}"
                 "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}",
}


def template_file(text):
    """Of a template that is given by its name or its text."""
    file = pathlib.Path(tempfile.mkdtemp(prefix="coterie-shim-")) / "template.jinja"
    file.write_text(TEMPLATES.get(text, text))
    return str(file)


def main():
    given, options, values, origins = sys.argv[1:], [], {}, ORIGINS
    # What llama-server gives to templates by itself.
    today = datetime.date.today()
    variables = {"date_string": today.strftime("%d %b %Y"), "datetime": today.strftime("%b %d %Y"), "enable_thinking": True}
    metrics = False
    while given:
        name = given.pop(0)
        if name in PASSED_OVER:
            del given[: PASSED_OVER[name]]
        elif name == "--metrics":
            metrics = True
        elif name == "--no-slots":
            options.append("--no-slots")
        elif name == "--reasoning":
            variables["enable_thinking"] = given.pop(0) != "off"
        elif name == "--cors-origins":
            origins = [origin for origin in given.pop(0).split(",") if origin != "localhost"]
        elif name in KEPT or name in ("--alias", "--ctx-size", "--model", "--chat-template", "--chat-template-file"):
            values[name] = given.pop(0)
        else:
            sys.exit(f"llama_server_shim: {name} asks for a feature that coterie serve has not")
    options += ["--chat-template-kwargs", json.dumps(variables)] + ([] if metrics else ["--no-metrics"])
    options += [word for origin in origins for word in ("--allow-origin", origin)]
    slots = int(values.get("--parallel", 4))
    for name, ours in KEPT.items():
        if name in values:
            options += [ours, values[name]]
    if "--ctx-size" in values:
        # Theirs is shared out among the slots, or is one for all.
        context = int(values["--ctx-size"]) // (1 if "--kv-unified" in sys.argv else slots)
        options += ["--context", str(context)]
        if context > int(os.environ.get("COTERIE_MODEL_CONTEXT", context)):
            options += ["--rope-scaling", "yarn"]  # longer than the model was made for
    for alias in sorted(values.get("--alias", "").split(",")):
        options += ["--alias", alias] if alias else []
    template = values.get("--chat-template-file") or os.environ.get("COTERIE_CHAT_TEMPLATE", "")
    if "--chat-template" in values:
        template = template_file(values["--chat-template"])
    if template:
        options += ["--chat-template", template]
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    coterie = os.environ["COTERIE"]
    os.execv(coterie, [coterie, "serve", os.environ["COTERIE_MODEL"], "--lenient", "--metrics-names", "llamacpp", "--cache-memory", "64M",
                       "--parallel", str(slots), *options])


if __name__ == "__main__":
    main()
