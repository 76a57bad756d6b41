"""scripts/smollm2_page.py makes each thing once, in order, and goes on where it stopped. (The program is a stand-in.)"""

import contextlib
import io
import json
import sys

import smollm2_page
from trees import TreeTest

# Writes down what it was asked for, and makes what the command would make.
STAND_IN = """#!{python}
import json, pathlib, sys
words = sys.argv[1:]
with open("{log}", "a") as log:
    log.write(json.dumps(words) + "\\n")
if words[0] == "{failing}":
    sys.exit(2)
if words[0] == "eval":
    print(json.dumps({{"perplexity": len(words[1])}}))
elif words[0] == "tune":
    run = pathlib.Path(words[words.index("-o") + 1], words[words.index("--variant") + 1])
    (run / "checkpoints/step-0000024").mkdir(parents=True, exist_ok=True)
elif "-o" in words:
    out = pathlib.Path(words[words.index("-o") + 1])
    out.write_bytes(b"x" * 3000000) if out.suffix == ".gguf" else out.mkdir()
"""


class Stages(TreeTest):
    def setUp(self):
        super().setUp()
        passage = "\n\n".join(f"{i}: " + "some words of a passage " * 10 for i in range(30))
        self.write({f"w/{text}{part}.txt": passage for text in smollm2_page.TEXTS for part in ("", "-held-out")})
        self.write({f"w/{smollm2_page.GGUF}": b"gguf"})
        self.log = self.root / "log"

    def stand_in(self, failing: str = "nothing"):
        program = self.root / "coterie"
        program.write_text(STAND_IN.format(python=sys.executable, log=self.log, failing=failing))
        program.chmod(0o755)
        return program

    def run_stages(self, program) -> tuple[smollm2_page.Page, list[list[str]]]:
        self.log.write_text("")
        page = smollm2_page.Page(program, self.root / "w", ["--threads", "1"])
        with contextlib.redirect_stdout(io.StringIO()):
            smollm2_page.stages(page)
        return page, self.asked()

    def asked(self) -> list[list[str]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def test_every_stage_is_made_and_scored_on_both_texts(self):
        page, asked = self.run_stages(self.stand_in())
        made = [words[0] for words in asked if words[0] != "eval"]
        self.assertEqual(made, ["convert", "upcycle", *["tune"] * 4, "merge", "gate", "quantize", "quantize", "prune"])
        scored = [words for words in asked if words[0] == "eval"]
        self.assertEqual(len(scored), 2 * len(page.rows))
        self.assertTrue(all(words[-2:] == ["--threads", "1"] for words in asked))
        table = page.table().splitlines()
        self.assertEqual(len(table), 2 + len(page.rows))
        self.assertRegex(table[-1], r"^\| and without the least .* \| \d+\.00 \| \d+\.00 \| 3 MB \|$")

    def test_what_is_there_is_not_made_again(self):
        self.run_stages(self.stand_in())
        _, asked = self.run_stages(self.stand_in())
        # A run that has ended finds so by itself.
        self.assertEqual({words[0] for words in asked}, {"tune"})
        self.assertTrue(all("--resume" in words for words in asked))

    def test_a_command_that_fails_ends_it(self):
        with self.assertRaises(SystemExit) as stop:
            self.run_stages(self.stand_in("merge"))
        self.assertIn("coterie merge failed", str(stop.exception))
        self.assertEqual(self.asked()[-1][0], "merge")


if __name__ == "__main__":
    import unittest

    unittest.main()
