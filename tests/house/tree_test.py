"""scripts/check_tree.py finds each fault it is there to find, and lets ordinary files pass."""

import unittest

import check_tree
from trees import TreeTest


class Tree(TreeTest):
    def setUp(self):
        super().setUp()
        self.make_git()
        self.write({"scripts/tree.toml": "[long_files]\n", "src/a.cpp": "int a;\n", ".gitignore": "/build/\n"})

    def fault(self, files: dict[str, str | bytes]) -> str:
        self.write(files)
        code, said = self.run_script(check_tree)
        self.assertEqual(code, 1, "the fault was not found")
        self.assertEqual(said.count("\n"), 1, said)
        return said

    def test_ordinary_files_pass(self):
        self.write({
            "src/b.cpp": "int b;\n" * check_tree.LIMIT,
            "docs/a.md": "See https://example.org/home/page and /usr/include, and build/work/x.\n",
            "tests/data/windows.txt": "one\r\ntwo \r\n",
            "tests/data/weights.safetensors": b"\0\1\2\xff",
            "build/generated.cpp": "int c;\n" * (check_tree.LIMIT + 1),
            "Cargo.lock": 'source = "registry+https://index.crates' + '.io/"\n',
        })
        self.assertEqual(self.run_script(check_tree), (0, ""))

    def test_a_long_file(self):
        said = self.fault({"src/b.cpp": "int b;\n" * (check_tree.LIMIT + 1)})
        self.assertIn(f"src/b.cpp: {check_tree.LIMIT + 1} lines", said)

    def test_a_long_table_is_let_pass_with_a_reason(self):
        self.write({"src/table.h": "1,\n" * (check_tree.LIMIT + 1),
                    "scripts/tree.toml": '[long_files]\n"src/table.h" = "the grid of a block format"\n'})
        self.assertEqual(self.run_script(check_tree), (0, ""))

    def test_an_exception_nobody_needs(self):
        said = self.fault({"scripts/tree.toml": '[long_files]\n"src/a.cpp" = "a table"\n'})
        self.assertIn("not longer than", said)

    def test_an_exception_for_nothing(self):
        self.assertIn("does not exist", self.fault({"scripts/tree.toml": '[long_files]\n"src/gone.cpp" = "a table"\n'}))

    def test_an_exception_without_a_reason(self):
        self.assertIn("has no reason", self.fault({"src/b.cpp": "int b;\n" * (check_tree.LIMIT + 1),
                                                   "scripts/tree.toml": '[long_files]\n"src/b.cpp" = ""\n'}))

    def test_a_registry(self):
        for address in ("pypi" + ".org/simple", "files.python" + "hosted.org", "registry.n" + "pmjs.org",
                        "http://deb.debian" + ".org/debian", "static.crates" + ".io/x"):
            with self.subTest(address):
                self.assertIn("a registry's address", self.fault({"docs/a.md": f"get it from {address}\n"}))

    def test_a_path_of_one_machine(self):
        for path in ("/home" + "/me/x", "/root" + "/.cargo", "/work" + "/main"):
            with self.subTest(path):
                self.assertIn("a path of one machine", self.fault({"src/a.cpp": f'auto p = "{path}";\n'}))

    def test_carriage_returns(self):
        self.assertIn("carriage returns", self.fault({"src/a.cpp": "int a;\r\nint b;\r\n"}))

    def test_trailing_spaces(self):
        self.assertIn("src/a.cpp:2: spaces", self.fault({"src/a.cpp": "int a;\nint b; \n"}))

    def test_no_end_of_line(self):
        self.assertIn("no end", self.fault({"src/a.cpp": "int a;"}))

    def test_not_utf8(self):
        self.assertIn("not UTF-8 at byte 3", self.fault({"src/a.cpp": b"// \xff\n"}))

    def test_python_that_does_not_parse(self):
        self.assertIn("scripts/x.py:1", self.fault({"scripts/x.py": "def f(:\n"}))

    def test_shell_that_does_not_parse(self):
        self.write({"scripts/x.sh": "if true; then\n"})
        code, said = self.run_script(check_tree)
        self.assertEqual(code, 1)
        self.assertIn("scripts/x.sh", said)


if __name__ == "__main__":
    unittest.main()
