"""Checks the titles of commits: at most 72 characters, one reason each, an empty line below.

Without a range, all since the commit that scripts/commits.toml names are looked at; where the history does not reach
back to it (a shallow clone), those that there are.
"""

import argparse
import pathlib
import subprocess
import sys
import tomllib

WIDTH = 72


def git(root: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)


def check(commit: str, message: str) -> list[str]:
    title, _, rest = message.rstrip("\n").partition("\n")
    faults = []
    if len(title) > WIDTH:
        faults.append(f"the title has {len(title)} characters; the limit is {WIDTH}")
    if ";" in title:
        faults.append("the title has two reasons, joined by a semicolon; make two commits of it")
    if title.endswith("."):
        faults.append("the title ends with a full stop")
    if rest and not rest.startswith("\n"):
        faults.append("the line below the title is not empty")
    return [f"{commit[:9]} {title}: {fault}" for fault in faults]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("range", nargs="?", help="as git log takes it, e.g. main..HEAD")
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    arguments = parser.parse_args()
    root, which = arguments.root.resolve(), arguments.range
    if which is None:
        since = tomllib.loads((root / "scripts/commits.toml").read_text(encoding="utf-8"))["since"]
        there = git(root, "merge-base", "--is-ancestor", since, "HEAD").returncode == 0
        which = f"{since}..HEAD" if there else "HEAD"
        if not there and git(root, "rev-parse", "--is-shallow-repository").stdout.strip() != "true":
            print(f"scripts/commits.toml: {since} is not among the commits before HEAD", file=sys.stderr)
            return 1
    log = git(root, "log", "--no-merges", "-z", "--format=%H%n%B", which, "--")
    if log.returncode != 0:
        print(f"check_commits: {log.stderr.strip()}", file=sys.stderr)
        return 1
    faults = []
    for entry in filter(None, log.stdout.split("\0")):
        commit, _, message = entry.partition("\n")
        faults += check(commit, message)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
