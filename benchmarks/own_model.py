#!/usr/bin/env python3
"""Whether a small model of ours is good enough to ship: bits per byte on held-out documents, and what its samples are like.

  bits per byte   of each file of documents (JSON lines with text), each document by itself, a window of the model's context
  known words     the share of the words of its samples that Webster's list of 1934 has (web2, of the package miscfiles,
                  which ./dev text fetches), with the endings of English taken off
  repeated        the share of 4-grams of words that a sample holds more than once
Samples are continuations by the sampler's defaults, with seeds 1, 2, 3 …

examples:
  own_model.py models/coterie-small.gguf
  own_model.py runs/coterie-small/moe/checkpoints/step-0007600 --documents build/text/own-held-out.jsonl --samples 20 --json
  own_model.py a.gguf b.gguf                           # one below the other, and the ratio of the last to the first

exit code: 0 measured, 2 a file is missing or a program failed
"""
import argparse
import gzip
import json
import math
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts/text"))
import packages  # noqa: E402

PROMPTS = ["And it came to pass", "The king", "It is the duty of", "She looked at him and", "The whale"]
ENDINGS = ["", "s", "es", "ed", "d", "ing", "er", "est", "ly", "'s", "'d", "'st", "st", "eth", "th", "n", "en"]


def fail(text):
    print(f"own_model: {text}", file=sys.stderr)
    sys.exit(2)


def output(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        fail(f"{' '.join(map(str, command[:3]))} failed: {done.stderr.strip()}")
    return done.stdout


def bits_per_byte(binary, model, path, threads):
    """Over the documents of the file, of at least 200 bytes each; a document's loss is of its tokens after the first."""
    with tempfile.TemporaryDirectory() as temporary:
        text = pathlib.Path(temporary) / "document.txt"
        # One text, so that the model is opened once: documents follow each other as they did in training.
        text.write_text("\n".join(json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()), encoding="utf-8")
        context = json.loads(output([binary, "inspect", model, "--json"])).get("context", 512)
        result = json.loads(output([binary, "eval", model, "--text", text, "--window", min(context, 512), "--json", "-t", threads]))
        bits = result["cross_entropy"] * result["predictions"] / math.log(2)
        letters = text.stat().st_size
    return bits / letters


def word_list(texts):
    for archive in (texts / "packages").glob("debian+miscfiles+*/*.deb"):
        for name, content in packages.members(archive):
            if name.endswith(("usr/share/dict/web2", "usr/share/dict/propernames.gz")):
                content = gzip.decompress(content) if name.endswith(".gz") else content
                yield from (word.lower() for word in content.decode("utf-8").split())


def known(word, words):
    for ending in ENDINGS:
        if word.endswith(ending):
            stem = word[:len(word) - len(ending)]
            doubled = len(stem) > 2 and stem[-1] == stem[-2]
            if stem in words or stem + "e" in words or (doubled and stem[:-1] in words) or (stem.endswith("i") and stem[:-1] + "y" in words):
                return True
    return False


def samples(binary, model, count, tokens, threads):
    return [output([binary, "run", model, "-p", PROMPTS[seed % len(PROMPTS)], "-q", "-n", tokens, "--seed", seed, "-t", threads])
            for seed in range(1, count + 1)]


def measure(settings, model, words):
    result = {"model": str(model)}
    for path in settings.documents:
        result[f"bits per byte, {path.name}"] = bits_per_byte(settings.binary, model, path, settings.threads)
    texts = samples(settings.binary, model, settings.samples, settings.tokens, settings.threads)
    found = [word for text in texts for word in re.findall(r"[a-z']*[a-z]", text.lower())]
    result["known words"] = sum(known(word, words) for word in found) / max(1, len(found))
    seen = repeated = 0
    for text in texts:
        parts = text.split()
        grams = [tuple(parts[i:i + 4]) for i in range(len(parts) - 3)]
        seen, repeated = seen + len(grams), repeated + len(grams) - len(set(grams))
    result["repeated 4-grams"] = repeated / max(1, seen)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="+")
    parser.add_argument("--binary", default=ROOT / "build/release/coterie")
    parser.add_argument("--texts", type=pathlib.Path, default=ROOT / "build/text", help="where ./dev text wrote (build/text)")
    parser.add_argument("--documents", type=pathlib.Path, nargs="+", help="files of documents (the two held-out ones)")
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    settings = parser.parse_args()
    settings.documents = settings.documents or [settings.texts / "held-out.jsonl", settings.texts / "own-held-out.jsonl"]
    for path in settings.documents:
        if not path.exists():
            fail(f"{path} is missing: ./dev text makes it")
    words = set(word_list(settings.texts))
    if not words:
        fail(f"{settings.texts}/packages has no miscfiles: ./dev text fetches it")
    results = [measure(settings, model, words) for model in settings.model]
    if settings.json:
        print(json.dumps(results, indent=2))
        return
    for key in results[0]:
        values = [result[key] for result in results]
        if key == "model":
            print(f"{'':38}" + "  ".join(f"{pathlib.Path(value).name:>24}" for value in values))
        else:
            ratio = f"   last / first {values[-1] / values[0]:.3f}" if len(values) > 1 and values[0] else ""
            print(f"{key:38}" + "  ".join(f"{value:24.4f}" for value in values) + ratio)


if __name__ == "__main__":
    main()
