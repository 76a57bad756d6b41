#!/usr/bin/env python3
"""Compares what `coterie quantize` writes with what llama.cpp's llama-quantize writes, tensor by tensor.

The model is written once as a GGUF in f32. For each mixture both programs quantise that file; the formats of all tensors
must be the same, and of each the squared error is taken against the f32 values, with every column weighted by the
importance matrix where --text is given. Tensors are decoded by gguf-py, so neither program judges itself.

needs: numpy, gguf (pip install gguf)

examples:
  quantize.py ./SmolLM2-135M --coterie build/release/coterie --llama-quantize ~/llama.cpp/build/bin/llama-quantize
  quantize.py model.gguf --text book.txt --to q4_k_m q6_k --coterie … --llama-quantize …

exit code: 0 measured, and no format's error is above --ceiling times the peer's; 1 one is, or formats differ
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

MIXES = ["q4_k_m", "q4_k_s", "q5_k_m", "q6_k", "q3_k_m", "q2_k", "q8_0", "q4_0", "iq4_nl", "iq4_xs"]


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def tensors(path):
    return {tensor.name: tensor for tensor in GGUFReader(path).tensors}


def values(tensor):
    return dequantize(tensor.data, tensor.tensor_type).astype(np.float64)


def column_weights(path):
    """name -> [items, 1, cols], mean 1 for each item; items that were never seen count evenly."""
    found = tensors(path)
    weights = {}
    for name, sums in found.items():
        if not name.endswith(".in_sum2"):
            continue
        name = name[:-len(".in_sum2")]
        counts = found[name + ".counts"].data.reshape(-1, 1, 1).astype(np.float64)
        mean = sums.data.reshape(counts.shape[0], 1, -1) / np.maximum(counts, 1)
        mean = np.where(counts > 0, mean, 1.0)
        weights[name] = mean / mean.mean(axis=2, keepdims=True)
    return weights


def squared_error(exact, tensor, weights):
    rest = (values(tensor) - exact)**2
    if weights is not None:
        rest = rest.reshape(weights.shape[0], -1, weights.shape[2]) * weights
    return rest.sum()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--coterie", default="build/release/coterie")
    parser.add_argument("--llama-quantize", required=True)
    parser.add_argument("--to", nargs="+", default=MIXES, metavar="MIX")
    parser.add_argument("--text", help="calibration text: both programs quantise with its importance matrix")
    parser.add_argument("--tokens", type=int, default=20000, help="of the text")
    parser.add_argument("--ceiling", type=float, default=1.02)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    bad = False
    report = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        source, ours, theirs, matrix = (folder / name for name in ("f32.gguf", "ours.gguf", "theirs.gguf", "imatrix.gguf"))
        run(options.coterie, "convert", options.model, "-o", source, "--to", "f32", "--no-tokenizer")
        exact = {name: values(tensor) for name, tensor in tensors(source).items()}
        weights = {}
        if options.text:
            # The tokenizer is the model's own, which the file without one has not.
            run(options.coterie, "importance", options.model, "--text", options.text, "--tokens", options.tokens, "-o",
                matrix)
            weights = column_weights(matrix)
        for mix in options.to:
            run(options.coterie, "quantize", source, "-o", ours, "--to", mix, "--force",
                *(["--importance", matrix] if options.text else []))
            run(options.llama_quantize, *(["--imatrix", matrix] if options.text else []), source, theirs, mix.upper())
            a, b = tensors(ours), tensors(theirs)
            sums = {}
            worst = {}
            for name, tensor in a.items():
                kind = tensor.tensor_type.name
                if b[name].tensor_type != tensor.tensor_type:
                    bad = True
                    print(f"{mix}: {name} is {kind} here and {b[name].tensor_type.name} there", file=sys.stderr)
                    continue
                if kind in ("F32", "F16", "BF16"):
                    continue
                one = squared_error(exact[name], tensor, weights.get(name))
                other = squared_error(exact[name], b[name], weights.get(name))
                mine, peers = sums.get(kind, (0, 0))
                sums[kind] = mine + one, peers + other
                worst[kind] = max(worst.get(kind, (0, "")), (one / other, name))
            for kind, (one, other) in sorted(sums.items()):
                bad |= one > options.ceiling * other
                report.append({"mix": mix, "format": kind, "ratio": one / other, "worst": worst[kind][0],
                               "worst_tensor": worst[kind][1]})
                if not options.json:
                    print(f"{mix:8} {kind:7} squared error {one / other:6.4f} of llama.cpp's; worst {worst[kind][0]:6.4f}"
                          f" ({worst[kind][1]})", flush=True)
    if options.json:
        print(json.dumps({"model": options.model, "importance": bool(options.text), "errors": report}, indent=1))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
