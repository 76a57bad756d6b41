#!/usr/bin/env python3
"""What fine-tuning runs learnt and what they learnt by heart: the best and the last validation loss, how far it rose in
between, and the last training loss. The folders hold runs of the same names from different seeds; a line is the mean over
those that have the run.

example:
  overfitting.py runs/guards/1 runs/guards/2 runs/guards/3
"""
import argparse
import json
import pathlib
import statistics


def read(log):
    """Its trained parameters, (best validation, at step), last step, last validation and training loss."""
    events = [json.loads(line) for line in log.read_text().splitlines()]
    trained = sum(next(e for e in events if e["kind"] == "start")["trainable"].values())
    evaluations = [e for e in events if e["kind"] == "evaluation"]
    best, last = min(evaluations, key=lambda e: e["validation"]), evaluations[-1]
    return trained, best["validation"], best["step"], last["step"], last["validation"], last["train"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    folders = parser.parse_args().folders
    names = sorted({str(log.parent.relative_to(folder)) for folder in folders for log in folder.rglob("log.jsonl")})
    if not names:
        parser.error("there is no log.jsonl in these folders")
    width = max(map(len, names))
    print(f"{'run':{width}}  seeds     trained   best  at step   last  at step   rise  training")
    for name in names:
        runs = [read(log) for folder in folders if (log := folder / name / "log.jsonl").exists()]
        trained, best, best_step, step, last, train = (statistics.mean(values) for values in zip(*runs))
        print(f"{name:{width}}  {len(runs):5}  {trained:10,.0f}  {best:5.3f}  {best_step:7.0f}  {last:5.3f}  {step:7.0f}  {last - best:5.3f}"
              f"  {train:8.3f}")


if __name__ == "__main__":
    main()
