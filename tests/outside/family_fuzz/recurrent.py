"""Families with states, short convolutions, indexers or lightning attention, and their kin."""

from draw import FULL, LIN, SLIDE, base, chance, fam, fit_heads, gdn, gqa, layers, lin_types, maybe, mla, moe, rope, sigmoid_router


@fam("qwen3_next")
def _(r):
    b = base(r, 3, 6)
    n = b["num_hidden_layers"]
    g = gqa(r, (8, 16, 24, 32))
    return {
        **b,
        **g,
        **moe(r),
        **gdn(r),
        "shared_expert_intermediate_size": r.choice([16, 24, 32]),
        "norm_topk_prob": chance(r),
        "decoder_sparse_step": r.choice([1, 1, 2]),
        "mlp_only_layers": r.choice([[], [0], [1]]),
        "attention_bias": chance(r, 0.3),
        **maybe(r, {"layer_types": lin_types(r, n)}),
        "rope_parameters": rope(r, partial=[0.25, 0.5, 1.0]),
        "hidden_act": r.choice(["silu", "silu", "gelu"]),
    }


@fam("qwen3_5_moe_text")
def _(r):
    b = base(r, 3, 6)
    n = b["num_hidden_layers"]
    g = gqa(r, (8, 16, 24, 32))
    b.pop("intermediate_size")
    return {
        **b,
        **g,
        **moe(r),
        **gdn(r),
        "shared_expert_intermediate_size": r.choice([16, 24, 32]),
        "attention_bias": chance(r, 0.3),
        **maybe(r, {"layer_types": lin_types(r, n)}),
        "rope_parameters": {**rope(r, ("default",), partial=[0.25, 0.5, 1.0])},
    }


@fam("qwen3_5_text")
def _(r):
    b = base(r, 3, 6)
    n = b["num_hidden_layers"]
    g = gqa(r, (8, 16, 24, 32))
    return {
        **b,
        **g,
        **gdn(r),
        "attention_bias": chance(r, 0.3),
        **maybe(r, {"layer_types": lin_types(r, n)}),
        "rope_parameters": rope(r, ("default", "yarn"), partial=[0.25, 0.5, 1.0]),
    }


@fam("gemma4_text")
def _(r):
    b = base(r, 2, 7)
    n = b["num_hidden_layers"]
    g = gqa(r)
    t = r.choice([None, layers(r, [SLIDE, FULL], n)])
    if t:
        t[-1] = FULL
    d = {
        **b,
        **g,
        "global_head_dim": r.choice([16, 24, 32]),
        "attention_k_eq_v": chance(r),
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 0,
        "sliding_window": r.choice([4, 7, 8]),
        "final_logit_softcapping": r.choice([None, 30.0, 15.0]),
        "attention_bias": chance(r, 0.2),
        "num_global_key_value_heads": r.choice([None, 1, g["num_key_value_heads"]]),
    }
    if t:
        d["layer_types"] = t
    if chance(r, 0.7):
        d.update(
            enable_moe_block=True,
            num_experts=r.choice([4, 6, 8]),
            top_k_experts=r.choice([1, 2, 3]),
            moe_intermediate_size=r.choice([16, 20]),
        )
    if chance(r):
        d["rope_parameters"] = {
            SLIDE: dict(rope_type="default", rope_theta=r.choice([500.0, 1e4])),
            FULL: dict(
                rope_type="proportional", rope_theta=r.choice([1e4, 1e6]), partial_rotary_factor=r.choice([0.25, 0.5])
            ),
        }
    return d


@fam("nemotron_h")
def _(r):
    n = r.randint(3, 7)
    t = ["linear_attention"] + layers(r, [LIN, "moe", FULL, "mlp"], n - 1)
    b = base(r)
    kv = r.choice([1, 2])
    b.pop("rms_norm_eps")
    b["num_hidden_layers"] = n
    e = sigmoid_router(r, shared=(1,))
    hd = r.choice([8, 12, 16])
    ng = r.choice([1, 2, 4])
    return {
        **b,
        "layers_block_type": t,
        **e,
        "num_key_value_heads": kv,
        "num_attention_heads": kv * r.choice([1, 2, 4]),
        "head_dim": r.choice([8, 16]),
        "mamba_num_heads": ng * r.choice([1, 2]),
        "mamba_head_dim": hd,
        "n_groups": ng,
        "ssm_state_size": r.choice([8, 16]),
        "conv_kernel": r.choice([2, 3, 4]),
        "use_conv_bias": chance(r, 0.7),
        "mamba_proj_bias": chance(r, 0.3),
        "mlp_bias": chance(r, 0.3),
        "attention_bias": chance(r, 0.3),
        "use_bias": False,
        "moe_shared_expert_intermediate_size": r.choice([24, 48]),
        "moe_latent_size": r.choice([None, 24, 32]),
        "layer_norm_epsilon": r.choice([1e-5, 1e-3]),
        "chunk_size": r.choice([8, 16]),
        "time_step_limit": r.choice([(0.0, float("inf")), (0.01, 0.5)]),
        "use_mamba_kernels": False,
        "num_nextn_predict_layers": 0,
    }


@fam("glm4_moe_lite")
def _(r):
    b = base(r)
    n = b["num_hidden_layers"]
    return {
        **b,
        **mla(r),
        **sigmoid_router(r, shared=(1, 2)),
        "attention_bias": chance(r, 0.3),
        "rope_interleave": chance(r, 0.7),
        **maybe(r, {"mlp_layer_types": layers(r, ["dense", "sparse", "sparse"], n)}),
        "rope_parameters": rope(r, ("default", "yarn", "linear"), mscale=True),
    }


@fam("lfm2_moe")
def _(r):
    b = base(r)
    n = b["num_hidden_layers"]
    b["norm_eps"] = b.pop("rms_norm_eps")
    return {
        **b,
        **fit_heads(r),
        **moe(r),
        "num_dense_layers": r.randint(0, n),
        "layer_types": layers(r, ["conv", FULL], n),
        "conv_bias": chance(r, 0.3),
        "conv_L_cache": r.choice([2, 3, 4]),
        "use_expert_bias": chance(r, 0.7),
        "norm_topk_prob": chance(r),
        "routed_scaling_factor": r.choice([1.0, 2.0]),
        "rope_parameters": rope(r, ("default", "yarn")),
    }


@fam("lfm2")
def _(r):
    b = base(r)
    n = b["num_hidden_layers"]
    b["norm_eps"] = b.pop("rms_norm_eps")
    d = {
        **b,
        **fit_heads(r),
        "conv_bias": chance(r, 0.3),
        "conv_L_cache": r.choice([2, 3, 4]),
        "block_auto_adjust_ff_dim": chance(r),
        "block_multiple_of": r.choice([8, 16]),
        "block_ffn_dim_multiplier": r.choice([1.0, 1.3]),
    }
    d.update(r.choice([{"layer_types": layers(r, ["conv", FULL], n)}, {"full_attn_idxs": [1]}]))
    return d


@fam("bailing_hybrid")
def _(r):
    b = base(r, 2, 6)
    n = b["num_hidden_layers"]
    m = mla(r)
    e = sigmoid_router(r, "num_experts", (1, 2))
    return {
        **b,
        **m,
        **e,
        "head_dim": r.choice([8, 12, 16]),
        "layer_group_size": r.choice([2, 3, 4]),
        "first_k_dense_replace": r.choice([0, 1, 2]),
        "short_conv_kernel_size": r.choice([2, 3, 4]),
        "kda_lower_bound": r.choice([-5.0, -3.0]),
        "num_mtp_layers": 0,
        "attention_bias": chance(r, 0.2),
        **maybe(r, {"layer_types": lin_types(r, n)}, 0.3),
        "rope_parameters": rope(r, ("default", "yarn"), mscale=True),
    }


@fam("kimi_linear")
def _(r):
    b = base(r, 2, 6)
    n = b["num_hidden_layers"]
    m = mla(r)
    e = sigmoid_router(r, "num_experts", (1, 2))
    d = {
        **b,
        **m,
        **e,
        "linear_head_dim": r.choice([8, 12, 16]),
        "linear_num_heads": r.choice([1, 2, 4]),
        "linear_conv_kernel_dim": r.choice([2, 3, 4]),
        "attention_bias": chance(r, 0.2),
    }
    k = r.choice(["types", "config", "none"])
    if k == "types":
        d["layer_types"] = layers(r, [LIN, FULL], n)
    if k == "config":
        t = layers(r, [LIN, FULL], n)
        d["linear_attn_config"] = dict(
            full_attn_layers=[i + 1 for i, x in enumerate(t) if x == FULL],
            kda_layers=[i + 1 for i, x in enumerate(t) if x == LIN],
            head_dim=d["linear_head_dim"],
            num_heads=d["linear_num_heads"],
            short_conv_kernel_size=d["linear_conv_kernel_dim"],
        )
    if chance(r):
        d["first_k_dense_replace"] = r.choice([0, 1, 2])
    elif chance(r):
        d["mlp_layer_types"] = layers(r, ["dense", "sparse"], n)
    return d


def index(r, b):
    m = mla(r, False)
    rd = m["qk_rope_head_dim"]
    return {
        **m,
        **sigmoid_router(r, shared=(1, 2)),
        "index_topk": r.choice([4, 8, 16, 64]),
        "index_head_dim": rd + r.choice([0, 4, 8]),
        "index_n_heads": r.choice([3, 8, 12]),
        "attention_bias": chance(r, 0.3),
        "mlp_bias": False,
    }


@fam("deepseek_v32")
def _(r):
    b = base(r)
    n = b["num_hidden_layers"]
    return {
        **b,
        **index(r, b),
        **r.choice(
            [{"first_k_dense_replace": r.choice([0, 1, 2])}, {"mlp_layer_types": layers(r, ["dense", "sparse"], n)}]
        ),
        "rope_parameters": rope(r, ("default", "yarn"), mscale=True),
    }


@fam("glm_moe_dsa")
def _(r):
    b = base(r, 3, 6)
    n = b["num_hidden_layers"]
    d = {**b, **index(r, b), "first_k_dense_replace": r.choice([0, 1, 2]), "rope_parameters": rope(r, ("default",))}
    k = r.randint(0, 3)
    if k == 1:
        d["indexer_types"] = ["full"] + layers(r, ["full", "shared"], n - 1)
    if k == 2:
        d.update(index_topk_freq=2, index_skip_topk_offset=r.choice([1, 2]))
    if k == 3:
        d.update(index_topk_pattern="F" + "".join(layers(r, "FS", n - 1)))
    return d


@fam("minimax_m2")
def _(r):
    b = base(r)
    g = gqa(r)
    d = {**b, **g, **moe(r, "num_local_experts", f=None), "intermediate_size": r.choice([16, 24, 32])}
    hd = g["head_dim"]
    d.update(
        r.choice(
            [
                {"rotary_dim": hd // 2 if hd // 2 % 2 == 0 else hd},
                {"rope_parameters": rope(r, ("default", "yarn"), partial=[0.5, 1.0])},
            ]
        )
    )
    return d


@fam("minimax")
def _(r):
    b = base(r, 2, 6)
    n = b["num_hidden_layers"]
    d = {
        **b,
        **gqa(r),
        **moe(r, "num_local_experts", f=None),
        "intermediate_size": r.choice([16, 24, 32]),
        "block_size": r.choice([4, 8, 256]),
        **maybe(r, {"layer_types": layers(r, [LIN, FULL], n)}),
        "sliding_window": r.choice([None, None, 6]),
        "rope_parameters": rope(r, ("default", "yarn", "linear")),
    }
    for k in ("full_attn", "linear_attn", "mlp"):
        d[k + "_alpha_factor"] = r.choice([1, 1.5, 3.5])
        d[k + "_beta_factor"] = r.choice([1, 0.7])
    return d


@fam("ernie4_5_moe")
def _(r):
    b = base(r, 2, 6)
    n = b["num_hidden_layers"]
    return {
        **b,
        **fit_heads(r),
        "moe_num_experts": r.choice([4, 8]),
        "moe_k": r.choice([1, 2, 3]),
        "moe_intermediate_size": r.choice([16, 32]),
        "moe_num_shared_experts": r.choice([0, 1, 2]),
        "moe_layer_start_index": r.choice([0, 1]),
        "moe_layer_interval": r.choice([1, 2]),
        "moe_layer_end_index": r.choice([-1, n - 1, max(1, n - 2)]),
        "use_bias": chance(r, 0.3),
        "moe_norm_min": r.choice([1e-12, 0.8]),
        "rope_parameters": rope(r, ("default", "yarn", "linear")),
    }
