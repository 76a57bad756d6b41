"""Small made-up source trees for the tests of the scripts."""

import contextlib
import io
import pathlib
import subprocess
import sys
import tempfile
import unittest


class TreeTest(unittest.TestCase):
    """Each test has a folder of its own, `self.root`, that is gone afterwards."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)

    def write(self, files: dict[str, str | bytes]) -> None:
        for name, content in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def make_git(self) -> None:
        subprocess.run(["git", "init", "--quiet", str(self.root)], check=True)

    def run_script(self, script, *arguments: str) -> tuple[int, str]:
        """Calls the script's main() on the tree: its exit code and what it said."""
        said = io.StringIO()
        before, sys.argv = sys.argv, [script.__name__, "--root", str(self.root), *arguments]
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                code = script.main()
        finally:
            sys.argv = before
        return code, said.getvalue()
