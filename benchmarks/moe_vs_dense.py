#!/usr/bin/env python3
"""What a MoE needs to reach a dense model's final validation loss: ratios of tokens, FLOPs and seconds, MoE / dense.

Reads the log.jsonl of pairs of runs (recipes/moe-vs-dense.yaml, a seed each). The MoE's curve is interpolated linearly
between its evaluations. Seconds are those of the steps, without evaluations; where the machine was busy with other
work they say little, and --speed gives the tokens a second of both as they were measured side by side.

examples:
  moe_vs_dense.py runs/moe-vs-dense                  # its folders moe and dense
  moe_vs_dense.py a/moe:b/dense c d --speed 4800:6100 --json

"never" is a MoE that did not get there. exit code: 0 compared, 2 a log cannot be read
"""
import argparse
import json
import pathlib
import sys


def read(run):
    """start event and the evaluations [(tokens, seconds, loss)]; steps that a resume took back are left out."""
    start, curve = None, []
    try:
        lines = (pathlib.Path(run) / "log.jsonl").read_text().splitlines()
    except OSError as error:
        sys.exit(f"moe_vs_dense: {error}")
    for line in lines:
        event = json.loads(line)
        if event["kind"] == "start":
            start, curve = event, []
        elif event["kind"] == "resume":
            curve = [point for point in curve if point[0] <= event["tokens"]]
        elif event["kind"] == "evaluation":
            curve.append((event["tokens"], event["seconds"], event["validation"]))
    if start is None or len(curve) < 2:
        print(f"moe_vs_dense: {run} has no start or fewer than two evaluations", file=sys.stderr)
        sys.exit(2)
    return start, curve


def reach(curve, loss):
    """Tokens and seconds at which the curve first is at the loss; None: never."""
    for (t0, s0, l0), (t1, s1, l1) in zip(curve, curve[1:]):
        if l1 <= loss:
            part = 0 if l0 <= loss else (l0 - loss) / (l0 - l1)
            return t0 + part * (t1 - t0), s0 + part * (s1 - s0)
    return None


def compare(pair, speed):
    moe, dense = (read(run) for run in (pair.split(":") if ":" in pair else (f"{pair}/moe", f"{pair}/dense")))
    tokens, seconds, loss = dense[1][-1]
    result = {"pair": pair, "dense_loss": loss, "moe_loss": moe[1][-1][2],
              "reached": False}
    at = reach(moe[1], loss)
    if at is None:
        return result
    flops = moe[0]["flops_per_token"] / dense[0]["flops_per_token"]
    if speed:
        clock = at[0] / tokens * speed[1] / speed[0]
    else:
        clock = at[1] / seconds
    return {**result, "reached": True, "tokens": at[0] / tokens, "flops": at[0] / tokens * flops, "seconds": clock}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pair", nargs="+", help="MOE_RUN:DENSE_RUN, or a folder with the runs moe and dense")
    parser.add_argument("--speed", help="tokens a second of MOE:DENSE, measured side by side")
    parser.add_argument("--json", action="store_true")
    settings = parser.parse_args()
    speed = [float(x) for x in settings.speed.split(":")] if settings.speed else None
    results = [compare(pair, speed) for pair in settings.pair]
    if settings.json:
        print(json.dumps(results, indent=2))
    else:
        width = max(len(r["pair"]) for r in results)
        print(f"{'pair':{width}} {'dense':>7} {'MoE':>7} {'tokens':>7} {'FLOPs':>7} {'seconds':>8}")
        for r in results:
            ratios = "".join(f"{r[key]:8.3f}" for key in ("tokens", "flops", "seconds")) if r["reached"] else "  never"
            print(f"{r['pair']:{width}} {r['dense_loss']:7.4f} {r['moe_loss']:7.4f} {ratios}")


if __name__ == "__main__":
    main()
