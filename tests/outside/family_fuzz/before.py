"""Families from before 2025, dense ones and hybrids of Mamba among them."""

from draw import FULL, LIN, SLIDE, base, chance, fam, fit_heads, gqa, layers, maybe, mla, moe, rope, sigmoid_router


# ---- older families
@fam("mixtral")
def _(r):
    return {
        **base(r),
        **fit_heads(r),
        **moe(r, "num_local_experts", f=None),
        "intermediate_size": 24,
        "sliding_window": r.choice([None, 6]),
        "rope_parameters": rope(r),
        **maybe(r, {"output_router_logits": True}),
    }


@fam("olmoe")
def _(r):
    return {
        **base(r),
        **fit_heads(r),
        **moe(r, f=None),
        "intermediate_size": 24,
        "norm_topk_prob": chance(r),
        "clip_qkv": r.choice([None, 1.0]),
        "attention_bias": chance(r, 0.3),
        "rope_parameters": rope(r),
    }


@fam("qwen2_moe")
def _(r):
    return {
        **base(r),
        **fit_heads(r),
        **moe(r),
        "shared_expert_intermediate_size": 24,
        "norm_topk_prob": chance(r),
        "decoder_sparse_step": r.choice([1, 2, 3]),
        "mlp_only_layers": r.choice([[], [0]]),
        "rope_parameters": rope(r),
        "qkv_bias": chance(r, 0.7),
    }


@fam("qwen3_moe")
def _(r):
    return {
        **base(r),
        **gqa(r),
        **moe(r),
        "norm_topk_prob": chance(r),
        "decoder_sparse_step": r.choice([1, 2, 3]),
        "mlp_only_layers": r.choice([[], [0]]),
        "attention_bias": chance(r, 0.3),
        "rope_parameters": rope(r),
        **maybe(r, {"output_router_logits": True}),
    }


@fam("deepseek_v2")
def _(r):
    e = sigmoid_router(r, shared=(1, 2))
    e.pop("norm_topk_prob")
    return {
        **base(r),
        **mla(r),
        **e,
        "topk_method": "group_limited_greedy" if e["n_group"] > 1 else "greedy",
        "first_k_dense_replace": r.choice([0, 1]),
        "attention_bias": chance(r, 0.3),
        "rope_parameters": rope(r, ("default", "yarn"), mscale=True),
    }


@fam("deepseek_v3")
def _(r):
    return {
        **base(r),
        **mla(r),
        **sigmoid_router(r, shared=(1, 2)),
        "first_k_dense_replace": r.choice([0, 1]),
        "attention_bias": chance(r, 0.3),
        "rope_interleave": chance(r, 0.7),
        "rope_parameters": rope(r, ("default", "yarn"), mscale=True),
    }


@fam("gpt_oss")
def _(r):
    b = base(r, 2, 5)
    n = b["num_hidden_layers"]
    return {
        **b,
        **gqa(r),
        **moe(r, "num_local_experts", f=None),
        "intermediate_size": 24,
        "sliding_window": r.choice([5, 8]),
        "layer_types": layers(r, [SLIDE, FULL], n),
        "attention_bias": chance(r, 0.7),
        "rope_parameters": rope(r, ("default", "yarn")),
    }


@fam("granitemoe")
def _(r):
    return {
        **base(r),
        **fit_heads(r),
        **moe(r, "num_local_experts", f=None),
        "intermediate_size": 24,
        "attention_bias": chance(r, 0.3),
        "embedding_multiplier": 6.0,
        "logits_scaling": 4.0,
        "residual_multiplier": 0.4,
        "attention_multiplier": 0.2,
        "rope_parameters": rope(r),
    }


@fam("granitemoehybrid")
def _(r):
    b = base(r, 2, 5)
    n = b["num_hidden_layers"]
    e = b["hidden_size"] * 2
    return {
        **b,
        **fit_heads(r),
        "layer_types": layers(r, [LIN, FULL], n),
        "num_local_experts": r.choice([0, 4, 6]),
        "num_experts_per_tok": 2,
        "intermediate_size": 24,
        "shared_intermediate_size": 24,
        "mamba_d_head": 16,
        "mamba_n_heads": e // 16,
        "mamba_d_state": 16,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 8,
        "mamba_expand": 2,
        "position_embedding_type": r.choice(["nope", "rope"]),
        "attention_multiplier": 0.2,
        "mamba_conv_bias": chance(r, 0.7),
        "mamba_proj_bias": chance(r, 0.3),
    }


@fam("phimoe")
def _(r):
    return {
        **base(r),
        **fit_heads(r),
        **moe(r, "num_local_experts", f=None),
        "num_experts_per_tok": 2,
        "intermediate_size": 24,
        "attention_bias": chance(r),
        "lm_head_bias": chance(r),
        "sliding_window": r.choice([None, 6]),
    }


@fam("glm4_moe")
def _(r):
    return {
        **base(r),
        **gqa(r, (8, 16, 24)),
        **sigmoid_router(r, shared=(1, 2)),
        "first_k_dense_replace": r.choice([0, 1]),
        "use_qk_norm": chance(r),
        "attention_bias": chance(r),
        "rope_parameters": rope(r, ("default", "yarn"), partial=[0.5, 1.0]),
    }


@fam("dots1")
def _(r):
    b = base(r)
    return {
        **b,
        **gqa(r),
        **sigmoid_router(r, shared=(1, 2)),
        "first_k_dense_replace": r.choice([0, 1]),
        "attention_bias": chance(r, 0.3),
        "rope_parameters": rope(r, ("default", "yarn")),
        "layer_types": layers(r, [SLIDE, FULL], b["num_hidden_layers"]),
        "sliding_window": 6,
    }


@fam("jamba")
def _(r):
    return {
        **base(r, 3, 6),
        **fit_heads(r),
        "num_experts": r.choice([2, 4]),
        "num_experts_per_tok": r.choice([1, 2]),
        "expert_layer_period": r.choice([1, 2]),
        "expert_layer_offset": 0,
        "attn_layer_period": r.choice([2, 3]),
        "attn_layer_offset": 1,
        "mamba_d_state": 8,
        "mamba_expand": 2,
        "mamba_dt_rank": r.choice([4, 8]),
        "mamba_conv_bias": chance(r, 0.7),
        "mamba_proj_bias": chance(r, 0.3),
        "use_mamba_kernels": False,
    }


@fam("zamba2")
def _(r):
    b = base(r, 3, 6)
    n = b["num_hidden_layers"]
    t = [LIN] + layers(r, [LIN, "hybrid"], n - 2) + ["hybrid"]
    b["hidden_size"] = 64
    return {
        **b,
        "layers_block_type": t,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "num_mem_blocks": r.choice([1, 2]),
        "mamba_d_state": 16,
        "mamba_headdim": 16,
        "n_mamba_heads": 8,
        "mamba_ngroups": r.choice([1, 2]),
        "mamba_expand": 2,
        "chunk_size": 8,
        "adapter_rank": 4,
        "use_shared_attention_adapter": chance(r),
        "use_mem_rope": chance(r),
        "hybrid_layer_ids": [i for i, x in enumerate(t) if x == "hybrid"],
        "use_mamba_kernels": False,
    }


@fam("mamba2")
def _(r):
    return dict(
        vocab_size=97,
        hidden_size=32,
        num_hidden_layers=3,
        state_size=r.choice([8, 16]),
        head_dim=16,
        num_heads=4,
        n_groups=r.choice([1, 2]),
        expand=2,
        chunk_size=8,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        use_bias=chance(r, 0.3),
        use_conv_bias=chance(r, 0.7),
        tie_word_embeddings=chance(r),
    )


@fam("gemma2")
def _(r):
    return {
        **base(r),
        **gqa(r),
        "sliding_window": 6,
        "query_pre_attn_scalar": 20,
        "final_logit_softcapping": r.choice([None, 30.0]),
        "attn_logit_softcapping": r.choice([None, 20.0]),
    }


@fam("gemma3_text")
def _(r):
    b = base(r)
    return {
        **b,
        **gqa(r),
        "sliding_window": 6,
        "query_pre_attn_scalar": 20,
        "layer_types": layers(r, [SLIDE, FULL], b["num_hidden_layers"]),
    }


@fam("qwen3")
def _(r):
    return {**base(r), **gqa(r), "attention_bias": chance(r, 0.3), "rope_parameters": rope(r)}


@fam("qwen2")
def _(r):
    return {**base(r), **fit_heads(r), "rope_parameters": rope(r)}


@fam("llama")
def _(r):
    return {
        **base(r),
        **gqa(r),
        "attention_bias": chance(r, 0.3),
        "mlp_bias": chance(r, 0.3),
        "rope_parameters": rope(r),
    }


@fam("olmo2")
def _(r):
    return {**base(r), **fit_heads(r), "attention_bias": chance(r, 0.3), "rope_parameters": rope(r)}
