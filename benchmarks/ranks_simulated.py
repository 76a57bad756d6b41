#!/usr/bin/env python3
"""The exchange of a prompt's experts over simulated clusters (SimGrid's SMPI) beside a formula of latencies and rates.

    smpicxx -O2 benchmarks/ranks_exchange.cpp -o exchange
    benchmarks/ranks_simulated.py ./exchange --seconds 0.28

A cluster is hosts on one switch, each with a link of its own in each direction. Printed for each network and number of
ranks: seconds of a layer as simulated and as the formula has it, their ratio, and megabytes that a rank sends."""
import argparse
import pathlib
import subprocess
import tempfile

NETWORKS = {"1 Gbit/s": (80e-6, 0.115e9), "10 Gbit/s": (40e-6, 1.15e9), "25 Gbit/s": (25e-6, 2.9e9),
            "100 Gbit/s": (4e-6, 11e9)}
PLATFORM = """<?xml version='1.0'?>
<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">
<platform version="4.1">
  <cluster id="cluster" prefix="host-" radical="0-{last}" suffix="" speed="1Gf" bw="{rate}Bps" lat="{latency}s"
           sharing_policy="SPLITDUPLEX"/>
</platform>
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exchange", help="the program, built by smpicxx")
    parser.add_argument("--smpirun", default="smpirun")
    parser.add_argument("--seconds", type=float, default=0.28, help="one rank's arithmetic in a layer of 512 tokens")
    parser.add_argument("--ranks", default="4,8,16,32,64")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        platform = pathlib.Path(folder) / "platform.xml"
        for name, (latency, rate) in NETWORKS.items():
            for ranks in map(int, options.ranks.split(",")):
                # A message passes two links.
                platform.write_text(PLATFORM.format(last=ranks - 1, rate=rate, latency=latency / 2))
                done = subprocess.run(
                    [options.smpirun, "-np", str(ranks), "-platform", str(platform), "--cfg=network/model:CM02",
                     "--cfg=smpi/simulate-computation:no", "--log=root.thres:error", options.exchange, "prompt",
                     str(options.seconds), str(latency), str(rate)], check=True, capture_output=True, text=True)
                size, took, foretold, ratio, sent = done.stdout.split()
                print(f"{name:10} {size:>3} ranks: {float(took):8.4f} s simulated, {float(foretold):8.4f} s foretold, "
                      f"{float(ratio):.3f}, {float(sent) / 1e6:.1f} MB sent")


main()
