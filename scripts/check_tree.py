"""Checks every file that git knows (or would add) against the rules of the house that need no compiler.

No source file of ours is longer than 500 lines; text is UTF-8 with plain line ends; no package registry's address and
no path of somebody's machine is written down; shell and Python scripts at least parse. scripts/tree.toml lists the
exceptions, each with its reason.
"""

import argparse
import ast
import pathlib
import re
import subprocess
import sys
import tomllib

LIMIT = 500
LIMITED = {".cpp", ".h", ".py", ".rs", ".sh", ".cmake", ".inc"}
# Lock files record where a package came from, in the package manager's own words.
RECORDS = {"Cargo.lock"}
REGISTRIES = re.compile(
    r"\b(pypi\.(org|io)|pythonhosted\.org|(static\.|index\.)?crates\.io/|npmjs\.(org|com)|registry\.npm|proxy\.golang\.org"
    r"|repo1?\.maven\.|deb\.debian\.org|security\.debian\.org|debian\.org/debian)"
)
MACHINE_PATHS = re.compile(r"(?<![\w./$}-])/(home|root|work|Users)/[\w.]")


def tracked(root: pathlib.Path) -> list[str]:
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, check=True, capture_output=True).stdout.decode().split("\0")
    return [name for name in names if name and (root / name).is_file()]


def check_text(name: str, text: str) -> list[str]:
    """The faults in a file's lines, each with its line number."""
    faults = []
    if text and not text.endswith("\n"):
        faults.append(f"{name}: the last line has no end")
    for number, line in enumerate(text.split("\n"), 1):
        if line.endswith("\r"):
            return faults + [f"{name}:{number}: carriage returns at line ends"]
        if line.endswith((" ", "\t")):
            faults.append(f"{name}:{number}: spaces at the end of the line")
        if match := REGISTRIES.search(line):
            faults.append(f"{name}:{number}: a registry's address ({match[0]}); name the package instead")
        if match := MACHINE_PATHS.search(line):
            faults.append(f"{name}:{number}: a path of one machine ({match[0]}…)")
    return faults


def check_script(root: pathlib.Path, name: str, text: str) -> list[str]:
    if name.endswith(".py"):
        try:
            ast.parse(text, name)
        except SyntaxError as error:
            return [f"{name}:{error.lineno}: {error.msg}"]
    elif text.startswith("#!/usr/bin/env bash") or name.endswith(".sh"):
        result = subprocess.run(["bash", "-n", str(root / name)], capture_output=True, text=True)
        if result.returncode != 0:
            return [result.stderr.strip()]
    return []


def check_file(root: pathlib.Path, name: str, long_files: dict[str, str]) -> list[str]:
    path = root / name
    data = path.read_bytes()
    if b"\0" in data[:8192] or path.name in RECORDS:
        return []
    ours = path.suffix in LIMITED or path.suffix in {".md", ".toml", ".txt", ".yaml", ".json"} or data.startswith(b"#!")
    if not ours or name.startswith(("tests/", "recipes/data/")) and path.suffix not in LIMITED:
        return []  # data, whose bytes are what they are
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return [f"{name}: not UTF-8 at byte {error.start}"]
    faults = check_text(name, text) + check_script(root, name, text)
    lines = text.count("\n")
    if path.suffix in LIMITED and lines > LIMIT and name not in long_files:
        faults.append(f"{name}: {lines} lines; the limit is {LIMIT} (split it along a seam that has a name)")
    return faults


def check_exceptions(root: pathlib.Path, long_files: dict[str, str]) -> list[str]:
    """An exception whose reason is gone is a fault too."""
    faults = []
    for name, reason in long_files.items():
        if not reason:
            faults.append(f"scripts/tree.toml: {name} has no reason")
        if not (root / name).is_file():
            faults.append(f"scripts/tree.toml: {name} does not exist")
        elif (root / name).read_bytes().count(b"\n") <= LIMIT:
            faults.append(f"scripts/tree.toml: {name} is not longer than {LIMIT} lines any more")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    root = parser.parse_args().root
    long_files = tomllib.loads((root / "scripts/tree.toml").read_text(encoding="utf-8")).get("long_files", {})
    faults = check_exceptions(root, long_files)
    for name in tracked(root):
        faults += check_file(root, name, long_files)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
