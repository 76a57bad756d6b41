#!/usr/bin/env python3
"""Several models by name, an ensemble and an adapter among them, what is kept across restarts, and a dashboard whose metrics
there are."""

import argparse
import json
import pathlib
import re
import subprocess
import tempfile

from server import Server

STORY = {"prompt": "Once upon a time there was a little girl who lived in the forest and", "max_tokens": 12, "seed": 7, "logprobs": 2,
         "routed_experts": True}
TUNE = """tune:
  lora: {targets: [attention], rank: 4, alpha: 8}
data: {files: texts.jsonl, validation: 0.1}
training: {sequence: 32, batch: 2, steps: 2, learning_rate: 1e-2}
"""


def text(answer):
    return answer["choices"][0]["text"]


def restarts(coterie, model, folder):
    cache = folder / "pages"
    with Server(coterie, model, "--cache-dir", cache) as server:
        first = server.post("/v1/completions", STORY)
    with Server(coterie, model, "--cache-dir", cache) as server:
        again = server.post("/v1/completions", STORY)
        assert "coterie_disk_pages_read_total 0" not in server.get("/metrics").decode()
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] >= 16, again["usage"]
        assert first["choices"] == again["choices"]
    with Server(coterie, model, "--cache-dir", cache, "--precision", "f32") as server:
        assert server.post("/v1/completions", STORY)["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def by_name(coterie, model, folder):
    (folder / "gate.yaml").write_text(f"gate: uniform\nmodels:\n  - source_model: {model}\n  - source_model: {model}\n")
    subprocess.run([coterie, "gate", folder / "gate.yaml", "-o", folder / "both"], check=True, capture_output=True)
    (folder / "texts.jsonl").write_text('{"text": "The cat sat on the mat and looked at the moon, for it was late."}\n' * 60)
    (folder / "tune.yaml").write_text(TUNE)
    subprocess.run([coterie, "tune", model, folder / "tune.yaml", "-o", folder / "run"], check=True, capture_output=True)
    adapter = folder / "run" / "checkpoints" / "step-0000002"
    with Server(coterie, model, "--model", f"second={model}", "--model", f"both={folder / 'both'}", "--adapters", f"tuned={adapter}") as server:
        listed = {each["id"]: each["status"]["value"] for each in server.get("/v1/models")["data"]}
        assert listed == {"coterie-small": "loaded", "second": "unloaded", "both": "unloaded", "tuned": "unloaded"}, listed
        plain = server.post("/v1/completions", STORY)
        second = server.post("/v1/completions", {**STORY, "model": "second"})
        assert second["model"] == "second" and second["choices"] == plain["choices"]
        tuned = server.post("/v1/completions", {**STORY, "model": "tuned"})
        assert tuned["choices"][0]["logprobs"] != plain["choices"][0]["logprobs"], "the adapter changes nothing"
        together = {key: value for key, value in STORY.items() if key != "routed_experts"}
        assert text(server.post("/v1/completions", {**together, "model": "both"}))
        assert {each["status"]["value"] for each in server.get("/v1/models")["data"]} == {"loaded"}
        server.post("/v1/embeddings", {"input": "a cat", "model": "second"})
        server.post("/v1/embeddings", {"input": "a cat", "model": "both"}, 400)
    # Room for one beside the first: they take turns.
    size = pathlib.Path(model).stat().st_size + 64_000_000
    with Server(coterie, f"a={model}", "--model", f"b={model}", "--models-memory", int(size * 1.5)) as server:
        for name in ("a", "b", "a"):
            assert server.post("/v1/completions", {**STORY, "model": name})["choices"] == plain["choices"]
            loaded = [each["id"] for each in server.get("/v1/models")["data"] if each["status"]["value"] == "loaded"]
            assert loaded == [name], loaded
    # One memory for both, each with a part of it: none has to go.
    with Server(coterie, f"a={model}", "--model", f"b={model}", "--memory", "400M", "--context", 512) as server:
        for name in ("a", "b", "a"):
            assert server.post("/v1/completions", {**STORY, "model": name})["choices"] == plain["choices"]
        assert {each["status"]["value"] for each in server.get("/v1/models")["data"]} == {"loaded"}


def dashboard(coterie, model, root):
    panels = json.loads((root / "docs/grafana/coterie.json").read_text())["panels"]
    wanted = {name for panel in panels for target in panel["targets"] for name in re.findall(r"coterie_\w+", target["expr"])}
    with Server(coterie, model) as server:
        server.post("/v1/completions", STORY)
        there = set(re.findall(r"^(coterie_\w+)", server.get("/metrics").decode(), re.M))
    assert wanted and wanted <= there, wanted - there


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coterie", default="build/release/coterie")
    parser.add_argument("--model", default="models/coterie-small.gguf")
    options = parser.parse_args()
    options.model = str(pathlib.Path(options.model).resolve())
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        restarts(options.coterie, options.model, folder)
        by_name(options.coterie, options.model, folder)
        dashboard(options.coterie, options.model, pathlib.Path(__file__).resolve().parents[2])


if __name__ == "__main__":
    main()
