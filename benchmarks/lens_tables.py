"""Prints what `coterie lens` and `coterie eval --each-expert` found, as docs/claims.md shows it.

The folder has lens.json, the figures of a report (kept: what the tables read), and worth.json, from eval --json; or
before.json and after.json, reports of a model as it was made and after it was tuned, of which means over thirds of the
layers are printed.
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


def thirds(title: str, study: dict) -> None:
    print(f"{title}: {study['tokens']:,} tokens of {study['documents']} documents")
    layers = study["layers"]
    for third in range(3):
        part = layers[len(layers) * third // 3:len(layers) * (third + 1) // 3]
        names = f"{part[0]['layer']}-{part[-1]['layer']}"
        cells = "".join(f"{100 * statistics.mean(l['information'][name]['normalised'] for l in part):>11.2f} ± "
                        f"{100 * statistics.mean(l['information'][name]['standard_error'] for l in part):.2f}" for name in CLASSES)
        more = sum(l["information"]["part of speech"]["normalised"] > l["information"]["genre"]["normalised"] for l in part)
        print(f"{names:>6}{cells}{more:>8} of {len(part)}")


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
    if (folder / "before.json").exists():
        print("percent of the entropy of the classes, mean of the layers, ± standard error of one layer")
        print("layers" + "".join(f"{name:>18}" for name in CLASSES) + "  speech > genre")
        thirds("as upcycled", json.loads((folder / "before.json").read_text()))
        thirds("tuned", json.loads((folder / "after.json").read_text()))
        return
    information(json.loads((folder / "lens.json").read_text()))
    if (folder / "worth.json").exists():
        print()
        worth(json.loads((folder / "worth.json").read_text()))


if __name__ == "__main__":
    main()
