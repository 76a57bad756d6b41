"""Runs the commands that the docs show with their output, and compares.

A transcript is a fenced block marked `console`: lines that begin with `$ ` are run by bash in the project's folder,
with `coterie` being the binary under test; the lines after one must appear in its output, whole and in that order. A
line of `…` stands for any lines in between; without one, the shown lines must follow each other directly.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

from check_tree import tracked

ELLIPSIS = {"…", "..."}


def transcripts(text: str) -> list[tuple[int, str, list[str]]]:
    """Each command of a page's console blocks: its line number, itself, and the output shown for it."""
    found, inside = [], False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            inside = not inside and line[3:].strip() == "console"
        elif inside and line.startswith("$ "):
            found.append((number, line[2:], []))
        elif inside and found:
            found[-1][2].append(line.rstrip())
    return found


def mismatch(shown: list[str], printed: list[str]) -> str | None:
    """The first shown line that the output does not have where it should, or None."""
    place, loose = 0, False
    for line in shown:
        if line.strip() in ELLIPSIS:
            loose = True
            continue
        if loose and line in printed[place:]:
            place = printed.index(line, place) + 1
        elif not loose and place < len(printed) and printed[place] == line:
            place += 1
        else:
            return line
        loose = False
    if not loose and place < len(printed):
        return f"(the end; the output goes on with: {printed[place]})"
    return None


def check(root: pathlib.Path, binary: pathlib.Path, command: str, shown: list[str]) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "coterie").symlink_to(binary)
        script = f'export PATH="{folder}:$PATH"\nset -o pipefail\n{command}'
        result = subprocess.run(["bash", "-c", script], cwd=root, capture_output=True, text=True, timeout=300,
                                stdin=subprocess.DEVNULL)
    if result.returncode != 0:
        return f"ended with exit code {result.returncode}: {result.stderr.strip()}"
    printed = [line.rstrip() for line in result.stdout.splitlines()]
    line = mismatch(shown, printed)
    if line is None:
        return None
    return f"shows what is not printed: {line}\n" + "\n".join(f"    {each}" for each in printed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    parser.add_argument("--binary", type=pathlib.Path, required=True, help="the coterie to run")
    arguments = parser.parse_args()
    root, binary, faults = arguments.root.resolve(), arguments.binary.resolve(), 0
    for name in tracked(root):
        if not name.endswith(".md"):
            continue
        for number, command, shown in transcripts((root / name).read_text(encoding="utf-8")):
            if fault := check(root, binary, command, shown):
                print(f"{name}:{number}: $ {command}\n  {fault}", file=sys.stderr)
                faults += 1
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
