"""scripts/check_tidy.py looks at the sources it should, without what clang does not know, and tells each finding once."""

import json
import os
import subprocess
import unittest

import check_tidy
from trees import TreeTest

# Stands in for clang-tidy: finds every line with "std::move(a); a" in the source, and a fault of a header twice.
TIDY = """#!/bin/sh
for file; do :; done
grep -q fpch-preprocess "$3/compile_commands.json" && { echo "unknown argument"; exit 1; }
grep -q 'broken' "$file" && { echo "fatal: no such thing"; exit 1; }
grep -n 'std::move(a); a' "$file" | sed "s#^\\([0-9]*\\):.*#$PWD/$file:\\1:5: error: 'a' used after it was moved [x]#"
grep -q 'text.h' "$file" && echo "$PWD/src/base/text.h:1:1: warning: a copy [y]"
exit 0
"""


class Tidy(TreeTest):
    def setUp(self):
        super().setUp()
        self.make_git()
        self.write({"bin/clang-tidy-14": TIDY, "src/base/a.cpp": "#include \"base/text.h\"\nf(std::move(a); a.g());\n",
                    "src/ops/b.cpp": "#include \"base/text.h\"\n", "src/base/text.h": "", ".gitignore": "build\nbin\n"})
        (self.root / "bin/clang-tidy-14").chmod(0o755)
        command = "ccache g++ -fpch-preprocess -Winvalid-pch -include all.h -fno-tree-reassoc -O2 -c {}"
        self.write({"build/compile_commands.json": json.dumps(
            [{"directory": str(self.root), "file": str(self.root / name), "command": command.format(name)}
             for name in ("build/together/base_1.cpp", "src/ops/b.cpp", "build/nothing.cpp")]),
            "build/together/base_1.cpp": '#include "base/a.cpp"\n'})  # compiled together
        self.path = os.environ["PATH"]
        os.environ["PATH"] = f"{self.root}/bin:{self.path}"
        self.addCleanup(os.environ.__setitem__, "PATH", self.path)
        for words in (("add", "."), ("commit", "-qm", "one"), ("branch", "-M", "main")):
            self.git(*words)

    def git(self, *words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=self.root, check=True)

    def run_tidy(self, *words: str) -> tuple[int, str]:
        return self.run_script(check_tidy, "--build", str(self.root / "build"), *words)

    def test_all_is_each_source_and_each_finding_once(self):
        self.assertEqual(self.run_tidy("--all"), (1, "src/base/a.cpp:2: error: 'a' used after it was moved [x]\n"
                                                     "src/base/text.h:1: warning: a copy [y]\n"
                                                     "clang-tidy: 2 sources, 2 findings\n"))

    def test_a_room_is_its_sources(self):
        self.assertEqual(self.run_tidy("src/ops"), (1, "src/base/text.h:1: warning: a copy [y]\nclang-tidy: 1 sources, 1 findings\n"))
        self.assertEqual(self.run_tidy("src/gone")[0], 2)

    def test_without_files_what_was_changed(self):
        self.git("checkout", "-qb", "other")
        self.write({"src/ops/b.cpp": "f(std::move(a); a.g());\n"})
        self.assertEqual(self.run_tidy(), (1, "src/ops/b.cpp:1: error: 'a' used after it was moved [x]\nclang-tidy: 1 sources, 1 findings\n"))
        self.write({"src/ops/b.cpp": ""})
        self.assertEqual(self.run_tidy(), (0, "clang-tidy: 1 sources, 0 findings\n"))

    def test_a_source_that_clang_cannot_read_is_a_finding(self):
        self.write({"src/ops/b.cpp": "broken\n"})
        code, said = self.run_tidy("src/ops/b.cpp")
        self.assertEqual(code, 1)
        self.assertIn("no such thing", said)

    def test_without_clang_tidy_it_is_skipped(self):
        os.environ["PATH"] = str(self.root)
        self.assertEqual(self.run_tidy("--all")[0], 77)


if __name__ == "__main__":
    unittest.main()
