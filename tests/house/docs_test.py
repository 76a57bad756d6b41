"""scripts/check_docs.py finds names in the docs that nothing stands behind."""

import unittest

import check_docs
from trees import TreeTest

BINARY = """#!/bin/sh
case "$*" in
  "run --help") echo "  -p,--prompt TEXT   what to go on from"; exit 0 ;;
  *) exit 2 ;;
esac
"""


class Docs(TreeTest):
    def setUp(self):
        super().setUp()
        self.make_git()
        self.write({
            "README.md": "# The house\nSee [the map](docs/map.md#one-token).\n",
            "docs/map.md": "# Map\n## One `token`\n[up](../README.md#the-house), [here](#map)\n",
            "dev": "verb_test() {\n}\n",
            "src/ops/matmul.h": "void grouped_matmul();\nstruct Pool { void run(); };\n",
            "src/ops/matmul.cpp": "",
            "coterie": BINARY,
        })
        (self.root / "coterie").chmod(0o755)

    def check(self, text: str) -> tuple[int, str]:
        self.write({"docs/page.md": text})
        return self.run_script(check_docs, "--binary", str(self.root / "coterie"))

    def fault(self, text: str) -> str:
        code, said = self.check(text)
        self.assertEqual(code, 1, "the fault was not found")
        self.assertTrue(said.startswith("docs/page.md:1: "), said)
        self.assertEqual(said.count("\n"), 1, said)
        return said

    def test_true_pages_pass(self):
        self.assertEqual(self.check(
            "`src/ops/` and `src/ops/matmul.{h,cpp}`, `src/*/matmul.h`; `grouped_matmul()`, `Pool::run`, `std::sort()`\n"
            "`./dev test -L unit`, `coterie run M --prompt x` [out](https://example.org/x)\n"
            "```sh\n./dev test\nbuild/release/coterie run M -p x | grep --color y\n# coterie is an engine\n```\n"), (0, ""))

    def test_a_dead_link(self):
        self.assertIn("the link gone.md leads nowhere", self.fault("[x](gone.md)\n"))

    def test_a_dead_anchor(self):
        self.assertIn("map.md has no heading for #two", self.fault("[x](map.md#two)\n"))

    def test_a_dead_path(self):
        self.assertIn("there is no src/ops/gone.h", self.fault("`src/ops/gone.h`\n"))

    def test_a_dead_path_in_braces(self):
        self.assertIn("there is no src/ops/matmul.py", self.fault("`src/ops/matmul.{h,py}`\n"))

    def test_a_function_that_is_not_there(self):
        self.assertIn("nothing in the sources is called scatter", self.fault("`scatter()`\n"))

    def test_a_member_that_is_not_there(self):
        self.assertIn("nothing in the sources is called walk", self.fault("`Pool::walk`\n"))

    def test_a_verb_that_is_not_there(self):
        self.assertIn("./dev has no verb 'deploy'", self.fault("`./dev deploy`\n"))

    def test_a_command_that_is_not_there(self):
        self.assertIn("coterie has no command 'fly'", self.fault("`coterie fly M`\n"))

    def test_an_option_that_is_not_there(self):
        self.assertIn("coterie run has no option --wings", self.fault("`coterie run M --wings 2`\n"))

    def test_an_option_in_a_block(self):
        code, said = self.check("```sh\ncoterie run M --wings 2\n```\n")
        self.assertEqual((code, said), (1, "docs/page.md:2: coterie run has no option --wings\n"))


if __name__ == "__main__":
    unittest.main()
