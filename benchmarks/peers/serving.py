#!/usr/bin/env python3
"""Serves one GGUF file by Coterie and by llama.cpp's server in turn, and puts the same load on both (benchmarks/serve_load.py).

    benchmarks/peers/serving.py model.gguf --coterie build/release/coterie --llama-server PATH --rounds 3

llama-server runs as it comes ("theirs") and with -kvu -fa on ("theirs, tuned"), the slots of both equal. A round runs each
server once, the order reversed from round to round; medians and extremes are printed, with --json everything measured.
The file needs a tokenizer: with_tokenizer.py gives one to a file of random weights."""
import argparse
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

LOAD = pathlib.Path(__file__).resolve().parent.parent / "serve_load.py"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def servers(options):
    common = ["--port", "{port}", "-t", str(options.threads)]
    ours = [options.coterie, "serve", options.model, *common, "--parallel", str(options.slots), "--max-queue", "64", "-q"]
    theirs = [options.llama_server, "-m", options.model, *common, "-np", str(options.slots), "-c", str(options.context),
              "-tb", str(options.threads), "--no-webui"]
    found = {"coterie": ours + options.more.split()}
    if options.llama_server:
        found |= {"theirs": theirs, "theirs, tuned": theirs + ["-kvu", "-fa", "on"]}
    return {name: command for name, command in found.items() if not options.only or name in options.only}


def load(command, scenario, options):
    """What serve_load.py measured on a server started for it, and ended after it."""
    port = free_port()
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen([str(port) if part == "{port}" else part for part in command], stdout=log, stderr=log)
        try:
            wait_for(server, port, log)
            time.sleep(options.settle)
            run = [sys.executable, LOAD, *scenario, "--url", f"http://127.0.0.1:{port}", "--seed", str(options.seed)]
            return json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
        finally:
            server.terminate()
            server.wait()


def wait_for(server, port, log):
    for _ in range(1200):
        try:
            if urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).status == 200:
                return
        except OSError:
            pass
        if server.poll() is not None:
            log.seek(0)
            sys.exit(f"serving: {server.args[0]} ended:\n" + log.read().decode(errors="replace")[-2000:])
        time.sleep(0.1)
    sys.exit(f"serving: {server.args[0]} was not ready within two minutes")


def figures(result):
    """One number for each thing a user of the server notices."""
    out = {}
    for clients, each in result.get("chat", {}).items():
        out[f"chat, {clients} clients: tokens/s"] = each["tokens_per_second"]
    if "intruder" in result:
        each = result["intruder"]
        out |= {"intruder: longest gap, s": each["longest_gap"], "intruder: printed floor, s": each["floor"] or 0,
                "intruder: first token, s": each["first_token"],
                "intruder: first token over alone": each["times_alone"]}
    if "agent" in result:
        out |= {"agent: later turns' first token, s": each["median"] for each in [result["agent"]["later_turns"]]}
        out["agent: first turns' first token, s"] = result["agent"]["first_turn"]["median"]
    if "flood" in result:
        out |= {"flood: refused": result["flood"]["refused"], "flood: p95 of first tokens, s": result["flood"]["first_token"]["p95"]}
        if result["flood"]["refused_after"]:
            out["flood: refused after, s"] = result["flood"]["refused_after"]["max"]
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--coterie", required=True)
    parser.add_argument("--llama-server", default="")
    parser.add_argument("--load", default="chat --clients 1,4,8,16 --turns 2", help="a scenario of serve_load.py with its options")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--context", type=int, default=40960, help="tokens of llama-server's cache, all slots together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--settle", type=float, default=10, help="seconds between ready and the load: coterie repacks while it is idle")
    parser.add_argument("--more", default="", help="options for coterie serve, such as '--stall 4000'")
    parser.add_argument("--only", action="append", help="coterie, theirs, or 'theirs, tuned'")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    measured = {name: [] for name in servers(options)}
    for turn in range(options.rounds):
        order = list(servers(options).items())
        for name, command in order if turn % 2 == 0 else order[::-1]:
            measured[name].append(figures(load(command, options.load.split(), options)))
    if options.json:
        print(json.dumps(measured, indent=1))
        return
    print(f"load average {os.getloadavg()[0]:.1f}, {options.rounds} rounds, {options.threads} threads: {options.load}")
    for what in next(iter(measured.values()))[0]:
        for name, rounds in measured.items():
            values = sorted(each[what] for each in rounds if what in each)
            ratios = sorted(ours[what] / each[what] for ours, each in zip(measured.get("coterie", []), rounds) if each.get(what))
            beside = "" if name == "coterie" or not ratios else f"   coterie's over it {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            print(f"{what:40} {name:14} {statistics.median(values):9.3f} ({values[0]:.3f} to {values[-1]:.3f}){beside}")


if __name__ == "__main__":
    main()
