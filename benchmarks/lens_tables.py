"""Prints what `coterie lens` and `coterie eval --each-expert` found, as docs/claims.md shows it.

The folder has lens.json, the figures of a report (kept: what the tables read), and worth.json, from eval --json.
"""

import json
import pathlib
import statistics
import sys

CLASSES = ("token", "part of speech", "position", "genre", "document")


def information(study: dict) -> None:
    print(f"{study['tokens']:,} tokens of {study['documents']} documents, percent of the entropy of the classes, ± standard error")
    print("layer" + "".join(f"{name:>18}" for name in CLASSES) + "  of an id")
    for layer in study["layers"]:
        cells = "".join(f"{100 * layer['information'][name]['normalised']:>11.2f} ± {100 * layer['information'][name]['standard_error']:.2f}"
                        for name in CLASSES)
        print(f"{layer['layer']:>5}{cells}{100 * layer['vocabulary']['specialisation']:>8.1f} %")


def worth(result: dict) -> None:
    print(f"without one expert, {result['tokens']:,} tokens, nats a token")
    layers = sorted({e["layer"] for e in result["experts"]})
    most = max(sum(e["layer"] == layer for e in result["experts"]) for layer in layers)
    print(f"layer   mean of {most}   the costliest              the cheapest               below 2 errors")
    for layer in layers:
        experts = sorted((e for e in result["experts"] if e["layer"] == layer), key=lambda e: -e["cost"])
        shown = [f"{e['expert']:>2} ({100 * e['share']:.0f} %) {e['cost']:+.4f} ± {e['standard_error']:.4f}" for e in (experts[0], experts[-1])]
        little = sum(e["cost"] < 2 * e["standard_error"] for e in experts)
        print(f"{layer:>5}{statistics.mean(e['cost'] for e in experts):>13.4f}   {shown[0]:<26} {shown[1]:<26} {little:>2}")


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    information(json.loads((folder / "lens.json").read_text()))
    if (folder / "worth.json").exists():
        print()
        worth(json.loads((folder / "worth.json").read_text()))


if __name__ == "__main__":
    main()
