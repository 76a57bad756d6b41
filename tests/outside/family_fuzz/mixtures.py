"""Families of 2025 and 2026 whose layers are attention and experts."""

from draw import FULL, SLIDE, base, chance, fam, fit_heads, gqa, layers, maybe, mla, moe, rope, sigmoid_router


@fam("afmoe")
def _(r):
    b = base(r, 2, 6)
    n = b["num_hidden_layers"]
    return {
        **b,
        **gqa(r),
        **moe(r),
        "num_dense_layers": r.choice([0, 1, 2]),
        "num_shared_experts": r.choice([0, 1, 2]),
        "route_scale": r.choice([1.0, 2.4]),
        "sliding_window": r.choice([5, 8]),
        "mup_enabled": chance(r),
        "attention_bias": chance(r, 0.3),
        **r.choice([{"global_attn_every_n_layers": r.choice([2, 3])}, {"layer_types": layers(r, [SLIDE, FULL], n)}]),
        "rope_parameters": rope(r, ("default", "yarn", "linear")),
    }


@fam("laguna")
def _(r):
    b = base(r, 2, 6)
    n = b["num_hidden_layers"]
    g = gqa(r, (8, 16, 24))
    kv = g["num_key_value_heads"]
    d = {
        **b,
        **g,
        **moe(r),
        "shared_expert_intermediate_size": r.choice([16, 24]),
        "sliding_window": r.choice([5, 8]),
        "attention_bias": chance(r, 0.3),
        "gating": r.choice([True, "per-head", "per-element"]),
        "moe_routed_scaling_factor": r.choice([1.0, 2.5]),
        "moe_router_logit_softcapping": r.choice([0.0, 5.0]),
        **maybe(r, {"layer_types": layers(r, [SLIDE, FULL], n)}),
        **maybe(r, {"num_attention_heads_per_layer": layers(r, [kv, 2 * kv, 3 * kv], n)}),
        **maybe(r, {"mlp_layer_types": layers(r, ["dense", "sparse"], n)}),
    }
    if chance(r):
        d["rope_parameters"] = {
            FULL: rope(r, ("default", "yarn"), partial=[0.5, 1.0]),
            SLIDE: rope(r, ("default",), partial=[0.5, 1.0]),
        }
    return d


@fam("mellum")
def _(r):
    b = base(r, 2, 6)
    n = b["num_hidden_layers"]
    d = {
        **b,
        **gqa(r),
        **moe(r),
        "norm_topk_prob": chance(r),
        "attention_bias": chance(r, 0.3),
        "sliding_window": r.choice([5, 8]),
        **maybe(r, {"layer_types": layers(r, [SLIDE, FULL], n)}),
        **maybe(r, {"mlp_layer_types": layers(r, ["dense", "sparse"], n)}),
    }
    if chance(r):
        d["rope_parameters"] = {
            FULL: rope(r, ("default", "yarn", "linear"), partial=[None, 0.5]),
            SLIDE: rope(r, ("default",)),
        }
    return d


@fam("mimo_v2_flash")
def _(r):
    b = base(r, 2, 7)
    n = b["num_hidden_layers"]
    kv = r.choice([1, 2])
    d = {
        **b,
        **sigmoid_router(r, shared=None),
        "num_key_value_heads": kv,
        "num_attention_heads": kv * r.choice([2, 4]),
        "head_dim": r.choice([12, 16, 24]),
        "v_head_dim": r.choice([8, 12, 16, 24]),
        "sliding_window": r.choice([5, 9]),
        "attention_bias": chance(r, 0.3),
        "attention_value_scale": r.choice([None, 0.707, 1.3]),
        **maybe(r, {"layer_types": layers(r, [SLIDE, FULL], n)}),
        **maybe(r, {"mlp_layer_types": layers(r, ["dense", "sparse"], n)}),
    }
    return d


@fam("hy_v3")
def _(r):
    b = base(r, 2, 6)
    n = b["num_hidden_layers"]
    return {
        **b,
        **gqa(r),
        **moe(r),
        "num_shared_experts": r.choice([0, 1, 2]),
        "router_scaling_factor": r.choice([1.0, 2.826]),
        "attention_bias": chance(r, 0.3),
        "mlp_bias": chance(r, 0.3),
        **maybe(r, {"mlp_layer_types": layers(r, ["dense", "sparse"], n)}),
        "rope_parameters": rope(r, ("default", "yarn", "linear")),
        "enable_moe_fp32_combine": chance(r),
    }


@fam("exaone_moe")
def _(r):
    b = base(r, 2, 6)
    n = b["num_hidden_layers"]
    d = {
        **b,
        **(gqa(r) if chance(r) else fit_heads(r)),
        **sigmoid_router(r, "num_experts", (1, 2), "num_shared_experts"),
        "sliding_window": r.choice([5, 8]),
        **r.choice([{"layer_types": layers(r, [SLIDE, FULL], n)}, {"sliding_window_pattern": r.choice([2, 3])}]),
        **r.choice(
            [{"first_k_dense_replace": r.choice([0, 1, 2])}, {"mlp_layer_types": layers(r, ["dense", "sparse"], n)}]
        ),
        "rope_parameters": rope(r),
    }
    return d


@fam("granitemoe_swa")
def _(r):
    b = base(r, 2, 6)
    n = b["num_hidden_layers"]
    return {
        **b,
        **fit_heads(r),
        **moe(r, "num_local_experts", f=None),
        "intermediate_size": r.choice([16, 24]),
        "sliding_window": r.choice([5, 8]),
        "shared_intermediate_size": r.choice([0, 24]),
        "attention_bias": chance(r, 0.3),
        "embedding_multiplier": r.choice([1.0, 6.0]),
        "logits_scaling": r.choice([1.0, 4.0]),
        "residual_multiplier": r.choice([1.0, 0.4]),
        "attention_multiplier": r.choice([0.3, 0.2]),
        **maybe(r, {"layer_rope_theta": layers(r, [0, 1e4, 500.0], n)}),
        **maybe(r, {"layer_types": layers(r, [SLIDE, FULL], n)}),
        **maybe(r, {"output_router_logits": True}),
    }


@fam("llama4_text")
def _(r):
    b = base(r, 2, 6)
    n = b["num_hidden_layers"]
    d = {
        **b,
        **gqa(r, (8, 16, 24)),
        **moe(r, "num_local_experts", f=None),
        "intermediate_size": r.choice([16, 32]),
        "intermediate_size_mlp": r.choice([40, 72]),
        "num_experts_per_tok": r.choice([1, 1, 2]),
        "attention_chunk_size": r.choice([5, 8, None]),
        "use_qk_norm": chance(r, 0.7),
        "attn_temperature_tuning": chance(r, 0.7),
        "floor_scale": r.choice([4, 8192]),
        "attn_scale": r.choice([0.1, 0.3]),
        "attention_bias": chance(r, 0.3),
        **r.choice([{"interleave_moe_layer_step": r.choice([1, 2])}, {"moe_layers": [0]}]),
        **r.choice([{"no_rope_layer_interval": r.choice([2, 3, 4])}, {"no_rope_layers": layers(r, [0, 1], n)}]),
        "rope_parameters": rope(r, ("default", "llama3")),
    }
    return d


@fam("longcat_flash")
def _(r):
    b = base(r)
    b.pop("num_hidden_layers")
    b.pop("intermediate_size")
    m = mla(r, False)
    return {
        **b,
        **m,
        "num_layers": r.randint(1, 3),
        "ffn_hidden_size": r.choice([40, 72]),
        "head_dim": m["qk_rope_head_dim"],
        "moe_topk": r.choice([1, 2, 4]),
        "n_routed_experts": r.choice([4, 8]),
        "zero_expert_num": r.choice([0, 2, 4]),
        "expert_ffn_hidden_size": r.choice([16, 32]),
        "attention_bias": chance(r, 0.3),
        "routed_scaling_factor": r.choice([1.0, 6.0]),
        "rope_parameters": rope(r, ("default", "yarn"), mscale=True),
    }


@fam("flex_olmo")
def _(r):
    return {
        **base(r),
        **fit_heads(r),
        **moe(r, f=None),
        "intermediate_size": r.choice([16, 32]),
        "norm_topk_prob": chance(r),
        "attention_bias": chance(r, 0.3),
        "rope_parameters": rope(r),
    }


@fam("jetmoe")
def _(r):
    k = r.choice([1, 2, 3])
    kv = r.choice([1, 2, 3])
    b = base(r, 1, 4)
    return {
        **b,
        "num_key_value_heads": kv,
        "num_attention_heads": None,
        "kv_channels": r.choice([8, 12, 16]),
        "intermediate_size": r.choice([16, 32]),
        "num_local_experts": r.choice([4, 8]),
        "num_experts_per_tok": k,
        "activation_function": r.choice(["silu", "silu", "gelu"]),
        "rope_parameters": rope(r),
    }


@fam("hunyuan_v1_moe")
def _(r):
    b = base(r, 2, 5)
    n = b["num_hidden_layers"]
    e = r.choice([4, 8])
    d = {
        **b,
        **gqa(r),
        "num_experts": e,
        "moe_topk": r.choice([1, 2, layers(r, [1, 2, 3], n)]),
        "intermediate_size": r.choice([16, 32]),
        "attention_bias": chance(r, 0.3),
    }
    d["rope_parameters"] = r.choice(
        [rope(r, ("default",)), dict(rope_type="dynamic", rope_theta=1e4, alpha=r.choice([50.0, 1000.0]), factor=1.0)]
    )
    return d


@fam("solar_open")
def _(r):
    b = base(r)
    b.pop("intermediate_size")
    return {
        **b,
        **gqa(r),
        **sigmoid_router(r, shared=(1, 2)),
        "attention_bias": chance(r, 0.3),
        "rope_parameters": rope(r, partial=[1.0]),
    }


@fam("dbrx")
def _(r):
    h, kv = r.choice([(4, 2), (4, 1), (8, 4), (4, 4)])
    kind = r.choice(["silu", "gelu"])
    return dict(
        vocab_size=r.choice([97, 128]),
        d_model=r.choice([32, 48, 64]),
        n_heads=h,
        n_layers=r.randint(1, 4),
        max_seq_len=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        attn_config=dict(kv_n_heads=kv, clip_qkv=r.choice([None, 1.0, 8.0]), rope_theta=r.choice([1e4, 5e5])),
        ffn_config=dict(
            ffn_hidden_size=r.choice([16, 24]),
            moe_num_experts=r.choice([4, 8]),
            moe_top_k=r.choice([1, 2, 3]),
            moe_normalize_expert_weights=r.choice([1, None, 2]),
            ffn_act_fn=dict(name=kind),
        ),
    )


@fam("sarvam_moe")
def _(r):
    b = base(r)
    return {
        **b,
        **gqa(r, (8, 16, 24)),
        **sigmoid_router(r, shared=(0, 1, 2)),
        "first_k_dense_replace": r.choice([0, 1, 2]),
        "attention_bias": chance(r, 0.3),
        "use_qk_norm": True,
        "num_mtp_layers": 0,
        "rope_parameters": rope(r, partial=[0.5, 1.0]),
    }


@fam("sarvam_mla")
def _(r):
    b = base(r)
    return {
        **b,
        **mla(r),
        **sigmoid_router(r, shared=(1, 2)),
        "first_k_dense_replace": r.choice([0, 1]),
        "attention_bias": chance(r, 0.3),
        "rope_interleave": chance(r, 0.7),
        "num_mtp_layers": 0,
        "rope_parameters": rope(r, ("default", "yarn"), mscale=True),
    }


@fam("step3p7", "Step3p7ForConditionalGeneration")
def _(r):
    b = base(r, 3, 6)
    n = b["num_hidden_layers"]
    kv = r.choice([1, 2])
    t = layers(r, [SLIDE, FULL], n)
    tx = {
        **b,
        "num_key_value_heads": kv,
        "num_attention_heads": kv * r.choice([2, 4]),
        "num_sliding_attention_heads": r.choice([None, kv * 3, kv]),
        "head_dim": r.choice([8, 16]),
        "n_routed_experts": r.choice([4, 8]),
        "num_experts_per_tok": r.choice([1, 2, 3]),
        "moe_intermediate_size": r.choice([16, 24]),
        "share_expert_dim": r.choice([16, 24]),
        "sliding_window": r.choice([5, 8]),
        "layer_types": t,
        **r.choice([{"mlp_layer_types": layers(r, ["dense", "sparse"], n)}, {"moe_layers_enum": "1,2"}]),
        "swiglu_limits": layers(r, [0.0, 1.0, 0.0], n),
        "swiglu_limits_shared": layers(r, [0.0, 1.2], n),
        "moe_router_scaling_factor": r.choice([1.0, 1.7, 3.0]),
        "attention_bias": chance(r, 0.3),
        "tie_word_embeddings": False,
        "rope_parameters": {
            FULL: dict(rope_type="default", rope_theta=5e6, partial_rotary_factor=r.choice([0.5, 1.0])),
            SLIDE: dict(rope_type="default", rope_theta=1e4),
        },
    }
    return dict(
        text_config=tx,
        vision_config=dict(width=16, layers=1, heads=2, image_size=28, patch_size=14, max_position_embeddings=4),
    )
