"""scripts/check_keys.py finds keys that are not told, told keys that nothing reads, and words that are not said."""

import unittest
from unittest import mock

import check_keys
from trees import TreeTest

CODE = """
  spec.experts = reader.integer("experts");
  spec.score = read_name(reader, "score", kScores, spec.score);
  kScores = {{{"softmax", Score::softmax}, {"sigmoid", Score::sigmoid}}};
"""
ROWS = "| `experts` | 1 or more | |\n", "| `score` | `softmax`, `sigmoid` | |\n"


class Keys(TreeTest):
    def setUp(self):
        super().setUp()
        self.write({"keys.cpp": CODE})
        tables = mock.patch.object(check_keys, "TABLES", [("keys.cpp", "page.md", "The router", None)])
        tables.start()
        self.addCleanup(tables.stop)

    def check(self, *rows: str, heading: str = "## The router") -> tuple[int, str]:
        self.write({"page.md": f"{heading}\n\n| key | values | does |\n|---|---|---|\n" + "".join(rows) + "\n## Next\n| `x` |\n"})
        return self.run_script(check_keys)

    def test_a_whole_table_passes(self):
        self.assertEqual(self.check(*ROWS), (0, ""))

    def test_a_key_that_is_not_told(self):
        self.assertIn("does not have experts", self.check(ROWS[1])[1])

    def test_a_key_that_nothing_reads(self):
        code, said = self.check(*ROWS, "| `noise` | | |\n")
        self.assertEqual(code, 1)
        self.assertIn("has noise, which keys.cpp does not read", said)

    def test_a_value_that_is_not_said(self):
        self.assertIn("does not say sigmoid", self.check(ROWS[0], "| `score` | `softmax` | |\n")[1])

    def test_no_table(self):
        self.assertIn('no table under "The router"', self.check(*ROWS, heading="## Another")[1])


if __name__ == "__main__":
    unittest.main()
