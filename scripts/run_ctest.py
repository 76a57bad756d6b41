"""Runs CTest and closes with the number of tests: the last line is `N passed, N failed`, `, N skipped` where some were.

Counted are the cases of the GoogleTest programs, which scripts/run_gtest.py reports, and each test that is a script as
one. The exit code is 0 when at least one test passed and none failed.
"""

import argparse
import collections
import json
import pathlib
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

LISTED = ("-N", "--show-only", "--print-labels", "--help", "--version")


class Sum:
    def __init__(self):
        self.passed, self.failed, self.skipped = 0, [], {}

    def add_cases(self, test: str, report: dict) -> None:
        self.passed += report["passed"]
        self.failed += [f"{test}: {case}" for case in report["failed"]]
        self.skipped |= {f"{test}: {case}": reason for case, reason in report["skipped"].items()}

    def add_test(self, test: ElementTree.Element) -> None:
        """A test without a report of cases: a script, or a program that ended before it could write one."""
        name, skipped = test.get("name"), test.find("skipped")
        message = skipped.get("message", "") if skipped is not None else ""
        if test.get("status") == "run":
            self.passed += 1
        elif test.get("status") == "disabled" or message.startswith("SKIP_RETURN_CODE"):
            output = (test.findtext("system-out") or "").strip().splitlines()
            self.skipped[name] = output[-1] if output else message
        else:
            failure = test.find("failure")
            why = message or (failure.get("message", "") if failure is not None else "")
            self.failed.append(f"{name}{': ' + why if why else ''}")


def add_up(junit: pathlib.Path, reports: pathlib.Path) -> Sum:
    total = Sum()
    for test in ElementTree.parse(junit).getroot().iter("testcase"):
        report = reports / f"{test.get('name')}.json"
        if report.exists():
            cases = json.loads(report.read_text(encoding="utf-8"))
            total.add_cases(test.get("name"), cases)
            if test.get("status") == "run" or cases["failed"]:
                continue
        if not report.exists() or test.get("status") == "fail":
            total.add_test(test)
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--build", type=pathlib.Path, required=True, help="the build folder")
    arguments, for_ctest = parser.parse_known_args()
    if any(argument.split("=")[0] in LISTED for argument in for_ctest):
        return subprocess.run(["ctest", *for_ctest]).returncode
    build = arguments.build.resolve()
    junit, reports = build / "ctest.xml", build / "test-reports"
    junit.unlink(missing_ok=True)
    shutil.rmtree(reports, ignore_errors=True)
    code = subprocess.run(["ctest", "--no-tests=error", "--output-junit", str(junit), *for_ctest]).returncode
    total = add_up(junit, reports) if junit.exists() else Sum()
    print()
    if total.skipped:
        print("Skipped:")
    for reason, count in collections.Counter(total.skipped.values()).most_common():
        names = [name for name, why in total.skipped.items() if why == reason]
        print(f"  {reason}: {names[0]}" + (f" and {count - 1} more" if count > 1 else ""))
    if total.failed:
        print("Failed:")
    for name in total.failed:
        print(f"  {name}")
    if code and not total.failed:
        print(f"ctest failed with {code}")
        total.failed.append("ctest")
    elif not total.passed and not total.failed:
        print("No test ran.")
        code = 1
    print(f"{total.passed} passed, {len(total.failed)} failed" + (f", {len(total.skipped)} skipped" if total.skipped else ""),
          flush=True)
    return code or bool(total.failed)


if __name__ == "__main__":
    sys.exit(main())
