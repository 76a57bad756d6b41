#!/usr/bin/env python3
"""f32 products beside OpenBLAS, one thread each, in turn: python3 benchmarks/peers/blas.py build/release/bench_matmul

Needs numpy whose BLAS is OpenBLAS (as its wheels have it). Both are held to AVX2 with --isa avx2. Ratios are ours over
theirs within a round: median, least, most.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys

OURS = {"avx2": "avx2", "avx512": "avx512"}
THEIRS = {"avx2": "Haswell", "avx512": "SkylakeX"}
PRODUCT = """
import sys, time
import numpy
n, rows, cols = map(int, sys.argv[1:])
x, w = (numpy.random.default_rng(0).standard_normal(shape, dtype=numpy.float32) for shape in ((n, cols), (rows, cols)))
y = numpy.empty((n, rows), numpy.float32)
best, until = 1e9, time.monotonic() + 1.5
while time.monotonic() < until:
    begin = time.process_time()
    for _ in range(4):
        numpy.matmul(x, w.T, out=y)
    best = min(best, (time.process_time() - begin) / 4)
print(2 * n * rows * cols / best / 1e9)
"""


def ours(args, n, rows, cols):
    found = subprocess.run(
        [*shlex.split(args.run_with), args.bench, f"--benchmark_filter=^prefill/0/{n}/{rows}/{cols}/1/1$",
         "--benchmark_format=json", "--benchmark_repetitions=5", "--benchmark_min_time=0.3"],
        check=True, capture_output=True, text=True, env=os.environ | {"COTERIE_ISA": OURS[args.isa]},
    )  # fmt: skip
    runs = [run for run in json.loads(found.stdout)["benchmarks"] if run["run_type"] == "iteration"]
    return max(run["Gop/s"] for run in runs)


def theirs(args, n, rows, cols):
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OPENBLAS_CORETYPE": THEIRS[args.isa]}
    found = subprocess.run(
        [*shlex.split(args.run_with), args.python, "-c", PRODUCT, str(n), str(rows), str(cols)],
        check=True, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    return float(found.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench")
    parser.add_argument("--isa", choices=OURS, default="avx2")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run-with", default="")
    args = parser.parse_args()
    print(f"{'tokens x rows x cols':>22} {'coterie':>9} {'OpenBLAS':>9}  ratio   ({args.isa}, GFLOP/s, best of each round)")
    for n, rows, cols in ((32, 2048, 2048), (512, 2048, 2048)):
        rounds = [(ours(args, n, rows, cols), theirs(args, n, rows, cols)) for _ in range(args.rounds)]
        ratios = [a / b for a, b in rounds]
        print(f"{n:>8} x {rows} x {cols} {statistics.median(a for a, _ in rounds):9.0f}"
              f" {statistics.median(b for _, b in rounds):9.0f}  {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
