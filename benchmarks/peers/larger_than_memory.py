#!/usr/bin/env python3
"""Decodes with a GGUF file larger than the memory there is, ours and peers in the same cage, one after the other.

Each run is in benchmarks/cage.py: so much memory, no swap, the file put out of memory before. A round takes the engines
in order and back again (A B B A), since disks have bursts. Before and after each round the disk is measured by
`coterie bench --disk`, and by fio where it is installed; what is shown is the median over all runs, with the extremes.
An engine that does not answer within --timeout has no figure, which is shown as such.

The weights are random, so that a token's experts are as good as drawn: `coterie bench --write --router-spread 1.2`
makes a file that meets some experts far more often, for all engines alike. Where ours alone is measured, --coterie-flags
"--routes fitted:qwen3" routes as a published model does.

examples:
  coterie bench --shape qwen3-30b-a3b --layers 16 --quant q4_k --write m.gguf
  larger_than_memory.py m.gguf --memory 2400M --coterie build/release/coterie --llama-bench DIR/llama-bench \\
                        --peer "ik=DIR/llama-bench -m {model} -t {threads} -p 0 -n {generate} -o json --prefetch-experts"

exit code: 0 measured, 2 no engine answered or a cage could not be made
"""
import argparse
import json
import os
import pathlib
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile

CAGE = pathlib.Path(__file__).resolve().parent.parent / "cage.py"


def in_cage(settings, command):
    """(What it printed, the cage's report); (None, None) when it did not answer in time."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        caged = [sys.executable, str(CAGE), "--memory", settings.memory, "--drop", settings.model, "--report", report.name,
                 "--", *command]
        process = subprocess.Popen(caged, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            out, err = process.communicate(timeout=settings.timeout)
        except subprocess.TimeoutExpired:
            end_group(process)
            return None, None
        if process.returncode == 125:
            sys.exit(err.strip())
        if process.returncode != 0:
            say(f"  {shlex.join(command)}: exit code {process.returncode}: {err.strip()[-500:]}")
            return None, None
        return out, json.loads(pathlib.Path(report.name).read_text())


def end_group(process):
    """Ends the cage, which ends what runs in it and goes away."""
    process.terminate()
    process.communicate()


def coterie(settings, binary):
    def measure():
        out, report = in_cage(settings, [
            binary, "bench", settings.model, "--threads", str(settings.threads), "--prompt", "0", "--generate",
            str(settings.generate), "--repeat", "1", "--json", *shlex.split(settings.coterie_flags)])
        return (None, None) if out is None else (json.loads(out)["decode_tokens_per_second"], report)
    return measure


def llama(settings, command):
    words = [word.format(model=settings.model, threads=settings.threads, generate=settings.generate)
             for word in shlex.split(command)]

    def measure():
        out, report = in_cage(settings, words)
        if out is None:
            return None, None
        speeds = [run["avg_ts"] for run in json.loads(out) if run["n_gen"] > 0]
        return (speeds[0], report) if speeds else (None, None)
    return measure


def disk(settings):
    """{by whom: bytes per second}, now."""
    rates = {}
    if settings.coterie:
        done = subprocess.run([settings.coterie, "bench", "--disk", settings.model, "--json"], capture_output=True, text=True)
        if done.returncode == 0:
            rates["coterie"] = json.loads(done.stdout)["bytes_per_second"]
        else:
            say(done.stderr.strip())
    if shutil.which("fio"):
        done = subprocess.run(["fio", "--name=read", f"--filename={settings.model}", "--readonly", "--direct=1",
                               "--rw=randread", "--bs=1M", "--iodepth=8", "--ioengine=libaio", "--runtime=15",
                               "--time_based", "--output-format=json"], capture_output=True, text=True)
        if done.returncode == 0:
            rates["fio"] = json.loads(done.stdout)["jobs"][0]["read"]["bw_bytes"]
    return rates


def say(text):
    print(text, file=sys.stderr, flush=True)


def spread(values, form):
    return f"{form.format(statistics.median(values))} ({form.format(min(values))} to {form.format(max(values))})"


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--memory", default="2400M", metavar="SIZE", help="of the cage (default: %(default)s)")
    parser.add_argument("--coterie", metavar="BINARY", help="our binary")
    parser.add_argument("--coterie-flags", default="", help="more arguments for it, as one string")
    parser.add_argument("--llama-bench", metavar="BINARY", help="llama.cpp's llama-bench, which maps the file")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND",
                        help="a command that prints llama-bench's JSON; {model}, {threads}, {generate} are filled in")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--generate", type=int, default=64, help="tokens decoded (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of A B B A (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one run (default: %(default)s)")
    parser.add_argument("--json", action="store_true")
    settings = parser.parse_args()
    engines = {}
    if settings.coterie:
        engines["coterie"] = coterie(settings, settings.coterie)
    if settings.llama_bench:
        engines["llama.cpp"] = llama(settings, f"{shlex.quote(settings.llama_bench)} -m {{model}} -t {{threads}} -p 0 "
                                     "-n {generate} -r 1 -o json")
    for peer in settings.peer:
        name, equals, command = peer.partition("=")
        if not equals or name in engines:
            parser.error(f"{peer}: expected NAME=COMMAND, each name once")
        engines[name] = llama(settings, command)
    if not engines:
        parser.error("no engine: give --coterie, --llama-bench or --peer")
    return settings, engines


def main():
    settings, engines = options()
    speeds, reports, rates = {name: [] for name in engines}, {name: [] for name in engines}, {}

    def note_disk():
        for by, rate in disk(settings).items():
            rates.setdefault(by, []).append(rate)

    for round_ in range(settings.rounds):
        note_disk()
        for name in [*engines, *reversed(engines)]:
            speed, report = engines[name]()
            load = os.getloadavg()[0]
            if speed is None:
                say(f"round {round_ + 1}  {name}: no answer in {settings.timeout:.0f} s")
                continue
            speeds[name].append(speed)
            reports[name].append(report)
            say(f"round {round_ + 1}  {name}: {speed:.2f} tokens/s, peak {report['peak_bytes'] / 1e9:.2f} GB, "
                f"{report['major_faults']} major faults, {report['read_bytes'] / 1e9:.1f} GB read, load {load:.1f}")
    note_disk()
    if settings.json:
        print(json.dumps({"model": settings.model, "memory": settings.memory, "disk": rates, "tokens_per_second": speeds,
                          "reports": reports}, indent=2))
    else:
        for by, found in rates.items():
            print(f"disk by {by}: {spread([rate / 1e9 for rate in found], '{:.2f}')} GB/s")
        for name, found in speeds.items():
            if not found:
                print(f"{name:14s} no answer in {settings.timeout:.0f} s")
                continue
            of = reports[name]
            print(f"{name:14s} {spread(found, '{:.2f}')} tokens/s, {len(found)} runs; peak "
                  f"{max(report['peak_bytes'] or 0 for report in of) / 1e9:.2f} GB, "
                  f"{max(report['major_faults'] for report in of)} major faults, "
                  f"{max(report['oom_kills'] or 0 for report in of)} killed for memory")
    return 0 if any(speeds.values()) else 2


if __name__ == "__main__":
    sys.exit(main())
