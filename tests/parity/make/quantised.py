#!/usr/bin/env python3
"""Makes tests/parity/data/mixtral/quantised-*: one Mixtral whose matrices are stored quantised, in the order of each
published method, with the logits of the weights as that method's reference dequantises them; and
tests/unit/checkpoint/quantised: single matrices in every variant, with the dequantised values.

Written from the definitions, in NumPy, so that it shares nothing with the engine: E4M3 (OCP 8-bit floating point) with
block scales (DeepSeek-V3, arXiv:2412.19437, 3.3; transformers' finegrained_fp8), GPTQ (AutoGPTQ's and GPTQModel's packed
linear layers: zeros stored less one, g_idx), AWQ (AutoAWQ's "gemm" layers), compressed-tensors (its packing helpers and
_dequantize). The forward pass is checked against the fixture "mixtral", which transformers made.

usage: quantised.py DATA UNIT      (tests/parity/data and tests/unit/checkpoint/quantised; needs numpy)
"""
import json
import pathlib
import shutil
import struct
import sys

import numpy as np

NAMES = {"float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int8": "I8", "uint8": "F8_E4M3"}


def to_bf16(values):
    """Rounded to nearest even, as bits."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits):
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


def write(path, tensors):
    header, data = {}, b""
    for name in sorted(tensors):
        value = np.ascontiguousarray(tensors[name])
        kind = "BF16" if value.dtype == np.uint16 else NAMES[value.dtype.name]
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [len(data), len(data) + value.nbytes]}
        data += value.tobytes()
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    kinds = {"F32": np.float32, "I64": np.int64}
    return {name: np.frombuffer(data[8 + size + at["data_offsets"][0]:8 + size + at["data_offsets"][1]],
                                kinds[at["dtype"]]).reshape(at["shape"])
            for name, at in json.loads(data[8:8 + size]).items() if name != "__metadata__"}


# --- the methods: each returns (the tensors in the file, by suffix; the dequantised matrix) ----------------------------

E4M3 = np.array([(-1) ** (b >> 7) * ((b & 7) / 8 * 2.0 ** -6 if b >> 3 & 15 == 0 else
                 (1 + (b & 7) / 8) * 2.0 ** ((b >> 3 & 15) - 7)) for b in range(256)], dtype=np.float32)
E4M3[[0x7f, 0xff]] = np.nan


def nearest_e4m3(values):
    codes = np.array([b for b in range(256) if b & 0x7f != 0x7f])
    order = np.argsort(E4M3[codes], kind="stable")
    codes, table = codes[order], E4M3[codes][order]
    at = np.clip(np.searchsorted(table, values), 1, len(table) - 1)
    return codes[np.where(values - table[at - 1] < table[at] - values, at - 1, at)].astype(np.uint8)


def fp8(w, block, scale_type="f32", suffix="weight_scale_inv"):
    """Scales by blocks of rows x columns; (0, 0): one; (1, 0): one a row."""
    rows, cols = w.shape
    down, across = block[0] or rows, block[1] or cols
    grid = np.zeros((-(-rows // down), -(-cols // across)), dtype=np.float32)
    for i in range(grid.shape[0]):
        for j in range(grid.shape[1]):
            part = w[i * down:(i + 1) * down, j * across:(j + 1) * across]
            grid[i, j] = np.abs(part).max() / 448
    stored = grid
    if scale_type == "bf16":
        stored = to_bf16(grid)
        grid = from_bf16(stored)
    spread = np.repeat(np.repeat(grid, down, 0)[:rows], across, 1)[:, :cols]
    codes = nearest_e4m3(w / spread)
    values = E4M3[codes] * spread
    if scale_type == "bf16":
        values = from_bf16(to_bf16(values))
    if block == (0, 0):
        stored = stored.reshape(1)
    return {"weight": codes, suffix: stored}, values


def integers(w, bits, group_of, symmetric, scale_type, rng):
    """Codes [rows, cols], zeros and scales [rows, groups], and the values: (code - zero) * scale, rounded to the scale's
    type."""
    top = 2 ** bits - 1
    groups = group_of.max() + 1
    codes = np.zeros(w.shape, dtype=np.int64)
    zeros, scales = np.zeros((w.shape[0], groups), dtype=np.int64), np.zeros((w.shape[0], groups), dtype=np.float32)
    for g in range(groups):
        part = w[:, group_of == g]
        if symmetric:
            scale, zero = np.abs(part).max(1) / (2 ** (bits - 1) - 1), np.full(len(w), 2 ** (bits - 1))
        else:
            low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
            scale = (high - low) / top
            zero = np.clip(np.round(-low / scale), 1, top)  # the least that GPTQ can store is 1
        scale = scale.astype(np.float16).astype(np.float32) if scale_type == "f16" else from_bf16(to_bf16(scale))
        scales[:, g], zeros[:, g] = scale, zero
        codes[:, group_of == g] = np.clip(np.round(part / scale[:, None]) + zero[:, None], 0, top)
    product = (codes - zeros[:, group_of]).astype(np.float32) * scales[:, group_of]  # exact: 11 bits by 9
    values = product.astype(np.float16).astype(np.float32) if scale_type == "f16" else from_bf16(to_bf16(product))
    stored = scales.astype(np.float16) if scale_type == "f16" else to_bf16(scales)
    return codes, zeros, stored, values


def pack_words(codes, bits):
    """[rows, n] to int32 [rows, n * bits / 32], the first in the lowest bits."""
    each = 32 // bits
    words = codes.reshape(codes.shape[0], -1, each).astype(np.uint64) << (np.arange(each, dtype=np.uint64) * bits)
    return words.sum(-1).astype(np.uint32).view(np.int32)


def indices(cols, group, order=None):
    index = np.arange(cols) // (group or cols)
    return index if order is None else index[order]


def gptq(w, bits, group, rng, symmetric=False, act_order=False, scale_type="f16", version=1, uneven=False):
    index = indices(w.shape[1], group, rng.permutation(w.shape[1]) if act_order else None)
    if uneven:
        index[index.argmax()] = 0
    codes, zeros, scales, values = integers(w, bits, index, symmetric, scale_type, rng)
    return {"qweight": pack_words(codes, bits).T, "qzeros": pack_words(zeros.T - (version == 1), bits),
            "scales": scales.T, "g_idx": index.astype(np.int32)}, values


def awq(w, group, rng):
    codes, zeros, scales, values = integers(w, 4, indices(w.shape[1], group), False, "f16", rng)
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    pack = lambda m: pack_words(m.reshape(m.shape[0], -1, 8)[:, :, order].reshape(m.shape), 4)
    return {"qweight": pack(codes.T), "qzeros": pack(zeros.T), "scales": scales.T}, values


def packed(w, bits, group, rng, symmetric, act_order=False, scale_type="bf16"):
    index = indices(w.shape[1], group, rng.permutation(w.shape[1]) if act_order else None)
    codes, zeros, scales, values = integers(w, bits, index, symmetric, scale_type, rng)
    tensors = {"weight_packed": pack_words(codes, bits), "weight_scale": scales,
               "weight_shape": np.array(w.shape, dtype=np.int64)}
    if not symmetric:
        tensors["weight_zero_point"] = pack_words(zeros.T, bits).T
    if act_order:
        tensors["weight_g_idx"] = index.astype(np.int32)
    return tensors, values


def int8(w, rng, symmetric=True):
    codes, zeros, scales, values = integers(w, 8, indices(w.shape[1], 0), symmetric, "bf16", rng)
    tensors = {"weight": (codes - 128).astype(np.int8), "weight_scale": scales}
    if not symmetric:
        tensors["weight_zero_point"] = (zeros - 128).astype(np.int8)
    return tensors, values


def scheme(form, **weights):
    return dict(quant_method="compressed-tensors", format=form, quantization_status="compressed", ignore=["lm_head"],
                kv_cache_scheme=None, global_compression_ratio=None,
                config_groups={"group_0": dict(targets=["Linear"], input_activations=None, output_activations=None,
                                               weights=dict(dynamic=False, observer="minmax", **weights))})


def group_scheme(bits, group, symmetric, actorder=None):
    return scheme("pack-quantized", num_bits=bits, type="int", symmetric=symmetric, actorder=actorder,
                  strategy="group" if group else "channel", group_size=group or None)


FP8 = dict(quant_method="fp8", activation_scheme="dynamic", fmt="e4m3")
GPTQ = dict(quant_method="gptq", damp_percent=0.1, true_sequential=True)
AWQ = dict(quant_method="awq", bits=4, zero_point=True, version="gemm")
METHODS = {  # quantization_config, and what makes a matrix's tensors
    "fp8": (dict(FP8, weight_block_size=[32, 64]), lambda w, rng: fp8(w, (32, 64))),
    "fp8-bf16-scales": (dict(FP8, weight_block_size=[128, 128]), lambda w, rng: fp8(w, (128, 128), "bf16")),
    "fp8-tensor": (scheme("float-quantized", num_bits=8, type="float", symmetric=True, strategy="tensor"),
                   lambda w, rng: fp8(w, (0, 0), "bf16", "weight_scale")),
    "fp8-channel": (scheme("float-quantized", num_bits=8, type="float", symmetric=True, strategy="channel"),
                    lambda w, rng: fp8(w, (1, 0), "bf16", "weight_scale")),
    "gptq": (dict(GPTQ, bits=4, group_size=64, desc_act=False, sym=False), lambda w, rng: gptq(w, 4, 64, rng)),
    "gptq-32": (dict(GPTQ, bits=4, group_size=32, desc_act=False, sym=True),
                lambda w, rng: gptq(w, 4, 32, rng, symmetric=True)),
    "gptq-8-bits": (dict(GPTQ, bits=8, group_size=-1, desc_act=False, sym=False, checkpoint_format="gptq"),
                    lambda w, rng: gptq(w, 8, 0, rng)),
    "gptq-v2": (dict(GPTQ, bits=4, group_size=64, desc_act=False, sym=False, checkpoint_format="gptq_v2"),
                lambda w, rng: gptq(w, 4, 64, rng, version=2, scale_type="bf16")),
    "gptq-act-order": (dict(GPTQ, bits=4, group_size=32, desc_act=True, sym=False),
                       lambda w, rng: gptq(w, 4, 32, rng, act_order=True)),
    "gptq-64-act-order": (dict(GPTQ, bits=4, group_size=64, desc_act=True, sym=True, checkpoint_format="gptq_v2"),
                          lambda w, rng: gptq(w, 4, 64, rng, symmetric=True, act_order=True, scale_type="bf16", version=2)),
    "gptq-8-bits-act-order": (dict(GPTQ, bits=8, group_size=32, desc_act=True, sym=False),
                              lambda w, rng: gptq(w, 8, 32, rng, act_order=True)),
    "gptq-uneven": (dict(GPTQ, bits=4, group_size=32, desc_act=True, sym=False),
                    lambda w, rng: gptq(w, 4, 32, rng, act_order=True, uneven=True)),
    "awq-128": (dict(AWQ, group_size=128), lambda w, rng: awq(w, 128, rng)),
    "awq": (dict(AWQ, group_size=64), lambda w, rng: awq(w, 64, rng)),
    "awq-32": (dict(AWQ, group_size=32), lambda w, rng: awq(w, 32, rng)),
    "compressed-4": (group_scheme(4, 32, False), lambda w, rng: packed(w, 4, 32, rng, False)),
    "compressed-4-symmetric": (group_scheme(4, 64, True), lambda w, rng: packed(w, 4, 64, rng, True, scale_type="f16")),
    "compressed-4-channel": (group_scheme(4, 0, True), lambda w, rng: packed(w, 4, 0, rng, True)),
    "compressed-4-act-order": (group_scheme(4, 32, False, "group"),
                               lambda w, rng: packed(w, 4, 32, rng, False, act_order=True)),
    "compressed-8": (group_scheme(8, 32, False), lambda w, rng: packed(w, 8, 32, rng, False)),
    "compressed-int8": (scheme("int-quantized", num_bits=8, type="int", symmetric=True, strategy="channel"),
                        lambda w, rng: int8(w, rng)),
    "compressed-int8-zeros": (scheme("int-quantized", num_bits=8, type="int", symmetric=False, strategy="channel"),
                              lambda w, rng: int8(w, rng, False)),
}
MODELS = ["fp8", "gptq", "gptq-act-order", "awq", "compressed-4", "compressed-int8"]

# --- a forward pass of Mixtral ---------------------------------------------------------------------------------------


def norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def rotate(x, theta):
    """[T, heads, d]"""
    half = x.shape[-1] // 2
    angles = np.arange(len(x))[:, None] * theta ** (-np.arange(half) / half)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def forward(config, w, ids):
    """Logits [T, V] of one sequence, in float64; and the smallest gap between a chosen and a left router logit."""
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    eps, theta, gap = config["rms_norm_eps"], config["rope_parameters"]["rope_theta"], np.inf
    x = w["model.embed_tokens.weight"][ids]
    dim = w["model.layers.0.self_attn.q_proj.weight"].shape[0] // heads
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        h = norm(x, w[at + "input_layernorm.weight"], eps)
        q, k, v = (h @ w[at + f"self_attn.{name}_proj.weight"].T for name in "qkv")
        q, k = rotate(q.reshape(-1, heads, dim), theta), rotate(k.reshape(-1, kv, dim), theta)
        v, out = v.reshape(-1, kv, dim), []
        mask = np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
        for head in range(heads):
            of = head // (heads // kv)
            out.append(softmax(q[:, head] @ k[:, of].T / np.sqrt(dim) + mask) @ v[:, of])
        x = x + np.concatenate(out, -1) @ w[at + "self_attn.o_proj.weight"].T
        h = norm(x, w[at + "post_attention_layernorm.weight"], eps)
        logits = h @ w[at + "block_sparse_moe.gate.weight"].T
        order = np.sort(logits, -1)
        top = config["num_experts_per_tok"]
        gap = min(gap, (order[:, -top] - order[:, -top - 1]).min())
        probabilities, result = softmax(logits), np.zeros_like(x)
        for t in range(len(ids)):
            chosen = np.argsort(-logits[t], kind="stable")[:top]
            for e in chosen:
                one, two, three = (w[at + f"block_sparse_moe.experts.{e}.w{n}.weight"] for n in (1, 2, 3))
                gate = one @ h[t]
                result[t] += probabilities[t, e] / probabilities[t, chosen].sum() * (
                    two @ (gate / (1 + np.exp(-gate)) * (three @ h[t])))
        x = x + result
    return norm(x, w["model.norm.weight"], eps) @ w["lm_head.weight"].T, gap


def check(data):
    """The pass above against transformers' logits."""
    config = json.loads((data / "mixtral" / "base" / "config.json").read_text())
    weights = {name: value.astype(np.float64) for name, value in read(data / "mixtral" / "base" / "model.safetensors").items()}
    expected = read(data / "mixtral" / "base" / "expected.safetensors")
    for ids, logits in zip(expected["input_ids"], expected["logits"]):
        error = np.abs(forward(config, weights, ids)[0] - logits).max()
        assert error < 2e-5 * logits.std(), error


def model(data, name, seed):
    config = json.loads((data / "mixtral" / "base" / "config.json").read_text())
    config.update(hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_local_experts=4, vocab_size=96,
                  num_attention_heads=4, num_key_value_heads=2, output_router_logits=False)
    quantisation, make = METHODS[name]
    rng = np.random.default_rng([seed, len(name)])
    tensors, weights = {}, {}

    def add(key, shape, quantised=False):
        value = (rng.standard_normal(shape) * shape[-1] ** -0.5 * (4 if "embed" in key else 1)).astype(np.float32)
        if len(shape) == 1:
            value = (1 + 0.2 * rng.standard_normal(shape)).astype(np.float32)
        if quantised:
            parts, value = make(value, rng)
            tensors.update({key.removesuffix("weight") + suffix: part for suffix, part in parts.items()})
        else:
            tensors[key] = value
        weights[key] = value.astype(np.float64)

    add("model.embed_tokens.weight", (96, 64)), add("lm_head.weight", (96, 64)), add("model.norm.weight", (64,))
    at = "model.layers.0."
    add(at + "input_layernorm.weight", (64,)), add(at + "post_attention_layernorm.weight", (64,))
    for part, rows in (("q", 64), ("k", 32), ("v", 32), ("o", 64)):
        add(at + f"self_attn.{part}_proj.weight", (rows, 64), True)
    add(at + "block_sparse_moe.gate.weight", (4, 64))
    for e in range(4):
        for part, shape in (("w1", (128, 64)), ("w2", (64, 128)), ("w3", (128, 64))):
            add(at + f"block_sparse_moe.experts.{e}.{part}.weight", shape, True)

    ids = rng.integers(0, 96, (2, 24))
    results = [forward(config, weights, row) for row in ids]
    logits = np.stack([result[0] for result in results])
    ties = min(result[1] for result in results) < 1e-3
    greedy = []
    for row in ids:
        row = list(row[:8])
        for _ in range(12):
            last = forward(config, weights, np.array(row))[0][-1]
            best = np.sort(last)[-2:]
            ties |= best[1] - best[0] < 5e-3 * last.std()
            row.append(int(last.argmax()))
        greedy.append(row[8:])
    if ties:
        return model(data, name, seed + 1)
    target = logits[:, :-1]
    shifted = target - target.max(-1, keepdims=True)
    chances = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    loss = -np.take_along_axis(chances, ids[:, 1:, None], -1).mean()
    folder = data / "mixtral" / f"quantised-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(dict(config, quantization_config=quantisation), indent=2) + "\n")
    write(folder / "model.safetensors", tensors)
    write(folder / "expected.safetensors", {"input_ids": ids, "logits": logits.astype(np.float32),
                                            "loss": np.array([loss], dtype=np.float32),
                                            "greedy": np.array(greedy, dtype=np.int64)})


def matrices(unit):
    shutil.rmtree(unit, ignore_errors=True)
    for name, (quantisation, make) in METHODS.items():
        rng = np.random.default_rng(list(name.encode()))
        # A matrix whose blocks of rows end early, with an outlier and a row of zeros next to it.
        w = (rng.standard_normal((40, 128)) * 0.05).astype(np.float32)
        w[3, 5] = 2.5
        parts, values = make(w, rng)
        folder = unit / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "mixtral", "quantization_config": quantisation}) + "\n")
        write(folder / "model.safetensors", {"layer." + suffix: part for suffix, part in parts.items()} |
              {"plain.weight": np.ones(3, dtype=np.float32)})
        write(folder / "expected.safetensors", {"layer.weight": values.astype(np.float32)})


if __name__ == "__main__":
    data, unit = map(pathlib.Path, sys.argv[1:])
    check(data)
    for name in MODELS:
        model(data, name, 1)
    matrices(unit)
