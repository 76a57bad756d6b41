#!/usr/bin/env python3
"""Makes tests/parity/data/FAMILY/* of the families that are a known one with other flags, and of the text models of
multimodal checkpoints, as extra.py makes the others.

usage: flags.py OUT [NAME...]      (needs torch, transformers 5.24, safetensors; see README.md for the versions)
"""
import pathlib
import sys
import zlib

import torch
import transformers

from safetensors.torch import load_file, save_file

import extra
import places
import reference
from extra import both, drop, old_rope, rope

FULL, SLIDE = "full_attention", "sliding_attention"
MOE = dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=16)
LOCAL = dict(num_local_experts=6, num_experts_per_tok=2, intermediate_size=20)
DEEPSEEK = dict(n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=1, moe_intermediate_size=16, n_group=1,
                topk_group=1)
MLA = dict(DEEPSEEK, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=12, num_key_value_heads=4,
           q_lora_rank=20)
ERNIE = dict(moe_num_experts=6, moe_k=2, moe_intermediate_size=16, moe_num_shared_experts=1)
JETMOE = dict(num_local_experts=5, num_experts_per_tok=2, num_key_value_heads=2, kv_channels=12, intermediate_size=20,
              num_attention_heads=4)
DBRX = dict(d_model=32, n_heads=4, n_layers=2, max_seq_len=256)
SARVAM = dict(DEEPSEEK, num_hidden_layers=3, head_dim=12, first_k_dense_replace=1)


def put(**keys):
    return lambda config: config.update(keys)


def ling(config):
    """transformers reads Ling 2.0's tensors as sarvam_moe; the config by its own keys."""
    words = dict(n_routed_experts="num_experts", n_shared_experts="num_shared_experts", attention_bias="use_qkv_bias")
    for theirs, own in words.items():
        config[own] = config.pop(theirs)
    scaling = config.pop("rope_parameters")
    config.update(model_type="bailing_moe_v2", architectures=["BailingMoeV2ForCausalLM"], score_function="sigmoid",
                  partial_rotary_factor=scaling["partial_rotary_factor"], rope_theta=scaling["rope_theta"],
                  use_bias=False, moe_router_enable_expert_bias=True, router_dtype="fp32",
                  num_nextn_predict_layers=config.pop("num_nextn_predict_layers", 0))


def kimi_k2(config):
    config.update(model_type="kimi_k2", scoring_func="sigmoid", topk_method="noaux_tc", moe_layer_freq=1,
                  num_nextn_predict_layers=0)


# name: as in extra.py; `after`: a change to config.json once the reference has been asked
TABLE = {
    "glm4-moe-lite-groups": ("glm4_moe_lite", dict(MLA, num_hidden_layers=3, n_group=4, topk_group=2, q_lora_rank=None, attention_bias=True, tie_word_embeddings=True, mlp_layer_types=["sparse", "dense", "sparse"], routed_scaling_factor=2.5), {}),
    "glm4-moe-lite-yarn": ("glm4_moe_lite", dict(MLA, n_shared_experts=2, norm_topk_prob=False, rope_interleave=False, **rope("yarn", factor=4.0, original_max_position_embeddings=16, mscale=1.0, mscale_all_dim=0.7)), dict(length=50, config=drop("mlp_layer_types"))),
    "kimi-k2": ("deepseek_v3", dict(MLA, first_k_dense_replace=1, n_shared_experts=1, routed_scaling_factor=2.8, **rope("yarn", theta=50000.0, factor=4.0, original_max_position_embeddings=16, beta_fast=1.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0)), dict(length=40, config=old_rope("type"), after=kimi_k2)),
    "minimax-m2-published": ("minimax_m2", dict(LOCAL, head_dim=12, num_key_value_heads=1, rotary_dim=6, output_router_logits=True, router_aux_loss_coef=0.4), dict(config=both(old_rope(), drop("partial_rotary_factor"), put(rotary_dim=6)), after=put(use_qk_norm=True, qk_norm_type="per_layer", scoring_func="sigmoid", use_routing_bias=True, attn_type_list=[1, 1], shared_intermediate_size=0, use_mtp=True, num_mtp_modules=3, mtp_transformer_layers=1))),
    "minimax-m2-whole-heads": ("minimax_m2", dict(LOCAL, head_dim=8, num_experts_per_tok=1, tie_word_embeddings=True, **rope("yarn", factor=4.0, original_max_position_embeddings=16)), dict(length=40)),
    "ernie4-5-moe-biases": ("ernie4_5_moe", dict(ERNIE, use_bias=True, tie_word_embeddings=False, moe_num_shared_experts=2, output_router_logits=True, router_aux_loss_coef=0.3), {}),
    "ernie4-5-moe-floor": ("ernie4_5_moe", dict(ERNIE, num_hidden_layers=5, moe_layer_interval=2, moe_layer_start_index=1, moe_layer_end_index=3, moe_num_shared_experts=0, moe_norm_min=0.9, moe_k=1), dict(config=old_rope())),
    "mellum-yarn": ("mellum", dict(MOE, num_hidden_layers=3, head_dim=12, sliding_window=5, layer_types=[SLIDE, FULL, SLIDE], mlp_layer_types=["dense", "sparse", "sparse"], norm_topk_prob=False, attention_bias=True, tie_word_embeddings=True, output_router_logits=True, router_aux_loss_coef=0.5, rope_parameters={FULL: dict(rope_type="yarn", rope_theta=5000.0, factor=4.0, original_max_position_embeddings=16), SLIDE: dict(rope_type="default", rope_theta=300.0)}), dict(length=40)),
    "mellum-defaults": ("mellum", dict(MOE, head_dim=8), dict(config=drop("rope_parameters", "layer_types", "mlp_layer_types", "sliding_window"))),
    "exaone-moe-groups": ("exaone_moe", dict(MOE, num_experts=8, num_hidden_layers=5, head_dim=12, sliding_window=6, n_group=4, topk_group=2, num_shared_experts=2, norm_topk_prob=False, tie_word_embeddings=True, sliding_window_pattern=2), dict(length=32, config=drop("layer_types", "mlp_layer_types", "routed_scaling_factor"))),
    "exaone-moe-no-positions": ("exaone_moe", dict(MOE, num_hidden_layers=2, head_dim=8, sliding_window=6, layer_types=[FULL, FULL], mlp_layer_types=["sparse", "dense"], **rope("llama3", theta=5000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)), dict(length=32)),
    "solar-open": ("solar_open", dict(DEEPSEEK, head_dim=12, n_group=2, topk_group=1, routed_scaling_factor=1.7, attention_bias=True), {}),
    "solar-open-tied": ("solar_open", dict(DEEPSEEK, head_dim=16, n_shared_experts=2, norm_topk_prob=False, tie_word_embeddings=True, **rope("yarn", factor=4.0, original_max_position_embeddings=16)), dict(length=40, config=drop("n_group", "topk_group"))),
    "hy-v3-biases": ("hy_v3", dict(MOE, num_hidden_layers=3, head_dim=12, attention_bias=True, mlp_bias=True, num_shared_experts=2, mlp_layer_types=["sparse", "dense", "sparse"], router_scaling_factor=1.3, tie_word_embeddings=True), {}),
    "hy-v3-defaults": ("hy_v3", dict(MOE, head_dim=8, num_experts_per_tok=1), dict(config=drop("mlp_layer_types", "router_scaling_factor", "rope_parameters"))),
    "granitemoe-swa-multipliers": ("granitemoe_swa", dict(LOCAL, num_hidden_layers=5, sliding_window=5, layer_rope_theta=[500.0, 0, 20000.0, 500.0, 0], shared_intermediate_size=24, embedding_multiplier=6.0, logits_scaling=4.0, residual_multiplier=0.4, attention_multiplier=0.2, attention_bias=True, output_router_logits=True, router_aux_loss_coef=0.3), dict(length=32, config=drop("layer_types"))),
    "granitemoe-swa-every-layer-full": ("granitemoe_swa", dict(LOCAL, num_key_value_heads=1, layer_types=[FULL, FULL], tie_word_embeddings=True, attention_multiplier=0.35, **rope("linear", factor=2.0)), {}),
    "flex-olmo-norm": ("flex_olmo", dict(num_experts=6, num_experts_per_tok=3, intermediate_size=20, num_key_value_heads=1, norm_topk_prob=True, attention_bias=True, tie_word_embeddings=True, output_router_logits=True, router_aux_loss_coef=0.3), {}),
    "hunyuan-moe-alpha": ("hunyuan_v1_moe", dict(num_experts=6, num_hidden_layers=2, moe_topk=[3, 1], intermediate_size=20, head_dim=12, attention_bias=True, tie_word_embeddings=True, rope_parameters=dict(rope_type="dynamic", rope_theta=10000.0, alpha=50.0, factor=1.0)), dict(after=put(use_mixed_mlp_moe=True, use_qk_norm=True, num_shared_expert=[1, 1], moe_intermediate_size=[20, 20], use_cla=False, attention_head_dim=12))),
    "hunyuan-moe-dynamic": ("hunyuan_v1_moe", dict(num_experts=4, moe_topk=2, intermediate_size=20, head_dim=8, max_position_embeddings=16, **rope("dynamic", factor=2.0)), dict(length=33)),
    "llama4-top2": ("llama4_text", dict(LOCAL, num_hidden_layers=4, head_dim=8, intermediate_size_mlp=40, interleave_moe_layer_step=2, attention_chunk_size=5, no_rope_layer_interval=2, floor_scale=4, attn_scale=0.3, attention_bias=True), dict(length=32, config=drop("moe_layers", "no_rope_layers", "layer_types"))),
    "llama4-no-norms": ("llama4_text", dict(LOCAL, num_hidden_layers=3, num_experts_per_tok=1, head_dim=8, intermediate_size_mlp=40, moe_layers=[1], use_qk_norm=False, attn_temperature_tuning=False, attention_chunk_size=None, no_rope_layers=[0, 1, 1], tie_word_embeddings=True, **rope("llama3", theta=5000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)), dict(length=32)),
    "llama4-vl": ("llama4_text", dict(LOCAL, num_hidden_layers=2, num_experts_per_tok=1, head_dim=8, attention_chunk_size=8), dict(wrap="llama4")),
    "jetmoe-top3": ("jetmoe", dict(JETMOE, num_experts_per_tok=3, num_attention_heads=6, tie_word_embeddings=False, output_router_logits=True, aux_loss_coef=0.2), {}),
    "jetmoe-top1": ("jetmoe", dict(JETMOE, num_experts_per_tok=1, num_attention_heads=2, kv_channels=8, activation_function="gelu", rms_norm_eps=1e-3), dict(batch=3, length=17)),
    "dbrx": ("dbrx", dict(DBRX, attn_config=dict(kv_n_heads=2, clip_qkv=0.8, rope_theta=10000.0), ffn_config=dict(ffn_hidden_size=20, moe_num_experts=6, moe_top_k=3), output_router_logits=True), dict(config=drop("intermediate_size"))),
    "dbrx-plain-weights": ("dbrx", dict(DBRX, n_layers=1, attn_config=dict(kv_n_heads=1, clip_qkv=2.0, rope_theta=10000.0), ffn_config=dict(ffn_hidden_size=17, moe_num_experts=4, moe_top_k=2, moe_normalize_expert_weights=None, ffn_act_fn=dict(name="gelu"))), dict(batch=3, length=19, config=drop("intermediate_size"))),
    "bailing-moe-v2": ("sarvam_moe", dict(SARVAM, num_key_value_heads=1, n_group=4, topk_group=2, rope_parameters=dict(rope_type="default", rope_theta=5000.0, partial_rotary_factor=0.5)), dict(after=ling)),
    "bailing-moe-v2-biases": ("sarvam_moe", dict(SARVAM, n_shared_experts=2, routed_scaling_factor=1.6, attention_bias=True, rope_parameters=dict(rope_type="default", rope_theta=5000.0, partial_rotary_factor=1.0)), dict(after=both(ling, put(model_type="bailing_moe")))),
    "sarvam-moe": ("sarvam_moe", dict(SARVAM, n_group=2, topk_group=1, tie_word_embeddings=True), {}),
    "sarvam-mla": ("sarvam_mla", {**MLA, "q_lora_rank": None, "first_k_dense_replace": 1, **rope("yarn", factor=4.0, original_max_position_embeddings=16, mscale=1.0, mscale_all_dim=1.0)}, dict(length=40)),
}

VISION = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=32, num_position_embeddings=16,
              deepstack_visual_indexes=[0])
TEXT = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=256)
MROPE = dict(rope_type="default", rope_theta=10000.0, mrope_section=[4, 2, 2], mrope_interleaved=True)
AUDIO = dict(d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16, output_dim=32,
             num_mel_bins=16, downsample_hidden_size=8)
def in_published_order(tensors):
    """Qwen3-VL's stacks of experts as its files have them."""
    return {name: tensor.transpose(1, 2).contiguous() if ".mlp.experts." in name else tensor
            for name, tensor in tensors.items()}


def in_published_words(tensors):
    """transformers 5.24 writes Kimi's text layers under the image encoder's word."""
    return {name.replace("language_model.model.blocks.", "language_model.model.layers."): tensor
            for name, tensor in tensors.items()}


# name: (class, settings, changes to config.json and to the tensors once the reference has been asked)
MULTIMODAL = {
    "qwen3-vl-moe": ("Qwen3VLMoeForConditionalGeneration", dict(text_config=dict(TEXT, **MOE, head_dim=16, mlp_only_layers=[0], rope_parameters=MROPE), vision_config=VISION), None, None),
    "qwen3-vl-moe-published": ("Qwen3VLMoeForConditionalGeneration", dict(text_config=dict(TEXT, **{**MOE, "moe_intermediate_size": 32}, head_dim=16, attention_bias=True, rope_parameters=MROPE), vision_config=VISION, tie_word_embeddings=True), None, in_published_order),
    "qwen3-omni-moe": ("Qwen3OmniMoeThinkerForConditionalGeneration", dict(text_config=dict(TEXT, **MOE, head_dim=16, norm_topk_prob=False, rope_parameters=MROPE), vision_config=VISION, audio_config=AUDIO), None, None),
    "kimi-k25": ("Kimi_K25ForConditionalGeneration", dict(text_config=dict(TEXT, **MLA, model_type="deepseek_v3", first_k_dense_replace=1), vision_config=dict(num_attention_heads=2, num_hidden_layers=1, hidden_size=16, intermediate_size=16, pos_emb_height=4, pos_emb_width=4), projection_hidden_size=64, tie_word_embeddings=False), lambda config: config["text_config"].update(model_type="kimi_k2"), in_published_words),
}


def make_multimodal(out, name, owner, settings, config_after, tensors_after, seed):
    folder = reference.fresh(places.place(out, name))
    torch.manual_seed(seed)
    owner = getattr(transformers, owner)
    config = owner.config_class(**settings)
    config._attn_implementation = "eager"
    model = owner(config).eval()
    reference.scatter(model, torch.Generator().manual_seed(seed))
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    ids = reference.draw_ids(settings["text_config"]["vocab_size"], 2, 24, seed)
    result = reference.expect(folder, ids, owner=owner)
    if config_after:
        reference.edit_config(folder, config_after)
    if tensors_after:
        file = folder / "model.safetensors"
        save_file(tensors_after(load_file(file)), file, {"format": "pt"})
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1024
    print(f"{name:34s} {size:6.0f} kB  loss {result.loss.item():8.4f}  logit std {result.logits.std():.3f}", flush=True)


def wrap(folder, model_type):
    """The text model as a part of a multimodal checkpoint, for classes that transformers 5.24 cannot run whole."""
    tensors = {"language_model." + name: tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors["vision_model.class_embedding"] = torch.zeros(4)
    tensors["multi_modal_projector.linear_1.weight"] = torch.zeros(4, 4)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    def change(config):
        text = dict(config)
        config.clear()
        config.update(model_type=model_type, text_config=text, vision_config={}, tie_word_embeddings=False)
    reference.edit_config(folder, change)


def make(out, name, model_type, overrides, how, seed):
    extra.make(out, name, model_type, overrides, how, seed)
    if "wrap" in how:
        wrap(places.place(out, name), how["wrap"])
    if "after" in how:
        reference.edit_config(places.place(out, name), how["after"])


def main():
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    out, names = pathlib.Path(sys.argv[1]), sys.argv[2:]
    unknown = set(names) - set(TABLE) - set(MULTIMODAL)
    if unknown:
        raise SystemExit(f"no entry called {', '.join(sorted(unknown))}")
    for table, maker in ((TABLE, make), (MULTIMODAL, make_multimodal)):
        for name, entry in table.items():
            if not names or name in names:
                first = zlib.crc32(name.encode()) % 100000
                reference.until_decisive(lambda seed: maker(out, name, *entry, seed), first)


if __name__ == "__main__":
    main()
