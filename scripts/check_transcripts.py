"""Runs the commands that the docs show with their output, and compares.

A transcript is a fenced block marked `console`: lines that begin with `$ ` are run by bash in the project's folder,
with `coterie` being the binary under test; the lines after one must appear in its output, whole and in that order. A
line of `…` stands for any lines in between; without one, the shown lines must follow each other directly.

With --write the pages get what is printed today: after the project's own model has changed, for one. What `…` leaves
out stays left out: a run of shown lines is found again by its first one, whatever its numbers are.
"""

import argparse
import pathlib
import re
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


def renewed(shown: list[str], printed: list[str]) -> list[str]:
    """What is shown, as it is printed today; the lines between two `…` are as many as before."""
    def form(line: str) -> str:
        return re.sub(r"[-+]?\d[\d,.]*", "#", " ".join(line.split()))

    lines, place = [], 0
    for index, line in enumerate(shown):
        if line.strip() in ELLIPSIS:
            lines.append(line)
            continue
        if index and shown[index - 1].strip() in ELLIPSIS:
            place = next((at for at in range(place, len(printed)) if form(printed[at]) == form(line)), None)
            if place is None:
                raise ValueError(f"nothing printed is like: {line}")
        if place < len(printed):
            lines.append(printed[place])
            place += 1
    if not shown or shown[-1].strip() not in ELLIPSIS:
        lines += printed[place:]
    return lines


def run(root: pathlib.Path, binary: pathlib.Path, command: str) -> subprocess.CompletedProcess:
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "coterie").symlink_to(binary)
        script = f'export PATH="{folder}:$PATH"\nset -o pipefail\n{command}'
        return subprocess.run(["bash", "-c", script], cwd=root, capture_output=True, text=True, timeout=300,
                              stdin=subprocess.DEVNULL)


def printed_by(result: subprocess.CompletedProcess) -> list[str]:
    return [line.rstrip() for line in result.stdout.splitlines()]


def fault_of(result: subprocess.CompletedProcess, shown: list[str]) -> str | None:
    if result.returncode != 0:
        return f"ended with exit code {result.returncode}: {result.stderr.strip()}"
    printed = printed_by(result)
    line = mismatch(shown, printed)
    if line is None:
        return None
    return f"shows what is not printed: {line}\n" + "\n".join(f"    {each}" for each in printed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    parser.add_argument("--binary", type=pathlib.Path, required=True, help="the coterie to run")
    parser.add_argument("--write", action="store_true", help="write what is printed into the pages")
    arguments = parser.parse_args()
    root, binary, faults = arguments.root.resolve(), arguments.binary.resolve(), 0
    for name in tracked(root):
        if not name.endswith(".md"):
            continue
        page = root / name
        text, shift = page.read_text(encoding="utf-8"), 0
        lines = text.splitlines()
        for number, command, shown in transcripts(text):
            result = run(root, binary, command)
            fault = fault_of(result, shown)
            if fault and arguments.write and result.returncode == 0:
                today = renewed(shown, printed_by(result))
                lines[number + shift:number + shift + len(shown)] = today
                shift += len(today) - len(shown)
                print(f"{name}:{number}: written anew")
            elif fault:
                print(f"{name}:{number}: $ {command}\n  {fault}", file=sys.stderr)
                faults += 1
        if lines != text.splitlines():
            page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
