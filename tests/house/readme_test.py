"""Every command line of README.md runs, and docs/commands.md leaves no command out. Lines of ./dev run with
stand-ins for compilers and packages, those of coterie truly.

What `./dev run` hands to the binary is run truly, too; a MODEL is the project's own. Needs the binary: --binary PATH.
"""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import unittest

import check_docs
from dev_test import PROJECT, StandIns

OWN_MODEL = "models/coterie-small.gguf"
BINARY = None  # of --binary, in main


def command_lines() -> list[str]:
    return [line.strip() for _, line in check_docs.Page(PROJECT / "README.md").shell if line.strip()]


def on_one_processor() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


class Readme(StandIns):
    def setUp(self):
        super().setUp()
        (self.root / "build/release").mkdir(parents=True)
        (self.root / "build/fuzz").mkdir()
        (self.root / "models").symlink_to(PROJECT / "models")

    def run_truly(self, line: str) -> None:
        program = self.root / "build/release/coterie"
        program.unlink(missing_ok=True)
        program.symlink_to(BINARY)
        # One processor: threads that wait for each other at every token take minutes on a busy machine.
        result = subprocess.run(["bash", "-c", line], cwd=self.root, capture_output=True, text=True, timeout=120,
                                stdin=subprocess.DEVNULL, preexec_fn=on_one_processor)
        program.unlink()
        self.assertEqual(result.returncode, 0, f"{line}\n{result.stderr}")
        self.assertTrue(result.stdout.strip(), f"{line} prints nothing")

    def run_dev(self, line: str) -> list[str]:
        """Runs a line of ./dev among stand-ins: what it called."""
        shutil.copy(PROJECT / "dev", self.root)
        for name in ("basename", "nproc", "sed", "xargs"):
            if not (self.tools / name).exists():
                (self.tools / name).symlink_to(shutil.which(name))
        self.tool("dpkg-query", 'echo "install ok installed"')
        self.tool("cargo", 'echo "cargo 1.96.0"')
        calls = self.root / "calls"
        calls.unlink(missing_ok=True)
        for name in ("cmake", "ninja", "ctest", "git", "python3", "../build/release/coterie"):
            self.tool(name, f'printf "%s" "{pathlib.PurePath(name).name}" >>"{calls}"; printf " %q" "$@" >>"{calls}"; '
                            f'echo >>"{calls}"; exit 0')
        result = subprocess.run(["bash", "-c", line], cwd=self.root, capture_output=True, text=True, timeout=60,
                                stdin=subprocess.DEVNULL, env={"PATH": str(self.tools), "HOME": str(self.root)})
        (self.root / "build/release/coterie").unlink()
        self.assertEqual(result.returncode, 0, f"{line}\n{result.stderr}")
        return calls.read_text().splitlines()

    def test_every_command_line_runs(self):
        lines = command_lines()
        self.assertGreaterEqual(len(lines), 3)
        for line in lines:
            with self.subTest(line):
                if line.startswith("./dev "):
                    calls = [shlex.split(call) for call in self.run_dev(line)]
                    answers = [call for call in calls if call[0] == "coterie"]
                    if line.split()[1] == "test":
                        self.assertTrue(any("run_ctest" in " ".join(call) for call in calls), f"{line} runs no test")
                    else:
                        self.assertTrue(answers, f"{line} does not call coterie")
                    for call in answers:
                        if OWN_MODEL in call:
                            self.run_truly(shlex.join(["build/release/coterie", *call[1:]]))
                elif line.startswith("build/release/coterie "):
                    self.run_truly(re.sub(r"\bMODEL\b", OWN_MODEL, line))
                else:
                    self.fail("a command that this test does not know how to run")

    def test_the_page_of_commands_has_every_command(self):
        text = subprocess.run([BINARY, "--help"], check=True, capture_output=True, text=True).stdout
        rows = re.findall(r"(?m)^  (\w[\w, -]*?)(?:  |$)", text.split("\nCommands:\n")[1])
        names = [name for row in rows for name in row.split(", ")]
        self.assertIn("run", names)
        page = (PROJECT / "docs/commands.md").read_text(encoding="utf-8")
        self.assertEqual([name for name in names if f"coterie {name}" not in page], [])


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "--binary":
        sys.exit("readme_test: name the coterie to run by --binary PATH")
    BINARY = pathlib.Path(sys.argv[2]).resolve()
    unittest.main(argv=sys.argv[:1])
