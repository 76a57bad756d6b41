"""What goes wrong with ranks, many times each: no run hangs, each ends with one error of ours and a code that is not 0,
and nothing half-written is left.

  kill -9 of a rank while it decodes (by each split), serves and trains; SIGSTOP; a rank that never starts; a full disk
  on one rank; a rank of another version.
"""

import argparse
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import mpirun_test  # noqa: E402
from mpirun_test import MODEL, Ranks, command, environment  # noqa: E402

PATIENCE = "3"  # seconds that a rank waits for another
MOST = 30  # seconds after which a run counts as hung


class Faults(unittest.TestCase):
    times = 20

    @classmethod
    def setUpClass(cls):
        Ranks.setUpClass.__func__(cls)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    logits = classmethod(lambda cls, ranks: b"")  # Ranks.setUpClass asks for it

    def repeat(self, once):
        for number in range(self.times):
            with self.subTest(number=number):
                random.seed(number)
                once(number)

    def start(self, *words) -> subprocess.Popen:
        return subprocess.Popen(command(2, arguments.coterie, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, env=environment(COTERIE_RANK_PATIENCE=PATIENCE), stdin=subprocess.DEVNULL)

    def start_decoding(self, split: str) -> tuple[subprocess.Popen, list[int]]:
        started = self.start("run", MODEL, "-p", "Once", "-n", 200000, "--ignore-eos", "-t", 1, "--split", split)
        started.stdout.read(8)
        return started, Ranks.processes_of(MODEL)

    def expect_the_end(self, started: subprocess.Popen, within: float = MOST) -> str:
        began = time.monotonic()
        try:
            _, said = started.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            started.kill()
            self.fail(f"it still runs after {within} s")
        self.assertNotEqual(started.returncode, 0, said)
        self.assertLess(time.monotonic() - began, within)
        return said

    def test_a_rank_is_killed_while_it_decodes(self):
        def once(number: int):
            started, ranks = self.start_decoding(("experts", "rows", "layers")[number % 3])
            time.sleep(random.uniform(0, 0.3))
            os.kill(ranks[random.randrange(2)], signal.SIGKILL)
            self.expect_the_end(started, 10)

        self.repeat(once)

    def test_a_rank_is_stopped(self):
        def once(number: int):
            started, ranks = self.start_decoding(("experts", "rows", "layers")[number % 3])
            os.kill(ranks[1], signal.SIGSTOP)
            try:
                said = self.expect_the_end(started)
            finally:
                try:
                    os.kill(ranks[1], signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.assertRegex(said, r"rank 1 \(.*\) has not answered: rank 0 \(.*\) waits for")
            self.assertEqual(said.count("coterie: error"), 1, said)

        self.repeat(once)

    def test_a_rank_never_starts(self):
        def once(_: int):
            alone = [str(arguments.coterie), "run", str(MODEL), "-p", "Once", "-n", "2", "-t", "1"]
            launcher = mpirun_test.LAUNCHERS[arguments.mpi]
            started = subprocess.Popen([*launcher, "-n", "1", *alone, ":", "-n", "1", "sleep", "1000"],
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                       env=environment(COTERIE_RANK_PATIENCE=PATIENCE), stdin=subprocess.DEVNULL)
            said = self.expect_the_end(started)
            self.assertRegex(said, "not all of 2 ranks that .* was to start have come")

        self.repeat(once)

    def test_a_rank_is_of_another_version(self):
        version = subprocess.run([arguments.coterie, "--version"], capture_output=True, text=True, check=True)
        number = version.stdout.split()[-1].encode()
        program = pathlib.Path(arguments.coterie).read_bytes()
        other = self.folder / "other"
        other.mkdir()
        (other / "coterie").write_bytes(program.replace(number, number[:-1] + b"9"))
        (other / "coterie").chmod(0o755)
        module = f"libcoterie_{arguments.mpi}.so"
        (other / module).symlink_to(pathlib.Path(arguments.coterie).resolve().parent / module)

        def once(_: int):
            words = ["run", str(MODEL), "-p", "Once", "-n", "2", "-t", "1"]
            launcher = mpirun_test.LAUNCHERS[arguments.mpi]
            started = subprocess.Popen(
                [*launcher, "-n", "1", str(arguments.coterie), *words, ":", "-n", "1", str(other / "coterie"), *words],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
                env=environment(COTERIE_RANK_PATIENCE=PATIENCE))
            said = self.expect_the_end(started)
            self.assertIn("is Coterie", said)
            self.assertIn("install one version on every host", said)

        self.repeat(once)

    def test_the_disk_is_full_while_a_checkpoint_is_written(self):
        recipe = Ranks.recipe(self, "full", 6)

        def once(number: int):
            run = self.folder / f"full-{number}"
            # Files of one rank may have so many blocks of 512 bytes: a checkpoint has more, and rank 1 writes its part.
            script = (f'trap "" XFSZ; [ "${{OMPI_COMM_WORLD_RANK:-$PMI_RANK}}" = {number % 2} ] && ulimit -f 40; '
                      'exec "$0" "$@"')
            started = subprocess.Popen(
                command(2, "sh", "-c", script, arguments.coterie, "train", recipe, "-t", 1, "-o", run),
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
                env=environment(COTERIE_RANK_PATIENCE=PATIENCE))
            said = self.expect_the_end(started)
            self.assertEqual(said.count("coterie: error"), 1, said)
            whole = [path for path in run.glob("checkpoints/step-*") if path.suffix != ".part"]
            self.assertEqual(whole, [], "a checkpoint has its name without being whole")

        self.repeat(once)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--coterie", required=True)
    parser.add_argument("--mpi", required=True, choices=mpirun_test.LAUNCHERS)
    parser.add_argument("--times", type=int, default=20)
    arguments, rest = parser.parse_known_args()
    mpirun_test.arguments = arguments
    Faults.times = arguments.times
    unittest.main(argv=[sys.argv[0], *rest])
