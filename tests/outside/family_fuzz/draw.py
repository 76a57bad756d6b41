"""What draws the settings of random tiny models, shared by the tables of families: r is a random.Random."""

FULL, SLIDE, LIN = "full_attention", "sliding_attention", "linear_attention"
FAM = {}


def fam(name, kind=None):
    """Puts a function that draws a family's settings into FAM: of a model_type, or of a class of transformers."""

    def put(f):
        FAM[name] = (kind or name, f)
        return f

    return put


def chance(r, p=0.5):
    """True as often as p says."""
    return r.random() < p


def maybe(r, d, p=0.5):
    return d if chance(r, p) else {}


def layers(r, kinds, n):
    """A kind for each of n layers."""
    return [r.choice(kinds) for _ in range(n)]


def rope(
    r, kinds=("default", "default", "linear", "yarn", "llama3"), partial=None, theta=(1e4, 500.0, 5e5), mscale=False
):
    k = r.choice(kinds)
    d = dict(rope_type=k, rope_theta=r.choice(theta))
    if k != "default":
        d["factor"] = r.choice([2.0, 4.0, 8.0])
    if k == "yarn":
        d.update(original_max_position_embeddings=r.choice([16, 32]))
        if chance(r):
            d.update(beta_fast=r.choice([32.0, 8.0]), beta_slow=r.choice([1.0, 2.0]))
        if mscale and chance(r):
            d.update(mscale=r.choice([1.0, 0.7]), mscale_all_dim=r.choice([1.0, 0.7]))
        elif chance(r, 0.3):
            d["attention_factor"] = 1.2
        if chance(r, 0.3):
            d["truncate"] = False
    if k == "llama3":
        d.update(low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
    p = r.choice(partial) if partial else None
    if p:
        d["partial_rotary_factor"] = p
    return d


def base(r, lo=2, hi=6):
    return dict(
        vocab_size=r.choice([97, 128, 161]),
        hidden_size=r.choice([32, 48, 64, 80]),
        num_hidden_layers=r.randint(lo, hi),
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=chance(r, 0.4),
        rms_norm_eps=r.choice([1e-6, 1e-5, 1e-3]),
        intermediate_size=r.choice([40, 72, 96]),
    )


def gqa(r, dims=(8, 12, 16, 24)):
    kv = r.choice([1, 2, 3])
    return dict(num_key_value_heads=kv, num_attention_heads=kv * r.choice([1, 2, 4]), head_dim=r.choice(dims))


def fit_heads(r):
    """Of families whose heads are as wide as the width divided by their number."""
    h, kv = r.choice([(4, 2), (4, 1), (8, 4), (4, 4), (2, 1)])
    return dict(num_attention_heads=h, num_key_value_heads=kv)


def moe(r, e="num_experts", k="num_experts_per_tok", f="moe_intermediate_size"):
    n = r.choice([4, 6, 8, 12])
    d = {e: n, k: r.choice([1, 2, 3, 4])}
    if f:
        d[f] = r.choice([16, 20, 32])
    return d


def mla(r, q=True):
    """Latent attention; q: queries without a low rank may come, too."""
    h = r.choice([2, 3, 4, 6])
    return dict(
        num_attention_heads=h,
        num_key_value_heads=h,
        kv_lora_rank=r.choice([16, 24, 32]),
        qk_nope_head_dim=r.choice([8, 12, 16]),
        qk_rope_head_dim=r.choice([4, 8, 12]),
        v_head_dim=r.choice([8, 12, 16, 20]),
        q_lora_rank=r.choice([20, 32] + ([None] if q else [])),
    )


def sigmoid_router(r, e="n_routed_experts", shared=(0, 1, 2), sk="n_shared_experts"):
    """DeepSeek-V3's router and experts, in groups or not."""
    n, g, t = r.choice([(8, 1, 1), (8, 2, 1), (12, 4, 2), (16, 4, 3), (6, 1, 1), (9, 3, 2)])
    d = {
        e: n,
        "num_experts_per_tok": r.choice([1, 2, 3]),
        "n_group": g,
        "topk_group": t,
        "moe_intermediate_size": r.choice([16, 20, 32]),
        "norm_topk_prob": chance(r, 0.6),
        "routed_scaling_factor": r.choice([1.0, 2.5, 1.7]),
    }
    if shared:
        d[sk] = r.choice(shared)
    return d


def gdn(r):
    """The gated delta rule."""
    hk = r.choice([1, 2, 3])
    return dict(
        linear_num_key_heads=hk,
        linear_num_value_heads=hk * r.choice([1, 2, 3]),
        linear_key_head_dim=r.choice([8, 12, 16, 20]),
        linear_value_head_dim=r.choice([8, 16, 24]),
        linear_conv_kernel_dim=r.choice([2, 3, 4]),
    )


def lin_types(r, n):
    return r.choice([None, layers(r, [LIN, FULL], n), [LIN] * (n - 1) + [FULL]])
