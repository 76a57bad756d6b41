#!/usr/bin/env python3
"""Compares Coterie with other engines on the same GGUF file, side by side.

Each round runs every engine in turn (A B A B ...), so that a machine that is slower for a while is slower for all.
Measured are prefill of a prompt, decode at depth 0, decode behind a long context, and decode of several sequences side by
side (all their tokens counted). A ratio is taken within a round; its median and its extremes over the rounds are reported.
On a machine that shares its memory, bandwidth may halve from minute to minute: look at the extremes, not at medians alone.
A virtual machine's host may take processors away: rounds in which it stole more than a few percent say little.
No engine is built here: point to binaries that exist.

examples:
  compare.py model.gguf --coterie build/release/coterie --llama-bench ~/llama.cpp/build/bin/llama-bench
  compare.py model.gguf --coterie build/release/coterie --ik-bench ~/ik/build/bin/llama-bench --rounds 5 --json
  compare.py model.gguf --llama-bench llama-bench --depth 0            # a peer alone, depth 0 only
  compare.py model.gguf --coterie build/release/coterie --llama-bench DIR/llama-bench \
             --llama-batched DIR/llama-batched-bench --batches 4,8 --depth 0

exit code: 0 measured (and no ratio under --floor), 1 a median ratio under --floor, 2 an engine failed
"""
import argparse
import datetime
import json
import os
import shlex
import statistics
import subprocess
import sys

PREFILL, DECODE, DEEP, BATCH = "prefill", "decode", "decode deep", "decode x"
BATCH_DEPTH = 128  # tokens before the decode of several sequences: of each


class EngineFailed(Exception):
    pass


class Engine:
    """One engine and how to ask it. `measure` returns {measure: tokens per second} for depth 0 or for a depth; `together`
    the tokens per second of so many sequences side by side."""

    def __init__(self, name, binary, flags):
        self.name, self.binary, self.flags, self.batched = name, binary, shlex.split(flags), None

    def ask(self, settings, arguments, binary=None, lines=False):
        command = [*settings.run_with, binary or self.binary, *arguments, *self.flags]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=settings.timeout)
        except (OSError, subprocess.TimeoutExpired) as reason:
            raise EngineFailed(f"{shlex.join(command)}: {reason}") from reason
        if done.returncode != 0:
            raise EngineFailed(f"{shlex.join(command)}: exit code {done.returncode}\n{done.stderr.strip()[-2000:]}")
        try:
            if lines:
                return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
            return json.loads(done.stdout)
        except json.JSONDecodeError as reason:
            raise EngineFailed(f"{shlex.join(command)}: its answer is not JSON ({reason})") from reason


class Coterie(Engine):
    """`coterie bench MODEL --json`, which also says what the machine can do and what a token reads."""

    def measure(self, settings, depth):
        answer = self.ask(settings, [
            "bench", settings.model, "--threads", str(settings.threads), "--prompt", str(0 if depth else settings.prompt),
            "--generate", str(settings.generate), "--depth", str(depth), "--repeat", "1", "--json"])
        if depth:
            return {DEEP: answer["decode_tokens_per_second"]}, answer
        return {PREFILL: answer["prefill_tokens_per_second"], DECODE: answer["decode_tokens_per_second"]}, answer

    def together(self, settings, count):
        answer = self.ask(settings, [
            "bench", settings.model, "--threads", str(settings.threads), "--prompt", "0", "--generate", str(settings.generate),
            "--depth", str(BATCH_DEPTH), "--batch", str(count), "--repeat", "1", "--json"])
        return answer["decode_tokens_per_second"], answer


class LlamaBench(Engine):
    """llama.cpp's llama-bench, and where it is given its llama-batched-bench."""

    def measure(self, settings, depth):
        runs = self.ask(settings, [
            "-m", settings.model, "-t", str(settings.threads), "-p", str(0 if depth else settings.prompt),
            "-n", str(settings.generate), "-d", str(depth), "-r", "1", "-o", "json"])
        return self.read(runs, settings, depth)

    def read(self, runs, settings, depth):
        result = {}
        for run in runs:
            if run["n_gen"] == 0:
                result[PREFILL] = run["avg_ts"]
            else:
                result[DEEP if depth else DECODE] = run["avg_ts"]
        expected = {DEEP} if depth else {PREFILL, DECODE}
        if set(result) != expected:
            raise EngineFailed(f"{self.binary}: measured {sorted(result)}, not {sorted(expected)}")
        return result, None


    def together(self, settings, count):
        if not self.batched:
            return None, None
        runs = self.ask(settings, [
            "-m", settings.model, "-t", str(settings.threads), "-npp", str(BATCH_DEPTH), "-ntg", str(settings.generate), "-npl", str(count),
            "-c", str(count * (BATCH_DEPTH + settings.generate)), "--output-format", "jsonl"], self.batched, lines=True)
        if len(runs) != 1 or runs[0]["pl"] != count:
            raise EngineFailed(f"{self.batched}: measured {runs}, not {count} sequences once")
        return runs[0]["speed_tg"], None


class IkBench(LlamaBench):
    """ik_llama.cpp's llama-bench: a depth is a prompt before the generation (-gp)."""

    def measure(self, settings, depth):
        arguments = ["-m", settings.model, "-t", str(settings.threads), "-r", "1", "-o", "json"]
        if depth:
            arguments += ["-p", "0", "-n", "0", "-gp", f"{depth},{settings.generate}"]
        else:
            arguments += ["-p", str(settings.prompt), "-n", str(settings.generate)]
        return self.read(self.ask(settings, arguments), settings, depth)


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--coterie", metavar="BINARY", help="our binary; ratios are taken of it")
    parser.add_argument("--llama-bench", metavar="BINARY", action="append", default=[],
                        help="llama.cpp's llama-bench; may be given several times, as NAME=BINARY to tell builds apart")
    parser.add_argument("--ik-bench", metavar="BINARY", action="append", default=[], help="ik_llama.cpp's llama-bench, likewise")
    parser.add_argument("--llama-batched", metavar="BINARY", action="append", default=[],
                        help="llama.cpp's llama-batched-bench, for --batches; NAME=BINARY belongs to the llama-bench of that name")
    parser.add_argument("--ik-batched", metavar="BINARY", action="append", default=[], help="ik_llama.cpp's, likewise")
    parser.add_argument("--batches", type=lambda text: [int(count) for count in text.split(",")], default=[], metavar="N,…",
                        help=f"decode so many sequences side by side, {BATCH_DEPTH} tokens deep")
    parser.add_argument("--coterie-flags", default="", help="more arguments for it, as one string")
    parser.add_argument("--llama-flags", default="-fa 1", help="default: %(default)s")
    parser.add_argument("--ik-flags", default="-fa 1 -fmoe 1 -rtr 1", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: the processors we may use")
    parser.add_argument("--rounds", type=int, default=3, help="of every engine, in turn (default: %(default)s)")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prefill (default: %(default)s)")
    parser.add_argument("--generate", type=int, default=32, help="tokens decoded (default: %(default)s)")
    parser.add_argument("--depth", type=int, default=4096, help="tokens before the deep decode; 0 = none (default: %(default)s)")
    parser.add_argument("--floor", type=float, help="exit code 1 when a median ratio is under it")
    parser.add_argument("--run-with", type=shlex.split, default=[], metavar="PREFIX", help='before every command: "taskset -c 0-7"')
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for one run (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="the result as JSON on standard output")
    settings = parser.parse_args()
    if settings.rounds < 1 or settings.prompt < 1 or settings.generate < 1 or settings.depth < 0 or settings.threads < 1:
        parser.error("--rounds, --prompt, --generate and --threads must be at least 1, --depth at least 0")
    if settings.floor is not None and not (settings.coterie and (settings.llama_bench or settings.ik_bench)):
        parser.error("--floor compares: it needs --coterie and a peer")
    engines = [Coterie("coterie", settings.coterie, settings.coterie_flags)] if settings.coterie else []
    for kind, given, batched, flags, default in (
            (LlamaBench, settings.llama_bench, settings.llama_batched, settings.llama_flags, "llama.cpp"),
            (IkBench, settings.ik_bench, settings.ik_batched, settings.ik_flags, "ik_llama.cpp")):
        def named(one):
            name, equals, binary = one.partition("=")
            return (name, binary) if equals else (default, one)
        engines += [kind(*named(one), flags) for one in given]
        for name, binary in map(named, batched):
            mine = [engine for engine in engines if engine.name == name]
            if not mine:
                parser.error(f"{binary}: no engine of the name {name}")
            mine[0].batched = binary
    if any(count < 1 for count in settings.batches):
        parser.error("--batches are numbers of sequences, at least 1")
    if not engines:
        parser.error("no engine: give --coterie, --llama-bench or --ik-bench")
    if len({engine.name for engine in engines}) != len(engines):
        parser.error("two engines of one name: write NAME=BINARY")
    return settings, engines


def say(text):
    print(text, file=sys.stderr, flush=True)


def processor_ticks():
    """(Ticks in which processors worked, ticks in which they were ready but the host of this virtual machine ran another);
    None where the system does not say."""
    try:
        with open("/proc/stat") as stat:
            ticks = [int(text) for text in stat.readline().split()[1:]]
        return sum(ticks[:3]) + sum(ticks[5:7]), ticks[7]
    except (OSError, ValueError, IndexError):
        return None


class Around:
    """The load before an engine ran, and the share of its processor time that the machine's host gave to others."""

    def __init__(self):
        self.loads, self.stolen, self.load, self.before = [], [], 0.0, None

    def begin(self):
        self.load, self.before = os.getloadavg()[0], processor_ticks()

    def end(self):
        self.loads.append(self.load)
        if self.before is None:
            return
        worked, stolen = (after - before for after, before in zip(processor_ticks(), self.before))
        self.stolen.append(stolen / max(1, worked + stolen))

    def last(self):
        return f"(load {self.loads[-1]:.1f}, stolen {f'{self.stolen[-1]:.0%}' if self.stolen else 'unknown'})"

    def all(self):
        stolen = f"{min(self.stolen):.0%} to {max(self.stolen):.0%}" if self.stolen else "unknown"
        return f"load {min(self.loads):.1f} to {max(self.loads):.1f}, stolen by the host {stolen}"


def measure(settings, engines):
    """samples[measure][engine] = [tokens per second of each round], what was around, and what Coterie says of machine and model."""
    samples, around, facts = {}, Around(), {}

    def note(round_, engine, speeds):
        for name, speed in speeds.items():
            samples.setdefault(name, {}).setdefault(engine.name, []).append(speed)
        say(f"round {round_ + 1}/{settings.rounds}  {engine.name:14s} " +
            "  ".join(f"{name} {speed:.2f} t/s" for name, speed in speeds.items()) + f"  {around.last()}")

    for round_ in range(settings.rounds):
        for depth in [0, settings.depth] if settings.depth else [0]:
            for engine in engines:
                around.begin()
                speeds, said = engine.measure(settings, depth)
                around.end()
                if said:
                    facts[depth] = said
                note(round_, engine, speeds)
        for count in settings.batches:
            for engine in engines:
                around.begin()
                speed, said = engine.together(settings, count)
                if said:
                    facts[f"{BATCH}{count}"] = said
                if speed is not None:
                    around.end()
                    note(round_, engine, {f"{BATCH}{count}": speed})
    return samples, around, facts


def spread(values):
    return {"median": statistics.median(values), "least": min(values), "most": max(values), "samples": values}


def summarise(settings, engines, samples, facts):
    rows = []
    for name, by_engine in samples.items():
        together = name.startswith(BATCH)
        depth = settings.depth if name == DEEP else BATCH_DEPTH if together else 0
        fact = facts.get(name if together else depth)
        for engine in engines:
            if engine.name not in by_engine:
                continue
            row = {"measure": name, "depth": depth, "engine": engine.name, "tokens_per_second": spread(by_engine[engine.name])}
            if fact and name != PREFILL:
                row["bandwidth_share"] = (row["tokens_per_second"]["median"] * fact["bytes_per_token"] / fact["read_bytes_per_second"])
            if not isinstance(engine, Coterie) and "coterie" in by_engine:
                row["coterie_over_it"] = spread([a / b for a, b in zip(by_engine["coterie"], by_engine[engine.name])])
            rows.append(row)
    return rows


def as_text(settings, rows, around, facts):
    lines = [f"{settings.model}: {settings.threads} threads, {settings.rounds} rounds, {around.all()}"]
    if 0 in facts:
        lines.append(f"read bandwidth {facts[0]['read_bytes_per_second'] / 1e9:.1f} GB/s at the end of our last run, a token reads {facts[0]['bytes_per_token'] / 1e6:.0f} MB")
    lines.append(f"{'measure':20s} {'engine':16s} {'t/s median':>10s} {'(least to most)':>20s} {'bandwidth':>10s}  coterie / it")
    for row in rows:
        what = f"{row['measure'].removesuffix(' deep')} {settings.prompt if row['measure'] == PREFILL else settings.generate}"
        what += f" at {row['depth']}" if row["depth"] else ""
        speed, ratio = row["tokens_per_second"], row.get("coterie_over_it")
        extremes = f"({speed['least']:.2f} to {speed['most']:.2f})"
        share = f"{row['bandwidth_share']:.0%}" if "bandwidth_share" in row else ""
        times = f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})" if ratio else ""
        lines.append(f"{what:20s} {row['engine']:16s} {speed['median']:10.2f} {extremes:>20s} {share:>10s}  {times}".rstrip())
    return "\n".join(lines)


def main():
    settings, engines = options()
    if max(os.getloadavg()[:2]) > 0.5:
        say(f"warning: the machine is busy (load {os.getloadavg()[0]:.1f}); figures of a quiet one are worth more")
    try:
        samples, around, facts = measure(settings, engines)
    except EngineFailed as reason:
        say(str(reason))
        return 2
    rows = summarise(settings, engines, samples, facts)
    if settings.json:
        print(json.dumps({
            "model": settings.model, "threads": settings.threads, "rounds": settings.rounds, "prompt": settings.prompt,
            "generate": settings.generate, "when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "load": {"least": min(around.loads), "most": max(around.loads)},
            "stolen": {"least": min(around.stolen), "most": max(around.stolen)} if around.stolen else None,
            "flags": {engine.name: engine.flags for engine in engines},
            "machine": {key: facts[0][key] for key in ("read_bytes_per_second", "f32_flops_per_second", "int8_ops_per_second")} if facts else None,
            "results": rows}, indent=2))
    else:
        print(as_text(settings, rows, around, facts))
    ratios = [row["coterie_over_it"]["median"] for row in rows if "coterie_over_it" in row]
    return 1 if settings.floor is not None and min(ratios) < settings.floor else 0


if __name__ == "__main__":
    sys.exit(main())
