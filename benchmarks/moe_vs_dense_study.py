#!/usr/bin/env python3
"""The comparison of docs/moe-vs-dense.md: dense models and mixtures of equal active parameters, one command, resumable.

For a size (recipes/moe-vs-dense.yaml) it trains, in this order, what is not trained yet:
  tune      three learning rates for the dense model and each mixture, a fifth of the steps, seed 100
  choose    each mixture for 0.6 of the dense model's steps, seed 101; the best by validation loss goes on
  compare   fresh seeds: the dense model for all its steps, the mixture for 0.4, 0.6 and 1 of them, each run with a
            schedule of its own that ends there
and then prints, by the test text: losses, and what the mixture needs of the dense model's tokens, FLOPs and seconds to
reach its final loss, between the two ends that lie around it (log of tokens against loss).

examples:
  moe_vs_dense_study.py --size 0.5 --seeds 1 2 3        # after ./dev text; Ctrl-C and the same command go on
  moe_vs_dense_study.py --size 0.5 --report             # what there is so far
  moe_vs_dense_study.py --size 1 --only dense-1 e32s-1

exit code: 0 all is trained or reported, 2 a run or a text is missing or failed
"""
import argparse
import json
import math
import pathlib
import shutil
import statistics
import struct
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes/moe-vs-dense.yaml"
DATA = ROOT / "build/moe-vs-dense"
VARIANTS = {"0.5": ["dense-0.5", "e8-0.5", "e32-0.5", "e32s-0.5", "e64-0.5", "e64s-0.5"], "1": ["dense-1", "e32s-1", "e64s-1"],
            "4": ["dense-4", "e32s-4", "e64s-4"]}
STEPS = {"0.5": 2500, "1": 5000, "4": 19600}
RATES = [2e-3, 4e-3, 8e-3]
SHARES = [0.4, 0.6, 1.0]


def fail(text):
    print(f"moe_vs_dense_study: {text}", file=sys.stderr)
    sys.exit(2)


def call(command):
    if subprocess.run(command).returncode != 0:
        fail(f"this ended with an error: {' '.join(map(str, command))}")


def tokens_of(path):
    """The int32 tokens of a safetensors file, as bytes."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    start, end = json.loads(content[8:8 + length])["tokens"]["data_offsets"]
    return content[8 + length + start:8 + length + end]


def join(train, held_out, path):
    """Both, one after the other, and the share of the whole that the second is, so that the trainer cuts between them."""
    body = train + held_out
    header = json.dumps({"tokens": {"dtype": "I32", "shape": [len(body) // 4], "data_offsets": [0, len(body)]}}).encode()
    header += b" " * (-len(header) % 8)
    partial = path.with_suffix(".partial")
    partial.write_bytes(struct.pack("<Q", len(header)) + header + body)
    partial.rename(path)
    return (len(held_out) // 4 - 0.5) / (len(body) // 4)


def prepare(binary, texts):
    """A vocabulary of 1,024; the tokens of prose.jsonl with, after them, those of each half of the new held-out documents."""
    if (DATA / "shares.json").exists():
        return
    prose, held_out = texts / "prose.jsonl", texts / "own-held-out.jsonl"
    if not prose.exists() or not held_out.exists():
        fail(f"{prose} is missing: ./dev text gathers it")
    DATA.mkdir(parents=True, exist_ok=True)
    lines = held_out.read_text(encoding="utf-8").splitlines(keepends=True)
    shares = {}
    for name, half in (("validation", lines[::2]), ("test", lines[1::2])):
        (DATA / f"{name}.jsonl").write_text("".join(half), encoding="utf-8")
        tokenizer = DATA / "tokenizer"
        choice = f"{{folder: {tokenizer}}}" if tokenizer.exists() else "{kind: bpe, vocabulary: 1024, special: [<|endoftext|>]}"
        base = DATA / f"tokens-{name}"
        call([binary, "train", RECIPE, "-o", base, "--variant", "dense-0.5", "--resume", "--set", f"tokenizer={choice}",
              "--set", f"data={{files: {prose.resolve()}, validation_files: {(DATA / name).resolve()}.jsonl, format: jsonl}}",
              "--set", "training.steps=1", "--set", "training.warmup=0", "--set", "evaluation.batches=1"])
        made = base / "dense-0.5"
        if not tokenizer.exists():
            shutil.copytree(made / "tokenizer", tokenizer)
        shares[name] = join(tokens_of(made / "tokens.safetensors"), tokens_of(made / "validation.safetensors"), DATA / f"{name}.safetensors")
        shutil.rmtree(base)
    (DATA / "shares.json").write_text(json.dumps(shares))  # last: its being there says that all is


def events(folder):
    try:
        return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    except OSError:
        return []


class Run:
    def __init__(self, settings, stage, variant, seed, steps, rate, validation="validation"):
        self.variant, self.seed, self.steps, self.rate = variant, seed, steps, rate
        self.settings, self.validation = settings, validation
        self.base = settings.output / stage / f"{seed}-{steps}-{rate:g}"
        self.folder = self.base / variant

    def finished(self):
        return any(event["kind"] == "end" and event["step"] == self.steps for event in events(self.folder))

    def train(self):
        if self.finished():
            return
        if self.settings.report:
            return
        warmup = min(max(10, self.steps // 25), self.steps // 2)
        sets = [f"seed={self.seed}", f"training.steps={self.steps}", f"training.learning_rate={self.rate:g}",
                f"training.warmup={warmup}", f"evaluation.every={max(1, self.steps // 10)}",
                f"data.files={(DATA / self.validation).resolve()}.safetensors",
                f"data.validation={json.loads((DATA / 'shares.json').read_text())[self.validation]!r}"]
        command = [self.settings.binary, "train", RECIPE, "--variant", self.variant, "-o", self.base, "--resume",
                   "--threads", str(self.settings.threads)]
        print(f"== {self.base.parent.name} {self.variant}: seed {self.seed}, {self.steps} steps, rate {self.rate:g}", flush=True)
        call(command + [part for value in sets for part in ("--set", value)])

    def result(self):
        """Final loss, tokens, FLOPs a token, seconds a token (median of steps), parameters; None: not trained."""
        if not self.finished():
            return None
        log = events(self.folder)
        start = log[0]
        loss = [event for event in log if event["kind"] == "evaluation"][-1]
        speeds = [event["tokens_per_second"] for event in log if event["kind"] == "step"]
        return {"loss": loss["validation"], "tokens": loss["tokens"], "flops": start["flops_per_token"],
                "seconds": 1 / statistics.median(speeds), "parameters": start["parameters"], "active": start["active_parameters"]}


def best(runs):
    """The run of the lowest loss; None while one is missing."""
    results = [(run.result(), run) for run in runs]
    if any(result is None for result, _ in results):
        return None
    return min(results, key=lambda pair: pair[0]["loss"])[1]


def reach(ends, loss):
    """Tokens at which runs that end at (tokens, loss) would have ended at `loss`, by a line through log tokens."""
    for (t0, l0), (t1, l1) in zip(ends, ends[1:]):
        if min(l0, l1) <= loss <= max(l0, l1) and l0 != l1:
            return math.exp(math.log(t0) + (l0 - loss) / (l0 - l1) * (math.log(t1) - math.log(t0)))
    return None


def study(settings):
    size, variants = settings.size, settings.only or VARIANTS[settings.size]
    dense, mixtures = variants[0], variants[1:]
    steps = STEPS[size]
    if not settings.report:
        prepare(settings.binary, settings.texts)
    rates = {}
    for variant in variants:
        tuned = [Run(settings, "tune", variant, 100, steps // 5, rate) for rate in RATES]
        for run in tuned:
            run.train()
        chosen = best(tuned)
        print(f"{variant:12} tune     " + "  ".join(f"{run.rate:g}: {run.result()['loss']:.4f}" if run.result() else f"{run.rate:g}: -"
                                                    for run in tuned))
        rates[variant] = chosen.rate if chosen else None
    if None in rates.values():
        return
    trials = [Run(settings, "choose", variant, 101, round(0.6 * steps), rates[variant]) for variant in mixtures]
    for run in trials:
        run.train()
    winner = best(trials)
    for run in trials:
        print(f"{run.variant:12} choose   {run.result()['loss']:.4f}" if run.result() else f"{run.variant:12} choose   -")
    if not winner:
        return
    ratios = []
    for seed in settings.seeds:
        reference = Run(settings, "compare", dense, seed, steps, rates[dense], "test")
        ends = [Run(settings, "compare", winner.variant, seed, round(share * steps), rates[winner.variant], "test") for share in SHARES]
        for run in [reference, *ends]:
            run.train()
        results = [run.result() for run in [reference, *ends]]
        if None in results:
            print(f"seed {seed}: not all is trained")
            continue
        target, mixture = results[0], results[1:]
        tokens = reach([(r["tokens"], r["loss"]) for r in mixture], target["loss"])
        losses = "  ".join(f"{share:g}: {r['loss']:.4f}" for share, r in zip(SHARES, mixture))
        if tokens is None:
            ahead = mixture[0]["loss"] < target["loss"]
            print(f"seed {seed}: {dense} {target['loss']:.4f}, {winner.variant} {losses}; {'before 0.4 of the tokens' if ahead else 'never'}")
            continue
        share = tokens / target["tokens"]
        ratio = (share, share * mixture[-1]["flops"] / target["flops"], share * mixture[-1]["seconds"] / target["seconds"])
        ratios.append(ratio)
        print(f"seed {seed}: {dense} {target['loss']:.4f}, {winner.variant} {losses}; tokens {ratio[0]:.3f}, FLOPs {ratio[1]:.3f}, "
              f"seconds {ratio[2]:.3f}")
    if len(ratios) > 1:
        for name, values in zip(("tokens", "FLOPs", "seconds"), zip(*ratios)):
            spread = statistics.stdev(values) / math.sqrt(len(values)) * {2: 12.71, 3: 4.303}.get(len(values), 2.78)
            print(f"{name}: {statistics.mean(values):.3f} ± {spread:.3f} (95 %, {len(values)} seeds)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(VARIANTS), default="0.5", help="active parameters in millions (0.5)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", help="these variants, the dense one first")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--binary", default=ROOT / "build/release/coterie")
    parser.add_argument("--texts", type=pathlib.Path, default=ROOT / "build/text", help="where ./dev text wrote (build/text)")
    parser.add_argument("-o", "--output", type=pathlib.Path, help="folder of the runs (runs/moe-vs-dense/SIZE)")
    parser.add_argument("--report", action="store_true", help="train nothing, print what there is")
    settings = parser.parse_args()
    settings.output = settings.output or ROOT / "runs/moe-vs-dense" / settings.size
    if settings.only and not settings.only[0].startswith("dense"):
        fail("--only names the dense variant first")
    study(settings)


if __name__ == "__main__":
    main()
