#!/usr/bin/env python3
"""Makes again what the pages show of the project's own model, after models/coterie-small.gguf has changed.

  lens        examples/runs/lens/lens.json, of the whole Manually Annotated Sub-Corpus (--masc, a folder of word_TAG files)
  worth       examples/runs/lens/worth.json: the loss without each expert
  commas      examples/runs/commas/trace.safetensors, and what silencing the comma's experts costs (printed)
  variety     examples/runs/variety/variety.json
  fewer       what fewer experts cost, as rows of the table in docs/claims.md (printed; --texts, where ./dev text wrote)
  pictures    docs/pictures/*.txt and *.svg
  transcripts all console blocks of the docs
Tables in blocks are written anew; the sentences around them are yours to read again.

examples:
  own_model_pages.py --binary build/release/coterie --masc masc_tagged --texts build/text
  own_model_pages.py --binary build/release/coterie --only commas,pictures,transcripts

exit code: 0 made, 2 a program failed or a file is missing
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = "models/coterie-small.gguf"
STEPS = ("lens", "worth", "commas", "variety", "fewer", "pictures", "transcripts")
# What the tables of benchmarks/lens_tables.py read.
KEPT = ("model", "tokens", "documents", "choices", "window", "permutations", "seed")
KEPT_OF_A_LAYER = ("layer", "information", "vocabulary")


def fail(text: str) -> None:
    print(f"own_model_pages: {text}", file=sys.stderr)
    sys.exit(2)


class Pages:
    def __init__(self, arguments: argparse.Namespace, scratch: pathlib.Path):
        self.binary, self.scratch = arguments.binary.resolve(), scratch
        self.masc = arguments.masc and arguments.masc.resolve()
        self.texts = arguments.texts and arguments.texts.resolve()
        self.threads = ["--threads", arguments.threads] if arguments.threads else []

    def run(self, *command) -> str:
        result = subprocess.run([str(each) for each in command], cwd=ROOT, capture_output=True, text=True,
                                stdin=subprocess.DEVNULL)
        if result.returncode != 0:
            fail(f"{' '.join(str(each) for each in command)}: exit code {result.returncode}: {result.stderr.strip()}")
        return result.stdout

    def coterie(self, command: str, *options) -> str:
        return self.run(self.binary, command, *options, *([] if command in ("inspect", "tokenize") else self.threads))

    def evaluated(self, model, text, *options) -> dict:
        return json.loads(self.coterie("eval", model, "--text", text, "--window", 256, "--json", *options))

    def lens(self) -> None:
        if self.masc is None:
            fail("--masc is needed for the lens: a folder of word_TAG files")
        page = self.scratch / "masc.html"
        self.coterie("lens", MODEL, "--tagged", self.masc, "--tokens", 100000, "-o", page)
        found = json.loads(page.with_suffix(".json").read_text())
        kept = {key: found[key] for key in KEPT if key in found}
        kept["layers"] = [{key: layer[key] for key in KEPT_OF_A_LAYER} for layer in found["layers"]]
        (ROOT / "examples/runs/lens/lens.json").write_text(json.dumps(kept, indent=1) + "\n")

    def worth(self) -> None:
        text = self.scratch / "masc.txt"
        files = sorted(each for each in (ROOT / "examples/masc").glob("*.txt") if each.name != "categories.txt")
        text.write_text(self.run("sed", "-E", r"s/_[^ ]+//g", *files))
        found = self.evaluated(MODEL, text, "--tokens", 6000, "--each-expert")
        found["text"] = text.name
        (ROOT / "examples/runs/lens/worth.json").write_text(json.dumps(found, indent=1) + "\n")

    def end_of_shakespeare(self) -> pathlib.Path:
        text = self.scratch / "held.txt"
        text.write_bytes((ROOT / "recipes/data/tinyshakespeare.txt").read_bytes()[-120000:])
        return text

    def commas(self) -> None:
        held, trace = self.end_of_shakespeare(), ROOT / "examples/runs/commas/trace.safetensors"
        self.coterie("trace", MODEL, "--text", held, "--tokens", 2000, "--window", 256, "--force", "-o", trace)
        ids = json.loads(self.coterie("tokenize", MODEL, "-p", ",", "--json"))
        comma = ids["tokens"][0]
        print(f"the comma is token {comma}")
        before = self.evaluated(MODEL, held, "--tokens", 20000)["perplexity"]
        table = self.run("python3", "benchmarks/token_experts.py", trace, "--ids", comma)
        print(table, end="")
        for line in table.splitlines()[1:]:
            layer, expert = line.split()[:2]
            without = self.evaluated(MODEL, held, "--tokens", 20000, "--silence", f"{layer}:{expert}")["perplexity"]
            print(f"perplexity {before:.1f}, without expert {expert} of layer {layer} {without:.1f}")

    def variety(self) -> None:
        self.run("python3", "benchmarks/variety.py", "write", self.binary, MODEL, "-o",
                 ROOT / "examples/runs/variety/variety.json", "--samples", 10, "--tokens", 60)

    def row(self, name: str, model: pathlib.Path | str, held: pathlib.Path, chosen: int) -> None:
        account = json.loads(self.coterie("inspect", model, "--json", "--experts-per-token", chosen))
        perplexity = self.evaluated(model, held, "--tokens", 20000, "--experts-per-token", chosen)["perplexity"]
        size = (ROOT / model).stat().st_size
        print(f"| {name} | {account['total_parameters'] / 1e6:.1f}M | {account['active_parameters'] / 1e6:.1f}M | "
              f"{size / 1e6:.1f} MB | {perplexity:.3g} |")

    def documents(self, name: str, least: int) -> pathlib.Path:
        """Whole documents of a file of ./dev text, from all over it, of some bytes at least."""
        if self.texts is None:
            fail("--texts is needed: the folder that ./dev text wrote")
        every = [json.loads(line)["text"] for line in (self.texts / name).read_text(encoding="utf-8").splitlines()]
        size = sum(map(len, every))
        chosen = every[::max(1, size // least)]
        text = self.scratch / f"{name}.txt"
        text.write_text("\n\n".join(chosen), encoding="utf-8")
        return text

    def fewer(self) -> None:
        held, calibration = self.documents("own-held-out.jsonl", 200000), self.documents("own-model.jsonl", 300000)
        account = json.loads(self.coterie("inspect", MODEL, "--json"))
        found = next(filter(None, (re.search(r"(\d+) experts of width.* (\d+) for each token", line) for line in account["description"])))
        experts, chosen = int(found[1]), int(found[2])
        for k in range(chosen, 0, -1):
            self.row(f"{k} of {experts}", MODEL, held, k)
        for kept in (experts * 3 // 4, experts // 2, experts // 4):
            smaller = self.scratch / f"{kept}.gguf"
            self.coterie("prune", MODEL, "--keep", kept, "--text", calibration, "--window", 256, "--tokens", 40000, "-o", smaller)
            self.row(f"{chosen} of {kept}", smaller, held, chosen)

    def pictures(self) -> None:
        self.run("python3", "scripts/terminal_svg.py", "--run")

    def transcripts(self) -> None:
        print(self.run("python3", "scripts/check_transcripts.py", "--binary", self.binary, "--write"), end="")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=pathlib.Path, required=True, help="the coterie to run")
    parser.add_argument("--masc", type=pathlib.Path, help="the corpus: a folder of word_TAG files")
    parser.add_argument("--texts", type=pathlib.Path, help="the folder that ./dev text wrote")
    parser.add_argument("--threads", type=int, help="of each program")
    parser.add_argument("--only", help=f"some of {','.join(STEPS)} (default: all)")
    arguments = parser.parse_args()
    steps = arguments.only.split(",") if arguments.only else STEPS
    if unknown := [each for each in steps if each not in STEPS]:
        fail(f"--only {unknown[0]}: expected some of {','.join(STEPS)}")
    with tempfile.TemporaryDirectory() as scratch:
        pages = Pages(arguments, pathlib.Path(scratch))
        for step in steps:
            print(f"{step} …", flush=True)
            getattr(pages, step)()


if __name__ == "__main__":
    main()
