"""scripts/check_transcripts.py notices when a command no longer prints what the docs show."""

import unittest

import check_transcripts
from trees import TreeTest

BINARY = '#!/bin/sh\n[ "$1" = fail ] && { echo "no such file" >&2; exit 2; }\nprintf "one\\ntwo\\nthree\\nfour\\n"\n'


class Transcripts(TreeTest):
    def setUp(self):
        super().setUp()
        self.make_git()
        self.write({"bin/coterie-1": BINARY})
        (self.root / "bin/coterie-1").chmod(0o755)

    def check(self, block: str) -> tuple[int, str]:
        self.write({"docs/claims.md": f"Text.\n```console\n{block}\n```\n$ coterie fail\n"})
        return self.run_script(check_transcripts, "--binary", str(self.root / "bin/coterie-1"))

    def refused(self, block: str) -> str:
        code, said = self.check(block)
        self.assertEqual(code, 1, said)
        return said

    def test_the_whole_output(self):
        self.assertEqual(self.check("$ coterie\none\ntwo\nthree\nfour"), (0, ""))

    def test_a_part_of_it(self):
        self.assertEqual(self.check("$ coterie\n…\ntwo\n…\nfour"), (0, ""))

    def test_a_pipe_and_a_second_command(self):
        self.assertEqual(self.check("$ coterie | tail -n 1\nfour\n$ ls bin\ncoterie-1"), (0, ""))

    def test_other_figures(self):
        self.assertIn("shows what is not printed: 2", self.refused("$ coterie\none\n2\n…"))

    def test_another_order(self):
        self.assertIn("shows what is not printed: two", self.refused("$ coterie\n…\nthree\n…\ntwo"))

    def test_a_gap_that_is_not_marked(self):
        self.assertIn("shows what is not printed: three", self.refused("$ coterie\none\nthree\nfour"))

    def test_an_end_that_is_not_marked(self):
        self.assertIn("goes on with: three", self.refused("$ coterie\none\ntwo"))

    def test_a_command_that_fails(self):
        self.assertIn("exit code 2: no such file", self.refused("$ coterie fail\n…"))

    def test_a_failure_inside_a_pipe(self):
        self.assertIn("exit code 2", self.refused("$ coterie fail | cat\n…"))

    def test_other_blocks_are_not_run(self):
        self.write({"docs/other.md": "```sh\n$ coterie fail\n```\n"})
        self.assertEqual(self.check("$ coterie\n…\nfour"), (0, ""))

    def test_written_anew(self):
        shown = "$ printf 'a 1\\nb 2\\nc 3\\nd 4\\n'\n{}\n$ coterie\none\n…"
        self.write({"docs/claims.md": "```console\n" + shown.format("…\nb 7\nc 8\n…") + "\n```\n"})
        code, said = self.run_script(check_transcripts, "--binary", str(self.root / "bin/coterie-1"), "--write")
        self.assertEqual((code, said), (0, "docs/claims.md:2: written anew\n"))
        self.assertEqual((self.root / "docs/claims.md").read_text(),
                         "```console\n" + shown.format("…\nb 2\nc 3\n…") + "\n```\n")

    def test_nothing_like_it_is_printed(self):
        self.write({"docs/claims.md": "```console\n$ coterie\n…\nseven 7\n```\n"})
        with self.assertRaisesRegex(ValueError, "nothing printed is like: seven 7"):
            self.run_script(check_transcripts, "--binary", str(self.root / "bin/coterie-1"), "--write")


if __name__ == "__main__":
    unittest.main()
