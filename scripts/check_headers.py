"""Checks that each header of src/ and include/ compiles alone: it includes all it needs, in whatever order it is read.

Precompiled headers and other headers read before it hide what a header lacks, so each is compiled by itself, without
them and with the flags of its room's sources. That takes half a second to a second a header.
"""

import argparse
import concurrent.futures
import os
import pathlib
import shlex
import subprocess
import sys

import compile_database


def flags_of_rooms(build: pathlib.Path, root: pathlib.Path) -> dict[str, list[str]]:
    """The compiler and its flags for one source of each room, without what names that source."""
    flags = {}
    for entry in compile_database.read(build, root):
        file = pathlib.Path(entry["file"])
        if not file.is_relative_to(root / "src"):
            continue
        words, kept = shlex.split(entry["command"]), []
        while words:
            word = words.pop(0)
            if word in ("-o", "-c", "-include"):
                words.pop(0)
            elif not word.endswith("ccache") and word != "-Winvalid-pch":
                kept.append(word)
        flags.setdefault(file.relative_to(root / "src").parts[0], kept)
    return flags


def headers(root: pathlib.Path) -> list[tuple[str, str]]:
    """Room and name, as it is included. Files *.inl.h are pieces of a source, not headers."""
    found = [(path.relative_to(root / "src").parts[0], path.relative_to(root / "src").as_posix())
             for path in sorted((root / "src").rglob("*.h")) if not path.name.endswith(".inl.h")]
    public = root / "include"
    return found + [("runtime", path.relative_to(public).as_posix()) for path in sorted(public.rglob("*.h"))]


def compile_alone(flags: list[str], name: str) -> str | None:
    """What the compiler says against it, or None."""
    result = subprocess.run([*flags, "-fsyntax-only", "-x", "c++", "-"], input=f'#include "{name}"\n', text=True,
                            capture_output=True)
    return None if result.returncode == 0 else f"{name} does not compile alone:\n{result.stderr.strip()}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    parser.add_argument("--build", type=pathlib.Path, required=True, help="a build folder with compile_commands.json")
    arguments = parser.parse_args()
    flags = flags_of_rooms(arguments.build, arguments.root)
    known = [(flags[room], name) for room, name in headers(arguments.root) if room in flags]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as workers:
        faults = [fault for fault in workers.map(lambda each: compile_alone(*each), known) if fault]
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{len(known)} headers, {len(faults)} do not compile alone")
    return 1 if faults or not known else 0


if __name__ == "__main__":
    sys.exit(main())
