#!/usr/bin/env python3
"""GGUF files that coterie writes load in llama.cpp and give the same greedy tokens.

The project's own model is written in f16, pruned, and quantised; llama-simple continues a text with each.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

PROMPT = "Once upon a time"
TOKENS = 24


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    return done.stdout


def theirs(llama, model):
    return run(llama, "-m", model, "-n", TOKENS, PROMPT).strip().removeprefix(PROMPT)


def ours(coterie, model):
    return run(coterie, "run", model, "-p", PROMPT, "--greedy", "-n", TOKENS, "--precision", "f32", "-q").rstrip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coterie", default="build/release/coterie")
    parser.add_argument("--model", default="models/coterie-small.gguf")
    options = parser.parse_args()
    path = os.pathsep.join([os.environ.get("COTERIE_LLAMA_CPP", ""), os.environ.get("PATH", "")])
    llama = shutil.which("llama-simple", path=path)
    if not llama:
        print("skipped: there is no llama-simple; COTERIE_LLAMA_CPP may name the folder that has it")
        sys.exit(77)
    coterie = options.coterie
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        whole, back, again = folder / "f16.gguf", folder / "folder", folder / "again.gguf"
        run(coterie, "convert", options.model, "-o", whole, "--to", "f16")
        run(coterie, "convert", whole, "-o", back)
        run(coterie, "convert", back, "-o", again)
        text = folder / "text.txt"
        text.write_text("It was the best of times, it was the worst of times. And so they went.\n" * 20)
        pruned = folder / "pruned.gguf"
        run(coterie, "prune", whole, "--keep", 12, "--text", text, "-o", pruned)
        for name, model in {"f16": whole, "by way of a folder": again, "pruned": pruned}.items():
            a, b = ours(coterie, model), theirs(llama, model)
            assert a == b and len(a) > 20, f"{name}: {a!r} here, {b!r} there"
            print(f"{name}: the same {TOKENS} tokens", flush=True)
        matrix = folder / "imatrix.gguf"
        said = json.loads(run(coterie, "importance", whole, "--text", text, "-o", matrix, "--json"))
        assert said["tensors"] > 30
        for mix in ["q4_k_m", "q5_k_m", "q6_k", "q8_0", "q4_0", "iq4_nl", "mxfp4", "bf16"]:
            run(coterie, "quantize", whole, "-o", folder / "small.gguf", "--to", mix, "--importance", matrix, "--force")
            answer = theirs(llama, folder / "small.gguf")
            assert len(answer) > 20, f"{mix}: {answer!r}"
            print(f"{mix}: loads, and goes on {answer[:30]!r}", flush=True)


if __name__ == "__main__":
    main()
