"""Runs clang-tidy 14 with the checks of .clang-tidy over sources, by the flags they are compiled with.

Without files: those that differ from the branch main, or where none does those of the last commit. Flags that only GCC knows and
precompiled headers are left out, so each file takes some seconds. A header is looked at with each source that reads it.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

import compile_database

TIDY = "clang-tidy-14"
SKIPPED = 77  # what ctest takes for a test that could not run
GCC_ONLY = re.compile(r"-fpch-preprocess|-fno-tree-.*|-fno-(ipa|gcse|schedule|ivopts).*|--param.*|-W.*")  # its warnings are its own work
FINDING = re.compile(r"^(?P<file>\S+?):(?P<line>\d+):\d+: (?P<rest>(?:warning|error): .*)$", re.MULTILINE)


def git(root: pathlib.Path, *words: str) -> list[str]:
    result = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)
    return result.stdout.splitlines() if result.returncode == 0 else []


def changed(root: pathlib.Path) -> set[str]:
    """What differs from main: committed since they parted, or not yet. Where nothing does, what the last commit changed."""
    parted = git(root, "merge-base", "HEAD", "main") or git(root, "merge-base", "HEAD", "origin/main") or ["HEAD"]
    differs = git(root, "diff", "--name-only", parted[0]) + git(root, "ls-files", "--others", "--exclude-standard")
    return set(differs or git(root, "diff", "--name-only", "HEAD~1"))


def for_clang(entry: dict) -> dict:
    """The entry of a compilation database without what clang does not know."""
    words, kept = shlex.split(entry["command"]), []
    while words:
        word = words.pop(0)
        if word == "-include":
            words.pop(0)
        elif not (word.endswith("ccache") or GCC_ONLY.fullmatch(word)):
            kept.append(word)
    return {**entry, "command": shlex.join(kept)}


def findings(text: str) -> set[str]:
    """Each once, with paths as git has them."""
    return {f"{match['file']}:{match['line']}: {match['rest']}" for match in FINDING.finditer(text)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    parser.add_argument("--build", type=pathlib.Path, required=True, help="a build folder with compile_commands.json")
    parser.add_argument("--all", action="store_true", help="every source of the build")
    parser.add_argument("files", nargs="*", help="sources, from the root on, or beginnings of their paths, such as src/ops")
    arguments = parser.parse_args()
    if not shutil.which(TIDY):
        print(f"{TIDY} is not installed: ./dev tidy installs it", file=sys.stderr)
        return SKIPPED
    root = arguments.root.resolve()
    database = compile_database.read(arguments.build, root)
    entries = {pathlib.Path(entry["file"]).resolve().relative_to(root).as_posix(): entry for entry in database
               if pathlib.Path(entry["file"]).resolve().is_relative_to(root)}
    ours = {name: entry for name, entry in entries.items() if not name.startswith("build/")}
    if arguments.all:
        names = set(ours)
    elif arguments.files:
        wanted = tuple(os.path.relpath(root / file, root) for file in arguments.files)
        names = {name for name in ours if name.startswith(wanted)}
        if not names:
            print(f"no source of {arguments.build} begins with {', '.join(wanted)}", file=sys.stderr)
            return 2
    else:
        names = changed(root) & set(ours)
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "compile_commands.json").write_text(json.dumps([for_clang(ours[name]) for name in names]))

        def run(name: str) -> tuple[int, str]:
            result = subprocess.run([TIDY, "--quiet", "-p", folder, name], cwd=root, capture_output=True, text=True)
            return result.returncode, result.stdout + result.stderr

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as workers:
            results = list(workers.map(run, sorted(names)))
    found = {line.replace(f"{root}/", "") for _, text in results for line in findings(text)}
    for line in sorted(found):
        print(line)
    for (code, text), name in zip(results, sorted(names)):
        if code != 0 and not findings(text):
            print(f"{name}: {TIDY} failed: {text.strip()[-2000:]}")
            found.add(name)
    print(f"clang-tidy: {len(names)} sources, {len(found)} findings")
    return 1 if found or (arguments.all and not names) else 0


if __name__ == "__main__":
    sys.exit(main())
