#!/usr/bin/env python3
"""One GGUF file over ranks of this machine, by Coterie and by llama.cpp's RPC, side by side.

    benchmarks/peers/rpc.py model.gguf --rpc-server PATH --llama-bench PATH

Coterie: mpirun of so many ranks. llama.cpp: as many ggml-rpc-server on this machine, to which llama-bench gives all layers.
Each rank and each server has the same threads. A round runs both in turn; medians of the rates and of the rounds' ratios,
with the extremes, are printed. exit code: 0, and 1 where a median ratio is under --floor."""
import argparse
import datetime
import json
import os
import socket
import statistics
import subprocess
import sys
import time


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ours(options, split):
    given = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run([*options.mpirun.split(), "-n", str(options.ranks), options.coterie, "bench", options.model, "-t",
                           str(options.threads), "--prompt", str(options.prompt), "--generate", str(options.generate),
                           "--repeat", "3", "--split", split, "--json"],
                          check=True, stdout=subprocess.PIPE, text=True, env=given)
    found = json.loads(done.stdout)
    return {"prefill": found["prefill_tokens_per_second"], "decode": found["decode_tokens_per_second"], "cpu": found["cpu"]}


def theirs(options):
    ports = [free_port() for _ in range(options.ranks)]
    servers = [subprocess.Popen([options.rpc_server, "-H", "127.0.0.1", "-p", str(port), "-t", str(options.threads)],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for port in ports]
    try:
        for port in ports:
            for _ in range(100):
                with socket.socket() as s:
                    if s.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
        done = subprocess.run([options.llama_bench, "-m", options.model, "--rpc", ",".join(f"127.0.0.1:{p}" for p in ports),
                               "-ngl", "99", "-t", str(options.threads), "-p", str(options.prompt), "-n",
                               str(options.generate), "-r", "3", "-o", "json", *options.more.split()],
                              check=True, stdout=subprocess.PIPE, text=True)
    finally:
        for server in servers:
            server.terminate()
            server.wait()
    rates = {"prefill" if run["n_prompt"] else "decode": run["avg_ts"] for run in json.loads(done.stdout)}
    return rates


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--coterie", default="build/release/coterie")
    parser.add_argument("--mpirun", default="mpirun.openmpi --oversubscribe --bind-to none")
    parser.add_argument("--rpc-server", required=True)
    parser.add_argument("--llama-bench", required=True)
    parser.add_argument("--more", default="", help="further words for llama-bench")
    parser.add_argument("--splits", default="experts,rows")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--floor", type=float, default=0)
    options = parser.parse_args()
    kinds = {f"coterie, {split}": lambda split=split: ours(options, split) for split in options.splits.split(",")}
    kinds["llama.cpp, RPC"] = lambda: theirs(options)
    measured = {name: [] for name in kinds}
    for number in range(options.rounds):
        for name in list(kinds)[:: -1 if number % 2 else 1]:
            measured[name].append(kinds[name]())
            print(f"round {number + 1}: {name}: {measured[name][-1]}", file=sys.stderr)
    cpu = next(iter(measured.values()))[0]["cpu"]
    print(f"{cpu}, {datetime.date.today()}, load {os.getloadavg()[0]:.1f}; {options.ranks} ranks or servers of "
          f"{options.threads} thread{'s' * (options.threads > 1)}")
    low, peer = False, measured["llama.cpp, RPC"]
    for name, values in measured.items():
        text = f"{name:20}"
        for what in ("prefill", "decode"):
            numbers = [v[what] for v in values]
            text += f" {what} {statistics.median(numbers):8.1f} ({min(numbers):.1f} to {max(numbers):.1f})"
            if values is not peer:
                ratios = [v[what] / p[what] for v, p in zip(values, peer)]
                text += f" = {statistics.median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f})"
                low |= statistics.median(ratios) < options.floor
        print(text)
    return 1 if low else 0


sys.exit(main())
