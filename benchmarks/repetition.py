#!/usr/bin/env python3
"""How much a model repeats itself: the share of 4-grams of words that its samples hold more than once.

Each sample is a continuation by the sampler's defaults, with a seed of its own; 4-grams are counted within a sample.

example:
  repetition.py build/release/coterie models/coterie-small.gguf --samples 20 --tokens 250
"""
import argparse
import subprocess
import sys

PROMPTS = ["The king", "And the LORD said", "O", "Enter ", "My lord,"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("model")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=250)
    settings = parser.parse_args()
    seen = repeated = 0
    for seed in range(settings.samples):
        done = subprocess.run([settings.binary, "run", settings.model, "-p", PROMPTS[seed % len(PROMPTS)], "-q",
                               "-n", str(settings.tokens), "--seed", str(seed)], capture_output=True, text=True)
        if done.returncode != 0:
            print(done.stderr, file=sys.stderr)
            sys.exit(2)
        words = done.stdout.split()
        grams = [tuple(words[i:i + 4]) for i in range(len(words) - 3)]
        seen += len(grams)
        repeated += len(grams) - len(set(grams))
    if seen == 0:
        print("the samples have fewer than 4 words", file=sys.stderr)
        sys.exit(2)
    print(f"{repeated} of {seen} 4-grams repeat: {100 * repeated / seen:.1f} %")


if __name__ == "__main__":
    main()
