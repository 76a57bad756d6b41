"""scripts/check_words.py finds words that have a replacement, in prose, comments and identifiers."""

import unittest

import check_words
from trees import TreeTest

WORDS = """
[[word]]
not = 'turned'
write = "repacked"
[[word]]
not = 'way back'
write = "backward"
pending = ["src/"]
[[word]]
not = '(is|are) no(?! longer)'
write = "is not a"
allow = {"docs/quote.md" = "quotes somebody"}
"""


class Words(TreeTest):
    def setUp(self):
        super().setUp()
        self.make_git()
        self.write({"scripts/words.toml": WORDS, "README.md": "A turn is no longer taken.\n", "docs/quote.md": "It is no use.\n"})

    def check(self, name: str, text: str, *arguments: str) -> tuple[int, str]:
        self.write({name: text})
        return self.run_script(check_words, *arguments)

    def refused(self, name: str, text: str) -> str:
        code, said = self.check(name, text)
        self.assertEqual((code, said.count("\n")), (1, 1), said)
        return said

    def test_clean_pages_pass(self):
        self.assertEqual(self.check("src/a/b.h", "// it returned\nint turnedness;\n"), (0, ""))

    def test_prose(self):
        self.assertEqual(self.refused("docs/a.md", "x\nRows are turned.\n"), 'docs/a.md:2: "turned": write repacked\n')

    def test_identifiers_are_taken_apart(self):
        self.assertIn('src/a/b.h:1: "Turned"', self.refused("src/a/b.h", "struct TurnedRows;\n"))
        self.assertIn('src/a/b.h:1: "turned"', self.refused("src/a/b.h", "int rows_turned_once;\n"))

    def test_a_phrase_over_two_lines(self):
        self.write({"docs/b.md": "The way\n"})
        self.assertIn('docs/a.md:1: "is no"', self.refused("docs/a.md", "It is\nno whole number.\n"))

    def test_a_phrase_over_two_comment_lines(self):
        self.assertIn('src/a/b.h:2: "is no"', self.refused("src/a/b.h", "int x;\n/// It is\n/// no name.\n"))

    def test_pending_folders_and_code_that_names_them_are_left(self):
        self.assertEqual(self.check("src/a/b.h", "int way_back;\n"), (0, ""))
        self.assertEqual(self.check("docs/a.md", "`way_back()`\n```\nway_back();\n```\n"), (0, ""))
        self.assertIn('docs/a.md:5: "way back"', self.refused("docs/a.md", "`way_back()`\n```\nway_back();\n```\nthe way back\n"))

    def test_all_lists_what_is_pending(self):
        code, said = self.check("src/a/b.h", "int way_back;\n", "--all")
        self.assertEqual((code, said), (1, 'src/a/b.h:1: "way back": write backward\n'))

    def test_an_exception_without_its_file(self):
        (self.root / "docs/quote.md").unlink()
        self.assertIn("docs/quote.md does not exist", self.refused("docs/a.md", "x\n"))

    def test_tests_and_data_are_not_looked_at(self):
        self.assertEqual(self.check("tests/a.cpp", "// turned\n"), (0, ""))


if __name__ == "__main__":
    unittest.main()
