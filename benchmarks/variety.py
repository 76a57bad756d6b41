#!/usr/bin/env python3
"""Whether experts that are drawn bring variety, and at what price beside the temperature of the words.

Each setting continues the same beginnings with the same seeds. Of its texts:
  distinct    the share of bigrams of words that are different ones, of all texts of a beginning, mean over beginnings
  self-BLEU   BLEU-2 of each text against the others of its beginning (Zhu et al. 2018, "Texygen"), mean; 0 nothing alike
  perplexity  of the continuations under the same model with its best experts
`write` makes the texts and keeps the figures; `table` prints them, and for each setting with drawn experts what the
temperature of the words alone gives at the same perplexity, on the line between its two neighbours.

example:
  variety.py write build/release/coterie models/coterie-small.gguf -o examples/runs/variety.json
  variety.py table examples/runs/variety.json
"""

import argparse
import collections
import json
import math
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

BEGINNINGS = ["And it came to pass", "The king said to", "My lord, I", "In the beginning", "O, what a"]
TEMPERATURES = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2]  # of the words, with the best experts
DRAWN = [(router, words) for words in (0.0, 0.6, 0.8) for router in (0.5, 1.0, 2.0)]


def coterie(binary: str, *arguments) -> str:
    done = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"variety: coterie {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout


def texts_of(binary: str, model: str, settings: argparse.Namespace, words: float, router: float | None, folder: pathlib.Path) -> list[list[str]]:
    """[beginning][sample]: continuations."""
    lines, out = folder / "prompts.jsonl", folder / "answers.jsonl"
    # Each line has a seed of its own: that of the run and its number.
    lines.write_text("".join(json.dumps({"prompt": each}) + "\n" for _ in range(settings.samples) for each in BEGINNINGS), encoding="utf-8")
    out.unlink(missing_ok=True)
    more = ["--router", f"sample:{router}"] if router else []
    coterie(binary, "run", model, "--jsonl", lines, "-o", out, "-n", settings.tokens, "--seed", 1, "--ignore-eos", "-q",
            "--temperature", words, "--top-p", 1, "--top-k", 0, "--min-p", 0, "--threads", settings.threads, *more)
    texts: list[list[str]] = [[] for _ in BEGINNINGS]
    for i, line in enumerate(out.read_text(encoding="utf-8").splitlines()):
        texts[i % len(BEGINNINGS)].append(json.loads(line)["text"])
    return texts


def loss(binary: str, model: str, text: str, folder: pathlib.Path, threads: int) -> tuple[float, int]:
    """Summed cross-entropy of a text's tokens, and how many were predicted."""
    file = folder / "text.txt"
    file.write_text(text, encoding="utf-8")
    result = json.loads(coterie(binary, "eval", model, "--text", file, "--json", "--threads", threads))
    return result["cross_entropy"] * result["predictions"], result["predictions"]


def grams(words: list[str], n: int) -> collections.Counter:
    return collections.Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def bleu(text: list[str], others: list[list[str]], most: int = 2) -> float:
    """BLEU of Papineni et al. 2002; a count of 0 becomes 0.1, as NLTK's first smoothing has it."""
    total = 0.0
    for n in range(1, most + 1):
        own = grams(text, n)
        best: collections.Counter = collections.Counter()
        for other in others:
            best |= grams(other, n)
        hits = sum(min(count, best[gram]) for gram, count in own.items())
        total += math.log(max(hits, 0.1) / max(sum(own.values()), 1))
    nearest = min((abs(len(other) - len(text)), len(other)) for other in others)[1]
    brevity = min(0.0, 1 - nearest / max(len(text), 1))
    return math.exp(brevity + total / most)


def figures(texts: list[list[str]]) -> tuple[list[float], list[float]]:
    """Of each beginning: distinct bigrams and self-BLEU."""
    distinct, alike = [], []
    for samples in texts:
        words = [sample.split() for sample in samples]
        all_of = sum((grams(each, 2) for each in words), collections.Counter())
        distinct.append(len(all_of) / max(sum(all_of.values()), 1))
        alike.append(statistics.mean(bleu(each, words[:i] + words[i + 1 :]) for i, each in enumerate(words)))
    return distinct, alike


def write(settings: argparse.Namespace) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        alone = [loss(settings.binary, settings.model, each, folder, settings.threads) for each in BEGINNINGS]
        for router, words in [(None, words) for words in TEMPERATURES] + DRAWN:
            texts = texts_of(settings.binary, settings.model, settings, words, router, folder)
            distinct, alike = figures(texts)
            perplexity = []
            for beginning, samples, (begun, count) in zip(BEGINNINGS, texts, alone):
                sums = [loss(settings.binary, settings.model, beginning + sample, folder, settings.threads) for sample in samples]
                nats = sum(nats - begun for nats, _ in sums) / sum(predicted - count for _, predicted in sums)
                perplexity.append(math.exp(nats))
            rows.append({"router": router, "words": words, "distinct": distinct, "self_bleu": alike, "perplexity": perplexity})
            print(f"router {router}, words {words}: {statistics.mean(distinct):.3f} {statistics.mean(alike):.3f} {statistics.geometric_mean(perplexity):.1f}",
                  file=sys.stderr)
    result = {"model": pathlib.Path(settings.model).name, "samples": settings.samples, "tokens": settings.tokens, "beginnings": BEGINNINGS, "rows": rows}
    settings.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def at_perplexity(curve: list[dict], wanted: float, key: str, pick: list[int]) -> float | None:
    """Of the words' temperature alone, between the two settings whose perplexities enclose it; none outside."""
    points = sorted((math.log(statistics.geometric_mean([row["perplexity"][i] for i in pick])), statistics.mean([row[key][i] for i in pick])) for row in curve)
    x = math.log(wanted)
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        if x0 <= x <= x1:
            return y0 + (y1 - y0) * (x - x0) / max(x1 - x0, 1e-12)
    return None


def gain(curve: list[dict], row: dict, key: str, pick: list[int]) -> float | None:
    """What drawn experts have more than the words' temperature has at the same perplexity, over some beginnings."""
    other = at_perplexity(curve, statistics.geometric_mean([row["perplexity"][i] for i in pick]), key, pick)
    return None if other is None else statistics.mean([row[key][i] for i in pick]) - other


def interval(curve: list[dict], row: dict, key: str, count: int) -> str:
    """The gain and its 95 % interval, beginnings drawn again."""
    rng = random.Random(1)
    here = gain(curve, row, key, list(range(count)))
    draws = [gain(curve, row, key, [rng.randrange(count) for _ in range(count)]) for _ in range(400)]
    known = sorted(each for each in draws if each is not None)
    if here is None or len(known) < 360:
        return f"{'beyond the temperatures':>26}"
    return f"{here:+.3f} ({known[int(0.025 * len(known))]:+.3f} to {known[int(0.975 * len(known))]:+.3f})".rjust(26)


def table(settings: argparse.Namespace) -> None:
    result = json.loads(settings.file.read_text(encoding="utf-8"))
    rows, count = result["rows"], len(result["beginnings"])
    curve = [row for row in rows if row["router"] is None]
    print(f"{result['model']}: {count} beginnings, {result['samples']} texts of {result['tokens']} tokens each")
    print("experts     words   perplexity  distinct  self-BLEU        more distinct than by          self-BLEU against")
    print(f"{'':<44}       words at that perplexity   words at that perplexity")
    for row in rows:
        name = "best" if row["router"] is None else f"drawn {row['router']:g}"
        line = f"{name:<11} {row['words']:<7g} {statistics.geometric_mean(row['perplexity']):>10.1f} {statistics.mean(row['distinct']):>9.3f} {statistics.mean(row['self_bleu']):>10.3f}"
        if row["router"] is not None:
            line += "   " + interval(curve, row, "distinct", count) + interval(curve, row, "self_bleu", count)
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    making = verbs.add_parser("write", help="make the texts and keep their figures")
    making.add_argument("binary")
    making.add_argument("model")
    making.add_argument("-o", "--output", type=pathlib.Path, required=True)
    making.add_argument("--samples", type=int, default=16)
    making.add_argument("--tokens", type=int, default=60)
    making.add_argument("--threads", type=int, default=1)
    making.set_defaults(run=write)
    showing = verbs.add_parser("table", help="print them")
    showing.add_argument("file", type=pathlib.Path)
    showing.set_defaults(run=table)
    settings = parser.parse_args()
    if hasattr(settings, "samples") and settings.samples < 2:
        parser.error("--samples: a text is compared with others, so there are at least 2")
    settings.run(settings)


if __name__ == "__main__":
    main()
