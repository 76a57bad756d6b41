#!/usr/bin/env python3
"""Makes the upcycled and tuned model of docs/claims.md (12), and counts what its routers follow before and after.

    benchmarks/lens_upcycled.py build/release/coterie DENSE.gguf MASC_FOLDER -o FOLDER

The dense model becomes 8 experts in each layer, copies of its FFN, 2 for a token; routers and adapters of the experts
are tuned on every second text of the tagged corpus, and `coterie lens` reads the others. FOLDER gets before.json and
after.json, the figures that benchmarks/lens_tables.py prints. What is there is not made again: an interrupted run goes
on by the same command. 46 steps took 53 minutes on one busy core; the largest file has 1.4 GB, the folder 4.5 GB.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys

RECIPE = """seed: 1
tune:
  lora: {targets: [experts, router], rank: 16, alpha: 32}
data: {files: train.txt, validation: 0.02}
training: {sequence: 256, batch: 4, steps: STEPS, learning_rate: 1e-3, schedule: constant, warmup: WARMUP, precision: bf16}
balance: {loss: 0.02}
evaluation: {every: 25, batches: 4}
checkpoint: {every: 5, keep: 1}
"""


def plain(tagged: str) -> str:
    """The words without their tags, put together about as people write."""
    text = re.sub(r"_\S+", "", tagged)
    text = re.sub(r" (n't|'s|'m|'re|'ve|'ll|'d|[.,;:?!%)\]])", r"\1", text)
    return re.sub(r"([(\[$]) ", r"\1", text).strip()


def split(corpus: pathlib.Path, folder: pathlib.Path) -> None:
    """Every second text into train.txt, the others, tagged as they are, into held."""
    genres = dict(line.split()[:2] for line in (corpus / "categories.txt").read_text().splitlines() if line.strip())
    train, held = [], []
    for i, path in enumerate(sorted(p for p in corpus.rglob("*.txt") if p.name != "categories.txt")):
        name = path.relative_to(corpus).as_posix()
        if i % 2 == 0:
            train.append(plain(path.read_text(encoding="utf-8", errors="replace"))[:6000])
        elif name in genres:
            target = folder / "held" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
            held.append(f"{name} {genres[name]}")
    (folder / "held" / "categories.txt").write_text("\n".join(held) + "\n")
    (folder / "train.txt").write_text("\n\n".join(train))


def kept(report: pathlib.Path, target: pathlib.Path) -> None:
    """Of a report's figures those that tables read."""
    study = json.loads(report.read_text())
    rounded = lambda values: {key: round(value, 7) if isinstance(value, float) else value for key, value in values.items()}
    small = {key: study[key] for key in ("model", "tokens", "documents", "choices", "window", "permutations", "seed") if key in study}
    small["layers"] = [{"layer": layer["layer"], "information": {name: rounded(i) for name, i in layer["information"].items()},
                        "vocabulary": rounded(layer["vocabulary"])} for layer in study["layers"]]
    target.write_text(json.dumps(small, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("dense", help="a dense model, such as SmolLM2-135M-Instruct as scripts/fetch_model.py fetches it")
    parser.add_argument("corpus", type=pathlib.Path, help="a folder of word_TAG texts with a categories.txt")
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=46)
    parser.add_argument("--tokens", type=int, default=20000, help="that lens reads of the other texts")
    parser.add_argument("--threads", default="1")
    options = parser.parse_args()
    folder = options.output
    folder.mkdir(parents=True, exist_ok=True)

    def coterie(*arguments: object) -> None:
        if subprocess.run([options.binary, *map(str, arguments)]).returncode != 0:
            sys.exit(f"lens_upcycled: coterie {arguments[0]} failed; its message is above")

    def lens(model: str, name: str) -> None:
        if (folder / f"{name}.json").exists():
            return
        coterie("lens", folder / model, "--tagged", folder / "held", "--tokens", options.tokens, "-t", options.threads,
                "--force", "-o", folder / f"{name}-report.html")
        kept(folder / f"{name}-report.json", folder / f"{name}.json")

    if not (folder / "train.txt").exists():
        split(options.corpus, folder)
    if not (folder / "dense").exists():
        coterie("convert", options.dense, "--to", "bf16", "-o", folder / "dense")
    if not (folder / "upcycled").exists():
        coterie("upcycle", folder / "dense", "--experts", 8, "--top-k", 2, "--no-check", "-o", folder / "upcycled")
    lens("upcycled", "before")
    if not (folder / "tuned").exists():
        recipe = folder / "recipe.yaml"
        recipe.write_text(RECIPE.replace("STEPS", str(options.steps)).replace("WARMUP", str(min(8, options.steps // 4))))
        coterie("tune", folder / "upcycled", recipe, "-o", folder / "run", "--resume", "--threads", options.threads)
        checkpoint = sorted((folder / "run" / "checkpoints").iterdir())[-1]
        coterie("merge-adapter", folder / "upcycled", checkpoint, "-o", folder / "tuned")
    lens("tuned", "after")


if __name__ == "__main__":
    main()
