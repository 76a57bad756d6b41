"""scripts/run_gtest.py: what is shown and counted of a GoogleTest program, however it ends."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import unittest

import run_gtest
from trees import TreeTest

SCRIPT = pathlib.Path(run_gtest.__file__)
PASSING = r"""
echo "Note: sharding"
echo "[ RUN      ] Rope.Turns"
echo "noise of a case that passed"
printf 'no line end[       OK ] Rope.Turns (3 ms)\n'
echo "[ RUN      ] Formats/Matmul.Is/q4_k"
echo "[       OK ] Formats/Matmul.Is/q4_k (0 ms)"
"""
SKIPPING = r"""
echo "[ RUN      ] Amx.Tiles"
echo "x_test.cpp:46: Skipped"
echo "this CPU has no tiles"
echo
echo "[  SKIPPED ] Amx.Tiles (0 ms)"
"""
FAILING = r"""
echo "[ RUN      ] Formats/Matmul.Is/q8_0"
echo "x_test.cpp:12: Failure"
echo "[  FAILED  ] Formats/Matmul.Is/q8_0, where GetParam() = q8_0 (1 ms)"
"""
SUMMARY = '\necho "[  FAILED  ] 1 test, listed below:"\necho "[  FAILED  ] Formats/Matmul.Is/q8_0"\nexit 1\n'


class RunGtest(TreeTest):
    def run_program(self, script: str, *arguments: str, **environment: str) -> tuple[int, str, dict]:
        program = self.root / "unit_some"
        program.write_text(f"#!{shutil.which('bash')}\n{script}\n")
        program.chmod(0o755)
        report = self.root / "reports/unit.some.json"
        result = subprocess.run([sys.executable, SCRIPT, program, "--report", report, *arguments], text=True,
                                capture_output=True, timeout=60, env=os.environ | environment)
        self.assertEqual(result.stderr, "")
        return result.returncode, result.stdout, json.loads(report.read_text())

    def test_a_pass_is_one_line(self):
        code, said, report = self.run_program(PASSING)
        self.assertEqual((code, said), (0, "unit_some: 2 passed, 0 failed, 0 skipped\n"))
        self.assertEqual(report, {"passed": 2, "failed": [], "skipped": {}})

    def test_a_failure_is_shown_with_its_output_and_no_other(self):
        code, said, report = self.run_program(PASSING + FAILING + SKIPPING + SUMMARY)
        self.assertEqual(code, 1)
        self.assertEqual(said, "FAILED: Formats/Matmul.Is/q8_0\n  x_test.cpp:12: Failure\n"
                               "skipped: 1: this CPU has no tiles\nunit_some: 2 passed, 1 failed, 1 skipped\n")
        self.assertEqual(report["failed"], ["Formats/Matmul.Is/q8_0"])
        self.assertEqual(report["skipped"], {"Amx.Tiles": "this CPU has no tiles"})

    def test_a_crash_names_its_case(self):
        code, said, report = self.run_program(PASSING + 'echo "[ RUN      ] Arena.Grows"\necho deep\nkill -SEGV $$')
        self.assertEqual((code, report["passed"], report["failed"]), (1, 2, ["Arena.Grows"]))
        self.assertIn("FAILED: Arena.Grows\n  deep\n  unit_some was ended by SIGSEGV in this case", said)

    def test_a_crash_outside_of_a_case(self):
        for end, why in (("kill -ABRT $$", "was ended by SIGABRT"), ("exit 23", "exited with 23"), ("exit 1", "exited with 1")):
            code, said, report = self.run_program(PASSING + end)
            self.assertEqual((code, report["failed"]), (1, ["unit_some"]))
            self.assertIn(why, said)

    def test_a_case_that_hangs_is_ended_and_named(self):
        code, said, report = self.run_program(PASSING + 'echo "[ RUN      ] Pool.Joins"\nexec sleep 50', "--patience", "0.5")
        self.assertEqual((code, report["failed"]), (1, ["Pool.Joins"]))
        self.assertIn("was silent for 0.5 s", said)

    def test_no_case_is_a_failure_unless_they_were_chosen(self):
        self.assertEqual(self.run_program("exit 0")[0], 1)
        self.assertEqual(self.run_program("exit 0", GTEST_FILTER="*Rope*")[0], 0)

    def test_shares_and_the_choice_of_cases_reach_the_program(self):
        show = 'echo "$GTEST_FILTER $GTEST_SHARD_INDEX/$GTEST_TOTAL_SHARDS" >"$0.seen"\n' + PASSING
        for arguments, wanted, seen in (
            (("--shard", "2/3"), None, "*-Slow* 1/3"),
            ((), "*Rope*:A.*", "*Rope*:A.*-Slow* 0/1"),
            ((), "*Rope*-*Yarn*", "*Rope*-*Yarn*:Slow* 0/1"),
            ((), "-*Yarn*", "*-*Yarn*:Slow* 0/1"),
            (("--slow",), None, "Slow* 0/1"),
            (("--slow",), "*Rope*:Slow/A.*-B*", "Slow**Rope*:Slow/A.*-B* 0/1"),
        ):
            environment = {"GTEST_FILTER": wanted} if wanted else {}
            self.run_program(show, *arguments, **environment)
            self.assertEqual((self.root / "unit_some.seen").read_text().strip(), seen)


if __name__ == "__main__":
    unittest.main()
