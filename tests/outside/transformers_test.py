#!/usr/bin/env python3
"""Folders that coterie writes load in transformers and give its logits.

Tiny random models of each family are saved by transformers, written as GGUF and back by coterie, and loaded again: the
logits must be the same. A pruned folder is loaded, too, and compared with what coterie computes.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

from other_python import other_python

try:
    import torch
    import transformers
    from safetensors.torch import load_file, save_file
except ImportError as reason:
    other_python(reason)

SMALL = dict(vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False)
EXPERTS = dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=32)
SHARED = dict(n_routed_experts=6, num_experts_per_tok=2, n_shared_experts=1, moe_intermediate_size=32,
              first_k_dense_replace=1)
LATENT = dict(SHARED, num_key_value_heads=4, kv_lora_rank=16, q_lora_rank=None, qk_nope_head_dim=16,
              qk_rope_head_dim=8, v_head_dim=16)
FAMILIES = {
    "llama": dict(SMALL, rope_theta=5000.0, rope_scaling={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192}),
    "mistral": dict(SMALL, sliding_window=None),
    "mixtral": dict(SMALL, num_local_experts=6, num_experts_per_tok=2, sliding_window=None),
    "qwen2": dict(SMALL, tie_word_embeddings=True),
    "qwen3": dict(SMALL, head_dim=16),
    "qwen2_moe": dict(SMALL, **EXPERTS, shared_expert_intermediate_size=64),
    "qwen3_moe": dict(SMALL, **EXPERTS, head_dim=16, norm_topk_prob=True),
    "olmoe": dict(SMALL, num_experts=6, num_experts_per_tok=2, clip_qkv=None),
    "olmo2": dict(SMALL),
    "gemma2": dict(SMALL, head_dim=16, query_pre_attn_scalar=16, sliding_window=16),
    "gemma3_text": dict(SMALL, head_dim=16, query_pre_attn_scalar=16, sliding_window=16),
    "phi3": dict(SMALL, pad_token_id=0),
    "granite": dict(SMALL, embedding_multiplier=3.0, logits_scaling=2.0, residual_multiplier=0.5,
                    attention_multiplier=0.2),
    "deepseek_v2": dict(SMALL) | LATENT | dict(topk_method="greedy"),
    "deepseek_v3": dict(SMALL) | dict(LATENT, q_lora_rank=16, n_group=2, topk_group=1, norm_topk_prob=True),
    "glm4_moe": dict(SMALL, **SHARED, head_dim=16, use_qk_norm=True, n_group=1, topk_group=1, norm_topk_prob=True),
    "granitemoe": dict(SMALL, num_local_experts=6, num_experts_per_tok=2, attention_multiplier=0.25),
}
PRUNED = ["mixtral", "qwen3_moe", "olmoe", "granitemoe"]


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def logits_of(folder, ids):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(ids).logits


def check(name, config, coterie, folder):
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(name, **config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.2)
    first, gguf, back = folder / "first", folder / "model.gguf", folder / "back"
    model.save_pretrained(first)
    ids = torch.randint(0, config["vocab_size"], (2, 23))
    with torch.no_grad():
        before = model(ids).logits
    run(coterie, "convert", first, "-o", gguf, "--strict")
    run(coterie, "convert", gguf, "-o", back, "--strict")
    after = logits_of(back, ids)
    difference = (before - after).abs().max().item() / before.abs().max().item()
    assert difference <= 1e-4, f"{name}: logits of what came back differ by {difference:.2e}"
    print(f"{name:12} there and back: {difference:.1e}", flush=True)
    if name in PRUNED:
        check_pruned(name, coterie, back, folder, ids)


VOCABULARY = {chr(32 + i): i for i in range(95)}


def write_tokenizer(folder):
    """One of single characters, so that there is a text to read."""
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": False},
        "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": VOCABULARY, "unk_token": "!"}}))


def check_pruned(name, coterie, source, folder, ids):
    write_tokenizer(source)
    (folder / "text.txt").write_text("".join(chr(33 + (i * i + 7 * i) % 90) for i in range(400)))
    pruned = folder / "pruned"
    said = json.loads(run(coterie, "prune", source, "--keep", 4, "--text", folder / "text.txt", "-o", pruned, "--json"))
    assert said["parameters_after"] < said["parameters_before"]
    save_file({"input_ids": ids}, folder / "ids.safetensors")
    run(coterie, "logits", pruned, "--ids", folder / "ids.safetensors", "-o", folder / "ours.safetensors")
    ours, theirs = load_file(folder / "ours.safetensors")["logits"], logits_of(pruned, ids)
    difference = (ours - theirs).abs().max().item() / theirs.abs().max().item()
    assert difference <= 1e-4, f"{name}: logits of the pruned model differ by {difference:.2e}"
    print(f"{name:12} pruned to 4 of 6: {difference:.1e}", flush=True)


def check_choices(coterie, folder):
    """Log probabilities of choices, on a model whose tokens are characters."""
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model("mixtral", **FAMILIES["mixtral"])).eval()
    source = folder / "choices"
    model.save_pretrained(source)
    write_tokenizer(source)
    questions = [{"prompt": "abc", "choices": ["d", "ef", "ghijk"], "answer": 1},
                 {"prompt": "Xy", "choices": ["zzz", "zz"], "answer": "B"}]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    said = json.loads(run(coterie, "eval", source, "--choices", folder / "questions.jsonl", "--precision", "f32", "--json"))
    right = 0
    for question, ours in zip(questions, said["log_probabilities"], strict=True):
        theirs = []
        for choice in question["choices"]:
            ids = [VOCABULARY[c] for c in question["prompt"] + " " + choice]
            with torch.no_grad():
                rows = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            first = len(question["prompt"])
            theirs.append(sum(rows[t - 1, ids[t]].item() for t in range(first, len(ids))))
        assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 1e-4, (ours, theirs)
        right += theirs.index(max(theirs)) == (1 if question["answer"] in (1, "B") else 0)
    assert said["accuracy"] == right / len(questions)
    print("log probabilities of choices: the same", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coterie", default="build/release/coterie")
    parser.add_argument("--family", help="only this one")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name, config in FAMILIES.items():
        if options.family in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                check(name, config, options.coterie, pathlib.Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        check_choices(options.coterie, pathlib.Path(folder))
    print("all as transformers has it")


if __name__ == "__main__":
    main()
