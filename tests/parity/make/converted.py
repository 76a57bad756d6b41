#!/usr/bin/env python3
"""Makes tests/parity/data/*/gguf*: what llama.cpp's converter writes for a checkpoint, with what the reference
computes for that checkpoint.

usage: converted.py OUT CONVERTER [NAME...]
CONVERTER is a llama.cpp source folder (convert_hf_to_gguf.py, conversion/, gguf-py/), which is not part of this
repository. Needs torch, transformers, safetensors, sentencepiece, tokenizers; see README.md for the versions.
"""
import math
import pathlib
import runpy
import shutil
import sys
import tempfile
import zlib

import torch

import places
import reference

TEXT = """the quick brown fox jumps over the lazy dog. pack my box with five dozen liquor jugs; how vexingly quick
daft zebras jump! sphinx of black quartz, judge my vow. 0123456789 THE FIVE BOXING WIZARDS JUMP QUICKLY (at dawn)."""
VOCABULARY = 96
SMALL = dict(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0)


def rope(kind, **rest):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=rest.pop("theta", 10000.0), **rest))


MIXTRAL = dict(num_local_experts=4, num_experts_per_tok=2, intermediate_size=20)
QWEN3_MOE = dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=12, head_dim=16, norm_topk_prob=True)
MAMBA = dict(state_size=8, intermediate_size=64)
GRANITE = dict(num_hidden_layers=3, layer_types=["mamba", "attention", "mamba"], num_local_experts=4,
               num_experts_per_tok=2, shared_intermediate_size=24, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=16,
               embedding_multiplier=6.0, logits_scaling=4.0, residual_multiplier=0.4, attention_multiplier=0.2)
GRANITE_MOE = dict(num_local_experts=4, num_experts_per_tok=2, intermediate_size=20, embedding_multiplier=6.0,
                   logits_scaling=4.0, residual_multiplier=0.4, attention_multiplier=0.2)
# GGUF knows the scale of Gemma's scores by the width of a head.
GEMMA = dict(head_dim=16, query_pre_attn_scalar=16, sliding_window=6)


# The one magnitude that the converter writes for a context of 128 and an original one of 32.
PHIMOE_MAGNITUDE = (1 + math.log(128 / 32) / math.log(32)) ** 0.5


def longrope(pairs):
    return rope("longrope", short_factor=[1 + 0.1 * i for i in range(pairs)],
                long_factor=[1.5 + 0.7 * i for i in range(pairs)])


DEEPSEEK = dict(n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=1, moe_intermediate_size=12,
                first_k_dense_replace=1, q_lora_rank=16, kv_lora_rank=24, qk_nope_head_dim=12, qk_rope_head_dim=8,
                v_head_dim=10, num_key_value_heads=4)
GLM4 = dict(n_routed_experts=6, num_experts_per_tok=2, n_shared_experts=1, moe_intermediate_size=12,
            first_k_dense_replace=1, head_dim=16, n_group=1, topk_group=1, num_nextn_predict_layers=0)
DOTS1 = dict(n_routed_experts=6, num_experts_per_tok=2, n_shared_experts=2, moe_intermediate_size=12,
             first_k_dense_replace=1)
FULL, SLIDE = "full_attention", "sliding_attention"
EXPERTS = dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=12, head_dim=16)
LOCAL = dict(num_local_experts=4, num_experts_per_tok=2, intermediate_size=20)
# name: (model_type, settings, the converter's --outtype)
TABLE = {
    "glm4-moe-lite": ("glm4_moe_lite", dict({k: v for k, v in DEEPSEEK.items() if k != "first_k_dense_replace"}, num_hidden_layers=3, n_group=2, topk_group=1), "bf16"),
    "minimax-m2": ("minimax_m2", dict(LOCAL, head_dim=12, rotary_dim=6, rope_parameters=dict(rope_type="default", rope_theta=5e6, partial_rotary_factor=0.5)), "bf16"),
    "ernie4-5-moe": ("ernie4_5_moe", dict(moe_num_experts=6, moe_k=2, moe_intermediate_size=12, moe_num_shared_experts=2, num_hidden_layers=3), "bf16"),
    "mellum": ("mellum", dict(EXPERTS, num_hidden_layers=3, sliding_window=6, layer_types=[SLIDE, FULL, SLIDE], rope_parameters={FULL: dict(rope_type="default", rope_theta=5000.0), SLIDE: dict(rope_type="default", rope_theta=300.0)}), "bf16"),
    "exaone-moe": ("exaone_moe", dict(EXPERTS, num_hidden_layers=4, sliding_window=6, num_shared_experts=2), "bf16"),
    "solar-open": ("solar_open", dict(n_routed_experts=6, num_experts_per_tok=2, n_shared_experts=1, moe_intermediate_size=12, head_dim=16, n_group=1, topk_group=1, attention_bias=True), "bf16"),
    "hy-v3": ("hy_v3", dict(EXPERTS, num_shared_experts=1), "bf16"),
    "granitemoe-swa": ("granitemoe_swa", dict(LOCAL, num_hidden_layers=5, sliding_window=6, layer_rope_theta=[0, 10000, 10000, 10000, 0], shared_intermediate_size=24, embedding_multiplier=6.0, logits_scaling=4.0, residual_multiplier=0.4, attention_multiplier=0.2), "bf16"),
    "dbrx": ("dbrx", dict(d_model=32, n_heads=4, n_layers=2, max_seq_len=256, attn_config=dict(kv_n_heads=2, clip_qkv=0.8, rope_theta=10000.0), ffn_config=dict(ffn_hidden_size=20, moe_num_experts=6, moe_top_k=3)), "bf16"),
    "bailingmoe2": ("sarvam_moe", dict(n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=1, moe_intermediate_size=12, first_k_dense_replace=1, head_dim=8, num_hidden_layers=3, n_group=4, topk_group=2, rope_parameters=dict(rope_type="default", rope_theta=5000.0, partial_rotary_factor=0.5)), "bf16"),
    # chunks and periods of 8192 are in llama.cpp's code: nothing of a short prompt is cut
    "llama4": ("llama4_text", dict(LOCAL, num_hidden_layers=4, num_experts_per_tok=1, head_dim=8, intermediate_size_mlp=40, interleave_moe_layer_step=2), "bf16"),
    "gemma2": ("gemma2", dict(GEMMA, attn_logit_softcapping=5.0, final_logit_softcapping=30.0), "bf16"),
    "gemma3": ("gemma3_text", dict(GEMMA, num_hidden_layers=7), "bf16"),
    "phi3": ("phi3", dict(sliding_window=7), "bf16"),
    "phi3-longrope-long": ("phi3", dict(num_key_value_heads=4, max_position_embeddings=128, original_max_position_embeddings=12, **longrope(4)), "f16"),
    "phi3-longrope-short": ("phi3", dict(hidden_size=64, partial_rotary_factor=0.5, max_position_embeddings=128, original_max_position_embeddings=64, **longrope(4)), "f32"),
    "olmo2": ("olmo2", dict(), "f16"),
    "gpt-oss": ("gpt_oss", dict(num_local_experts=4, num_experts_per_tok=2, intermediate_size=20, head_dim=16, sliding_window=6), "bf16"),
    "phimoe": ("phimoe", dict(num_local_experts=4, num_experts_per_tok=2, intermediate_size=20, attention_bias=True, lm_head_bias=True, max_position_embeddings=128, **rope("longrope", theta=10000.0, short_factor=[1.0, 1.1, 1.2, 1.3], long_factor=[1.5, 2.2, 2.9, 3.6], short_mscale=PHIMOE_MAGNITUDE, long_mscale=PHIMOE_MAGNITUDE, original_max_position_embeddings=32)), "bf16"),
    "granite": ("granite", dict(embedding_multiplier=6.0, logits_scaling=4.0, residual_multiplier=0.4, attention_multiplier=0.2), "bf16"),
    "granitemoe": ("granitemoe", GRANITE_MOE, "f16"),
    "granitemoeshared": ("granitemoeshared", dict(GRANITE_MOE, shared_intermediate_size=24), "bf16"),
    "llama": ("llama", dict(tie_word_embeddings=True), "f32"),
    "llama-biases": ("llama", dict(attention_bias=True, num_hidden_layers=1), "f16"),
    "llama3-rope": ("llama", dict(head_dim=16, **rope("llama3", theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)), "bf16"),
    "llama-linear": ("llama", dict(num_hidden_layers=1, **rope("linear", factor=2.5)), "bf16"),
    "mistral": ("mistral", dict(sliding_window=None, head_dim=12), "f16"),
    "mixtral": ("mixtral", dict(MIXTRAL, head_dim=8), "f16"),
    "qwen2": ("qwen2", dict(tie_word_embeddings=True), "f32"),
    "qwen2-yarn": ("qwen2", dict(num_attention_heads=2, num_key_value_heads=1, **rope("yarn", theta=1000000.0, factor=4.0, original_max_position_embeddings=32)), "bf16"),
    "qwen3": ("qwen3", dict(head_dim=16), "f16"),
    "qwen2-moe": ("qwen2_moe", dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12, shared_expert_intermediate_size=24), "f16"),
    "qwen3-moe": ("qwen3_moe", QWEN3_MOE, "bf16"),
    # Of state-space models none from f16: there the converter takes exp(A_log) in f16.
    "mamba": ("mamba", dict(MAMBA), "f32"),
    "falcon-mamba": ("falcon_mamba", dict(MAMBA), "bf16"),
    "mamba2": ("mamba2", dict(state_size=16, head_dim=16, num_heads=4, n_groups=2, intermediate_size=64), "bf16"),
    "jamba": ("jamba", dict(num_hidden_layers=3, num_experts=4, num_experts_per_tok=2, expert_layer_period=2, expert_layer_offset=1, attn_layer_period=3, attn_layer_offset=1, mamba_d_state=8), "bf16"),
    "granite-hybrid": ("granitemoehybrid", GRANITE, "bf16"),
    "granite-hybrid-dense": ("granitemoehybrid", dict(GRANITE, num_local_experts=0, num_experts_per_tok=0, mamba_n_groups=2), "f32"),
    "deepseek2": ("deepseek_v2", dict(DEEPSEEK, q_lora_rank=None, n_shared_experts=2, **rope("yarn", factor=4.0, original_max_position_embeddings=32, mscale=0.707, mscale_all_dim=0.707)), "f16"),
    "deepseek2-groups": ("deepseek_v2", dict(DEEPSEEK, topk_method="group_limited_greedy", n_group=4, topk_group=2, routed_scaling_factor=3.0), "bf16"),
    "deepseek2-v3": ("deepseek_v3", dict(DEEPSEEK, n_group=4, topk_group=2, **rope("yarn", factor=8.0, original_max_position_embeddings=32, mscale=1.0, mscale_all_dim=1.0)), "f32"),
    "glm4-moe": ("glm4_moe", dict(GLM4, use_qk_norm=True), "f16"),
    "glm4-moe-plain": ("glm4_moe", dict(GLM4, attention_bias=True, n_group=2, topk_group=1, routed_scaling_factor=2.5, norm_topk_prob=False), "f32"),
    "dots1": ("dots1", dict(DOTS1, norm_topk_prob=True, n_group=2, topk_group=1, routed_scaling_factor=2.5, sliding_window=None), "bf16"),
    "olmoe": ("olmoe", dict(num_experts=6, num_experts_per_tok=2, intermediate_size=12, num_key_value_heads=4), "f16"),
}


def write_sentencepiece(folder):
    import sentencepiece
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(TEXT.split(".") * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "tokenizer"), model_type="bpe", vocab_size=VOCABULARY - 4,
        pad_id=0, bos_id=1, eos_id=2, unk_id=3, hard_vocab_limit=False, minloglevel=2)
    corpus.unlink()
    (folder / "tokenizer.vocab").unlink()


SPECIAL = ["<pad>", "<s>", "</s>"]
GLM_SPECIAL = ["[gMASK]", "<|user|>", "<|endoftext|>", "<|observation|>"]  # what the converter asks of GLM's


def write_byte_bpe(folder, special=SPECIAL):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY - 4, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXT.split(".") * 20, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>").save_pretrained(folder)


def in_old_words(config):
    """The converter knows published configs, not all of transformers 5's words."""
    if config["model_type"] == "phimoe":
        config["architectures"] = ["PhiMoEForCausalLM"]
    if "layer_types" in config and config["model_type"] == "granitemoehybrid":
        words = {"linear_attention": "mamba", "full_attention": "attention"}
        config["layer_types"] = [words[kind] for kind in config["layer_types"]]
    # transformers knows it from the model_type; the published config says it.
    if config["model_type"] in ("deepseek_v3", "dots1", "glm4_moe_lite", "minimax_m2", "exaone_moe", "solar_open"):
        config["scoring_func"] = "sigmoid"
    if config["model_type"] == "granitemoe_swa":
        config["no_rope_layers"] = [int(theta > 0) for theta in config["layer_rope_theta"]]
    if config["model_type"] == "sarvam_moe":
        config.update(model_type="bailing_moe", architectures=["BailingMoeV2ForCausalLM"], score_function="sigmoid",
                      num_experts=config.pop("n_routed_experts"), num_shared_experts=config.pop("n_shared_experts"))
    if config["model_type"] == "solar_open":
        config.update(num_experts=config["n_routed_experts"], first_k_dense_replace=0, partial_rotary_factor=1.0)
    if config["model_type"] == "llama4_text":
        config["architectures"] = ["Llama4ForCausalLM"]


def convert(checkpoint, gguf_file, converter, outtype, *more):
    """Runs the converter in this process: it recognises byte-level tokenizers by a hash of what they answer, and the
    tiny one is not on its list."""
    sys.path.insert(0, str(converter))
    from conversion import ModelBase, TextModel
    for owner in (ModelBase, TextModel):
        if "get_vocab_base_pre" in vars(owner):
            owner.get_vocab_base_pre = lambda self, tokenizer: "qwen2"
    arguments = sys.argv
    sys.argv = ["convert_hf_to_gguf.py", str(checkpoint), "--outfile", str(gguf_file), "--outtype", outtype, *more]
    try:
        runpy.run_path(str(converter / "convert_hf_to_gguf.py"), run_name="__main__")
    finally:
        sys.argv = arguments


def make(out, converter, name, model_type, settings, outtype, seed):
    folder = reference.fresh(places.place(out, name, "gguf"))
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch) / "tiny"   # the converter writes the folder's name into the file
        scratch.mkdir()
        model = reference.build(model_type, {**SMALL, **settings}, seed)
        # bfloat16 weights below float16's normal range would change in float16
        model.to(torch.bfloat16 if outtype != "f16" else torch.float16).save_pretrained(scratch)
        if model_type in ("glm4_moe", "glm4_moe_lite"):
            write_byte_bpe(scratch, SPECIAL + GLM_SPECIAL)
        elif model_type == "solar_open":
            write_byte_bpe(scratch, SPECIAL + ["<|endoftext|>", "<unk>", "<|startoftext|>"])
        else:
            (write_sentencepiece if model_type in ("llama", "mistral", "mixtral", "jamba", "gemma2", "gemma3_text", "phi3", "phimoe", "ernie4_5_moe") else write_byte_bpe)(scratch)
        ids = reference.draw_ids(VOCABULARY, 2, 40 if "yarn" in name or "deepseek" in name else 16, seed)
        result = reference.expect(scratch, ids)
        shutil.move(scratch / "expected.safetensors", folder)
        reference.edit_config(scratch, in_old_words)
        convert(scratch, folder / "model.gguf", converter, outtype)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1024
    print(f"{folder.name:34s} {size:6.0f} kB  loss {result.loss.item():8.4f}  logit std {result.logits.std():.3f}", flush=True)


def main():
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    out, converter, names = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve(), sys.argv[3:]
    for name, entry in TABLE.items():
        if not names or name in names:
            reference.until_decisive(lambda seed: make(out, converter, name, *entry, seed), zlib.crc32(name.encode()) % 100000)


if __name__ == "__main__":
    main()
