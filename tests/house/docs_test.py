"""scripts/check_docs.py finds names in the docs that nothing stands behind."""

import unittest

import check_docs
from trees import TreeTest

BINARY = """#!/bin/sh
case "$*" in
  --help) printf 'An engine.\\n\\nCommands:\\n  run, go      Continue\\n               a text\\n\\nMore.\\n'; exit 0 ;;
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
            "docs/commands.md": "`coterie run M`\n",
            "dev": "verb_test() {\n}\n",
            "src/ops/matmul.h": "void grouped_matmul();\nstruct Pool { void run(); };\n",
            "src/ops/matmul.cpp": "",
            "src/layers/moe.cpp": "void Moe::forward(Plan& plan) const {\n  // spread(x)\n  ops::grouped_matmul(plan, gather<int>(x));\n}\n"
                                  "Pool::Pool() : size_(1) {}\n"
                                  "void gather() { if (a) { spread(x); } }\n"
                                  "void Pool::run() { gather(); }\n",
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

    def test_a_command_that_no_page_shows(self):
        self.write({"docs/commands.md": "`coterie run`\n", "coterie": BINARY.replace("  run, go ", "  run\\n  fly ")})
        self.assertEqual(self.check(""), (1, "docs/commands.md: does not show coterie fly\n"))

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

    def test_true_calls(self):
        self.assertEqual(self.check(
            "`layers::Moe` (`src/layers/moe.cpp`) calls `ops::grouped_matmul` (once) and `gather()`.\n"
            "`Moe::forward` takes a plan and\ncalls `gather`. `Pool::run` in `src/layers/moe.cpp` calls `gather()`, then `spread` is\n"
            "called. `src/layers/moe.cpp` calls `gather`, `spread` and `ops::grouped_matmul`; `gather()` calls `spread`.\n"), (0, ""))

    def test_a_call_that_is_not_there(self):
        self.assertIn("layers::Moe does not call spread", self.fault("`layers::Moe` (its experts) calls `gather` and `spread`.\n"))
        self.assertIn("Pool::run does not call spread", self.fault("`Pool::run` calls `spread()`.\n"))
        self.assertIn("src/ops/matmul.cpp does not call gather", self.fault("`src/ops/matmul.cpp` calls `gather`.\n"))

    def test_a_caller_that_is_not_there(self):
        self.assertIn("nothing in src/ops/matmul.cpp defines Moe::forward",
                      self.fault("`Moe::forward` (`src/ops/matmul.cpp`) calls `gather`.\n"))

    def test_a_long_line_of_prose(self):
        self.assertIn("124 characters; prose has at most 120", self.fault("word " * 24 + "word\n"))

    def test_long_lines_of_tables_and_code(self):
        self.assertEqual(self.check(f"| {'word ' * 30} |\n|---|\n\n```sh\necho {'word ' * 30}\n```\n"), (0, ""))


if __name__ == "__main__":
    unittest.main()
