#!/usr/bin/env python3
"""Where a build's time goes, in seconds of processor time, which do not depend on what else the machine does.

As a compiler launcher it runs the compiler and notes what it took, a line for each object:

  cmake --preset release -B build/timed -DCMAKE_CXX_COMPILER_LAUNCHER="$PWD/scripts/compile_seconds.py" && ninja -C build/timed

Then `scripts/compile_seconds.py --by target build/timed` adds them up by target, `--by object` lists the slowest.
"""

import argparse
import collections
import pathlib
import re
import resource
import subprocess
import sys

LOG = "compile_seconds.log"  # in the folder that ninja compiles in: the build folder
TARGET = re.compile(r"CMakeFiles/([^/]+)\.dir/")


def launch(command: list[str]) -> int:
    code = subprocess.run(command).returncode
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = command[command.index("-o") + 1] if "-o" in command[:-1] else "?"
    with open(LOG, "a", encoding="utf-8") as log:  # one short line, so that compilers side by side do not mix theirs
        log.write(f"{used.ru_utime + used.ru_stime:.2f} {output}\n")
    return code


def report(build: pathlib.Path, by_target: bool) -> int:
    seconds, count = collections.Counter(), collections.Counter()
    for line in (build / LOG).read_text(encoding="utf-8").splitlines():
        spent, output = line.split(" ", 1)
        match = TARGET.search(output)
        key = match[1] if by_target and match else output
        seconds[key] += float(spent)
        count[key] += 1
    for key, spent in seconds.most_common(None if by_target else 40):
        print(f"{spent:8.1f} {count[key]:4} {key}")
    print(f"{seconds.total():8.1f} {count.total():4} in all")
    return 0


def main() -> int:
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        return launch(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--by", choices=("target", "object"), required=True)
    parser.add_argument("build", type=pathlib.Path)
    arguments = parser.parse_args()
    return report(arguments.build, arguments.by == "target")


if __name__ == "__main__":
    sys.exit(main())
