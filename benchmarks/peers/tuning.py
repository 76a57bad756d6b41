#!/usr/bin/env python3
"""Compares LoRA on the experts of a model: coterie tune and the peft library on transformers, side by side.

Both train adapters of one rank over attention and experts of the same folder, on the same number of random tokens a step
and with AdamW. Each round measures both in turn, so that a machine that is slower for a while is slower for both; medians
of the rounds' ratios are reported, with their extremes, and the peak memory of each process. peft runs with each of its
settings first (dtype, implementation of the experts, checkpointing of activations), then with the fastest. Needs torch,
transformers 5 and peft.

On a machine that does other work too, --processor-time counts tokens a second of processor time, one thread each: for
Coterie from the difference between a run of all steps and one of a single step.

examples:
  tuning.py build/release/coterie MODEL --python PYTHON
  tuning.py build/release/coterie MODEL --sequence 512 --batch 8 --rounds 5 --precision bf16
  tuning.py build/release/coterie MODEL --processor-time --settings float32,grouped_mm,false

exit code: 0 measured, 1 a median ratio is under --floor, 2 the benchmark failed
"""
import argparse
import json
import pathlib
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time

# In a process of its own, so that neither side's threads spin beside the other's.
PEFT = """
import json, sys, time, torch, transformers
from peft import LoraConfig, get_peft_model
model, dtype, experts, checkpointing, rank, batch, sequence, threads, steps, processor_time = json.loads(sys.argv[1])
clock = time.process_time if processor_time else time.perf_counter
torch.set_num_threads(threads)
config = transformers.AutoConfig.from_pretrained(model)
config._experts_implementation = experts
model = transformers.AutoModelForCausalLM.from_pretrained(model, config=config, dtype=getattr(torch, dtype),
                                                          attn_implementation="sdpa")
model.config.use_cache = False
stacked = sorted({n.split(".layers.")[1].split(".", 1)[1] for n, p in model.named_parameters() if p.ndim == 3})
lora = LoraConfig(r=rank, lora_alpha=2 * rank, task_type="CAUSAL_LM",
                  target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], target_parameters=stacked)
if checkpointing:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
model = get_peft_model(model, lora).train()
trained = [p for p in model.parameters() if p.requires_grad]
optimiser = torch.optim.AdamW(trained, lr=1e-4)
times = []
for step in range(steps):
    ids = torch.randint(0, model.config.vocab_size, (batch, sequence + 1))
    begin = clock()
    model(input_ids=ids[:, :-1], labels=ids[:, :-1]).loss.backward()
    optimiser.step()
    optimiser.zero_grad()
    times.append(clock() - begin)
print(json.dumps({"tokens": batch * sequence / sorted(times[1:])[len(times[1:]) // 2],
                  "trained": sum(p.numel() for p in trained)}))
"""


def peak_while(process):
    """The most memory that the process ever had resident, in bytes, read until it ends."""
    most = [0]

    def watch():
        while process.poll() is None:
            try:
                status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                return
            for line in status.splitlines():
                if line.startswith("VmHWM:"):
                    most[0] = max(most[0], int(line.split()[1]) * 1024)
            time.sleep(0.05)

    thread = threading.Thread(target=watch)
    thread.start()
    return most, thread


def run(command):
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    most, thread = peak_while(process)
    out, error = process.communicate()
    thread.join()
    return process.returncode, out, error, most[0]


def processor_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def ours(settings, folder, number):
    if settings.processor_time:
        before = processor_seconds()
        one = tune(settings, folder / f"one{number}", folder, 1)
        middle = processor_seconds()
        all_steps = tune(settings, folder / f"all{number}", folder, settings.steps)
        seconds = (processor_seconds() - middle) - (middle - before)
        return {**all_steps, "tokens": settings.batch * settings.sequence * (settings.steps - 1) / seconds,
                "memory": max(one["memory"], all_steps["memory"])}
    return tune(settings, folder / f"run{number}", folder, settings.steps)


def tune(settings, out, folder, steps):
    code, text, error, memory = run([settings.binary, "tune", settings.model, str(folder / "recipe.yaml"), "-o", str(out),
                                     "--json", "--threads", str(settings.threads), "--set", f"training.steps={steps}"])
    events = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    speeds = [e["tokens_per_second"] for e in events if e["kind"] == "step"]
    if code != 0 or len(speeds) < steps:
        print(f"coterie tune failed: {error.strip()}", file=sys.stderr)
        sys.exit(2)
    start = next(e for e in events if e["kind"] == "start")
    return {"tokens": statistics.median(speeds[1:] or speeds), "memory": memory, "trained": sum(start["trainable"].values())}


def theirs(settings, dtype, experts, checkpointing):
    wanted = json.dumps([settings.model, dtype, experts, checkpointing, settings.rank, settings.batch, settings.sequence,
                         settings.threads, settings.steps, settings.processor_time])
    code, text, error, memory = run([settings.python, "-c", PEFT, wanted])
    if code != 0:
        last = error.strip().splitlines()[-1:]
        return {"failed": f"exit code {code}" + "".join(f": {line}" for line in last)}
    return {**json.loads(text.strip().splitlines()[-1]), "memory": memory}


def prepare(settings, folder):
    random.seed(1)
    words = ["the", "router", "sends", "each", "token", "to", "few", "of", "its", "experts", "and", "adds", "what", "they", "give"]
    need = settings.batch * (settings.sequence + 1) * (settings.steps + 1) * 2
    (folder / "text.txt").write_text(" ".join(random.choice(words) for _ in range(need)))
    recompute = "true" if settings.recompute else "false"
    (folder / "recipe.yaml").write_text(f"""
tune: {{lora: {{targets: [attention, experts], rank: {settings.rank}, alpha: {2 * settings.rank}}}}}
data: {{files: text.txt, validation: 0.05}}
training: {{sequence: {settings.sequence}, batch: {settings.batch}, micro_batch: {settings.batch}, steps: {settings.steps},
           learning_rate: 1e-4, schedule: constant, precision: {settings.precision}, recompute: {recompute}}}
evaluation: {{batches: 1}}
""")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", help="coterie")
    parser.add_argument("model", help="a Hugging Face folder with stacked experts in transformers 5")
    parser.add_argument("--python", default=sys.executable, help="with torch, transformers and peft")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--sequence", type=int, default=256)
    parser.add_argument("--steps", type=int, default=6, help="of a measurement; the first is not counted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["f32", "bf16"], default="bf16", help="of Coterie's products")
    parser.add_argument("--recompute", action="store_true", help="Coterie computes activations again")
    parser.add_argument("--settings", default="", help="DTYPE,EXPERTS,CHECKPOINTING of peft instead of trying all")
    parser.add_argument("--floor", type=float, default=0, help="least median ratio of speeds")
    parser.add_argument("--processor-time", action="store_true", help="tokens a second of it, with one thread")
    settings = parser.parse_args()
    if settings.processor_time:
        settings.threads = 1
    if settings.steps < 2:
        parser.error("--steps is 2 or more")

    if settings.settings:
        dtype, experts, checkpointing = settings.settings.split(",")
        best = (dtype, experts, checkpointing == "true")
    else:
        tried = {}
        for dtype in ["float32", "bfloat16"]:
            for experts in ["eager", "grouped_mm", "batched_mm"]:
                for checkpointing in [False, True]:
                    result = theirs(settings, dtype, experts, checkpointing)
                    name = f"{dtype}, {experts}{', checkpointing' if checkpointing else ''}"
                    if "failed" in result:
                        print(f"  peft {name}: {result['failed']}", flush=True)
                        continue
                    tried[(dtype, experts, checkpointing)] = result["tokens"]
                    print(f"  peft {name}: {result['tokens']:.0f} tokens/s, {result['memory'] / 1e9:.2f} GB", flush=True)
        if not tried:
            print("peft runs with none of its settings here: are torch, transformers and peft installed?", file=sys.stderr)
            sys.exit(2)
        best = max(tried, key=tried.get)
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        prepare(settings, folder)
        for number in range(settings.rounds):
            mine, other = ours(settings, folder, number), theirs(settings, *best)
            if "failed" in other:
                print(f"peft failed: {other['failed']}", file=sys.stderr)
                sys.exit(2)
            rounds.append((mine, other))
    speed = [mine["tokens"] / other["tokens"] for mine, other in rounds]
    memory = [mine["memory"] / other["memory"] for mine, other in rounds]
    middle = lambda side, key: statistics.median(r[side][key] for r in rounds)
    print(f"coterie {settings.precision}: {middle(0, 'tokens'):.0f} tokens/s, {middle(0, 'memory') / 1e9:.2f} GB, "
          f"{rounds[0][0]['trained']} trained; peft {best}: {middle(1, 'tokens'):.0f} tokens/s, "
          f"{middle(1, 'memory') / 1e9:.2f} GB, {rounds[0][1]['trained']} trained")
    print(f"speed {statistics.median(speed):.2f} x ({min(speed):.2f} to {max(speed):.2f}), "
          f"memory {statistics.median(memory):.2f} x ({min(memory):.2f} to {max(memory):.2f})")
    sys.exit(1 if statistics.median(speed) < settings.floor else 0)


if __name__ == "__main__":
    main()
