"""The binary as a CPU of another generation: no command dies of an illegal instruction, and AVX2 gives its own bits.

QEMU's user emulation (Debian's qemu-user) runs it as the CPU named. Where that CPU has AVX2, and so has this one, what
it computes is what this CPU computes with COTERIE_ISA=avx2, to the bit. Without AVX2 the scalar kernels run; they call
the C library's exp and the like, which differ in the last place between CPUs, so those results are compared closely.
"""

import argparse
import array
import json
import math
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

PROJECT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = PROJECT / "tests/parity/data"
FIXTURES_RUN = ("mixtral/base", "deepseek-v3/base", "gpt-oss/base", "jamba/base", "llama/gguf-k-quants")
MODEL = PROJECT / "models/coterie-small.gguf"
EMULATOR = "qemu-x86_64"
# What the kernels of each CPU are; EPYC is Zen 1.
EXPECTED = {"Conroe": "scalar", "Nehalem": "scalar", "IvyBridge": "scalar", "Haswell": "avx2", "EPYC": "avx2"}
RECIPE = """
seed: 1
model:
  config: {model_type: coterie, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64,
           max_position_embeddings: 16, ffn: moe, router: {experts: 4, experts_per_token: 2}}
tokenizer: {kind: characters}
data: {files: text.txt, order: random}
training: {sequence: 16, batch: 2, steps: 2, learning_rate: 1e-3, schedule: constant}
evaluation: {every: 2, batches: 1}
checkpoint: {every: 2}
"""

arguments = argparse.Namespace()


def tensors(path: pathlib.Path) -> dict[str, bytes]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    return {name: data[8 + length + entry["data_offsets"][0] : 8 + length + entry["data_offsets"][1]]
            for name, entry in header.items() if name != "__metadata__"}


def usable_here(isa: str) -> bool:
    """Whether this CPU runs these kernels: the binary refuses to be forced to others."""
    with tempfile.TemporaryDirectory() as folder:
        command = [arguments.binary, "inspect", MODEL]
        forced = os.environ | {"COTERIE_ISA": isa, "XDG_CACHE_HOME": folder}
        return subprocess.run(command, capture_output=True, env=forced).returncode == 0


def floats(data: bytes) -> array.array:
    return array.array("f", data)


class Emulated(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if shutil.which(EMULATOR) is None:
            print(f"skipped: {EMULATOR} is not installed (Debian's qemu-user; ./dev test installs it)")
            sys.exit(77)
        cls.folder = pathlib.Path(tempfile.mkdtemp())
        cls.isa = EXPECTED[arguments.cpu]
        cls.environment = os.environ | {"XDG_CACHE_HOME": str(cls.folder)}
        cls.environment.pop("COTERIE_ISA", None)
        cls.native_isa = cls.isa if usable_here(cls.isa) else "scalar"
        cls.same_bits = cls.isa == cls.native_isa == "avx2"

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def emulated(self, *command) -> str:
        return self.run_as([EMULATOR, "-cpu", arguments.cpu, arguments.binary, *map(str, command)], {})

    def native(self, *command) -> str:
        return self.run_as([arguments.binary, *map(str, command)], {"COTERIE_ISA": self.native_isa})

    def run_as(self, command: list[str], more: dict) -> str:
        result = subprocess.run(command, capture_output=True, text=True, env=self.environment | more, stdin=subprocess.DEVNULL)
        self.assertEqual(result.returncode, 0, f"{' '.join(command)}\n{result.stdout}\n{result.stderr}")
        return result.stdout

    def compare(self, found: bytes, expected: bytes, tolerance: float) -> None:
        if self.same_bits:
            self.assertEqual(found, expected)
        a, b = floats(found), floats(expected)
        self.assertEqual(len(a), len(b))
        self.assertTrue(all(math.isfinite(x) for x in a))
        self.assertLessEqual(max(abs(x - y) for x, y in zip(a, b)), tolerance)

    def test_info_shows_the_emulated_cpu(self):
        info = json.loads(self.emulated("info", "--json", "-t", 1))
        self.assertEqual(info["isa"], self.isa)
        usable = [kernels["isa"] for kernels in info["kernels"] if kernels["usable"]]
        self.assertEqual(usable, ["avx2", "scalar"] if self.isa == "avx2" else ["scalar"])
        self.assertEqual("avx2" in info["instruction_sets"], self.isa == "avx2")
        self.assertFalse((self.folder / "coterie/machine.json").exists(), "an emulated CPU's speed was remembered")

    def test_the_own_model_writes_the_same_text(self):
        command = ("run", MODEL, "-p", "And it came to pass", "-n", 6, "--greedy", "-t", 1)
        text = self.emulated(*command)
        self.assertGreater(len(text.strip()), 10)
        if self.same_bits or self.isa == self.native_isa:
            self.assertEqual(text, self.native(*command))

    def test_logits(self):
        for fixture in FIXTURES_RUN:
            with self.subTest(fixture):
                folder = FIXTURES / fixture
                model = next(folder.glob("*.gguf"), folder)
                out = {}
                for name, run in (("emulated", self.emulated), ("native", self.native)):
                    out[name] = self.folder / f"{fixture.replace('/', '-')}-{name}.safetensors"
                    run("logits", model, "--ids", folder / "expected.safetensors", "-o", out[name], "-t", 1)
                found, expected = tensors(out["emulated"])["logits"], tensors(out["native"])["logits"]
                self.compare(found, expected, 1e-4)

    def test_bench(self):
        report = json.loads(self.emulated("bench", MODEL, "--prompt", 4, "--generate", 2, "--repeat", 1, "-t", 1, "--json"))
        self.assertEqual(report["isa"], self.isa)

    def test_training(self):
        (self.folder / "recipe.yaml").write_text(RECIPE)
        (self.folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40)
        weights = []
        for name, run in (("emulated", self.emulated), ("native", self.native)):
            run("train", self.folder / "recipe.yaml", "-o", self.folder / name, "-t", 1)
            weights.append(tensors(self.folder / name / "checkpoints/step-0000002/model.safetensors"))
        self.assertEqual(weights[0].keys(), weights[1].keys())
        for name in weights[0]:
            self.compare(weights[0][name], weights[1][name], 1e-4)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--cpu", required=True, choices=EXPECTED)
    arguments, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0], *rest])
