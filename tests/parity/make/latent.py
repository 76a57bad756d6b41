#!/usr/bin/env python3
"""Makes tests/parity/data/{deepseek-*,glm4-moe}/*: latent attention and routers with groups and biases, as extra.py
makes the others.

usage: latent.py OUT [NAME...]      (needs torch, transformers, safetensors; see README.md for the versions)
"""
import pathlib
import sys
import zlib

import torch
from transformers.models.deepseek_v2 import modeling_deepseek_v2

import extra
import reference
from extra import both, old_rope, rope

MLA = dict(n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=1, moe_intermediate_size=16,
           first_k_dense_replace=1, q_lora_rank=None, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4,
           v_head_dim=12, num_key_value_heads=4, n_group=1, topk_group=1)
Q = dict(q_lora_rank=20)
GLM = dict(n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=1, moe_intermediate_size=16,
           first_k_dense_replace=1, n_group=1, topk_group=1, head_dim=16)


def yarn(original, factor=4.0, **rest):
    return rope("yarn", factor=factor, original_max_position_embeddings=original, beta_fast=32, beta_slow=1, **rest)


def put(**keys):
    return lambda config: config.update(keys)


def set_bias(value):
    """A large bias of selection, which must decide and must not reach the weights."""
    def change(model):
        for name, buffer in model.named_buffers():
            if "e_score_correction_bias" in name:
                buffer.copy_(value * torch.sign(buffer))
    return change


# What DeepSeek's config says beside what transformers' does (config.json of DeepSeek-V2-Lite and DeepSeek-V3).
V2_WORDS = put(moe_layer_freq=1, scoring_func="softmax", seq_aux=True, aux_loss_alpha=0.001, ep_size=1)
V3_WORDS = put(moe_layer_freq=1, scoring_func="sigmoid", topk_method="noaux_tc", ep_size=1)

TABLE = {
    "deepseek-v2-yarn": ("deepseek_v2", dict(MLA, **yarn(16, mscale=0.707, mscale_all_dim=0.707)), dict(length=50)),
    "deepseek-v2-yarn-mscale": ("deepseek_v2", dict(MLA, **Q, **yarn(16, 8.0, mscale=1.0, mscale_all_dim=0.5)), dict(length=50)),
    "deepseek-v2-yarn-plain": ("deepseek_v2", dict(MLA, **yarn(16)), dict(length=50)),
    "deepseek-v2-yarn-long": ("deepseek_v2", dict(MLA, num_hidden_layers=1, max_position_embeddings=256, **yarn(64, mscale=0.707, mscale_all_dim=0.707)), dict(batch=1, length=256)),
    "deepseek-v2-old-config": ("deepseek_v2", dict(MLA, **yarn(16, mscale=0.707, mscale_all_dim=0.707)), dict(config=both(old_rope("type"), V2_WORDS))),
    "deepseek-v2-odd": ("deepseek_v2", dict(MLA, **Q, hidden_size=40, num_attention_heads=5, num_key_value_heads=5, qk_nope_head_dim=10, qk_rope_head_dim=6, v_head_dim=7, kv_lora_rank=18, attention_bias=True, n_shared_experts=3, first_k_dense_replace=0, num_experts_per_tok=1, routed_scaling_factor=16.0), dict(batch=3, length=17)),
    "deepseek-v2-groups-top1": ("deepseek_v2", dict(MLA, topk_method="group_limited_greedy", n_group=4, topk_group=1, num_experts_per_tok=1, tie_word_embeddings=True), {}),
    "deepseek-v2-groups-all": ("deepseek_v2", dict(MLA, **Q, topk_method="group_limited_greedy", n_group=2, topk_group=2, num_experts_per_tok=8, routed_scaling_factor=2.0), {}),
    "deepseek-v2-freq": ("deepseek_v2", dict(MLA, num_hidden_layers=4, moe_layer_freq=2), {}),
    "deepseek-v2-stacked": ("deepseek_v2", dict(MLA, num_hidden_layers=1, first_k_dense_replace=0), dict(stacked=True)),
    "deepseek-v3-plain": ("deepseek_v3", dict(MLA, norm_topk_prob=False, rope_interleave=False), {}),
    "deepseek-v3-half-yarn": ("deepseek_v3", dict(MLA, **Q, rope_interleave=False, **yarn(16, mscale=1.0, mscale_all_dim=1.0)), dict(length=50)),
    "deepseek-v3-yarn-long": ("deepseek_v3", dict(MLA, num_hidden_layers=1, max_position_embeddings=256, **Q, **yarn(64, mscale=1.0, mscale_all_dim=1.0)), dict(batch=1, length=256)),
    "deepseek-v3-old-config": ("deepseek_v3", dict(MLA, **Q, n_group=2, **yarn(16, 40.0, mscale=1.0, mscale_all_dim=1.0)), dict(config=both(old_rope("type"), V3_WORDS))),
    "deepseek-v3-biased": ("deepseek_v3", dict(MLA, n_group=4, topk_group=2, n_routed_experts=16, num_experts_per_tok=4, first_k_dense_replace=0), dict(model=set_bias(12.0), dtype=torch.float32)),
    "deepseek-v3-top1": ("deepseek_v3", dict(MLA, **Q, num_experts_per_tok=1, n_shared_experts=2, attention_bias=True, num_hidden_layers=3, first_k_dense_replace=2), {}),
    "deepseek-v3-odd": ("deepseek_v3", dict(MLA, hidden_size=36, num_attention_heads=5, num_key_value_heads=5, q_lora_rank=11, qk_nope_head_dim=6, qk_rope_head_dim=10, v_head_dim=20, kv_lora_rank=13, n_routed_experts=9, n_group=3, topk_group=2, num_experts_per_tok=5, routed_scaling_factor=1.0), dict(batch=3, length=33)),
    "glm4-moe-plain": ("glm4_moe", dict(GLM, use_qk_norm=False, attention_bias=True, n_group=4, topk_group=2, norm_topk_prob=False, routed_scaling_factor=2.5, **rope("default", partial_rotary_factor=0.25)), {}),
    "glm4-moe-norm": ("glm4_moe", dict(GLM, use_qk_norm=True, attention_bias=True, num_experts_per_tok=1, num_key_value_heads=1, first_k_dense_replace=0, tie_word_embeddings=True, **rope("default", partial_rotary_factor=1.0)), dict(length=50)),
    "glm4-moe-yarn": ("glm4_moe", dict(GLM, use_qk_norm=True, **rope("yarn", factor=4.0, original_max_position_embeddings=16, partial_rotary_factor=0.5)), dict(length=50)),
    "glm4-moe-old-config": ("glm4_moe", dict(GLM, use_qk_norm=True, **rope("default", theta=1000000.0, partial_rotary_factor=0.5)), dict(config=both(old_rope(), put(partial_rotary_factor=0.5, rope_scaling=None)))),
}


def honour_moe_layer_freq():
    """transformers puts experts into every layer from first_k_dense_replace on. DeepSeek's own modeling_deepseek.py
    does so only where moe_layer_freq divides the layer's number; so does the reference here."""
    layer = modeling_deepseek_v2.DeepseekV2DecoderLayer
    made = layer.__init__

    def make(self, config, layer_idx):
        made(self, config, layer_idx)
        if layer_idx % getattr(config, "moe_layer_freq", 1) != 0:
            self.mlp = modeling_deepseek_v2.DeepseekV2MLP(config)
    layer.__init__ = make


def main():
    if len(sys.argv) < 2 or set(sys.argv[2:]) - set(TABLE):
        raise SystemExit(__doc__)
    honour_moe_layer_freq()
    out, names = pathlib.Path(sys.argv[1]), sys.argv[2:]
    for name, (model_type, overrides, how) in TABLE.items():
        if not names or name in names:
            first = zlib.crc32(name.encode()) % 100000
            reference.until_decisive(lambda seed: extra.make(out, name, model_type, overrides, how, seed), first)


if __name__ == "__main__":
    main()
