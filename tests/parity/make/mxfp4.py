#!/usr/bin/env python3
"""Makes tests/parity/data/gpt-oss/mxfp4 and gpt-oss/gguf-mxfp4: a gpt-oss whose experts are published as
MXFP4, nibbles (*_blocks) apart from exponents (*_scales), and the same as llama.cpp's converter repacks it. The logits
are those of the checkpoint as transformers dequantises it.

usage: mxfp4.py OUT CONVERTER      (needs what converted.py needs)
"""
import pathlib
import shutil
import sys
import tempfile
import zlib

import torch
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

import converted
import reference

SETTINGS = dict(vocab_size=converted.VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_local_experts=4, num_experts_per_tok=2,
                sliding_window=6, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0)


def draw(experts, rows, cols, generator):
    """Random nibbles, and exponents that make rows of about unit gain (127 is one)."""
    blocks = torch.randint(0, 256, (experts, rows, cols // 32, 16), generator=generator, dtype=torch.uint8)
    scales = torch.randint(121, 125, (experts, rows, cols // 32), generator=generator, dtype=torch.uint8)
    return blocks, scales


def make(out, converter, seed):
    generator = torch.Generator().manual_seed(seed)
    model = reference.build("gpt_oss", SETTINGS, seed).to(torch.bfloat16)
    packed = {}
    for index, layer in enumerate(model.model.layers):
        experts, prefix = layer.mlp.experts, f"model.layers.{index}.mlp.experts."
        for name in ("gate_up_proj", "down_proj"):
            count, cols, rows = getattr(experts, name).shape   # held as inputs times outputs
            blocks, scales = draw(count, rows, cols, generator)
            packed[f"{prefix}{name}_blocks"], packed[f"{prefix}{name}_scales"] = blocks, scales
            getattr(experts, name).data = convert_moe_packed_tensors(blocks, scales).contiguous()
    folder = reference.fresh(out / "gpt-oss" / "mxfp4")
    gguf_folder = reference.fresh(out / "gpt-oss" / "gguf-mxfp4")
    with tempfile.TemporaryDirectory() as scratch:
        plain = pathlib.Path(scratch) / "plain"
        model.save_pretrained(plain)
        ids = reference.draw_ids(converted.VOCABULARY, 2, 24, seed)
        result = reference.expect(plain, ids)
        tiny = pathlib.Path(scratch) / "tiny"
        tiny.mkdir()
        tensors = {name: value for name, value in load_file(plain / "model.safetensors").items()
                   if not name.endswith(("gate_up_proj", "down_proj"))}
        save_file({**tensors, **packed}, tiny / "model.safetensors", metadata={"format": "pt"})
        shutil.copy(plain / "config.json", tiny)
        reference.edit_config(tiny, lambda config: config.update(
            quantization_config=dict(quant_method="mxfp4", modules_to_not_convert=["model.layers.*.self_attn",
                                                                                   "model.layers.*.mlp.router",
                                                                                   "model.embed_tokens", "lm_head"])))
        for file in ("model.safetensors", "config.json"):
            shutil.copy(tiny / file, folder)
        for target in (folder, gguf_folder):
            shutil.copy(plain / "expected.safetensors", target)
        converted.write_byte_bpe(tiny)
        converted.convert(tiny, gguf_folder / "model.gguf", converter, "bf16")
    for target in (folder, gguf_folder):
        for file in target.iterdir():
            file.chmod(0o644)
    print(f"loss {result.loss.item():8.4f}  logit std {result.logits.std():.3f}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    reference.until_decisive(lambda seed: make(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve(), seed),
                             zlib.crc32(b"gpt-oss-mxfp4") % 100000)
