#!/usr/bin/env python3
"""Shortens a run's log.jsonl to what a page of the documentation needs: its start without the recipe, the evaluations,
every n-th event of the routers and the last one, and its end, numbers to six digits.

example:
  shorten_log.py runs/collapse/none/log.jsonl examples/runs/collapse/none/log.jsonl --routers 20
"""
import argparse
import json
import pathlib


def rounded(value):
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--routers", type=int, default=20, help="keep every n-th of their events")
    settings = parser.parse_args()
    events = [json.loads(line) for line in settings.log.read_text().splitlines()]
    routers = [e for e in events if e["kind"] == "routers"]
    kept_routers = {id(e) for e in routers[::settings.routers] + routers[-1:]}
    kept = [e for e in events if e["kind"] in ("start", "evaluation", "end") or id(e) in kept_routers]
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    with settings.out.open("w") as file:
        for event in kept:
            file.write(json.dumps({k: rounded(v) for k, v in event.items() if k != "recipe"}) + "\n")


if __name__ == "__main__":
    main()
