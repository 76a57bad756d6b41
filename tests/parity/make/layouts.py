#!/usr/bin/env python3
"""Makes tests/parity/data/*/layout-*: one Mixtral and one Qwen3-MoE, each stored in every layout that its experts
are published in. The weights are the same float16 values everywhere, so the logits of a family's folders must be the
same too.

usage: layouts.py OUT      (needs torch, transformers, safetensors, gguf; see README.md for the versions)
"""
import pathlib
import shutil
import sys
import tempfile
import zlib

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

import reference

COMMON = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0,
              head_dim=8, rope_parameters=dict(rope_type="default", rope_theta=10000.0), rms_norm_eps=1e-5)
FAMILIES = {  # model_type: (GGUF's architecture, folder of the experts, their gate, up and down, settings)
    "mixtral": ("llama", "block_sparse_moe", ("w1", "w3", "w2"),
                dict(num_local_experts=4, num_experts_per_tok=2, intermediate_size=20)),
    "qwen3_moe": ("qwen3moe", "mlp", ("gate_proj", "up_proj", "down_proj"),
                  dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=12, norm_topk_prob=True)),
}


def side_by_side(weight, heads):
    """GGUF's llama stores the two halves of a rotary pair next to each other."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(weight.shape)


def gguf_tensors(weights, config, model_type, layout):
    """The checkpoint's tensors under GGUF's names, with the experts as `layout` says."""
    arch, moe, (gate, up, down), _ = FAMILIES[model_type]
    yield "token_embd.weight", weights["model.embed_tokens.weight"]
    yield "output_norm.weight", weights["model.norm.weight"]
    yield "output.weight", weights["lm_head.weight"]
    for block in range(config.num_hidden_layers):
        here, there = f"model.layers.{block}.", f"blk.{block}."
        names = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
                 "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
                 "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "ffn_gate_inp": f"{moe}.gate"}
        for new, old in names.items():
            weight = weights.get(f"{here}{old}.weight")
            if weight is None:
                continue
            if arch == "llama" and new in ("attn_q", "attn_k"):
                weight = side_by_side(weight, config.num_attention_heads if new == "attn_q" else config.num_key_value_heads)
            yield f"{there}{new}.weight", weight
        experts = range(config.num_local_experts)
        parts = {"gate": gate, "up": up, "down": down}
        each = {part: [weights[f"{here}{moe}.experts.{e}.{name}.weight"] for e in experts] for part, name in parts.items()}
        if layout == "old":
            for part in parts:
                for e in experts:
                    yield f"{there}ffn_{part}.{e}.weight", each[part][e]
        elif layout == "merged":
            both = [np.concatenate([g, u]) for g, u in zip(each["gate"], each["up"])]
            yield f"{there}ffn_gate_up_exps.weight", np.stack(both)
            yield f"{there}ffn_down_exps.weight", np.stack(each["down"])
        else:
            for part in parts:
                yield f"{there}ffn_{part}_exps.weight", np.stack(each[part])


def write_gguf(path, weights, config, model_type, layout, tensors_a_file=0):
    arch = FAMILIES[model_type][0]
    writer = gguf.GGUFWriter(path, arch, split_max_tensors=tensors_a_file)
    width = config.moe_intermediate_size if arch == "qwen3moe" else config.intermediate_size
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_expert_count(config.num_local_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_feed_forward_length(width)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    for name, weight in gguf_tensors(weights, config, model_type, layout):
        plain = weight.ndim == 1 or "ffn_gate_inp" in name   # as converters do: norms and routers in float32
        writer.add_tensor(name, np.ascontiguousarray(weight.astype(np.float32 if plain else np.float16)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make(out, model_type, seed):
    prefix = out / model_type.replace('_', '-') / "layout"
    model = reference.build(model_type, {**COMMON, **FAMILIES[model_type][3]}, seed).to(torch.float16)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        for folder, original in (("per-expert", True), ("stacked", False)):
            model.save_pretrained(scratch / folder, save_original_format=original)
            (scratch / folder / "generation_config.json").unlink(missing_ok=True)
        ids = reference.draw_ids(model.config.vocab_size, 2, 16, seed)
        result = reference.expect(scratch / "per-expert", ids)
        same = reference.expect(scratch / "stacked", ids)
        assert torch.equal(result.logits, same.logits)
        expected = scratch / "per-expert" / "expected.safetensors"
        weights = {name: value.float().numpy() for name, value in load_file(scratch / "per-expert/model.safetensors").items()}
        config = reference.load(scratch / "per-expert").config
        layouts = ["stacked", "merged", "files"] + (["old"] if model_type == "mixtral" else [])
        for layout in layouts:
            folder = reference.fresh(scratch / f"gguf-{layout}")
            write_gguf(folder / "model.gguf", weights, config, model_type, layout, 11 if layout == "files" else 0)
            shutil.copy(expected, folder)
        for folder in ["per-expert", "stacked", *(f"gguf-{layout}" for layout in layouts)]:
            target = prefix.with_name(f"{prefix.name}-{folder}")
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(scratch / folder, target)
            for file in target.iterdir():
                file.chmod(0o644)
            print(f"{target.name:38s} {sum(f.stat().st_size for f in target.iterdir()) / 1024:6.0f} kB  "
                  f"{', '.join(sorted(f.name for f in target.iterdir()))}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    for family in FAMILIES:
        reference.until_decisive(lambda seed: make(pathlib.Path(sys.argv[1]), family, seed), zlib.crc32(family.encode()) % 100000)
