"""Runs one GoogleTest program, or one share of its cases, as one test of CTest; prints what failed and nothing else.

A process for each case would spend more time on starting than on testing. So a test of CTest is a whole program, or one
of N shares of it (GTEST_TOTAL_SHARDS), and this script keeps what one process a case gave: the output of a case that
failed and of no other, the name of the case in which a program crashed or hangs, and counts of cases. The counts go to
the file --report as JSON; scripts/run_ctest.py adds them up.

Cases whose full name begins with "Slow" belong to the label `slow`: --slow runs those alone, without it they are left
out. The environment variable GTEST_FILTER chooses among the rest.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import selectors
import signal
import subprocess
import sys
import time

BEGIN = re.compile(r"^\[ RUN      \] (\S+)$")
# Anywhere in a line: a case may have printed the beginning of one.
END = re.compile(r"\[(       OK |  FAILED  |  SKIPPED )\] (\S+?)(?:, where .*)? \(\d+ ms\)$")
SUITE_FAILED = re.compile(r"^\[  FAILED  \] (\S+): SetUpTestSuite or TearDownTestSuite$")
SLOW = "Slow"


def gtest_filter(wanted: str | None, slow: bool) -> str:
    """GoogleTest's filter POSITIVE-NEGATIVE that takes the user's choice and keeps to the slow cases, or off them."""
    positive, _, negative = (wanted or "").partition("-")
    if slow:
        patterns = [p if p.startswith(SLOW) else f"{SLOW}*{p}" for p in positive.split(":") if p]
        return ":".join(patterns or [f"{SLOW}*"]) + (f"-{negative}" if negative else "")
    return f"{positive or '*'}-{negative}:{SLOW}*" if negative else f"{positive or '*'}-{SLOW}*"


class Cases:
    """Follows a program's output line by line."""

    def __init__(self):
        self.passed, self.failed, self.skipped = 0, [], {}
        self.case, self.lines, self.faults = None, [], []

    def fail(self, name: str, lines: list[str]) -> None:
        self.failed.append(name)
        self.faults += [f"FAILED: {name}", *(f"  {line}" for line in lines)]

    def take(self, line: str) -> None:
        if match := BEGIN.match(line):
            self.case, self.lines = match[1], []
        elif self.case and (match := END.search(line)) and match[2] == self.case:
            if before := line[: match.start()]:
                self.lines.append(before)
            if match[1] == "       OK ":
                self.passed += 1
            elif match[1] == "  SKIPPED ":
                self.skipped[self.case] = " ".join(line for line in self.lines[1:] if line.strip()) or "no reason given"
            else:
                self.fail(self.case, self.lines)
            self.case, self.lines = None, []
        elif match := SUITE_FAILED.match(line):
            self.fail(f"{match[1]} (set up or tear down of the suite)", self.lines)
        else:
            self.lines.append(line)

    def end(self, program: str, ended: str | None) -> None:
        """After the last line; `ended` says how the program ended, if not by itself with the code it should."""
        if ended and self.case:
            self.fail(self.case, [*self.lines, f"{program} {ended} in this case; the cases after it did not run"])
        elif ended:
            self.fail(program, [*self.lines, f"{program} {ended} outside of its cases"])


def read_lines(process: subprocess.Popen, patience: float, take) -> bool:
    """Hands on each line; False when nothing came for `patience` seconds."""
    selector, rest, latest = selectors.DefaultSelector(), b"", time.monotonic()
    selector.register(process.stdout, selectors.EVENT_READ)
    while True:
        if not selector.select(timeout=max(0.0, latest + patience - time.monotonic())):
            return False
        piece = os.read(process.stdout.fileno(), 1 << 16)
        latest = time.monotonic()
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            take(line.decode(errors="replace"))
        if not piece:
            if rest:
                take(rest.decode(errors="replace"))
            return True


def how_it_ended(code: int, failures: bool) -> str | None:
    if code == 0 or code == 1 and failures:
        return None
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--report", type=pathlib.Path, required=True, help="where the counts are written, as JSON")
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="the I-th of N shares of the cases")
    parser.add_argument("--slow", action="store_true", help="the slow cases, not the others")
    parser.add_argument("--patience", type=float, default=600, help="seconds of silence after which a case hangs")
    arguments = parser.parse_args()
    share, shares = (int(number) for number in arguments.shard.split("/"))
    wanted = os.environ.get("GTEST_FILTER")
    environment = os.environ | {"GTEST_FILTER": gtest_filter(wanted, arguments.slow), "GTEST_COLOR": "no", "GTEST_BRIEF": "0",
                                "GTEST_TOTAL_SHARDS": str(shares), "GTEST_SHARD_INDEX": str(share - 1)}
    arguments.report.unlink(missing_ok=True)
    cases = Cases()
    with subprocess.Popen([arguments.program.resolve()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
                          stdin=subprocess.DEVNULL) as process:
        answered = read_lines(process, arguments.patience, cases.take)
        if not answered:
            process.kill()
    ended = f"was silent for {arguments.patience:g} s and was ended"
    if answered:
        ended = how_it_ended(process.returncode, bool(cases.failed))
    name = arguments.program.name
    cases.end(name, ended)
    if not (cases.passed or cases.failed or cases.skipped or wanted):
        cases.fail(name, ["not one of its cases ran"])
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    arguments.report.write_text(json.dumps({"passed": cases.passed, "failed": cases.failed, "skipped": cases.skipped}))
    for line in cases.faults:
        print(line)
    for reason, count in collections.Counter(cases.skipped.values()).items():
        print(f"skipped: {count}: {reason}")
    print(f"{name}: {cases.passed} passed, {len(cases.failed)} failed, {len(cases.skipped)} skipped")
    return 1 if cases.failed else 0


if __name__ == "__main__":
    sys.exit(main())
