#!/usr/bin/env python3
"""Makes tests/parity/adapters: tiny models of transformers with adapters of the peft library over them.

A folder holds the model (config.json, model.safetensors), what peft saved (adapter/), and in adapted.safetensors
`input_ids` [B,T] i64 and `logits` [B,T,V] f32 of the model with the adapter, float32, eager attention. A folder of a
name that ends in -gguf holds model.gguf in the model's place, as llama.cpp's converter writes it: the adapter is still
one of the folder.

usage: adapters.py OUT [NAME...] [--converter FOLDER]
Needs torch==2.9.1 transformers==5.23.0 peft==0.21.2 safetensors; 5.24.0 for the families of 2026. Seeds come from the
names. For the converter see converted.py.
"""
import argparse
import pathlib
import zlib

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
MOE = dict(num_local_experts=4, num_experts_per_tok=2)
DELTA = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=16,
             head_dim=16, linear_num_key_heads=2, linear_num_value_heads=6, linear_key_head_dim=8,
             linear_value_head_dim=8, layer_types=["linear_attention", "full_attention"])
CASES = {
    "mixtral": ("mixtral", MOE, dict(target_modules=ALL[:4], target_parameters=EXPERTS + ["mlp.gate.weight"])),
    "mixtral-down": ("mixtral", MOE, dict(target_modules=["k_proj"], target_parameters=EXPERTS[1:])),
    "mixtral-gate-up": ("mixtral", MOE, dict(target_modules=["k_proj"], target_parameters=EXPERTS[:1])),
    # peft turns the projections that experts had in transformers 4 into the parameters of 5, with patterns of rank and alpha.
    "mixtral-patterns": ("mixtral", MOE, dict(target_modules=["q_proj", "w1", "w2", "w3"])),
    "qwen2-moe": ("qwen2_moe", dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24,
                                    shared_expert_intermediate_size=40),
                  dict(target_modules=ALL, target_parameters=EXPERTS)),
    "llama-dora": ("llama", {}, dict(target_modules=ALL, use_dora=True)),
    "qwen2-dora-rslora": ("qwen2", {}, dict(target_modules=["q_proj", "v_proj", "down_proj"], use_dora=True,
                                            use_rslora=True)),
    "llama-ranks": ("llama", {}, dict(target_modules=ALL, rank_pattern={"q_proj": 2})),
    "phi3": ("phi3", {}, dict(target_modules=["qkv_proj", "gate_up_proj", "o_proj", "down_proj"])),
    "gpt-oss": ("gpt_oss", dict(MOE, head_dim=8, sliding_window=16),
                dict(target_modules=["q_proj", "o_proj"], target_parameters=EXPERTS)),
    "deepseek-v3": ("deepseek_v3", dict(n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1,
                                        moe_intermediate_size=24, first_k_dense_replace=1, q_lora_rank=12,
                                        kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8,
                                        n_shared_experts=1),
                    dict(target_modules=["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj"],
                         target_parameters=EXPERTS)),
    # Projections whose rows lie by key head, and heads that GGUF has in another order.
    "qwen3-next": ("qwen3_next", dict(DELTA, decoder_sparse_step=1), dict(target_modules=["in_proj_qkvz", "in_proj_ba",
                                                                                        "out_proj", "q_proj"])),
    "qwen3_5-moe-gguf": ("qwen3_5_moe_text", DELTA, dict(target_modules=["in_proj_qkv", "in_proj_z", "in_proj_b",
                                                                        "in_proj_a", "out_proj", "q_proj", "k_proj"])),
    "llama-gguf": ("llama", {}, dict(target_modules=ALL)),
    # Rotary pairs side by side in the folder, too.
    "ernie4_5-moe": ("ernie4_5_moe", dict(moe_num_experts=4, moe_k=2, moe_intermediate_size=24,
                                          moe_num_shared_experts=1, moe_layer_start_index=1, moe_layer_end_index=1),
                     dict(target_modules=ALL[:4])),
}


def to_gguf(folder, converter, more):
    """The model as the converter writes it, in the folder's place."""
    import converted
    converted.write_byte_bpe(folder)
    converted.convert(folder, folder / "model.gguf", converter, "f32", *more)
    for file in folder.iterdir():
        if file.is_file() and file.suffix != ".gguf":
            file.unlink()


def make(folder, model_type, config, lora, converter):
    common = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=4 if model_type == "deepseek_v3" else 2, max_position_embeddings=64,
                  pad_token_id=None, bos_token_id=1, eos_token_id=2, attn_implementation="eager")
    torch.manual_seed(zlib.crc32(folder.name.encode()))
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **common, **config), dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.15)
    model.eval().save_pretrained(folder)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, task_type="CAUSAL_LM", **lora))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
            if "magnitude" in name:
                parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    adapted.eval().save_pretrained(folder / "adapter")
    (folder / "adapter" / "README.md").unlink(missing_ok=True)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if folder.name.endswith("-gguf"):
        to_gguf(folder, converter, ["--no-mtp"] if model_type.startswith("qwen3_5") else [])
    ids = torch.randint(0, 96, (2, 13))
    with torch.no_grad():
        logits = adapted(ids).logits
    save_file({"input_ids": ids, "logits": logits.contiguous()}, folder / "adapted.safetensors")
    print(folder.name, sum(p.numel() for p in adapted.parameters() if p.requires_grad), "parameters")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("names", nargs="*", default=list(CASES))
    parser.add_argument("--converter", type=pathlib.Path, help="a source folder of llama.cpp, for -gguf")
    arguments = parser.parse_args()
    for name in arguments.names or CASES:
        if name.endswith("-gguf") and not arguments.converter:
            raise SystemExit(f"{name} needs --converter")
        make(arguments.out / name, *CASES[name], arguments.converter)
