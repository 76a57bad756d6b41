#!/usr/bin/env python3
"""How fast `coterie run --speculate` is against none, and that its text is the same.

    python3 benchmarks/speculation.py build/release/coterie MODEL [--kind ngram] [--pairs 20] [--tokens 256]

Runs the prompts of benchmarks/speculation/ in turn without and with speculation, compares the texts, and prints the
median ratio of their speeds with its 95 % interval (of the median, by order statistics), beside the acceptance and the
load of the machine: of all tokens after the first, and of those after the first 64, which the engine may take to find
out whether drafting pays. With --acceptance also how many of 1, 2 and 4 drafted tokens a step are accepted where
drafts are made in each step (--draft-always), over five seeds where tokens are drawn. With --json a line a prompt.
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
SETTLED = 64  # tokens
SEEDS = 5


def run(arguments, prompt, more, seed=None):
    seed = arguments.seed if seed is None else seed
    command = [arguments.coterie, "run", arguments.model, "--file", prompt, "-n", str(arguments.tokens), "--json",
               "--quiet", "--seed", str(seed), "--threads", str(arguments.threads), *more]
    command += [] if arguments.plain else ["--chat"]
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


def seconds_after(answer, tokens):
    """From the token of that number to the last."""
    return answer["token_seconds"][-1] - answer["token_seconds"][tokens - 1]


def measure(arguments, name):
    ratios, settled, rates = [], [], []
    drafts = ["--speculate", arguments.kind, "--draft-tokens", str(arguments.draft_tokens)]
    for pair in range(arguments.pairs):
        both = {}
        for more in ([], drafts) if pair % 2 == 0 else (drafts, []):
            both[bool(more)] = run(arguments, PROMPTS / f"{name}.txt", more)
        plain, drafted = both[False], both[True]
        if plain["tokens"] != drafted["tokens"]:
            sys.exit(f"{name}: the text with --speculate {arguments.kind} is another: a fault of the engine")
        ratios.append(seconds_after(plain, 1) / seconds_after(drafted, 1))
        if len(plain["tokens"]) > 2 * SETTLED:
            settled.append(seconds_after(plain, SETTLED) / seconds_after(drafted, SETTLED))
        rates.append(plain["decode_tokens_per_second"])
    result = {"prompt": name, "tokens": drafted["generated_tokens"], "plain": statistics.median(rates),
              "pairs": arguments.pairs, "drafted": drafted["drafted_tokens"], "accepted": drafted["accepted_tokens"],
              "load": os.getloadavg()[0]}
    for key, values in (("all", ratios), ("settled", settled)):
        if values:
            low, high = interval(values)
            result[key] = {"ratio": statistics.median(values), "low": low, "high": high,
                           "least": min(values), "most": max(values)}
    return result


def acceptance(arguments, name):
    """Of drafts of so many tokens in each step: the share that is accepted, and tokens a step."""
    shares = {}
    for drafted in (1, 2, 4):
        more = ["--speculate", arguments.kind, "--draft-tokens", str(drafted), "--draft-always"]
        answers = [run(arguments, PROMPTS / f"{name}.txt", more, arguments.seed + seed)
                   for seed in range(1 if arguments.greedy else SEEDS)]
        tried, taken, made = (sum(answer[key] for answer in answers)
                              for key in ("drafted_tokens", "accepted_tokens", "generated_tokens"))
        shares[drafted] = {"accepted": taken / max(tried, 1), "tokens_a_step": made / max(made - taken, 1)}
    return shares


def shown(result):
    words = "{prompt:6} {tokens:4} tokens, {plain:6.1f} t/s without; ".format(**result)
    words += "× {ratio:.3f} ({low:.3f} to {high:.3f})".format(**result["all"])
    if "settled" in result:
        words += ", after {} tokens × {ratio:.3f} ({low:.3f} to {high:.3f})".format(SETTLED, **result["settled"])
    words += "; {pairs} pairs; {accepted} of {drafted} drafted tokens accepted; load {load:.1f}".format(**result)
    for drafted, of in result.get("acceptance", {}).items():
        words += "\n       {} drafted in each step: {:.2f} of them accepted, {:.2f} tokens a step".format(
            drafted, of["accepted"], of["tokens_a_step"])
    return words


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("coterie")
    parser.add_argument("model")
    parser.add_argument("--kind", default="ngram", help="as --speculate has it")
    parser.add_argument("--draft-tokens", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--greedy", action="store_true")
    parser.add_argument("--plain", action="store_true", help="prompts as they are, for models without a chat template")
    parser.add_argument("--ignore-eos", action="store_true")
    parser.add_argument("--acceptance", action="store_true", help="also of drafts in each step")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--prompts", nargs="+", default=["edit", "quote", "story"], help="files of benchmarks/speculation")
    arguments = parser.parse_args()
    for name in arguments.prompts:
        result = measure(arguments, name)
        if arguments.acceptance:
            result["acceptance"] = acceptance(arguments, name)
        print(json.dumps(result) if arguments.json else shown(result), flush=True)


if __name__ == "__main__":
    main()
