"""Chat templates of src/text against transformers' own rendering (Jinja2), byte for byte.

    python3 compare_templates.py PROBE TEMPLATE_OR_FOLDER... [--expressions]

Every template (*.jinja, or a tokenizer_config.json) is rendered on the conversations below with transformers'
render_jinja_template and with text_probe. Both refusing counts as equal. --expressions adds several hundred small
templates, one construct of the language each. Needs the Python packages transformers and jinja2. Exit code 1 when an
output differs.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

from transformers.utils.chat_template_utils import render_jinja_template

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from expressions import EXPRESSIONS  # noqa: E402

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather of a city, \"now\" & later <b>.", "parameters": {
        "type": "object", "properties": {
            "location": {"type": "string", "description": "City, e.g. Zürich"},
            "days": {"type": "integer", "default": 3, "enum": [1, 2, 3]},
            "units": {"type": ["string", "null"], "enum": ["celsius", "fahrenheit", None], "default": None},
            "items": {"type": "array", "items": {"type": "number"}, "nullable": True, "default": [0.5, 1e-3, 12345678.9, -0.0]},
            "detail": {"type": "object", "properties": {"deep": {"type": "boolean", "default": True}}, "required": []}},
        "required": ["location"]}, "return": {"type": "string", "description": "words"}}}
NOTHING = {"type": "function", "function": {"name": "nothing", "description": "Does nothing.", "parameters": {"type": "object", "properties": {}}}}


def call(name, arguments, i="call00001"):
    return {"type": "function", "id": i, "function": {"name": name, "arguments": arguments}}


CONVERSATIONS = {
    "user": [{"role": "user", "content": "Hello, who are you?"}],
    "system": [{"role": "system", "content": "You are brief.\n"}, {"role": "user", "content": "  Hi — naïve 😀  "}],
    "turns": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"},
              {"role": "user", "content": "And \"2\"+2?\n"}, {"role": "assistant", "content": " 4 "}, {"role": "user", "content": "Thanks"}],
    "thinking": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "<think>\nlet me see\n</think>\n\n2"},
                 {"role": "user", "content": "ok"}, {"role": "assistant", "content": "fine", "reasoning_content": "they agree"}, {"role": "user", "content": "bye"}],
    "ends with assistant": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "<think>hm</think>2"}],
    "tool call": [{"role": "user", "content": "Weather?"}, {"role": "assistant", "content": "", "tool_calls": [call("get_weather", {"location": "Zürich", "days": 2, "deep": {"a": [1, 2.5, None, True]}})]},
                  {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "{\"t\": 21}"}, {"role": "assistant", "content": "21 degrees."}, {"role": "user", "content": "Thanks"}],
    "tool call null": [{"role": "user", "content": "Weather?"}, {"role": "assistant", "content": None, "tool_calls": [call("get_weather", {"location": "<Bern> & 'co'"})]},
                       {"role": "tool", "tool_call_id": "call00001", "content": "sunny"}],
    "two tool calls": [{"role": "system", "content": "Use tools."}, {"role": "user", "content": "Weather?"},
                       {"role": "assistant", "content": "Looking.", "tool_calls": [call("get_weather", {"location": "A"}), call("nothing", {}, "call00002")]},
                       {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "x"}, {"role": "tool", "name": "nothing", "tool_call_id": "call00002", "content": "y"}],
    "arguments as text": [{"role": "user", "content": "Weather?"}, {"role": "assistant", "content": "", "tool_calls": [call("get_weather", "{\"location\": \"Bern\"}")]},
                          {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "x"}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "image"}, {"type": "text", "text": "this?"}]},
              {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}, {"role": "user", "content": [{"type": "text", "text": "Sure?"}]}],
    "not alternating": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    "developer": [{"role": "developer", "content": "Obey."}, {"role": "user", "content": "Hi"}],
    "odd role": [{"role": "wizard", "content": "abracadabra"}, {"role": "user", "content": ""}],
}
VARIABLES = {
    "plain": {}, "tools": {"tools": [WEATHER, NOTHING]}, "no thinking": {"enable_thinking": False}, "thinking": {"enable_thinking": True, "thinking": True},
    "documents": {"documents": [{"title": "T", "text": "Some text"}], "date_string": "26 Jul 2024"},
    "tools, effort": {"tools": [WEATHER], "reasoning_effort": "high", "builtin_tools": ["browser", "python"], "xml_tools": [], "tools_in_user_message": False, "add_vision_id": True},
}


def load(path):
    if path.suffix == ".json":
        template = json.loads(path.read_text(encoding="utf-8")).get("chat_template", [])
        return {path: template} if isinstance(template, str) else {f"{path}:{t['name']}": t["template"] for t in template}
    with open(path, encoding="utf-8") as file:
        return {path: file.read()}


def cases(options):
    for path in options.templates:
        for file in sorted(path.glob("**/*.jinja")) if path.is_dir() else [path]:
            for name, source in load(file).items():
                for conversation, messages in CONVERSATIONS.items():
                    for variables, extra in VARIABLES.items():
                        for generate in (True, False):
                            yield f"{name}: {conversation}: {variables}: {generate}", source, messages, extra, generate
    if options.expressions:
        for source in EXPRESSIONS:
            yield f"expression {source!r}", source, CONVERSATIONS["two tool calls"], {"tools": [WEATHER], **VARIABLES["documents"]}, True


def expected(source, messages, extra, generate):
    # apply_chat_template drops null keys, then calls render_jinja_template with the special tokens.
    messages = [{k: v for k, v in message.items() if v is not None} for message in messages]
    try:
        rendered, _ = render_jinja_template([messages], chat_template=source, add_generation_prompt=generate,
                                            **{"bos_token": "<s>", "eos_token": "</s>", **extra})
        return {"text": rendered[0]}
    except Exception as error:  # noqa: BLE001 - whatever Jinja or Python says about a template is a refusal
        return {"error": f"{type(error).__name__}: {error}"}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("probe")
    parser.add_argument("templates", nargs="*", type=pathlib.Path)
    parser.add_argument("--expressions", action="store_true")
    options = parser.parse_intermixed_args()
    all_cases = list(cases(options))
    want = [expected(*case[1:]) for case in all_cases]
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        for _, source, messages, extra, generate in all_cases:
            file.write(json.dumps({"template": source, "messages": json.dumps(messages), "extra": json.dumps(extra), "bos": "<s>",
                                   "eos": "</s>", "add_generation_prompt": generate}) + "\n")
        file.flush()
        out = subprocess.run([options.probe, "render", file.name], capture_output=True, text=True)
    if out.returncode:
        sys.exit(out.stderr)
    got = [json.loads(line) for line in out.stdout.split("\n")[:-1]]
    assert len(got) == len(want), (len(got), len(want))
    bad = refused = 0
    shown = {}
    for (name, *_), a, b in zip(all_cases, want, got):
        if "text" in a and a == b:
            continue
        if "error" in a and "error" in b:
            refused += 1
            continue
        bad += 1
        key = name.split(": ")[0]
        shown[key] = shown.get(key, 0) + 1
        if shown[key] <= 2:
            print(f"{name}\n  expected {a}\n  found    {b}")
    print(f"{len(all_cases)} cases, {refused} refused by both, {bad} differ")
    for key, count in shown.items():
        print(f"  {count} of {key}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
