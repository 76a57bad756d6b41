#!/usr/bin/env python3
"""What ranks of one machine cost, and what a network between them would.

    benchmarks/ranks.py model.gguf                                   # 1 rank of 2 threads against 2 ranks of 1
    benchmarks/ranks.py model.gguf --ranks 4 --network 25g           # as if 25 Gbit/s lay between: emulated

Each round runs every kind once, the order reversed from round to round; medians, extremes and medians of the rounds' ratios
are printed. With --network each split runs with and without it (COTERIE_EMULATED_NETWORK: messages are held back, nothing
else). Ranks that share a core do a share of a core's work in a second: the network is slowed as much, so that its part of
a step is what it would be on machines of one core each."""
import argparse
import datetime
import json
import os
import re
import statistics
import subprocess
import sys

LATENCY_RATE = {"1g": (80e-6, 0.115e9), "10g": (40e-6, 1.15e9), "25g": (25e-6, 2.9e9)}


def network(name, slower):
    """LATENCY,RATE of a network that is `slower` times slower."""
    found = LATENCY_RATE.get(name)
    if not found:
        latency, rate = name.split(",")
        found = (float(latency.removesuffix("us")) * 1e-6, float(rate.removesuffix("GB/s")) * 1e9)
    return f"{found[0] * slower * 1e6:g}us,{found[1] / slower / 1e9:g}GB/s"


def bench(options, ranks, threads, split=None, wire=None):
    given = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    if wire:
        given["COTERIE_EMULATED_NETWORK"] = wire
    launcher = [] if ranks == 1 else [*options.mpirun.split(), "-n", str(ranks)]
    command = [*launcher, options.coterie, "bench", options.model, "-t", str(threads), "--prompt", str(options.prompt),
               "--generate", str(options.generate), "--repeat", str(options.repeat), "--json"]
    done = subprocess.run(command + (["--split", split] if split else []), capture_output=True, text=True, env=given)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    found = json.loads(done.stdout)
    waited = re.search(r"sent (.*?) in .*waited (\d+) %", done.stderr)
    return {"prefill": found["prefill_tokens_per_second"], "decode": found["decode_tokens_per_second"],
            "peak": found["peak_resident_bytes"], "cpu": found["cpu"], "said": waited.group(0) if waited else ""}


def line(name, values, base=None):
    text = f"{name:34}"
    for what in ("prefill", "decode"):
        numbers = [v[what] for v in values]
        if not all(numbers):
            continue
        text += f" {what} {statistics.median(numbers):8.1f} ({min(numbers):.1f} to {max(numbers):.1f})"
        if base:
            ratios = [v[what] / b[what] for v, b in zip(values, base)]
            text += f" = {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    print(text, values[-1]["said"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--coterie", default="build/release/coterie")
    parser.add_argument("--mpirun", default="mpirun.openmpi --oversubscribe --bind-to none")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--splits", default="experts,rows")
    parser.add_argument("--network", help="1g, 10g, 25g or LATENCY,RATE such as 40us,3.1GB/s; emulated")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cores = os.cpu_count()
    slower = max(1, options.ranks / cores)
    threads = max(1, cores // options.ranks)
    wire = network(options.network, slower) if options.network else None

    kinds = {f"1 rank, {cores} threads": lambda: bench(options, 1, cores)}
    for split in options.splits.split(","):
        name = f"{options.ranks} ranks, {threads} thread{'s' * (threads > 1)}, {split}"
        kinds[name] = lambda split=split: bench(options, options.ranks, threads, split)
        if wire:
            kinds[f"{name}, emulated"] = lambda split=split: bench(options, options.ranks, threads, split, wire)
    measured = {name: [] for name in kinds}
    for number in range(options.rounds):
        for name in list(kinds)[:: -1 if number % 2 else 1]:
            measured[name].append(kinds[name]())
            print(f"round {number + 1}: {name}: {measured[name][-1]}", file=sys.stderr)

    first = next(iter(measured.values()))
    print(f"{first[0]['cpu']}, {datetime.date.today()}, load {os.getloadavg()[0]:.1f}, prompts of {options.prompt}")
    for name, values in measured.items():
        emulated = name.endswith(", emulated")
        line(name, values, measured[name.removesuffix(", emulated")] if emulated else None if values is first else first)
        if emulated:
            share = [1 - v["prefill"] / b["prefill"] for v, b in zip(values, measured[name.removesuffix(", emulated")])]
            print(f"  {wire}: {100 * statistics.median(share):.1f} % of a prompt's step waits for the network")


main()
