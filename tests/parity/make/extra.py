#!/usr/bin/env python3
"""Makes tests/parity/data/FAMILY/*: switches, shapes and spellings of the families' configs that a published
checkpoint may use, with what the reference computes for them.

usage: extra.py OUT [NAME...]      (needs torch, transformers, safetensors; see README.md for the versions)
"""
import argparse
import pathlib
import zlib

import torch

import places
import reference

SMALL = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0)


def rope(kind, **rest):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=rest.pop("theta", 10000.0), **rest))


def old_rope(type_key="rope_type"):
    """config.json as transformers 4 wrote it: rope_theta outside, rope_scaling for the rest, torch_dtype."""
    def change(config):
        scaling = dict(config.pop("rope_parameters"))
        config["rope_theta"] = scaling.pop("rope_theta")
        kind = scaling.pop("rope_type")
        config["rope_scaling"] = None if kind == "default" else {type_key: kind, **scaling}
        config["torch_dtype"] = config.pop("dtype")
        config["transformers_version"] = "4.40.0"
    return change


def rename(old, new):
    def change(config):
        config[new] = config.pop(old)
    return change


def drop(*keys):
    def change(config):
        for key in keys:
            config.pop(key, None)
    return change


def drop_rope(key):
    def change(config):
        config["rope_parameters"].pop(key)
    return change


def both(*changes):
    def change(config):
        for one in changes:
            one(config)
    return change


MIXTRAL = dict(num_local_experts=4, num_experts_per_tok=2, intermediate_size=24)
OLMOE = dict(num_experts=6, num_experts_per_tok=2, intermediate_size=24, num_key_value_heads=4)
QWEN2_MOE = dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24, shared_expert_intermediate_size=40)
QWEN3_MOE = dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=16, head_dim=16)

# name: (model_type, overrides, how it is drawn and saved)
#   batch, length: of input_ids; dtype: of the file (bfloat16 unless said); shard: largest shard; config: a change to config.json;
#   stacked: save the experts as transformers 5 holds them in memory; quieter: factors of parameters by part of their name;
#   model: a change to the drawn model.
#   (A Zamba2 of random weights multiplies an error of rounding by 3 to 7 in each hybrid layer; adapters and the
#   projection behind the shared block are small in a trained one.)
MAMBA = dict(state_size=8)
MAMBA2 = dict(state_size=16, head_dim=16, num_heads=4, chunk_size=8)
JAMBA = dict(num_hidden_layers=4, num_experts=4, num_experts_per_tok=2, expert_layer_period=2, expert_layer_offset=1,
             attn_layer_period=3, attn_layer_offset=1, mamba_d_state=8, use_mamba_kernels=False)
ZAMBA = dict(mamba_d_state=8, num_key_value_heads=4)
ZAMBA2 = dict(mamba_d_state=16, n_mamba_heads=4, num_key_value_heads=4, adapter_rank=4, chunk_size=8,
              use_mamba_kernels=False)
QUIET = {"adapter": 0.4, ".linear.": 0.3}
GRANITE = dict(num_hidden_layers=3, layer_types=["mamba", "attention", "mamba"], num_local_experts=6,
               num_experts_per_tok=2, shared_intermediate_size=24, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=16,
               mamba_chunk_size=8)


GEMMA = dict(head_dim=12, query_pre_attn_scalar=10, sliding_window=5)
GEMMA3 = dict(GEMMA, num_hidden_layers=4)
GRANITE_MOE = dict(num_local_experts=6, num_experts_per_tok=3, intermediate_size=20, embedding_multiplier=3.0,
                   logits_scaling=2.5, residual_multiplier=0.6, attention_multiplier=0.15)


GPT_OSS = dict(num_local_experts=6, num_experts_per_tok=3, head_dim=12, sliding_window=5)
PHIMOE = dict(num_local_experts=6, num_experts_per_tok=2, intermediate_size=24)


DOTS1 = dict(n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=2, moe_intermediate_size=12,
             first_k_dense_replace=1)


def longrope(pairs, **rest):
    """LongRoPE factors for so many pairs of dimensions, of both lengths."""
    return rope("longrope", short_factor=[1 + 0.1 * i for i in range(pairs)],
                long_factor=[1.5 + 0.7 * i for i in range(pairs)], **rest)


def phi3_su(config):
    """What Phi-3's first files call LongRoPE."""
    config["rope_scaling"]["type"] = "su"



def old_gemma3(pattern, scaling=None):
    """Gemma 3's first spelling: two bases, one scaling, a pattern instead of layer_types."""
    def change(config):
        config.pop("rope_parameters"), config.pop("layer_types"), config.pop("_sliding_window_pattern", None)
        config.update(rope_theta=500000.0, rope_local_base_freq=5000.0, rope_scaling=scaling,
                      sliding_window_pattern=pattern, cache_implementation="hybrid", hidden_act="gelu")
    return change


def old_kinds(key):
    """The words for kinds of layers that transformers 4 wrote."""
    def change(config):
        words = {"linear_attention": "mamba", "full_attention": "attention"}
        config[key] = [words.get(kind, kind) for kind in config[key]]
    return change


def dots1_words(config):
    """Old spellings of dots.llm1: transformers 4's rope, and keys and words that only converters and engines ask for."""
    old_rope()(config)
    config.pop("layer_types")
    config.update(moe_layer_freq=1, scoring_func="noaux_tc", use_sliding_window=False)


TABLE = {
    # gemma2, gemma3_text
    "gemma2-no-softcaps": ("gemma2", dict(GEMMA, attn_logit_softcapping=None, final_logit_softcapping=None, tie_word_embeddings=False), {}),
    "gemma2-tight-softcaps": ("gemma2", dict(GEMMA, attn_logit_softcapping=3.0, final_logit_softcapping=40.0, attention_bias=True), dict(length=40)),
    "gemma2-every-layer-full": ("gemma2", dict(GEMMA, num_key_value_heads=1, layer_types=["full_attention", "full_attention"], hidden_activation="gelu"), {}),
    "gemma2-defaults": ("gemma2", dict(head_dim=16, sliding_window=6), dict(config=drop("attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar", "tie_word_embeddings", "layer_types", "hidden_activation"))),
    "gemma2-long": ("gemma2", dict(GEMMA, num_hidden_layers=3, sliding_window=19), dict(length=80, batch=3, dtype=torch.float32)),
    "gemma3-scaled-global": ("gemma3_text", dict(GEMMA3, rope_parameters=dict(full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1000000.0), sliding_attention=dict(rope_type="default", rope_theta=10000.0))), dict(length=40)),
    "gemma3-old-config": ("gemma3_text", GEMMA3, dict(length=32, config=old_gemma3(2, dict(rope_type="linear", factor=4.0)))),
    "gemma3-old-config-plain": ("gemma3_text", GEMMA3, dict(config=old_gemma3(3))),
    "gemma3-pattern-absent": ("gemma3_text", dict(GEMMA3, num_hidden_layers=7), dict(config=drop("layer_types", "_sliding_window_pattern"))),
    "gemma3-softcaps": ("gemma3_text", dict(GEMMA3, num_hidden_layers=2, attn_logit_softcapping=4.0, final_logit_softcapping=50.0, attention_bias=True, tie_word_embeddings=False, layer_types=["full_attention", "sliding_attention"]), {}),
    # phi3
    "phi3-window": ("phi3", dict(sliding_window=6, num_key_value_heads=1), dict(length=24)),
    "phi3-partial-rotary": ("phi3", dict(hidden_size=64, partial_rotary_factor=0.75, tie_word_embeddings=True), {}),
    "phi3-longrope-short": ("phi3", dict(max_position_embeddings=128, original_max_position_embeddings=32, **longrope(4)), dict(length=32)),
    "phi3-longrope-long": ("phi3", dict(max_position_embeddings=128, original_max_position_embeddings=16, **longrope(4)), dict(length=40)),
    "phi3-longrope-partial": ("phi3", dict(hidden_size=64, partial_rotary_factor=0.5, max_position_embeddings=64, original_max_position_embeddings=16, num_key_value_heads=4, **longrope(4, theta=50000.0)), dict(length=24)),
    "phi3-longrope-crossing": ("phi3", dict(max_position_embeddings=128, original_max_position_embeddings=12, **longrope(4)), dict(length=12)),
    "phi3-old-config": ("phi3", dict(max_position_embeddings=96, original_max_position_embeddings=24, **longrope(4)), dict(length=30, config=both(old_rope("type"), phi3_su))),
    "llama-longrope": ("llama", dict(head_dim=12, max_position_embeddings=256, **longrope(6, original_max_position_embeddings=32, factor=4.0, attention_factor=1.2)), dict(length=48)),
    # olmo2
    "olmo2-gqa-biases": ("olmo2", dict(num_key_value_heads=1, attention_bias=True, tie_word_embeddings=True), {}),
    "olmo2-mha-yarn": ("olmo2", dict(num_key_value_heads=4, head_dim=12, **rope("yarn", theta=500000.0, factor=4.0, original_max_position_embeddings=16)), dict(length=40)),
    "olmo2-old-config": ("olmo2", dict(num_hidden_layers=3, num_key_value_heads=4, **rope("default", theta=500000.0)), dict(config=both(old_rope(), drop("num_key_value_heads")), dtype=torch.float32)),
    # granite, granitemoe, granitemoeshared
    "granite-biases": ("granite", dict(attention_bias=True, mlp_bias=True, embedding_multiplier=5.0, logits_scaling=3.0, residual_multiplier=0.3, attention_multiplier=0.25), {}),
    "granitemoe-biases": ("granitemoe", dict(GRANITE_MOE, attention_bias=True, tie_word_embeddings=True, output_router_logits=True, router_aux_loss_coef=0.3), {}),
    "granitemoe-no-multipliers": ("granitemoe", dict(num_local_experts=5, num_experts_per_tok=1, intermediate_size=24, attention_multiplier=0.35), dict(config=old_rope())),
    "granitemoeshared-no-shared": ("granitemoeshared", dict(GRANITE_MOE, shared_intermediate_size=0), {}),
    "granitemoeshared-wide": ("granitemoeshared", dict(GRANITE_MOE, shared_intermediate_size=70, num_experts_per_tok=6, num_key_value_heads=4), dict(batch=3, length=13)),
    # gpt_oss
    "gpt-oss-no-biases": ("gpt_oss", dict(GPT_OSS, attention_bias=False, tie_word_embeddings=True, num_key_value_heads=4), {}),
    "gpt-oss-windows": ("gpt_oss", dict(GPT_OSS, num_hidden_layers=3, layer_types=["full_attention", "sliding_attention", "sliding_attention"], sliding_window=9, num_experts_per_tok=1), dict(length=40)),
    "gpt-oss-tight-limit": ("gpt_oss", dict(GPT_OSS, swiglu_limit=0.7, swiglu_alpha=1.1, output_router_logits=True, router_aux_loss_coef=0.4), dict(dtype=torch.float32)),
    "gpt-oss-short-yarn": ("gpt_oss", dict(GPT_OSS, num_hidden_layers=3, **rope("yarn", theta=2000.0, factor=4.0, original_max_position_embeddings=24, truncate=False, beta_fast=32.0, beta_slow=1.0)), dict(length=70)),
    "gpt-oss-defaults": ("gpt_oss", dict(GPT_OSS), dict(config=drop("rope_parameters", "layer_types", "attention_bias", "swiglu_limit", "swiglu_alpha"))),
    "gpt-oss-plain-rope": ("gpt_oss", dict(GPT_OSS, sliding_window=64, num_experts_per_tok=6, **rope("default", theta=10000.0)), dict(batch=3, length=33)),
    # phimoe
    "phimoe-biases": ("phimoe", dict(PHIMOE, attention_bias=True, lm_head_bias=True, router_jitter_noise=0.2, sliding_window=6), {}),
    "phimoe-k1": ("phimoe", dict(PHIMOE, num_experts_per_tok=1, router_jitter_noise=0.0), {}),
    "phimoe-k3": ("phimoe", dict(PHIMOE, num_experts_per_tok=3, num_local_experts=9, hidden_act="gelu", tie_word_embeddings=True), {}),
    "phimoe-longrope-short": ("phimoe", dict(PHIMOE, max_position_embeddings=128, **longrope(4, short_mscale=1.3, long_mscale=1.7, original_max_position_embeddings=32)), dict(length=32)),
    "phimoe-longrope-long": ("phimoe", dict(PHIMOE, max_position_embeddings=128, **longrope(4, theta=10000.0, short_mscale=1.3, long_mscale=1.7, original_max_position_embeddings=16)), dict(length=40)),
    "phimoe-stacked": ("phimoe", PHIMOE, dict(stacked=True)),
    # llama
    "llama-biases": ("llama", dict(attention_bias=True, mlp_bias=True), {}),
    "llama-rope-linear": ("llama", rope("linear", factor=2.5), {}),
    "llama-rope-dynamic-short": ("llama", dict(num_hidden_layers=1, **rope("dynamic", factor=2.0)), {}),
    "llama-rope-dynamic-long": ("llama", dict(max_position_embeddings=16, **rope("dynamic", factor=2.0)), dict(length=40)),
    "llama-rope-dynamic-edge": ("llama", dict(max_position_embeddings=24, **rope("dynamic", factor=4.0)), dict(length=25)),
    "llama-rope-yarn": ("llama", dict(max_position_embeddings=128, **rope("yarn", factor=4.0, original_max_position_embeddings=32)), dict(length=80)),
    "llama-rope-yarn-attention-factor": ("llama", dict(head_dim=16, max_position_embeddings=4096, **rope("yarn", factor=8.0, original_max_position_embeddings=512, attention_factor=1.3, beta_fast=6.0, beta_slow=2.0)), dict(length=40)),
    "llama-rope-yarn-mscale": ("llama", dict(head_dim=16, **rope("yarn", factor=8.0, original_max_position_embeddings=32, mscale=1.0, mscale_all_dim=0.6)), dict(length=40)),
    "llama-rope-yarn-no-truncate": ("llama", dict(head_dim=16, **rope("yarn", factor=8.0, original_max_position_embeddings=32, truncate=False)), dict(length=40)),
    "llama-rope-yarn-no-original": ("llama", dict(head_dim=16, max_position_embeddings=64, **rope("yarn", factor=4.0)), dict(length=40, config=drop_rope("original_max_position_embeddings"))),
    "llama-rope-llama3-bands": ("llama", dict(num_hidden_layers=1, head_dim=32, **rope("llama3", theta=5000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=2.0, original_max_position_embeddings=48)), dict(length=64)),
    "llama-old-config": ("llama", dict(num_key_value_heads=4, **rope("linear", theta=50000.0, factor=3.0)), dict(config=both(old_rope("type"), drop("head_dim", "num_key_value_heads")))),
    "llama-old-config-llama3": ("llama", dict(tie_word_embeddings=True, **rope("llama3", theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)), dict(config=old_rope())),
    "llama-old-config-plain": ("llama", dict(num_hidden_layers=1, **rope("default", theta=20000.0)), dict(config=old_rope())),
    "llama-gelu": ("llama", dict(num_hidden_layers=1, hidden_act="gelu"), {}),
    "llama-gelu-tanh": ("llama", dict(num_hidden_layers=1, hidden_act="gelu_pytorch_tanh"), {}),
    "llama-relu": ("llama", dict(num_hidden_layers=1, hidden_act="relu"), {}),
    "llama-wide-heads": ("llama", dict(head_dim=24, num_attention_heads=4, num_key_value_heads=1), {}),
    "llama-many-heads": ("llama", dict(hidden_size=64, num_attention_heads=16, num_key_value_heads=4, head_dim=4, num_hidden_layers=1), {}),
    "llama-odd": ("llama", dict(vocab_size=161, hidden_size=40, intermediate_size=75, num_attention_heads=5, num_key_value_heads=1, num_hidden_layers=2, rms_norm_eps=1e-3), dict(batch=3, length=17, dtype=torch.float32)),
    "llama-long": ("llama", dict(num_hidden_layers=2, tie_word_embeddings=True), dict(length=80, batch=3)),
    "llama-alone": ("llama", dict(num_hidden_layers=1), dict(length=9, batch=1)),
    "llama-f32": ("llama", dict(num_hidden_layers=1, tie_word_embeddings=True), dict(dtype=torch.float32)),
    "llama-f16": ("llama", dict(num_hidden_layers=1), dict(dtype=torch.float16)),
    "llama-sharded": ("llama", dict(num_hidden_layers=2), dict(shard="20KB")),
    # mistral
    "mistral-head-dim": ("mistral", dict(head_dim=16, sliding_window=None), {}),
    "mistral-window-1": ("mistral", dict(sliding_window=1), {}),
    "mistral-window-long": ("mistral", dict(sliding_window=19, tie_word_embeddings=True), dict(length=80)),
    "mistral-window-over": ("mistral", dict(num_hidden_layers=1, sliding_window=64), {}),
    # qwen2
    "qwen2-window": ("qwen2", dict(num_hidden_layers=3, use_sliding_window=True, sliding_window=5, max_window_layers=1), dict(length=40)),
    "qwen2-window-off": ("qwen2", dict(num_hidden_layers=1, use_sliding_window=False, sliding_window=5, max_window_layers=0), {}),
    "qwen2-old-window": ("qwen2", dict(num_hidden_layers=3, use_sliding_window=True, sliding_window=4, max_window_layers=1), dict(config=both(old_rope(), drop("layer_types")))),
    "qwen2-layer-types": ("qwen2", dict(num_hidden_layers=3, use_sliding_window=True, sliding_window=6, layer_types=["sliding_attention", "full_attention", "sliding_attention"]), {}),
    "qwen2-tied-yarn": ("qwen2", dict(tie_word_embeddings=True, **rope("yarn", theta=1000000.0, factor=4.0, original_max_position_embeddings=64)), dict(config=old_rope("type"), length=40)),
    "qwen2-head-dim": ("qwen2", dict(num_hidden_layers=1, head_dim=12), {}),
    # qwen3
    "qwen3-tied": ("qwen3", dict(head_dim=16, tie_word_embeddings=True, **rope("default", theta=1000000.0)), {}),
    "qwen3-biases-window": ("qwen3", dict(head_dim=8, attention_bias=True, num_hidden_layers=3, use_sliding_window=True, sliding_window=7, max_window_layers=1), {}),
    # mixtral
    "mixtral-16-experts": ("mixtral", dict(num_local_experts=16, num_experts_per_tok=4, intermediate_size=12, router_jitter_noise=0.1, sliding_window=6, num_hidden_layers=1), {}),
    "mixtral-every-expert": ("mixtral", {"num_hidden_layers": 1, **MIXTRAL, "num_experts_per_tok": 4}, {}),
    "mixtral-aux-loss": ("mixtral", {**MIXTRAL, "output_router_logits": True, "router_aux_loss_coef": 0.5}, {}),
    "mixtral-gelu": ("mixtral", {**MIXTRAL, "hidden_act": "gelu", "tie_word_embeddings": True, "head_dim": 16}, {}),
    "mixtral-old-config": ("mixtral", MIXTRAL, dict(config=both(old_rope(), drop("head_dim")))),
    "mixtral-yarn": ("mixtral", {**MIXTRAL, "head_dim": 8, **rope("yarn", theta=1000000.0, factor=4.0, original_max_position_embeddings=32)}, dict(length=40)),
    "mixtral-odd": ("mixtral", dict(vocab_size=101, hidden_size=36, intermediate_size=19, num_attention_heads=6, num_key_value_heads=3, num_local_experts=5, num_experts_per_tok=3), dict(batch=3, length=13, dtype=torch.float32)),
    "mixtral-stacked": ("mixtral", MIXTRAL, dict(stacked=True, dtype=torch.float32)),
    "mixtral-sharded": ("mixtral", {**MIXTRAL, "num_hidden_layers": 1}, dict(shard="25KB")),
    # olmoe
    "olmoe-clip": ("olmoe", {**OLMOE, "clip_qkv": 0.6, "norm_topk_prob": True, "output_router_logits": True, "router_aux_loss_coef": 0.3}, {}),
    "olmoe-gqa-biases": ("olmoe", {**OLMOE, "num_key_value_heads": 2, "attention_bias": True, "tie_word_embeddings": True}, {}),
    "olmoe-old-config": ("olmoe", {**OLMOE, "clip_qkv": 2.0}, dict(config=both(old_rope()))),
    "olmoe-stacked": ("olmoe", {**OLMOE, "num_hidden_layers": 1}, dict(stacked=True)),
    # qwen2_moe
    "qwen2-moe-every-layer": ("qwen2_moe", {**QWEN2_MOE, "decoder_sparse_step": 1, "norm_topk_prob": True}, {}),
    "qwen2-moe-mlp-only": ("qwen2_moe", {**QWEN2_MOE, "num_hidden_layers": 3, "mlp_only_layers": [0, 2], "output_router_logits": True, "router_aux_loss_coef": 0.4}, {}),
    "qwen2-moe-no-bias": ("qwen2_moe", {**QWEN2_MOE, "qkv_bias": False, "tie_word_embeddings": True}, {}),
    "qwen2-moe-window": ("qwen2_moe", {**QWEN2_MOE, "num_hidden_layers": 3, "decoder_sparse_step": 2, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}, dict(length=32)),
    "qwen2-moe-old-config": ("qwen2_moe", QWEN2_MOE, dict(config=both(old_rope(), drop("layer_types", "qkv_bias", "mlp_only_layers")))),
    "qwen2-moe-stacked": ("qwen2_moe", {**QWEN2_MOE, "num_hidden_layers": 1}, dict(stacked=True)),
    # qwen3_moe
    "qwen3-moe-no-norm": ("qwen3_moe", {**QWEN3_MOE, "norm_topk_prob": False, "num_hidden_layers": 3, "decoder_sparse_step": 2, "output_router_logits": True, "router_aux_loss_coef": 0.7}, {}),
    "qwen3-moe-window-biases": ("qwen3_moe", {**QWEN3_MOE, "norm_topk_prob": True, "attention_bias": True, "use_sliding_window": True, "sliding_window": 6}, {}),
    "qwen3-moe-old-config": ("qwen3_moe", {**QWEN3_MOE, "norm_topk_prob": True}, dict(config=both(old_rope(), rename("num_local_experts", "num_experts")))),
    "qwen3-moe-top1": ("qwen3_moe", {**QWEN3_MOE, "num_experts_per_tok": 1, "norm_topk_prob": False, "tie_word_embeddings": True}, {}),
    "qwen3-moe-long": ("qwen3_moe", {**QWEN3_MOE, "norm_topk_prob": True, "num_attention_heads": 8, "num_key_value_heads": 1, "num_hidden_layers": 1}, dict(length=80, batch=3)),
    "qwen3-moe-stacked": ("qwen3_moe", {"num_hidden_layers": 1, **QWEN3_MOE, "norm_topk_prob": True}, dict(stacked=True)),
    "qwen3-moe-odd": ("qwen3_moe", dict(vocab_size=77, hidden_size=36, intermediate_size=50, moe_intermediate_size=11, num_experts=9, num_experts_per_tok=5, head_dim=6, num_attention_heads=3, num_key_value_heads=1, norm_topk_prob=True), dict(batch=3, length=33)),
    # dots1
    "dots1": ("dots1", dict(DOTS1, num_hidden_layers=3, norm_topk_prob=True, routed_scaling_factor=2.5, n_group=2, topk_group=1, sliding_window=None), dict(config=dots1_words)),
    "dots1-windows-biases": ("dots1", dict(DOTS1, num_hidden_layers=3, num_key_value_heads=1, head_dim=12, attention_bias=True, tie_word_embeddings=True, sliding_window=5, max_window_layers=1), dict(length=32, config=drop("layer_types", "norm_topk_prob", "n_group", "topk_group", "routed_scaling_factor", "rms_norm_eps"))),
    # state-space models and hybrids
    "mamba-biases": ("mamba", dict(MAMBA, use_bias=True, use_conv_bias=False, conv_kernel=3, expand=3, tie_word_embeddings=False), dict(length=80)),
    "falcon-mamba": ("falcon_mamba", dict(MAMBA, time_step_rank=3, mixer_rms_eps=1e-3), {}),
    "mamba2-one-group": ("mamba2", dict(MAMBA2, n_groups=1, time_step_limit=(0.4, 0.9), use_bias=True, tie_word_embeddings=True), dict(length=80)),
    "mamba2-wide": ("mamba2", dict(MAMBA2, num_heads=2, head_dim=32, state_size=20, n_groups=2, use_conv_bias=False), dict(batch=3, length=19)),
    "jamba-biases": ("jamba", dict(JAMBA, mamba_proj_bias=True, mamba_conv_bias=False, num_experts_per_tok=1, tie_word_embeddings=True), dict(batch=3, length=70)),
    "jamba-one-expert": ("jamba", dict(JAMBA, num_experts=1, num_experts_per_tok=1, num_hidden_layers=3), {}),
    "zamba-pattern": ("zamba", dict(ZAMBA, n_mamba_heads=4, mamba_proj_bias=True, num_hidden_layers=6, attn_layer_period=2, attn_layer_offset=1), dict(config=drop("layers_block_type"))),
    "zamba2-two-blocks": ("zamba2", dict(ZAMBA2, num_hidden_layers=4, layers_block_type=["hybrid", "hybrid", "mamba", "hybrid"], num_mem_blocks=2, use_shared_attention_adapter=True, use_mem_rope=True), dict(quieter=QUIET)),
    "zamba2-biases-groups": ("zamba2", dict(ZAMBA2, num_hidden_layers=3, layers_block_type=["mamba", "hybrid", "mamba"], add_bias_linear=True, mamba_ngroups=2, mamba_d_conv=3, n_mamba_heads=2, mamba_d_state=9, hidden_act="silu"), dict(batch=3, length=33, quieter=QUIET)),
    "zamba2-untied": ("zamba2", dict(ZAMBA2, num_hidden_layers=4, layers_block_type=["hybrid", "hybrid", "mamba", "hybrid"], num_mem_blocks=2, tie_word_embeddings=False, num_key_value_heads=2, attention_head_dim=12), dict(quieter=QUIET)),
    "zamba2-old-words": ("zamba2", dict(ZAMBA2, num_hidden_layers=3, layers_block_type=["hybrid", "mamba", "hybrid"], time_step_min=0.5), dict(config=old_kinds("layers_block_type"), length=40, quieter=QUIET)),
    "granitemoehybrid-rope": ("granitemoehybrid", dict(GRANITE, position_embedding_type="rope", mamba_n_groups=2, mamba_proj_bias=True, attention_bias=True, embedding_multiplier=6.0, logits_scaling=4.0, residual_multiplier=0.4, attention_multiplier=0.2, output_router_logits=True, router_aux_loss_coef=0.3), dict(config=old_kinds("layer_types"))),
    "granitemoehybrid-dense": ("granitemoehybrid", dict(GRANITE, num_local_experts=0, num_experts_per_tok=0, time_step_limit=(0.0, 0.5), tie_word_embeddings=True), dict(length=70)),
    "mamba-odd": ("mamba", dict(vocab_size=161, hidden_size=40, intermediate_size=76, state_size=5, conv_kernel=2, time_step_rank=7, hidden_act="gelu", layer_norm_epsilon=1e-3), dict(batch=3, length=37, dtype=torch.float32)),
    "mamba-expand": ("mamba", dict(state_size=16, expand=3, intermediate_size=96, num_hidden_layers=3, residual_in_fp32=False), dict(config=drop("intermediate_size", "num_attention_heads", "num_key_value_heads"), length=70)),
    "falcon-mamba-biases": ("falcon_mamba", dict(state_size=20, conv_kernel=3, use_bias=True, use_conv_bias=False, tie_word_embeddings=False, time_step_rank=5), dict(length=40)),
    "mamba2-many-groups": ("mamba2", dict(MAMBA2, num_heads=8, head_dim=8, n_groups=4, state_size=9, conv_kernel=2, chunk_size=256, residual_in_fp32=False, time_step_limit=(0.0, 0.3)), dict(length=40, dtype=torch.float32)),
    "mamba2-narrow": ("mamba2", dict(MAMBA2, expand=1, num_heads=1, head_dim=32, n_groups=1, hidden_act="gelu_pytorch_tanh", layer_norm_epsilon=1e-4), {}),
    "jamba-sparse": ("jamba", dict(JAMBA, num_hidden_layers=3, num_experts=5, num_experts_per_tok=3, expert_layer_period=1, expert_layer_offset=0, attn_layer_period=2, attn_layer_offset=0, mamba_d_state=5, mamba_d_conv=2, mamba_dt_rank=3, mamba_expand=1, num_key_value_heads=1), dict(stacked=True)),
    "jamba-no-attention": ("jamba", dict(JAMBA, num_hidden_layers=2, attn_layer_period=8, attn_layer_offset=4, hidden_act="gelu", rms_norm_eps=1e-3), dict(dtype=torch.float32, length=70)),
    "zamba-heads": ("zamba", dict(ZAMBA, num_hidden_layers=3, layers_block_type=["mamba", "hybrid", "hybrid"], n_mamba_heads=1, num_key_value_heads=2, attention_head_dim=12, mamba_conv_bias=False, mamba_d_conv=2, hidden_act="silu", hidden_mamba_act="gelu"), dict(config=old_kinds("layers_block_type"))),
    "zamba-untied": ("zamba", dict(ZAMBA, num_hidden_layers=3, layers_block_type=["hybrid", "linear_attention", "hybrid"], tie_word_embeddings=False, mamba_d_state=5, mamba_dt_rank=3), {}),
    "granitemoehybrid-all-attention": ("granitemoehybrid", dict(GRANITE, num_hidden_layers=2, layer_types=["full_attention"] * 2, position_embedding_type="rope", num_local_experts=0, num_experts_per_tok=0, shared_intermediate_size=40, attention_multiplier=0.3, **rope("default", theta=500.0)), {}),
    "granitemoehybrid-no-attention": ("granitemoehybrid", dict(GRANITE, num_hidden_layers=2, layer_types=None, num_local_experts=5, num_experts_per_tok=1, mamba_n_heads=8, mamba_d_head="auto", mamba_n_groups=4, mamba_d_state=7, mamba_d_conv=2, mamba_conv_bias=False, tie_word_embeddings=True), dict(dtype=torch.float32, length=33)),
    "granitemoehybrid-stacked": ("granitemoehybrid", dict(GRANITE, num_hidden_layers=2, layer_types=["attention", "mamba"], num_experts_per_tok=4, num_key_value_heads=1, attention_multiplier=0.35), dict(stacked=True)),
}


def make(out, name, model_type, overrides, how, seed):
    folder = reference.fresh(places.place(out, name))
    model = reference.build(model_type, {**SMALL, **overrides}, seed)
    for key, parameter in model.named_parameters():
        for part, factor in how.get("quieter", {}).items():
            parameter.data *= factor if part in key else 1
    if "model" in how:
        how["model"](model)
    model = model.to(how.get("dtype", torch.bfloat16))
    model.save_pretrained(folder, max_shard_size=how.get("shard", "1GB"), save_original_format=not how.get("stacked", False))
    (folder / "generation_config.json").unlink(missing_ok=True)
    if "config" in how:
        reference.edit_config(folder, how["config"])
    ids = reference.draw_ids(model.config.vocab_size, how.get("batch", 2), how.get("length", 24), seed)
    result = reference.expect(folder, ids)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1024
    print(f"{name:34s} {size:6.0f} kB  loss {result.loss.item():8.4f}  logit std {result.logits.std():.3f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(TABLE)
    if unknown:
        parser.error(f"no entry called {', '.join(sorted(unknown))}")
    for name, (model_type, overrides, how) in TABLE.items():
        if not arguments.names or name in arguments.names:
            first = zlib.crc32(name.encode()) % 100000
            reference.until_decisive(lambda seed: make(arguments.out, name, model_type, overrides, how, seed), first)


if __name__ == "__main__":
    main()
