#!/usr/bin/env python3
"""Compares forward + backward of Coterie with PyTorch and transformers' Mixtral, side by side, in f32.

Each round measures both in turn (A B A B ...), so that a machine that is slower for a while is slower for both. A ratio
is taken within a round; its median and its extremes are reported. The shape is bench_training's: d 384, 6 layers, 6
heads, V 4096, batch 8 x 256. Needs torch and transformers 5; Coterie's side is the binary bench_training.

examples:
  training.py build/release/benchmarks/bench_training
  training.py build/release/benchmarks/bench_training --rounds 5 --experts 64 --top 8 --ff 256 --run-with "chrt -r 10"

exit code: 0 measured, 1 the median ratio is under --floor, 2 the benchmark failed
"""
import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time

SEQUENCES, TOKENS, VOCABULARY = 8, 256, 4096


def ours(settings):
    name = f"training/experts:{settings.experts}/top:{settings.top}/ff:{settings.ff}/threads:{settings.threads}/again:0"
    command = [*shlex.split(settings.run_with), settings.binary, f"--benchmark_filter={name}/", "--benchmark_format=json",
               f"--benchmark_min_time={settings.seconds}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0 or not done.stdout:
        sys.exit(f"{shlex.join(command)}: {done.stderr.strip() or 'no such benchmark'}")
    runs = json.loads(done.stdout)["benchmarks"]
    if not runs:
        sys.exit(f"bench_training has no {name}")
    return runs[0]["tokens/s"], runs[0]["of_peak"]


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
step()
times = []
while sum(times) < seconds:
    begin = time.perf_counter()
    step()
    times.append(time.perf_counter() - begin)
times.sort()
print(json.dumps(ids.numel() / times[len(times) // 2]))
"""


def theirs(settings, implementation):
    wanted = json.dumps([settings.experts, settings.top, settings.ff, settings.threads, settings.seconds, implementation])
    done = subprocess.run([*shlex.split(settings.run_with), settings.python, "-c", TORCH, wanted], capture_output=True,
                          text=True)
    return json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", help="bench_training")
    parser.add_argument("--python", default=sys.executable, help="a Python with torch and transformers")
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--top", type=int, default=2)
    parser.add_argument("--ff", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6, help="of each side a round")
    parser.add_argument("--run-with", default="", help='before each command, such as "chrt -r 10"')
    parser.add_argument("--floor", type=float, default=0)
    settings = parser.parse_args()

    # transformers' fastest: whichever of its implementations works and wins here.
    names = ["eager", "batched_mm", "grouped_mm"] if settings.experts > 1 else ["eager"]
    tried = {name: theirs(settings, name) for name in names}
    tried = {name: speed for name, speed in tried.items() if speed}
    if not tried:
        sys.exit("no implementation of transformers runs here: are torch and transformers installed?")
    fastest = max(tried, key=tried.get)
    print("transformers:", ", ".join(f"{name} {speed:.0f}" for name, speed in tried.items()), "tokens/s")
    ratios = []
    for round_number in range(settings.rounds):
        mine, share = ours(settings)
        other = theirs(settings, fastest)
        ratios.append(mine / other)
        print(f"round {round_number + 1}: ours {mine:.0f} tokens/s ({share:.0%} of the peak), {fastest} {other:.0f}: "
              f"{ratios[-1]:.2f}", flush=True)
        time.sleep(0.2)
    median = statistics.median(ratios)
    print(f"{settings.experts} experts, top {settings.top}, ff {settings.ff}: {median:.2f} x "
          f"({min(ratios):.2f} to {max(ratios):.2f})")
    return 1 if median < settings.floor else 0


if __name__ == "__main__":
    sys.exit(main())
