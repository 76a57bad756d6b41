#!/usr/bin/env python3
"""What a mixture of experts costs beside dense models of its held and of its active size, and what more experts cost.

    benchmarks/moe_and_dense.py build/release/coterie [--rounds 3] [--layers 4] [--run-with "chrt -r 10"] [--json]

Mixtral 8x7B's blocks beside dense blocks whose FFN is 8 times as wide (all that is held) and twice (all that is active), and
Qwen3-30B-A3B's blocks with 8, 32 and 128 experts of which 8 are active; all with random weights in Q4_K. Every model is run in
turn, `rounds` times; medians count, and ratios are within a round.
"""

import argparse
import json
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile

MIXTRAL = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
}
QWEN3 = {
    "model_type": "qwen3_moe",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
}
WIDTH = 14336


def models(layers):
    """(name, config, the name whose figures it is compared with)"""
    common = {"num_hidden_layers": layers}
    moe = {"model_type": "mixtral", "intermediate_size": WIDTH, "num_local_experts": 8, "num_experts_per_tok": 2}
    first = "mixtral 8 experts, 2 active"
    yield first, MIXTRAL | moe | common, first
    for name, times in (("dense of the held size", 8), ("dense of the active size", 2)):
        yield name, MIXTRAL | {"model_type": "mistral", "intermediate_size": times * WIDTH} | common, first
    few = "qwen3 8 experts, 8 active"
    for experts in (8, 32, 128):
        yield f"qwen3 {experts} experts, 8 active", QWEN3 | {"num_experts": experts} | common, few


def bench(command, config, prompt, generate):
    found = subprocess.run(
        [*command, "bench", "--shape", str(config), "--prompt", str(prompt), "--generate", str(generate), "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(found.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("coterie")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("--run-with", default="")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    command = [*shlex.split(args.run_with), args.coterie]
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(args.rounds):
            rounds.append({})
            for name, config, _ in models(args.layers):
                path = pathlib.Path(folder) / "config.json"
                path.write_text(json.dumps(config))
                rounds[-1][name] = bench(command, path, args.prompt, args.generate)
                print(f"round {turn + 1} of {args.rounds}: {name}", file=sys.stderr)

    rows = []
    for name, _, beside in models(args.layers):
        row = {"model": name, "held_gb": rounds[0][name]["expected_resident_bytes"] / 1e9}
        for work in ("prefill", "decode"):
            key = f"{work}_tokens_per_second"
            row[key] = statistics.median(r[name][key] for r in rounds)
            ratios = [r[beside][key] / r[name][key] for r in rounds]
            row[f"{work}_ratio"] = [statistics.median(ratios), min(ratios), max(ratios)]
        rows.append(row)
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'model':28} {'GB':>5} {'prefill t/s':>12} {'first is':>24} {'decode t/s':>11} {'first is':>24}")
    for row in rows:
        cells = [f"{row['model']:28} {row['held_gb']:5.1f}"]
        for work, width in (("prefill", 12), ("decode", 11)):
            middle, least, most = row[f"{work}_ratio"]
            cells.append(f"{row[f'{work}_tokens_per_second']:{width}.1f} {f'{middle:.2f} x ({least:.2f} to {most:.2f})':>24}")
        print(" ".join(cells))


if __name__ == "__main__":
    main()
