"""Models that `coterie upcycle` and `coterie merge` write, loaded by transformers.

Every tensor must be used and none made up, the logits must be the parent's where the command promises it, and the
reference's and the engine's must agree, all within 1e-4. Dense parents are drawn here and saved by transformers.
Exit code 77: this Python has no transformers.
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "parity" / "make"))

from other_python import other_python

try:
    import torch
    from reference import build, load
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
except ImportError as missing:
    other_python(missing)

TOLERANCE = 1e-4
SIZES = dict(vocab_size=257, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=256, bos_token_id=None, eos_token_id=256, pad_token_id=None)
LLAMA3 = dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
# Of each family, with what its sibling must carry over: scaled rotary embeddings, windows, widths of heads, tied heads.
FAMILIES = {
    "llama": ("mixtral", dict(rope_parameters=LLAMA3, tie_word_embeddings=True)),
    "mistral": ("mixtral", dict(sliding_window=7, head_dim=16)),
    "qwen2": ("qwen2_moe", dict(use_sliding_window=True, sliding_window=6, max_window_layers=1)),
    "qwen3": ("qwen3_moe", dict(head_dim=16, tie_word_embeddings=True, attention_bias=True)),
    "granite": ("granitemoe", dict(embedding_multiplier=3.0, residual_multiplier=0.5, attention_multiplier=0.3,
                                   logits_scaling=2.0)),
}
IDS = torch.randint(0, 256, (2, 40), generator=torch.Generator().manual_seed(5))


def coterie(*arguments):
    done = subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"coterie {' '.join(map(str, arguments))}:\n{done.stderr}")
    return done.stdout


def logits(folder):
    with torch.no_grad():
        return load(folder)(IDS, use_cache=False).logits


class InTransformers(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.root = pathlib.Path(self.folder.name)

    def tearDown(self):
        self.folder.cleanup()

    def dense(self, family, name="dense", seed=1, **changes):
        folder = self.root / name
        build(family, {**SIZES, **FAMILIES[family][1], **changes}, seed).save_pretrained(folder)
        # A token for each byte, under the names that byte-level tokenizers give them.
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate([*alphabet, "<|end|>"])}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.save(str(folder / "tokenizer.json"))
        return folder

    def assert_near(self, a, b, what):
        difference = float((a - b).abs().max())
        self.assertLessEqual(difference, TOLERANCE, what)
        self.assertGreater(float(a.std()), 0.1)  # the comparison is of something

    def assert_engine_agrees(self, folder):
        ids, ours = self.root / "ids.safetensors", self.root / "ours.safetensors"
        save_file({"input_ids": IDS}, ids)
        coterie("logits", folder, "--ids", ids, "-o", ours, "--precision", "f32")
        self.assert_near(load_file(ours)["logits"], logits(folder), folder.name)

    def test_upcycled_models_are_their_parents(self):
        for family, (sibling, _) in FAMILIES.items():
            with self.subTest(family):
                parent, child = self.dense(family, family), self.root / (family + "-moe")
                coterie("upcycle", parent, "-o", child, "--experts", 4, "--top-k", 2)
                self.assertEqual(load(child).config.model_type, sibling)
                self.assert_near(logits(child), logits(parent), family)
                self.assert_engine_agrees(child)

    def test_with_granularity_and_a_shared_expert(self):
        parent = self.dense("qwen2")
        child = self.root / "fine"
        coterie("upcycle", parent, "-o", child, "--experts", 8, "--top-k", 4, "--granularity", 4, "--shared", "copy")
        self.assert_near(logits(child), logits(parent), "granularity 4")
        self.assert_engine_agrees(child)

    def test_layers_that_stay_dense_noise_and_shards(self):
        parent, child = self.dense("qwen3"), self.root / "odd"
        coterie("upcycle", parent, "-o", child, "--experts", 4, "--top-k", 1, "--layers", "0,2", "--noise", 0.1,
                "--reinit", 0.3, "--shard-size", 1e-4)
        self.assertGreater(float((logits(child) - logits(parent)).abs().max()), 1e-3)
        self.assert_engine_agrees(child)

    def test_biases_and_qk_norms_of_the_siblings_are_refused_by_name(self):
        parent = self.dense("llama", attention_bias=True)
        done = subprocess.run([BINARY, "upcycle", parent, "-o", self.root / "no", "--experts", "4", "--top-k", "2"],
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("bias of the queries", done.stderr)
        self.assertFalse((self.root / "no").exists())

    def test_identical_models_merge_into_the_model(self):
        for family, (sibling, _) in FAMILIES.items():
            for gates in ("hidden", "cheap_embed", "random"):
                with self.subTest(f"{family} {gates}"):
                    name = f"{family}-{gates}"
                    parent = self.dense(family, name)
                    prompts = "" if gates == "random" else ", positive_prompts: [{}]"
                    recipe = self.root / "recipe.yaml"
                    recipe.write_text(f"base_model: {name}\ngate_mode: {gates}\nexperts:\n" + "".join(
                        f"  - {{source_model: {name}{prompts.format(word)}}}\n" for word in ("sea", "land", "sky")))
                    child = self.root / (name + "-moe")
                    coterie("merge", recipe, "-o", child)
                    self.assertEqual(load(child).config.model_type, sibling)
                    self.assert_near(logits(child), logits(parent), name)

    def test_experts_of_several_models(self):
        self.dense("qwen3", "a", 1), self.dense("qwen3", "b", 2)
        recipe, child = self.root / "recipe.yaml", self.root / "both"
        recipe.write_text("base_model: a\nexperts:\n  - {source_model: a, positive_prompts: [sea]}\n"
                          "  - {source_model: b, positive_prompts: [land], negative_prompts: [sky]}\n")
        coterie("merge", recipe, "-o", child)
        self.assert_engine_agrees(child)

    def test_whole_models(self):
        a, b = (load_file(self.dense("llama", name, seed) / "model.safetensors") for name, seed in (("a", 1), ("b", 2)))
        recipe = self.root / "recipe.yaml"

        def merged(method, text):
            recipe.write_text(f"merge_method: {method}\nbase_model: a\nmodels:\n{text}")
            coterie("merge", recipe, "-o", self.root / method)
            self.assert_engine_agrees(self.root / method)
            return load_file(self.root / method / "model.safetensors")

        half = merged("linear", "  - {model: a, parameters: {weight: 3}}\n  - {model: b, parameters: {weight: 1}}\n")
        task = merged("task_arithmetic", "  - {model: b, parameters: {weight: 0.3}}\nparameters: {lambda: 2}\n")
        round_ = merged("slerp", "  - {model: a}\n  - {model: b}\nparameters: {t: 0.25}\n")
        self.assertEqual(set(half), set(a))
        for name in a:
            x, y = a[name].double(), b[name].double()
            torch.testing.assert_close(half[name].double(), 0.75 * x + 0.25 * y, atol=1e-6, rtol=0)
            torch.testing.assert_close(task[name].double(), x + 0.6 * (y - x), atol=1e-6, rtol=0)
            cosine = (x * y).sum() / x.norm() / y.norm()
            angle = torch.arccos(cosine)
            slerp = (torch.sin(0.75 * angle) * x + torch.sin(0.25 * angle) * y) / torch.sin(angle)
            straight = 0.75 * x + 0.25 * y
            torch.testing.assert_close(round_[name].double(), straight if cosine.abs() > 0.9995 else slerp,
                                       atol=1e-6, rtol=0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--coterie", required=True)
    options, rest = parser.parse_known_args()
    BINARY = options.coterie
    unittest.main(argv=[sys.argv[0], *rest])
