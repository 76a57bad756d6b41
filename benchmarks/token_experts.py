#!/usr/bin/env python3
"""Which experts take the tokens of some ids, and what becomes of a text without one of them.

Reads what `coterie trace` has written and, with --losses, the files of `coterie eval --losses` with and without the
expert: the cost is the mean over the same predictions, token by token, of the loss without it less the loss with it.
Needs nothing but Python.

example:
  coterie trace model.gguf --text book.txt -o book.safetensors
  coterie tokenize model.gguf -p ,
  token_experts.py book.safetensors --ids 14
"""

import argparse
import array
import json
import math
import pathlib
import statistics

TYPES = {"I16": "h", "I32": "i", "F32": "f"}


def load(path: pathlib.Path) -> dict[str, tuple[array.array, list[int]]]:
    """The tensors of a safetensors file: values and shape."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    tensors = {}
    for name, info in json.loads(data[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        values = array.array(TYPES[info["dtype"]])
        begin, end = info["data_offsets"]
        values.frombytes(data[8 + size + begin : 8 + size + end])
        tensors[name] = values, info["shape"]
    return tensors


def takers(trace: dict, wanted: set[int]) -> list[tuple]:
    """Of each layer the expert that takes the wanted tokens most and little else: by the geometric mean of both shares."""
    experts, (tokens, layers, k) = trace["experts"]
    ids, numbers = trace["ids"][0], trace["layers"][0]
    of = sum(id_ in wanted for id_ in ids)
    rows = []
    for layer in range(layers):
        took: dict[int, int] = {}
        every: dict[int, int] = {}
        for token in range(tokens):
            begin = (token * layers + layer) * k
            for expert in experts[begin : begin + k]:
                if expert < 0:
                    continue
                every[expert] = every.get(expert, 0) + 1
                if ids[token] in wanted:
                    took[expert] = took.get(expert, 0) + 1
        best = max(took, key=lambda e: (took[e] / math.sqrt(of * every[e]), -e))
        rows.append((numbers[layer], best, took[best], of, every[best], tokens))
    return rows


def cost(pairs: list[tuple[float, float]]) -> str:
    differences = [without - with_ for with_, without in pairs]
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
    return f"{statistics.mean(differences):+.3f} ± {error:.3f} ({len(differences):,})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=pathlib.Path)
    parser.add_argument("--ids", required=True, help="the ids of the tokens, by commas")
    parser.add_argument("--losses", nargs=2, type=pathlib.Path, metavar=("WITH", "WITHOUT"), help="of eval --losses")
    settings = parser.parse_args()
    wanted = {int(each) for each in settings.ids.split(",")}
    trace = load(settings.trace)
    if not any(each in wanted for each in trace["ids"][0]):
        parser.error(f"none of the tokens in {settings.trace} has one of these ids")
    print("layer  expert   takes of them      they are of its own   of all tokens")
    for layer, expert, took, of, every, tokens in takers(trace, wanted):
        print(f"{layer:>5}{expert:>8}   {took:>4} of {of:<4}{100 * took / of:>4.0f} %   {took:>5} of {every:<5}{100 * took / every:>3.0f} %{100 * of / tokens:>11.1f} %")
    if not settings.losses:
        return
    with_, without = (load(path) for path in settings.losses)
    if with_["ids"][0] != without["ids"][0]:
        parser.error("the two files of --losses are not of the same predictions")
    rows = list(zip(with_["before"][0], with_["ids"][0], with_["loss"][0], without["loss"][0]))
    print("what it costs to go without, in nats a prediction (predictions)")
    print(f"  right behind them    {cost([(a, b) for before, _, a, b in rows if before in wanted])}")
    print(f"  when they come next  {cost([(a, b) for _, next_, a, b in rows if next_ in wanted])}")
    print(f"  everywhere else      {cost([(a, b) for before, next_, a, b in rows if before not in wanted and next_ not in wanted])}")


if __name__ == "__main__":
    main()
