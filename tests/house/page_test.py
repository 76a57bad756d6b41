"""The page of coterie serve: the file that is embedded is the one that its sources make, and its unit tests pass. Needs
Node 20 and the packages of web/page's lock file; where either cannot be had it is skipped, and shown as skipped."""

import pathlib
import shutil
import subprocess
import sys

PAGE = pathlib.Path(__file__).resolve().parents[2] / "web" / "page"
SKIPPED = 77


def skip(why: str) -> None:
    print(f"skipped: {why}")
    sys.exit(SKIPPED)


def run(*command: str, **more) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=PAGE, stdin=subprocess.DEVNULL, **more)


def packages() -> str:
    """Node, once the packages of the page are there."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        skip("there is no Node")
    version = subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip()
    if int(version.lstrip("v").split(".")[0]) < 20:
        skip(f"Node {version} is older than 20")
    stamp, lock = PAGE / "node_modules" / ".package-lock.json", PAGE / "package-lock.json"
    if not stamp.exists() or stamp.stat().st_mtime < lock.stat().st_mtime:
        got = run(npm, "ci", "--no-audit", "--no-fund", "--loglevel=error", capture_output=True, text=True)
        if got.returncode != 0:
            skip("npm could not install the packages of web/page/package-lock.json")
        stamp.touch()
    return node


def main() -> int:
    node = packages()
    for name, command in (("types", ["node_modules/.bin/tsc", "--noEmit"]), ("page.html", [node, "build.js", "--check"]),
                          ("unit tests", [node, "test/run.js"])):
        if run(*command).returncode != 0:
            print(f"page: {name} failed", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
