#!/usr/bin/env python3
"""Compares forward + backward of Coterie with PyTorch and transformers' Mixtral, side by side, in f32.

Each round measures both in turn (A B A B ...), so that a machine that is slower for a while is slower for both. A ratio
is taken within a round; its median and its extremes are reported. The shapes are bench_training's: d 384, 6 layers, 6
heads, V 4096, batch 8 x 256. transformers runs its fastest implementation of experts, which is found first. Needs
torch and transformers 5; Coterie's side is the binary bench_training.

examples:
  training.py build/release/bench_training                              # all shapes, whatever the processor has
  training.py build/release/bench_training --isa avx2 --run-with "chrt -r 10"
  training.py build/release/bench_training --rounds 5 --shape 64,8,256

exit code: 0 measured, 1 a median ratio is under --floor, 2 the benchmark failed
"""
import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys

# experts, experts per token, F; one expert is a dense FFN.
SHAPES = ["8,2,1024", "64,8,256", "1,1,2048", "8,2,512", "32,2,512", "64,2,512"]
AVX2 = {"COTERIE_ISA": "avx2", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


def run(settings, command):
    variables = {**os.environ, **(AVX2 if settings.isa == "avx2" else {})}
    return subprocess.run([*shlex.split(settings.run_with), *command], capture_output=True, text=True, env=variables)


def ours(settings, shape):
    experts, top, ff = shape
    name = f"training/experts:{experts}/top:{top}/ff:{ff}/threads:{settings.threads}/again:0/"
    done = run(settings, [settings.binary, f"--benchmark_filter={name}", "--benchmark_format=json",
                          f"--benchmark_min_time={settings.seconds}"])
    runs = json.loads(done.stdout)["benchmarks"] if done.returncode == 0 and done.stdout else []
    if not runs:
        print(f"bench_training has no {name} or failed: {done.stderr.strip()}", file=sys.stderr)
        sys.exit(2)
    return {"tokens": runs[0]["tokens/s"], "share": runs[0]["of_peak"], "optimiser": runs[0]["optimiser_ms"]}


# In a process of its own, so that neither side's threads spin beside the other's.
TORCH = """
import json, sys, time, torch, transformers
experts, top, ff, threads, seconds, implementation = json.loads(sys.argv[1])
torch.set_num_threads(threads)
torch.manual_seed(1)
shape = dict(vocab_size=4096, hidden_size=384, intermediate_size=ff, num_hidden_layers=6, num_attention_heads=6,
             num_key_value_heads=6, max_position_embeddings=256, tie_word_embeddings=False, use_cache=False,
             attn_implementation="sdpa")
if experts > 1:
    config = transformers.MixtralConfig(num_local_experts=experts, num_experts_per_tok=top, **shape)
    config._experts_implementation = implementation
    model = transformers.MixtralForCausalLM(config)
else:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))
model = model.float().train()
ids = torch.randint(0, 4096, (8, 256))
def step():
    model.zero_grad(set_to_none=False)
    model(input_ids=ids, labels=ids).loss.backward()
def median(body, seconds):
    times = []
    while sum(times) < seconds:
        begin = time.perf_counter()
        body()
        times.append(time.perf_counter() - begin)
    return sorted(times)[len(times) // 2]
step()
tokens = ids.numel() / median(step, seconds)
optimiser = torch.optim.AdamW(model.parameters(), lr=1e-12, fused=True)
optimiser.step()
print(json.dumps({"tokens": tokens, "optimiser": 1e3 * median(optimiser.step, seconds / 8)}))
"""


def theirs(settings, shape, implementation):
    wanted = json.dumps([*shape, settings.threads, settings.seconds, implementation])
    done = run(settings, [settings.python, "-c", TORCH, wanted])
    return json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else None


def fastest_of(settings, shape):
    names = settings.implementations.split(",") if shape[0] > 1 else ["eager"]
    if len(names) == 1:
        return names[0]
    tried = {name: theirs(settings, shape, name) for name in names}
    tried = {name: result["tokens"] for name, result in tried.items() if result}
    if not tried:
        print("no implementation of transformers runs here: are torch and transformers installed?", file=sys.stderr)
        sys.exit(2)
    print("  transformers:", ", ".join(f"{name} {speed:.0f}" for name, speed in tried.items()), "tokens/s", flush=True)
    return max(tried, key=tried.get)


def compare(settings, shape):
    implementation = fastest_of(settings, shape)
    rounds = []
    for _ in range(settings.rounds):
        mine, other = ours(settings, shape), theirs(settings, shape, implementation)
        if other is None:
            print("transformers failed: are torch and transformers installed?", file=sys.stderr)
            sys.exit(2)
        rounds.append((mine, other))
    ratios = [mine["tokens"] / other["tokens"] for mine, other in rounds]
    middle = lambda side, key: statistics.median(r[side][key] for r in rounds)
    experts, top, ff = shape
    print(f"{f'{experts} experts, top {top}' if experts > 1 else 'dense'}, ff {ff}: {middle(0, 'tokens'):.0f} tokens/s "
          f"({middle(0, 'share'):.0%} of the peak), {implementation} {middle(1, 'tokens'):.0f}: "
          f"{statistics.median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f}); "
          f"optimiser {middle(0, 'optimiser'):.0f} ms, theirs {middle(1, 'optimiser'):.0f}", flush=True)
    return statistics.median(ratios)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", help="bench_training")
    parser.add_argument("--python", default=sys.executable, help="a Python with torch and transformers")
    parser.add_argument("--shape", action="append", help="EXPERTS,TOP,FF; may be repeated; all by default")
    parser.add_argument("--implementations", default="eager,grouped_mm", help="of transformers' experts, to be tried")
    parser.add_argument("--isa", choices=["avx2", "best"], default="best", help="avx2 holds both sides to AVX2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6, help="of each side a round")
    parser.add_argument("--run-with", default="", help='before each command, such as "chrt -r 10"')
    parser.add_argument("--floor", type=float, default=0)
    settings = parser.parse_args()
    shapes = [tuple(int(part) for part in shape.split(",")) for shape in settings.shape or SHAPES]
    ratios = [compare(settings, shape) for shape in shapes]
    return 1 if min(ratios) < settings.floor else 0


if __name__ == "__main__":
    sys.exit(main())
