"""scripts/terminal_svg.py draws transcripts, runs their commands, and notices pictures that are not theirs."""

import unittest
import xml.etree.ElementTree

import terminal_svg
from trees import TreeTest

TRANSCRIPT = "$ echo '0  █▁▄  a & b'\n0  █▁▄  a & b\n"


class Pictures(TreeTest):
    def setUp(self):
        super().setUp()
        self.write({"docs/pictures/one.txt": TRANSCRIPT})

    def test_the_picture_holds_the_words_and_a_bar_for_each_block(self):
        self.assertEqual(self.run_script(terminal_svg), (0, ""))
        tree = xml.etree.ElementTree.fromstring((self.root / "docs/pictures/one.svg").read_text())
        names = {"svg": "http://www.w3.org/2000/svg"}
        texts = [each.text for each in tree.findall("svg:text", names)]
        self.assertEqual(texts[-2:], ["0", "a & b"])
        bars = [float(each.get("height")) for each in tree.findall("svg:rect", names)[1:]][-3:]
        self.assertTrue(bars[0] > bars[2] > bars[1], bars)

    def test_a_stale_picture_is_found(self):
        self.assertEqual(self.run_script(terminal_svg, "--check")[0], 1)
        self.run_script(terminal_svg)
        self.assertEqual(self.run_script(terminal_svg, "--check"), (0, ""))
        self.write({"docs/pictures/one.txt": TRANSCRIPT.replace("a & b", "a & c")})
        self.assertIn("docs/pictures/one.svg is not the picture", self.run_script(terminal_svg, "--check")[1])

    def test_commands_are_run(self):
        self.write({"docs/pictures/one.txt": "$ echo new; echo 'to stderr  ' >&2\nold\n"})
        self.assertEqual(self.run_script(terminal_svg, "--run"), (0, ""))
        self.assertEqual((self.root / "docs/pictures/one.txt").read_text(), "$ echo new; echo 'to stderr  ' >&2\nnew\nto stderr\n")

    def test_a_command_that_fails(self):
        self.write({"docs/pictures/one.txt": "$ echo no; exit 3\n"})
        with self.assertRaisesRegex(SystemExit, "exit code 3: no"):
            self.run_script(terminal_svg, "--run")


if __name__ == "__main__":
    unittest.main()
