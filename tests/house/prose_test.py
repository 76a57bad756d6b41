"""scripts/prose.py tells prose from code and tables, and wraps it without changing what it says."""

import unittest

import prose
import wrap_prose
from trees import TreeTest

LONG = "word " * 30


class Wrap(TreeTest):
    def wrapped(self, text: str) -> list[str]:
        new = prose.wrap(text)
        self.assertEqual(new.split(), text.split())
        self.assertEqual(prose.wrap(new), new)
        return new.splitlines()

    def test_a_paragraph(self):
        lines = self.wrapped(f"# {LONG}\n{LONG}\nshort\n\nNext.\n")
        self.assertLessEqual(max(map(len, lines[1:])), 120)
        self.assertEqual(lines[0], f"# {LONG}")
        self.assertEqual(lines[-2:], ["", "Next."])

    def test_items_keep_their_indent(self):
        lines = self.wrapped(f"1. {LONG}\n   {LONG}\n   - {LONG}\n2. Next\n")
        self.assertRegex(lines[0], r"^1\. word")
        self.assertRegex(lines[1], r"^   word")
        self.assertIn("2. Next", lines)
        inner = next(i for i, line in enumerate(lines) if line.startswith("   - "))
        self.assertRegex(lines[inner + 1], r"^     word")

    def test_code_and_tables_keep_their_lines(self):
        text = f"```sh\n{LONG}\n```\n\n    {LONG}\n\n| {LONG} |\n|---|\n"
        self.assertEqual(prose.wrap(text), text)

    def test_what_is_short_enough_keeps_its_lines(self):
        text = "One\ntwo\n- three\n  four\n"
        self.assertEqual(prose.wrap(text), text)

    def test_code_spans_and_links_stay_whole(self):
        span, link = "`" + "a b " * 10 + "c`", "[" + "text " * 8 + "](page.md)"
        lines = self.wrapped(f"{'word ' * 20}{span} {link} {'word ' * 20}\n")
        self.assertTrue(any(span in line for line in lines))
        self.assertTrue(any(link in line for line in lines))

    def test_no_line_begins_like_a_block(self):
        for sign in ("-", "+", "#", "1.", "2)", "|", ">"):
            with self.subTest(sign):
                for before in range(105, 120):
                    lines = prose.wrap(f"{'x' * before} {sign} {LONG}\n").splitlines()
                    self.assertFalse([line for line in lines if line.startswith(f"{sign} ")])

    def test_pages_of_a_tree_are_wrapped(self):
        self.make_git()
        self.write({"docs/a.md": f"{LONG}\n", "docs/a.txt": f"{LONG}\n"})
        self.assertEqual(self.run_script(wrap_prose), (0, ""))
        self.assertLessEqual(max(map(len, (self.root / "docs/a.md").read_text().splitlines())), 120)
        self.assertEqual((self.root / "docs/a.txt").read_text(), f"{LONG}\n")


if __name__ == "__main__":
    unittest.main()
