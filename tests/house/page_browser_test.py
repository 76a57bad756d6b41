"""The page of coterie serve in Chromium: web/page/test/browser. Skipped, and shown as skipped, without Node 20, the packages
of web/page's lock file, or Chromium."""

import argparse
import os
import pathlib
import subprocess
import sys

from page_test import PAGE, packages, skip


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True, type=pathlib.Path)
    binary = parser.parse_args().binary.resolve()
    node = packages()
    chromium = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    if not os.access(chromium, os.X_OK):
        skip(f"there is no {chromium}")
    command = [node, "test/browser/run.js", "--binary", str(binary), "--model", str(PAGE.parents[1] / "models" / "coterie-small.gguf")]
    return subprocess.run(command, cwd=PAGE, stdin=subprocess.DEVNULL).returncode


if __name__ == "__main__":
    sys.exit(main())
