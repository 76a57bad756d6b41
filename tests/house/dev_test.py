"""./dev: what it says when called bare or wrongly, and how it behaves where something is missing."""

import os
import pathlib
import re
import shutil
import subprocess
import unittest

from trees import TreeTest

PROJECT = pathlib.Path(__file__).resolve().parents[2]


def dev(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([PROJECT / "dev", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)


class Verbs(unittest.TestCase):
    def test_bare_is_help(self):
        bare = dev()
        self.assertEqual(bare.returncode, 0)
        for verb in ("run", "chat", "text", "test", "build", "page", "bench", "fmt", "lint", "docs"):
            self.assertRegex(bare.stdout, rf"(?m)^  {verb} ")
        self.assertEqual(dev("help").stdout, bare.stdout)
        self.assertEqual(dev("--help").stdout, bare.stdout)

    def test_an_unknown_verb_is_refused(self):
        result = dev("deploy")
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("unknown verb 'deploy'", result.stderr)


class StandIns(TreeTest):
    """A folder of its own with stand-ins for the commands of the system."""

    def setUp(self):
        super().setUp()
        self.tools = self.root / "tools"
        self.tools.mkdir()
        for name in ("bash", "cat", "cksum", "cut", "dirname", "env", "head", "mkdir", "sort", "tail", "touch"):
            (self.tools / name).symlink_to(shutil.which(name))
        (self.root / "scripts").mkdir()
        shutil.copy(PROJECT / "scripts/needs.sh", self.root / "scripts")

    def tool(self, name: str, script: str) -> None:
        path = self.tools / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!{shutil.which('bash')}\n{script}\n")
        path.chmod(0o755)


class EveryVerb(StandIns):
    def test_what_the_help_lists_is_dispatched(self):
        shutil.copy(PROJECT / "dev", self.root)
        for name in ("basename", "nproc", "sed", "xargs"):
            (self.tools / name).symlink_to(shutil.which(name))
        self.tool("dpkg-query", 'echo "install ok installed"')
        self.tool("cargo", 'echo "cargo 1.96.0"')
        for name in ("cmake", "ninja", "ctest", "git", "python3", "clang-format-14", "shellcheck", "../build/release/coterie",
                     "../build/release/bench_one", "../build/fuzz/fuzz_one"):
            self.tool(name, f'echo "{pathlib.PurePath(name).name} $*" >>"{self.root}/calls"; exit 0')
        self.tool("npm", "exit 0")
        self.tool("../build/.needs/text/bin/python", f'echo "gather $*" >>"{self.root}/calls"')
        (self.root / "build/.needs/text/done").touch()
        (self.root / "benchmarks").mkdir()
        (self.root / "benchmarks/one_bench.cpp").touch()
        verbs = re.findall(r"(?m)^  ([a-z]+) ", dev().stdout)
        self.assertGreaterEqual(len(verbs), 9)
        for verb in verbs:
            with self.subTest(verb):
                (self.root / "calls").unlink(missing_ok=True)
                result = subprocess.run(["bash", "./dev", verb], cwd=self.root, capture_output=True, text=True, timeout=60,
                                        stdin=subprocess.DEVNULL, env={"PATH": str(self.tools), "HOME": str(self.root)})
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertTrue((self.root / "calls").exists(), "the verb did nothing")


class Needs(StandIns):
    """scripts/needs.sh among the stand-ins."""

    def needs(self, command: str) -> subprocess.CompletedProcess:
        return subprocess.run(["bash", "-c", f"set -euo pipefail; source scripts/needs.sh; {command}"], cwd=self.root, text=True,
                              capture_output=True, stdin=subprocess.DEVNULL, timeout=60,
                              env={"PATH": str(self.tools), "HOME": str(self.root)})

    def calls(self) -> list[str]:
        log = self.root / "calls"
        return log.read_text().splitlines() if log.exists() else []

    def missing(self, *packages: str) -> None:
        names = "|".join(packages) or "nothing"
        self.tool("dpkg-query", f'case "${{@: -1}}" in {names}) exit 1 ;; *) echo "install ok installed" ;; esac')
        self.tool("apt-get", 'echo "$*" >>calls')

    def test_nothing_missing_asks_nobody_and_is_remembered(self):
        self.missing()
        self.tool("id", "echo 1000")
        self.assertEqual(self.needs("install some cmake g++").returncode, 0)
        self.assertEqual(self.calls(), [])
        self.missing("cmake")  # would be asked for, had the stamp not remembered
        self.assertEqual(self.needs("install some cmake g++").returncode, 0)
        self.assertEqual(self.calls(), [])
        self.assertNotEqual(self.needs("install some cmake g++ ninja-build").returncode, 0)  # another list, another stamp

    def test_root_installs_what_is_missing_and_nothing_else(self):
        self.missing("cmake")
        self.tool("id", "echo 0")
        result = self.needs("install some cmake g++")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stdout, "")
        self.assertEqual(result.stderr, "dev: installing cmake\n")
        update, command = self.calls()
        self.assertRegex(update, " update$")
        self.assertRegex(command, " install -y --no-install-recommends --no-remove cmake$")

    def test_without_root_the_packages_and_the_command_are_named(self):
        self.missing("cmake", "ninja-build")
        self.tool("id", "echo 1000")
        result = self.needs("install some cmake g++ ninja-build")
        self.assertEqual(result.returncode, 1)
        self.assertIn("installing them needs root: cmake ninja-build", result.stderr)
        self.assertIn("run: apt-get install --no-install-recommends cmake ninja-build", result.stderr)
        self.assertEqual(self.calls(), [])
        self.assertFalse(list((self.root / "build/.needs").iterdir()))

    def test_sudo_is_used_where_it_asks_nothing(self):
        self.missing("cmake")
        self.tool("id", "echo 1000")
        self.tool("sudo", 'if [[ $1 == -n ]]; then exit 0; fi; echo sudo >>calls; exec "$@"')
        self.assertEqual(self.needs("install some cmake").returncode, 0)
        self.assertEqual(self.calls()[::2], ["sudo", "sudo"])

    def test_a_failing_apt_is_shown_and_not_remembered(self):
        self.missing("cmake")
        self.tool("id", "echo 0")
        self.tool("apt-get", 'echo "E: no such package" >&2; exit 100')
        result = self.needs("install some cmake")
        self.assertEqual(result.returncode, 1)
        self.assertIn("E: no such package", result.stderr)
        self.assertEqual([path.name for path in (self.root / "build/.needs").iterdir()], ["apt.log"])

    def test_cargo_must_be_recent(self):
        for version, recent in (("1.63.0", False), ("1.86.0", False), ("1.87.0", True), ("1.96.0", True), ("2.0.0", True)):
            with self.subTest(version):
                self.tool("cargo", f'echo "cargo {version} (0123abcd 2026-01-01)"')
                self.assertEqual(self.needs("recent_cargo cargo").returncode == 0, recent)

    def test_an_old_cargo_leads_to_debians_new_one(self):
        self.missing("cargo-web", "rustc-web")
        self.tool("id", "echo 0")
        self.tool("cargo", 'echo "cargo 1.65.0"')
        self.tool("apt-get", f'echo "$*" >>calls; printf "#!%s\\necho cargo 1.96.0\\n" "{shutil.which("bash")}" >tools/cargo')
        result = self.needs("need_build")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(self.calls()[1], "cargo-web rustc-web$")

    def test_without_any_recent_cargo_it_stops(self):
        self.missing()
        self.tool("cargo", 'echo "cargo 1.65.0"')
        result = self.needs("need_build")
        self.assertEqual(result.returncode, 1)
        self.assertIn("needs cargo 1.87 or newer on the PATH; found: cargo 1.65.0", result.stderr)


if __name__ == "__main__":
    unittest.main()
