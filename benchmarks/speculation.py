#!/usr/bin/env python3
"""How fast `coterie run --speculate` is against none, and that its text is the same.

    python3 benchmarks/speculation.py build/release/coterie MODEL [--kind ngram] [--pairs 20] [--tokens 256]

Runs the prompts of benchmarks/speculation/ in turn without and with speculation, compares the texts, and prints the
median ratio of tokens a second after the first with its 95 % interval (of the median, by order statistics), beside the
acceptance and the load of the machine. With --json a line a prompt.
"""
import argparse
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys

PROMPTS = pathlib.Path(__file__).resolve().parent / "speculation"


def run(arguments, prompt, more):
    command = [arguments.coterie, "run", arguments.model, "--chat", "--file", prompt, "-n", str(arguments.tokens), "--json",
               "--quiet", "--seed", str(arguments.seed), "--threads", str(arguments.threads), *more]
    command += ["--greedy"] if arguments.greedy else []
    command += ["--ignore-eos"] if arguments.ignore_eos else []
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def interval(values):
    """Of the median: ranks that a binomial of one half leaves 2.5 % beyond on either side."""
    ordered, n = sorted(values), len(values)
    tail, rank = 0.0, 0
    while rank < n // 2 and tail + math.comb(n, rank) / 2 ** n <= 0.025:
        tail += math.comb(n, rank) / 2 ** n
        rank += 1
    return ordered[max(rank - 1, 0)], ordered[min(n - rank, n - 1)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("coterie")
    parser.add_argument("model")
    parser.add_argument("--kind", default="ngram")
    parser.add_argument("--draft-tokens", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--greedy", action="store_true")
    parser.add_argument("--ignore-eos", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("prompts", nargs="*", default=["edit", "quote", "story"])
    arguments = parser.parse_args()
    for name in arguments.prompts:
        ratios, rates = [], []
        for pair in range(arguments.pairs):
            drafts = ["--speculate", arguments.kind, "--draft-tokens", str(arguments.draft_tokens)]
            both = {}
            for more in ([], drafts) if pair % 2 == 0 else (drafts, []):
                both[bool(more)] = run(arguments, PROMPTS / f"{name}.txt", more)
            plain, drafted = both[False], both[True]
            if plain["tokens"] != drafted["tokens"]:
                sys.exit(f"{name}: the text with --speculate {arguments.kind} is another: a fault of the engine")
            ratios.append(drafted["decode_tokens_per_second"] / plain["decode_tokens_per_second"])
            rates.append(plain["decode_tokens_per_second"])
        low, high = interval(ratios)
        result = {"prompt": name, "tokens": drafted["generated_tokens"], "plain": statistics.median(rates),
                  "ratio": statistics.median(ratios), "low": low, "high": high, "pairs": arguments.pairs,
                  "drafted": drafted["drafted_tokens"], "accepted": drafted["accepted_tokens"],
                  "load": os.getloadavg()[0]}
        if arguments.json:
            print(json.dumps(result), flush=True)
        else:
            print("{prompt:6} {tokens:4} tokens, {plain:6.1f} t/s without; × {ratio:.2f} ({low:.2f} to {high:.2f}, "
                  "{pairs} pairs); {accepted} of {drafted} drafted tokens accepted; load {load:.1f}".format(**result),
                  flush=True)


if __name__ == "__main__":
    main()
