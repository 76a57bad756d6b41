"""coterie under mpirun: what n ranks write is what one writes, to the bit; rank 0 alone speaks; wrong starts are errors.

The laws of ranks run in one process (tests/laws/ranks). Here it is what MPI adds: the launcher, the modules, other
processes, and their ends.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

PROJECT = pathlib.Path(__file__).resolve().parents[2]
MODEL = PROJECT / "models/coterie-small.gguf"
RECIPE = """
model:
  config: {model_type: mixtral, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 2,
           num_key_value_heads: 1, num_local_experts: 4, num_experts_per_tok: 2, max_position_embeddings: 32,
           rms_norm_eps: 1e-5, rope_theta: 10000.0}
tokenizer: {kind: bytes}
data: {files: text.txt, validation: 0.2}
training: {sequence: 16, batch: 4, steps: STEPS, learning_rate: 1e-2, schedule: constant}
checkpoint: {every: 2}
"""
LAUNCHERS = {"openmpi": ["mpirun.openmpi", "--oversubscribe", "--bind-to", "none"], "mpich": ["mpirun.mpich"]}

arguments = argparse.Namespace()


def environment(**more: str) -> dict[str, str]:
    # Open MPI asks for these where root runs it, as containers do.
    given = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} | more
    given.pop("COTERIE_ISA", None)
    return given


def command(ranks: int, *words) -> list[str]:
    alone = [str(word) for word in words]
    return alone if ranks == 0 else [*LAUNCHERS[arguments.mpi], "-n", str(ranks), *alone]


def coterie(ranks: int, *words, code: int = 0, **more: str) -> subprocess.CompletedProcess:
    """ranks 0: without a launcher."""
    done = subprocess.run(command(ranks, arguments.coterie, *words), capture_output=True, text=True, timeout=120,
                          stdin=subprocess.DEVNULL, env=environment(**more))
    if done.returncode != code:
        raise AssertionError(f"{ranks} ranks of {words}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


class Ranks(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if shutil.which(LAUNCHERS[arguments.mpi][0]) is None:
            print(f"skipped: {LAUNCHERS[arguments.mpi][0]} is not installed")
            sys.exit(77)
        if not (pathlib.Path(arguments.coterie).parent / f"libcoterie_{arguments.mpi}.so").exists():
            print(f"skipped: this build has no module for {arguments.mpi}: its compiler wrapper was not installed")
            sys.exit(77)
        cls.folder = pathlib.Path(tempfile.mkdtemp())
        cls.one = cls.logits(0)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    @classmethod
    def logits(cls, ranks: int, *more: str) -> bytes:
        out = cls.folder / f"{ranks}{''.join(more)}.safetensors"
        coterie(ranks, "logits", MODEL, "--text", "The law of many ranks is that they are one.", "--greedy", 4,
                "--precision", "fast", "-t", 1, "-o", out, *more)
        return out.read_bytes()

    def test_logits_are_those_of_one_rank(self):
        for ranks in (1, 2, 3):
            self.assertEqual(self.logits(ranks), self.one, f"{ranks} ranks")

    def test_rows_and_layers_give_the_logits_of_one_rank(self):
        for split in ("rows", "layers"):
            for ranks in (2, 3):
                self.assertEqual(self.logits(ranks, "--split", split), self.one, f"{ranks} ranks by {split}")

    def test_auto_measures_predicts_and_picks(self):
        words = ("run", MODEL, "-p", "Once upon a time", "-n", 6, "--greedy", "-q", "-t", 1)
        done = coterie(2, *words, "--split", "auto")
        self.assertEqual(done.stdout, coterie(0, *words).stdout)
        self.assertRegex(done.stderr, r"2 ranks, measured: [\d.]+ us and .*/s")
        for split in ("experts", "rows", "layers", "one machine"):
            self.assertRegex(done.stderr, rf"  {split} +[\d.]+ .*t/s")
        self.assertRegex(done.stderr, r"--split (experts|rows|layers): the fastest")

    def test_a_split_needs_ranks(self):
        done = coterie(0, "run", MODEL, "-p", "Once", "--split", "rows", code=2)
        self.assertIn("--split: divides a model over ranks, and this run has one", done.stderr)

    def test_rank_0_alone_speaks(self):
        words = ("run", MODEL, "-p", "Once upon a time", "-n", 12, "--greedy", "-q", "-t", 1)
        alone, together = coterie(0, *words), coterie(2, *words)
        self.assertEqual(together.stdout, alone.stdout)
        self.assertRegex(together.stderr, r"2 ranks over .*(Open MPI|MPICH).* · sent .* · waited")
        self.assertEqual(together.stderr.count("ranks over"), 1)

    def test_usage_is_reported_once(self):
        done = subprocess.run(command(2, arguments.coterie, "run", "--no-such"), capture_output=True, text=True,
                              env=environment(), timeout=60)
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(done.stderr.count("coterie: error"), 1, done.stderr)

    def test_a_command_for_one_rank_refuses_more(self):
        done = coterie(2, "tokenize", MODEL, "-p", "a", code=2)
        self.assertIn("coterie tokenize: runs on one rank", done.stderr)

    def test_a_rank_without_the_file_is_named(self):
        for rank in (0, 1):
            (self.folder / str(rank)).mkdir()
        (self.folder / "0/model.gguf").symlink_to(MODEL)
        done = self.in_own_folders("logits", "model.gguf", "--text", "a", "-o", "out.safetensors")
        self.assertRegex(done.stderr, r"rank 1 \(.*\): model\.gguf")
        self.assertFalse((self.folder / "0/out.safetensors").exists())
        # Another file of the same name: a byte of its last tensor differs.
        data = bytearray(MODEL.read_bytes())
        data[4000] ^= 1
        (self.folder / "1/model.gguf").write_bytes(data)
        done = self.in_own_folders("logits", "model.gguf", "--text", "a", "-o", "out.safetensors")
        self.assertIn("rank 1", done.stderr)

    def in_own_folders(self, *words) -> subprocess.CompletedProcess:
        script = (f'cd {self.folder}/${{OMPI_COMM_WORLD_RANK:-$PMI_RANK}} && exec {arguments.coterie} "$@"')
        done = subprocess.run(command(2, "sh", "-c", script, "sh", *words), capture_output=True, text=True,
                              env=environment(), timeout=60)
        self.assertNotEqual(done.returncode, 0)
        return done

    def recipe(self, name: str, steps: int) -> pathlib.Path:
        path = self.folder / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        (path.parent / "text.txt").write_text("".join(chr(97 + (i * i + i // 7) % 23) for i in range(4000)))
        path.write_text(RECIPE.replace("STEPS", str(steps)))
        return path

    def checkpoint(self, run: str, step: int) -> list[bytes]:
        folder = self.folder / run / "checkpoints" / f"step-{step:07}"
        return [(folder / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")]

    def test_ranks_train_to_the_bits_of_one(self):
        recipe = self.recipe("short", 4)
        for ranks in (0, 2):
            done = coterie(ranks, "train", recipe, "--shards", 2, "-t", 1, "-o", self.folder / f"short-{ranks}")
            self.assertEqual(done.stdout.count("parameters"), 1, done.stdout)
        self.assertEqual(self.checkpoint("short-0", 4), self.checkpoint("short-2", 4))
        done = coterie(3, "train", recipe, "--shards", 2, "-t", 1, "-o", self.folder / "three", code=2)
        self.assertIn("3 ranks cannot share 2 shards evenly", done.stderr)
        self.assertFalse((self.folder / "three").exists())

    def test_training_goes_on_after_a_rank_was_killed(self):
        recipe = self.recipe("long", 100000)
        run = self.folder / "long"
        started = subprocess.Popen(command(2, arguments.coterie, "train", recipe, "-t", 1, "-o", run),
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
        deadline = time.monotonic() + 60
        while not list(run.glob("checkpoints/step-0*2")) and time.monotonic() < deadline:
            time.sleep(0.05)
        ranks = self.processes_of(recipe)
        self.expect_the_end_by_a_kill(started, ranks)
        newest = sorted(path for path in run.glob("checkpoints/step-*") if path.suffix != ".part")[-1]
        step = int(newest.name.removeprefix("step-")) + 2
        coterie(0, "train", recipe, "--resume", "--extend", f"steps={step}", "-t", 1, "-o", run)
        coterie(0, "train", self.recipe("whole-recipe/long", step), "--shards", 2, "-t", 1, "-o", self.folder / "whole")
        self.assertEqual(self.checkpoint("long", step), self.checkpoint("whole", step))

    def start_long(self, **more: str) -> tuple[subprocess.Popen, list[int]]:
        """A run of two ranks that decodes for long, and the processes of its ranks."""
        started = subprocess.Popen(
            command(2, arguments.coterie, "run", MODEL, "-p", "Once", "-n", 200000, "--ignore-eos", "-t", 1),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(**more))
        started.stdout.read(40)  # it speaks
        return started, self.processes_of(MODEL)

    @classmethod
    def processes_of(cls, word: pathlib.Path) -> list[int]:
        """The ranks that were given this word, in order; other tests run the program beside them."""
        ranks = []
        for path in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                ours = f"\0{word}\0".encode() in (path / "cmdline").read_bytes()
                if ours and os.readlink(path / "exe") == os.path.realpath(arguments.coterie):
                    ranks.append((cls.rank_of(path), int(path.name)))
            except OSError:
                continue
        return [process for rank, process in sorted(ranks) if rank >= 0]

    @staticmethod
    def rank_of(path: pathlib.Path) -> int:
        for variable in (path / "environ").read_bytes().split(b"\0"):
            name, _, value = variable.partition(b"=")
            if name in (b"OMPI_COMM_WORLD_RANK", b"PMI_RANK"):
                return int(value)
        return -1

    def expect_the_end_by_a_kill(self, started: subprocess.Popen, ranks: list[int]):
        self.assertEqual(len(ranks), 2)
        os.kill(ranks[1], signal.SIGKILL)
        began = time.monotonic()
        started.communicate(timeout=30)
        self.assertLess(time.monotonic() - began, 10)
        self.assertNotEqual(started.returncode, 0)

    def start_server(self, *more: str) -> tuple[subprocess.Popen, int]:
        started = subprocess.Popen(command(2, arguments.coterie, "serve", MODEL, "--port", 0, "-t", 1, *more),
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
        self.addCleanup(self.end, started)
        for line in started.stdout:
            if match := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
                return started, int(match.group(1))
        raise AssertionError(started.stderr.read())

    @staticmethod
    def end(started: subprocess.Popen):
        """Also what a test that fails has started; the launcher hands the signal on."""
        if started.poll() is None:
            started.terminate()
        started.communicate(timeout=30)

    @staticmethod
    def ask(port: int, tokens: int) -> tuple[int, dict]:
        body = {"prompt": "Once upon a time", "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError as error:
            return 0, {"closed": str(error)}

    def test_a_server_over_ranks_answers_as_one(self):
        alone = coterie(0, "run", MODEL, "-p", "Once upon a time", "-n", 9, "--greedy", "--ignore-eos", "-q", "-t", 1)
        for split in ("experts", "rows", "layers"):
            started, port = self.start_server("--split", split)
            status, answer = self.ask(port, 9)
            self.assertEqual(status, 200, answer)
            self.assertEqual(answer["choices"][0]["text"], alone.stdout.rstrip("\n"), split)
            started.send_signal(signal.SIGTERM)
            _, said = started.communicate(timeout=30)
            self.assertNotIn("error", said.lower().replace("mpirun", ""), said)

    def test_a_server_answers_503_when_a_rank_is_lost(self):
        for split in ("experts", "rows"):
            started, port = self.start_server("--split", split, "--context", "100000", "--rope-scaling", "linear")
            answers = []
            asking = threading.Thread(target=lambda: answers.append(self.ask(port, 90000)))
            asking.start()
            time.sleep(1)
            ranks = self.processes_of(MODEL)
            self.expect_the_end_by_a_kill(started, ranks)
            asking.join(timeout=10)
            # MPICH's launcher ends all ranks of the host at once: a client may see a closed connection instead.
            expected = [503] if arguments.mpi == "openmpi" else [503, 0]
            self.assertEqual(len(answers), 1)
            self.assertIn(answers[0][0], expected, answers)

    def test_a_killed_rank_ends_the_run(self):
        started, ranks = self.start_long()
        self.expect_the_end_by_a_kill(started, ranks)

    def test_a_stopped_rank_is_named(self):
        started, ranks = self.start_long(COTERIE_RANK_PATIENCE="2")
        self.assertEqual(len(ranks), 2)
        os.kill(ranks[1], signal.SIGSTOP)
        try:
            _, said = started.communicate(timeout=30)
        finally:
            try:
                os.kill(ranks[1], signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.assertRegex(said, r"rank 1 \(.*\) has not answered: rank 0 \(.*\) waits for outputs of experts, layer \d+ of "
                               r"step \d+, for 2 s")
        self.assertNotEqual(started.returncode, 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--coterie", required=True)
    parser.add_argument("--mpi", required=True, choices=LAUNCHERS)
    arguments, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0], *rest])
