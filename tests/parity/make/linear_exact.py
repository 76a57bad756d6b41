#!/usr/bin/env python3
"""Makes exact.safetensors of the fixtures of Qwen3-Next and Qwen3.5: their logits in NumPy, float64 throughout, and says
how far the reference is from them. transformers has norms, softmax and the delta rule in float32 even in a model of
float64, and linear attention amplifies what that rounds (an RMSNorm of a small difference of large numbers).

usage: linear_exact.py DATA [NAME...]        needs numpy and gguf (for linear_gguf.py)
"""
import json
import pathlib
import sys

import numpy as np

from linear_gguf import read, write


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def rms(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def linear_attention(c, t, p, h):
    n = len(h)
    hk, hv, dk, dv = (c["linear_" + k] for k in ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim"))
    r = hv // hk
    if p + "in_proj_qkv.weight" in t:
        qkv, z, b, a = (h @ t[f"{p}in_proj_{part}.weight"].T for part in ("qkv", "z", "b", "a"))
    else:
        packed = (h @ t[p + "in_proj_qkvz.weight"].T).reshape(n, hk, -1)
        q, k, v, z = (x.reshape(n, -1) for x in np.split(packed, [dk, 2 * dk, 2 * dk + r * dv], axis=2))
        qkv = np.concatenate([q, k, v], axis=1)
        b, a = (x.reshape(n, -1) for x in np.split((h @ t[p + "in_proj_ba.weight"].T).reshape(n, hk, -1), 2, axis=2))
    taps = t[p + "conv1d.weight"][:, 0]
    width = taps.shape[1]
    padded = np.concatenate([np.zeros((width - 1, qkv.shape[1])), qkv])
    qkv = silu(sum(padded[k:k + n] * taps[:, k] for k in range(width)))
    q, k, v = (x.reshape(n, -1, d) for x, d in zip(np.split(qkv, [hk * dk, 2 * hk * dk], axis=1), (dk, dk, dv)))
    q, k = (x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-6) for x in (q, k))
    decay = np.exp(-np.exp(t[p + "A_log"]) * np.logaddexp(0, a + t[p + "dt_bias"]))
    beta, out = sigmoid(b), np.zeros((n, hv, dv))
    for head in range(hv):
        state = np.zeros((dk, dv))
        for i in range(n):
            key = k[i, head // r]
            state *= decay[i, head]
            state += np.outer(key, beta[i, head] * (v[i, head] - key @ state))
            out[i, head] = q[i, head // r] @ state / np.sqrt(dk)
    out = rms(out, t[p + "norm.weight"], c["rms_norm_eps"]).reshape(n, -1) * silu(z)
    return out @ t[p + "out_proj.weight"].T


def attention(c, t, p, h):
    n, heads, groups, d = len(h), c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    both = (h @ t[p + "q_proj.weight"].T).reshape(n, heads, 2 * d)
    q, gate = both[..., :d], both[..., d:].reshape(n, -1)
    k, v = ((h @ t[f"{p}{part}_proj.weight"].T).reshape(n, groups, d) for part in "kv")
    turned = int(d * c["rope_parameters"]["partial_rotary_factor"])
    angle = np.arange(n)[:, None] / c["rope_parameters"]["rope_theta"] ** (np.arange(0, turned, 2) / turned)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]

    def rope(x, part):
        x = rms(x, t[f"{p}{part}_norm.weight"] + 1, c["rms_norm_eps"])
        first, second, rest = np.split(x, [turned // 2, turned], axis=2)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=2)
    q, k = rope(q, "q"), rope(k, "k")
    k, v = (np.repeat(x, heads // groups, axis=1) for x in (k, v))
    scores = np.where(np.tril(np.ones((n, n), bool)), np.einsum("ihd,jhd->hij", q, k) / np.sqrt(d), -np.inf)
    out = np.einsum("hij,jhd->ihd", softmax(scores), v).reshape(n, -1) * sigmoid(gate)
    return out @ t[p + "o_proj.weight"].T


def mixture(c, t, p, h):
    def ffn(x, name):
        gate, up, down = (t[f"{p}{name}.{part}_proj.weight"] for part in ("gate", "up", "down"))
        return (silu(x @ gate.T) * (x @ up.T)) @ down.T
    y = sigmoid(h @ t[p + "shared_expert_gate.weight"].T) * ffn(h, "shared_expert")
    for i, weights in enumerate(softmax(h @ t[p + "gate.weight"].T)):
        best = np.argsort(-weights)[:c["num_experts_per_tok"]]
        for e in best:
            y[i] += weights[e] / weights[best].sum() * ffn(h[i], f"experts.{e}")
    return y


def main(data, *names):
    for name in names or ("qwen3-next", "qwen3_5-moe"):
        folder = pathlib.Path(data) / name / "base"
        c = json.loads((folder / "config.json").read_text())
        t = {k: v.astype(np.float64) for k, v in read(folder / "model.safetensors").items()}
        expected, logits = read(folder / "expected.safetensors"), []
        for ids in expected["input_ids"]:
            x = t["model.embed_tokens.weight"][ids]
            for i, kind in enumerate(c["layer_types"]):
                p, eps = f"model.layers.{i}.", c["rms_norm_eps"]
                h = rms(x, t[p + "input_layernorm.weight"] + 1, eps)
                x = x + (linear_attention(c, t, p + "linear_attn.", h) if kind == "linear_attention"
                         else attention(c, t, p + "self_attn.", h))
                x = x + mixture(c, t, p + "mlp.", rms(x, t[p + "post_attention_layernorm.weight"] + 1, eps))
            logits.append(rms(x, t["model.norm.weight"] + 1, c["rms_norm_eps"]) @ t["lm_head.weight"].T)
        exact = np.array(logits, np.float32)
        print(f"{name}: the reference is {abs(exact - expected['logits']).max():.2e} off")
        for copy in (folder, folder.with_name("gguf")):
            if copy.exists():
                write(copy / "exact.safetensors", {"logits": exact})


if __name__ == "__main__":
    main(*sys.argv[1:])
