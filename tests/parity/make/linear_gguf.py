#!/usr/bin/env python3
"""Makes tests/parity/data/*/gguf: GGUF of fixtures with linear attention, short convolutions and blocks of one
sublayer, by the steps of llama.cpp's converter (conversion/{qwen,kimi_linear,bailingmoe3,lfm2,nemotron}.py of the
version that llama-cpp-python 0.3.36 has), in NumPy; logits and tokens are those of the fixture.

usage: linear_gguf.py DATA [NAME...]        needs numpy and gguf
"""
import json
import pathlib
import struct
import sys

import gguf
import numpy as np

import places


def read(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    kinds = {"F32": np.float32, "I64": np.int64}
    return {name: np.frombuffer(data[slice(*t["data_offsets"])], kinds[t["dtype"]]).reshape(t["shape"])
            for name, t in header.items() if name != "__metadata__"}


def write(path, tensors):
    header, data = {}, b""
    for name, t in tensors.items():
        kind = {"float32": "F32", "int64": "I64"}[str(t.dtype)]
        header[name] = dict(dtype=kind, shape=list(t.shape), data_offsets=[len(data), len(data) + t.nbytes])
        data += t.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def in_turn(t, axis, key_heads, value_heads, width):
    """Value heads by key head become those in turn for each key head."""
    shape = list(t.shape)
    t = t.reshape(shape[:axis] + [key_heads, value_heads // key_heads, width] + shape[axis + 1:])
    return np.swapaxes(t, axis, axis + 1).reshape(shape)


class Converter:
    def __init__(self, config, tensors, arch):
        self.c, self.t, self.out, self.keys = config, tensors, {}, {}
        self.arch, self.layers = arch, config["num_hidden_layers"] if "num_hidden_layers" in config else len(config["layers_block_type"])

    def put(self, name, tensor):
        self.out[name] = np.ascontiguousarray(tensor, np.float32)

    def key(self, name, value):
        self.keys[name] = value

    def common(self, eps):
        c = self.c
        self.key("block_count", self.layers)
        self.key("context_length", c.get("max_position_embeddings", c.get("model_max_length")))
        self.key("embedding_length", c["hidden_size"])
        self.key("attention.head_count", c["num_attention_heads"])
        self.key("attention.head_count_kv", c["num_key_value_heads"])
        self.key("attention.layer_norm_rms_epsilon", float(eps))
        self.key("vocab_size", c["vocab_size"])
        if c.get("intermediate_size"):
            self.key("feed_forward_length", c["intermediate_size"])
        if "rope_parameters" in c:
            self.key("rope.freq_base", float(c["rope_parameters"]["rope_theta"]))

    def experts(self, layer, prefix, names):
        """One by one to stacks."""
        for theirs, ours in names.items():
            found = [self.t[f"{prefix}.{e}.{theirs}.weight"] for e in range(self.count)]
            self.put(f"blk.{layer}.ffn_{ours}_exps.weight", np.stack(found))

    def mla(self, layer, prefix, out):
        c, b = self.c, f"blk.{layer}."
        for theirs, ours in {"q_proj": "attn_q", "q_a_proj": "attn_q_a", "q_b_proj": "attn_q_b",
                             "kv_a_proj_with_mqa": "attn_kv_a_mqa", out: "attn_output",
                             "q_a_layernorm": "attn_q_a_norm", "kv_a_layernorm": "attn_kv_a_norm"}.items():
            if f"{prefix}.{theirs}.weight" in self.t:
                self.put(f"{b}{ours}.weight", self.t[f"{prefix}.{theirs}.weight"])
        nope, value = c["qk_nope_head_dim"], c["v_head_dim"]
        kv = self.t[f"{prefix}.kv_b_proj.weight"].reshape(c["num_attention_heads"], nope + value, c["kv_lora_rank"])
        self.put(b + "attn_k_b.weight", kv[:, :nope].transpose(0, 2, 1))
        self.put(b + "attn_v_b.weight", kv[:, nope:])

    def mla_keys(self):
        c = self.c
        if c.get("q_lora_rank"):
            self.key("attention.q_lora_rank", c["q_lora_rank"])
        self.key("attention.kv_lora_rank", c["kv_lora_rank"])
        self.key("rope.dimension_count", c["qk_rope_head_dim"])
        self.key("attention.key_length", c["kv_lora_rank"] + c["qk_rope_head_dim"])
        self.key("attention.value_length", c["kv_lora_rank"])
        self.key("attention.key_length_mla", c["qk_nope_head_dim"] + c["qk_rope_head_dim"])
        self.key("attention.value_length_mla", c["v_head_dim"])

    def kda(self, layer, prefix, out, names, a):
        b = f"blk.{layer}."
        for part in "qkv":
            self.put(f"{b}attn_{part}.weight", self.t[f"{prefix}.{part}_proj.weight"])
            taps = self.t[f"{prefix}.{part}_conv1d.weight"]
            self.put(f"{b}ssm_conv1d_{part}.weight", taps.reshape(1, taps.shape[0], 1, taps.shape[-1]))
        for theirs, ours in {**names, "b_proj.weight": "ssm_beta.weight", "dt_bias": "ssm_dt.bias",
                             "o_norm.weight": "ssm_norm.weight", out + ".weight": "attn_output.weight"}.items():
            self.put(b + ours, self.t[f"{prefix}.{theirs}"])
        self.put(b + "ssm_a", a)

    def deepseek_experts(self, layer, router, bias, experts, shared, names):
        b = f"blk.{layer}."
        self.put(b + "ffn_gate_inp.weight", self.t[router])
        self.put(b + "exp_probs_b.bias", self.t[bias])
        self.experts(layer, experts, names)
        for part in ("gate", "up", "down"):
            self.put(f"{b}ffn_{part}_shexp.weight", self.t[f"{shared}.{part}_proj.weight"])

    def deepseek_keys(self, dense):
        c = self.c
        self.count = c["num_experts"]
        self.key("expert_count", self.count)
        self.key("expert_used_count", c["num_experts_per_token"])
        self.key("expert_group_count", c["num_expert_group"])
        self.key("expert_group_used_count", c["topk_group"])
        self.key("expert_gating_func", 2)
        self.key("expert_feed_forward_length", c["moe_intermediate_size"])
        self.key("expert_shared_count", c["num_shared_experts"])
        self.key("leading_dense_block_count", dense)
        self.key("expert_weights_scale", float(c["routed_scaling_factor"]))
        self.key("expert_weights_norm", c["moe_renormalize"])


def qwen(converter, turned):
    c, t = converter.c, converter.t
    converter.common(c["rms_norm_eps"])
    converter.count = c["num_experts"]
    hk, hv, dk, dv = (c["linear_" + k] for k in ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim"))
    turn = (lambda x, axis, width: in_turn(x, axis, hk, hv, width)) if turned else (lambda x, axis, width: x)
    for name, value in {"attention.key_length": c["head_dim"], "attention.value_length": c["head_dim"],
                        "rope.dimension_count": int(c["head_dim"] * c["rope_parameters"]["partial_rotary_factor"]),
                        "expert_count": c["num_experts"], "expert_used_count": c["num_experts_per_tok"],
                        "expert_feed_forward_length": c["moe_intermediate_size"],
                        "expert_shared_feed_forward_length": c["shared_expert_intermediate_size"],
                        "ssm.conv_kernel": c["linear_conv_kernel_dim"], "ssm.state_size": dk, "ssm.group_count": hk,
                        "ssm.time_step_rank": hv, "ssm.inner_size": dv * hv, "full_attention_interval": 4,
                        "attention.recurrent_layers": [k == "linear_attention" for k in c["layer_types"]]}.items():
        converter.key(name, value)
    if turned:
        converter.key("rope.dimension_sections", [11, 11, 10, 0])
    put = converter.put
    put("token_embd.weight", t["model.embed_tokens.weight"])
    put("output_norm.weight", t["model.norm.weight"] + 1)
    put("output.weight", t["lm_head.weight"])
    for i, kind in enumerate(c["layer_types"]):
        p, b = f"model.layers.{i}.", f"blk.{i}."
        put(b + "attn_norm.weight", t[p + "input_layernorm.weight"] + 1)
        put(b + "post_attention_norm.weight", t[p + "post_attention_layernorm.weight"] + 1)
        converter.experts(i, p + "mlp.experts", {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"})
        put(b + "ffn_gate_inp.weight", t[p + "mlp.gate.weight"])
        put(b + "ffn_gate_inp_shexp.weight", t[p + "mlp.shared_expert_gate.weight"].reshape(-1))
        for part in ("gate", "up", "down"):
            put(f"{b}ffn_{part}_shexp.weight", t[f"{p}mlp.shared_expert.{part}_proj.weight"])
        if kind == "full_attention":
            for theirs, ours in {"q": "q", "k": "k", "v": "v", "o": "output"}.items():
                put(f"{b}attn_{ours}.weight", t[f"{p}self_attn.{theirs}_proj.weight"])
            for part in "qk":
                put(f"{b}attn_{part}_norm.weight", t[f"{p}self_attn.{part}_norm.weight"] + 1)
            continue
        p += "linear_attn."
        if turned:
            qkv, z = t[p + "in_proj_qkv.weight"], turn(t[p + "in_proj_z.weight"], 0, dv)
            qkv = np.concatenate([qkv[:2 * hk * dk], turn(qkv[2 * hk * dk:], 0, dv)])
            put(b + "ssm_beta.weight", turn(t[p + "in_proj_b.weight"], 0, 1))
            put(b + "ssm_alpha.weight", turn(t[p + "in_proj_a.weight"], 0, 1))
        else:
            r = hv // hk
            packed = t[p + "in_proj_qkvz.weight"].reshape(hk, 2 * dk + 2 * r * dv, -1)
            parts = np.split(packed, [dk, 2 * dk, 2 * dk + r * dv], axis=1)
            q, k, v, z = (part.reshape(-1, packed.shape[-1]) for part in parts)
            qkv = np.concatenate([q, k, v])
            put(b + "ssm_ba.weight", t[p + "in_proj_ba.weight"])
        put(b + "attn_qkv.weight", qkv)
        put(b + "attn_gate.weight", z)
        taps = t[p + "conv1d.weight"][:, 0]
        put(b + "ssm_conv1d.weight", np.concatenate([taps[:2 * hk * dk], turn(taps[2 * hk * dk:], 0, dv)]))
        put(b + "ssm_a", turn(-np.exp(t[p + "A_log"]), 0, 1))
        put(b + "ssm_dt.bias", turn(t[p + "dt_bias"], 0, 1))
        put(b + "ssm_norm.weight", t[p + "norm.weight"])
        put(b + "ssm_out.weight", turn(t[p + "out_proj.weight"], 1, dv))


def kimi(converter):
    c, t = converter.c, converter.t
    converter.common(c["rms_norm_eps"])
    converter.mla_keys()
    converter.deepseek_keys(c["mlp_layer_types"].count("dense"))
    converter.key("kda.head_dim", c["linear_head_dim"])
    converter.key("ssm.conv_kernel", c["linear_conv_kernel_dim"])
    converter.key("attention.head_count_kv", [int(k == "full_attention") for k in c["layer_types"]])
    converter.put("token_embd.weight", t["model.embed_tokens.weight"])
    converter.put("output_norm.weight", t["model.norm.weight"])
    converter.put("output.weight", t["lm_head.weight"])
    for i, kind in enumerate(c["layer_types"]):
        p, b, m = f"model.layers.{i}.", f"blk.{i}.", f"model.layers.{i}.block_sparse_moe."
        converter.put(b + "attn_norm.weight", t[p + "input_layernorm.weight"])
        converter.put(b + "ffn_norm.weight", t[p + "post_attention_layernorm.weight"])
        if c["mlp_layer_types"][i] == "dense":
            for part in ("gate", "up", "down"):
                converter.put(f"{b}ffn_{part}.weight", t[f"{m}{part}_proj.weight"])
        else:
            converter.deepseek_experts(i, m + "gate.weight", m + "gate.e_score_correction_bias", m + "experts",
                                       m + "shared_experts", {"w1": "gate", "w2": "down", "w3": "up"})
        if kind == "full_attention":
            converter.mla(i, p + "self_attn", "o_proj")
        else:
            low = {f"{x}_{y}_proj.weight": f"ssm_{x}_{y}.weight" for x in "fg" for y in "ab"}
            converter.kda(i, p + "self_attn", "o_proj", low, -np.exp(t[p + "self_attn.A_log"]))


def ling(converter):
    c, t = converter.c, converter.t
    converter.common(c["rms_norm_eps"])
    converter.mla_keys()
    converter.deepseek_keys(c["first_k_dense_replace"])
    for name, value in {"kda.head_dim": c["linear_head_dim"], "kda.safe_gate": True,
                        "kda.gate_lower_bound": float(c["kda_lower_bound"]),
                        "ssm.conv_kernel": c["short_conv_kernel_size"],
                        "expert_shared_feed_forward_length": c["moe_intermediate_size"] * c["num_shared_experts"],
                        "attention.head_count_kv": [int(k == "full_attention") for k in c["layer_types"]]}.items():
        converter.key(name, value)
    converter.put("token_embd.weight", t["model.word_embeddings.weight"])
    converter.put("output_norm.weight", t["model.norm.weight"])
    converter.put("output.weight", t["lm_head.weight"])
    for i, kind in enumerate(c["layer_types"]):
        p, b, m = f"model.layers.{i}.", f"blk.{i}.", f"model.layers.{i}.mlp."
        converter.put(b + "attn_norm.weight", t[p + "input_layernorm.weight"])
        converter.put(b + "ffn_norm.weight", t[p + "post_attention_layernorm.weight"])
        if c["mlp_layer_types"][i] == "dense":
            for part in ("gate", "up", "down"):
                converter.put(f"{b}ffn_{part}.weight", t[f"{m}{part}_proj.weight"])
        else:
            converter.deepseek_experts(i, m + "gate.weight", m + "gate.expert_bias", m + "experts",
                                       m + "shared_experts",
                                       {"gate_proj": "gate", "down_proj": "down", "up_proj": "up"})
        if kind == "full_attention":
            converter.mla(i, p + "attention", "dense")
            converter.put(b + "attn_gate.weight", t[p + "attention.g_proj.weight"])
        else:
            converter.kda(i, p + "attention", "dense",
                          {"f_proj.weight": "ssm_f_a.weight", "g_proj.weight": "ssm_g_a.weight"},
                          np.exp(t[p + "attention.A_log"]).reshape(-1, 1))


def lfm2(converter):
    c, t = converter.c, converter.t
    converter.common(c["norm_eps"])
    converter.count = c["num_experts"]
    for name, value in {"shortconv.l_cache": c["conv_L_cache"], "expert_count": c["num_experts"],
                        "expert_used_count": c["num_experts_per_tok"], "expert_gating_func": 2,
                        "expert_feed_forward_length": c["moe_intermediate_size"],
                        "leading_dense_block_count": c["num_dense_layers"],
                        "attention.head_count_kv": [c["num_key_value_heads"] if k == "full_attention" else 0
                                                    for k in c["layer_types"]]}.items():
        converter.key(name, value)
    put = converter.put
    put("token_embd.weight", t["model.embed_tokens.weight"])
    put("token_embd_norm.weight", t["model.embedding_norm.weight"])
    for i, kind in enumerate(c["layer_types"]):
        p, b = f"model.layers.{i}.", f"blk.{i}."
        put(b + "attn_norm.weight", t[p + "operator_norm.weight"])
        put(b + "ffn_norm.weight", t[p + "ffn_norm.weight"])
        f = p + "feed_forward."
        names = {"w1": "gate", "w2": "down", "w3": "up"}
        if i < c["num_dense_layers"]:
            for theirs, ours in names.items():
                put(f"{b}ffn_{ours}.weight", t[f"{f}{theirs}.weight"])
        else:
            put(b + "ffn_gate_inp.weight", t[f + "gate.weight"])
            put(b + "exp_probs_b.bias", t[f + "expert_bias"])
            converter.experts(i, f + "experts", names)
        if kind == "conv":
            put(b + "shortconv.conv.weight", t[p + "conv.conv.weight"][:, 0])
            for part in ("in_proj", "out_proj"):
                put(f"{b}shortconv.{part}.weight", t[f"{p}conv.{part}.weight"])
        else:
            for theirs, ours in {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "output",
                                 "q_layernorm": "q_norm", "k_layernorm": "k_norm"}.items():
                put(f"{b}attn_{ours}.weight", t[f"{p}self_attn.{theirs}.weight"])


def nemotron(converter):
    c, t, kinds = converter.c, converter.t, converter.c["layers_block_type"]
    converter.common(c["layer_norm_epsilon"])
    converter.count = c["n_routed_experts"]
    for name, value in {"attention.head_count_kv": [c["num_key_value_heads"] if k == "full_attention" else 0 for k in kinds],
                        "feed_forward_length": [c["moe_intermediate_size"] if k == "moe" else 0 for k in kinds],
                        "attention.key_length": c["head_dim"], "attention.value_length": c["head_dim"],
                        "ssm.conv_kernel": c["conv_kernel"], "ssm.state_size": c["ssm_state_size"],
                        "ssm.group_count": c["n_groups"], "ssm.time_step_rank": c["mamba_num_heads"],
                        "ssm.inner_size": c["mamba_num_heads"] * c["mamba_head_dim"],
                        "expert_count": c["n_routed_experts"], "expert_used_count": c["num_experts_per_tok"],
                        "expert_feed_forward_length": c["moe_intermediate_size"],
                        "expert_shared_feed_forward_length": c["moe_shared_expert_intermediate_size"],
                        "expert_shared_count": c["n_shared_experts"], "expert_weights_norm": c["norm_topk_prob"],
                        "expert_weights_scale": float(c["routed_scaling_factor"]), "expert_group_count": c["n_group"],
                        "moe_latent_size": c["moe_latent_size"]}.items():
        converter.key(name, value)
    put = converter.put
    put("token_embd.weight", t["backbone.embeddings.weight"])
    put("output_norm.weight", t["backbone.norm_f.weight"])
    put("output.weight", t["lm_head.weight"])
    for i, kind in enumerate(kinds):
        p, b = f"backbone.layers.{i}.mixer.", f"blk.{i}."
        put(b + "attn_norm.weight", t[f"backbone.layers.{i}.norm.weight"])
        if kind == "linear_attention":
            put(b + "ssm_in.weight", t[p + "in_proj.weight"])
            put(b + "ssm_conv1d.weight", t[p + "conv1d.weight"][:, 0])
            put(b + "ssm_conv1d.bias", t[p + "conv1d.bias"])
            put(b + "ssm_dt.bias", t[p + "dt_bias"])
            put(b + "ssm_a", -np.exp(t[p + "A_log"]).reshape(-1, 1))
            put(b + "ssm_d", t[p + "D"].reshape(-1, 1))
            put(b + "ssm_norm.weight", t[p + "norm.weight"].reshape(c["n_groups"], -1))
            put(b + "ssm_out.weight", t[p + "out_proj.weight"])
        elif kind == "full_attention":
            for theirs, ours in {"q": "q", "k": "k", "v": "v", "o": "output"}.items():
                put(f"{b}attn_{ours}.weight", t[f"{p}{theirs}_proj.weight"])
        else:
            put(b + "ffn_gate_inp.weight", t[p + "gate.weight"])
            put(b + "exp_probs_b.bias", t[p + "gate.e_score_correction_bias"])
            put(b + "ffn_latent_down.weight", t[p + "fc1_latent_proj.weight"])
            put(b + "ffn_latent_up.weight", t[p + "fc2_latent_proj.weight"])
            converter.experts(i, p + "experts", {"up_proj": "up", "down_proj": "down"})
            for part in ("up", "down"):
                put(f"{b}ffn_{part}_shexp.weight", t[f"{p}shared_experts.{part}_proj.weight"])


# name: (fixture, arch, steps)
TABLE = {
    "qwen3-next": ("qwen3-next", "qwen3next", lambda c: qwen(c, False)),
    "qwen3_5-moe": ("qwen3_5-moe", "qwen35moe", lambda c: qwen(c, True)),
    "kimi-linear": ("kimi-linear", "kimi-linear", kimi),
    "bailing-hybrid": ("bailing-hybrid", "bailingmoe3", ling),
    "lfm2-moe": ("lfm2-moe", "lfm2moe", lfm2),
    "nemotron-h": ("nemotron-h", "nemotron_h_moe", nemotron),
}


def main(data, *names):
    data = pathlib.Path(data)
    for name in names or TABLE:
        fixture, arch, steps = TABLE[name]
        folder = places.place(data, name, "gguf")
        folder.mkdir(exist_ok=True)
        config = json.loads((data / fixture / "base" / "config.json").read_text())
        converter = Converter(config, read(data / fixture / "base" / "model.safetensors"), arch)
        steps(converter)
        writer = gguf.GGUFWriter(folder / "model.gguf", arch)
        writer.add_string("tokenizer.ggml.model", "no_vocab")
        for key, value in converter.keys.items():
            full = f"{arch}.{key}"
            if isinstance(value, bool):
                writer.add_bool(full, value)
            elif isinstance(value, list):
                writer.add_array(full, value)
            elif isinstance(value, float):
                writer.add_float32(full, value)
            else:
                writer.add_uint32(full, value)
        for tensor, values in converter.out.items():
            writer.add_tensor(tensor, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        expected = read(data / fixture / "base" / "expected.safetensors")
        write(folder / "expected.safetensors", {k: v for k, v in expected.items() if not k.startswith("grad.")})


if __name__ == "__main__":
    main(*sys.argv[1:])
