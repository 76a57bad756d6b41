"""scripts/run_ctest.py: the last line counts cases and scripts, and the exit code is that of the failures."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import unittest

import run_ctest
from trees import TreeTest

SCRIPT = pathlib.Path(run_ctest.__file__)
RUN = '<testcase name="{}" status="run"><system-out>noise</system-out></testcase>'
FAIL = '<testcase name="{}" status="fail"><failure message="{}"/><system-out/></testcase>'
SKIP = '<testcase name="{}" status="notrun"><skipped message="{}"/><system-out>{}</system-out></testcase>'
PASSED = {"passed": 7, "failed": [], "skipped": {"Amx.Tiles": "this CPU has no tiles"}}
FAILED = {"passed": 4, "failed": ["Rope.Turns", "Rope.Stays"], "skipped": {"Amx.Sums": "this CPU has no tiles"}}


class RunCtest(TreeTest):
    """A stand-in for ctest that writes the reports which it was given."""

    def close(self, tests: str | None, reports: dict[str, dict] = {}, code: int = 0, *arguments: str) -> tuple[int, list[str]]:
        self.write({f"ready/{name}.json": json.dumps(report) for name, report in reports.items()})
        self.write({"ready/none": "", "build/test-reports/unit.stale.json": json.dumps(FAILED)})
        write = ""
        if tests is not None:
            self.write({"junit.xml": f'<?xml version="1.0"?><testsuite name="x">{tests}</testsuite>'})
            write = f"cp {self.root}/junit.xml build/ctest.xml; cp -r ready build/test-reports"
        self.write({"tools/ctest": f'#!{shutil.which("bash")}\ncd {self.root}\necho "ctest $*"\n{write}\nexit {code}\n'})
        (self.root / "tools/ctest").chmod(0o755)
        path = f"{self.root / 'tools'}:{os.environ['PATH']}"
        result = subprocess.run([sys.executable, SCRIPT, "--build", self.root / "build", *arguments], text=True,
                                capture_output=True, env=os.environ | {"PATH": path}, timeout=60)
        self.assertEqual(result.stderr, "")
        return result.returncode, result.stdout.splitlines()

    def test_cases_and_scripts_are_added(self):
        code, said = self.close(RUN.format("unit.a") + RUN.format("house.tree") + RUN.format("unit.b"),
                                {"unit.a": PASSED, "unit.b": PASSED})
        self.assertEqual((code, said[-1]), (0, "15 passed, 0 failed, 2 skipped"))
        self.assertIn("  this CPU has no tiles: unit.a: Amx.Tiles and 1 more", said)

    def test_without_skipped_ones_the_line_says_nothing_of_them(self):
        self.assertEqual(self.close(RUN.format("house.tree"))[1][-1], "1 passed, 0 failed")

    def test_failures_are_named_and_counted_once(self):
        code, said = self.close(FAIL.format("unit.a", "Failed") + FAIL.format("house.tree", "Failed") + RUN.format("house.docs"),
                                {"unit.a": FAILED}, 8)
        self.assertEqual((code, said[-1]), (8, "5 passed, 3 failed, 1 skipped"))
        self.assertEqual(said[said.index("Failed:") + 1:-1],
                         ["  unit.a: Rope.Turns", "  unit.a: Rope.Stays", "  house.tree: Failed"])

    def test_a_program_that_wrote_no_report_has_failed(self):
        code, said = self.close(FAIL.format("unit.a", "Timeout") + RUN.format("house.tree"), {}, 8)
        self.assertEqual((code, said[-1]), (8, "1 passed, 1 failed"))
        code, said = self.close(SKIP.format("unit.a", "Unable to find executable", "") + RUN.format("house.tree"), {}, 8)
        self.assertEqual((code, said[-1]), (8, "1 passed, 1 failed"))

    def test_a_skipped_script_is_skipped_and_says_why(self):
        code, said = self.close(RUN.format("house.tree") + SKIP.format("outside.x", "SKIP_RETURN_CODE=77", "x is absent"))
        self.assertEqual((code, said[-1]), (0, "1 passed, 0 failed, 1 skipped"))
        self.assertIn("  x is absent: outside.x", said)

    def test_no_test_is_a_failure(self):
        code, said = self.close("", {}, 0)
        self.assertEqual((code, said[-1]), (1, "0 passed, 0 failed"))
        code, said = self.close(None, {}, 8)
        self.assertEqual((code, said[-1]), (8, "0 passed, 1 failed"))
        nothing = {"passed": 0, "failed": [], "skipped": {}}
        self.assertEqual(self.close(RUN.format("unit.a"), {"unit.a": nothing})[0], 1)

    def test_a_failure_of_ctest_alone_is_not_lost(self):
        code, said = self.close(RUN.format("unit.a"), {"unit.a": PASSED}, 3)
        self.assertEqual((code, said[-1]), (3, "7 passed, 1 failed, 1 skipped"))

    def test_arguments_go_to_ctest_and_a_list_is_only_a_list(self):
        self.assertRegex(self.close(RUN.format("house.tree"), {}, 0, "-L", "unit")[1][0], r"^ctest .* -L unit$")
        self.assertEqual(self.close(None, {}, 0, "-N"), (0, ["ctest -N"]))


if __name__ == "__main__":
    unittest.main()
