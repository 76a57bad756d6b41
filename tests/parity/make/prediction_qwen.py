#!/usr/bin/env python3
"""The fixture of Qwen3.5 with its head for multi-token prediction, which transformers does not run: the head in NumPy,
float64 throughout, on the model of linear_exact.py. What reads it is that of the papers and of llama.cpp's graph: the
token's embedding and the model's state after the final norm, each normed by its own (1 + w), projected by mtp.fc, then
one layer of full attention and experts, mtp.norm and the model's head.

usage: prediction_qwen.py DATA OUT        needs numpy and gguf (for linear_gguf.py)

DATA holds the fixture qwen3_5-moe/base; OUT/qwen3_5-moe/mtp gets the files that prediction.py describes.
"""
import json
import pathlib
import shutil
import sys

import numpy as np

from linear_exact import attention, linear_attention, mixture, rms
from linear_gguf import read, write

NAME, PREFIX = "qwen3_5-moe", "model.layers."


def block(c, t, p, x, kind):
    eps = c["rms_norm_eps"]
    h = rms(x, t[p + "input_layernorm.weight"] + 1, eps)
    x = x + (linear_attention(c, t, p + "linear_attn.", h) if kind == "linear_attention"
             else attention(c, t, p + "self_attn.", h))
    return x + mixture(c, t, p + "mlp.", rms(x, t[p + "post_attention_layernorm.weight"] + 1, eps))


def draw_head(tensors, layers):
    """A layer like the model's last, and what is the head's own."""
    random, last = np.random.default_rng(11), f"{PREFIX}{layers - 1}."
    shapes = {"mtp.layers.0." + key[len(last):]: value.shape for key, value in tensors.items() if key.startswith(last)}
    width = tensors["model.norm.weight"].shape[0]
    shapes |= {"mtp.fc.weight": (width, 2 * width)}
    shapes |= {f"mtp.{each}.weight": (width,) for each in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm")}
    return {key: (0.2 * random.standard_normal(shape) if len(shape) == 1
                  else random.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)
            for key, shape in sorted(shapes.items())}


def main(data, out):
    source, folder = pathlib.Path(data) / NAME / "base", pathlib.Path(out) / NAME / "mtp"
    c, tensors = json.loads((source / "config.json").read_text()), read(source / "model.safetensors")
    c["mtp_num_hidden_layers"] = 1
    tensors |= draw_head(tensors, c["num_hidden_layers"])
    t, eps = {k: v.astype(np.float64) for k, v in tensors.items()}, c["rms_norm_eps"]
    ids = read(source / "expected.safetensors")["input_ids"]
    logits, of_head = [], []
    for row in ids:
        x = t["model.embed_tokens.weight"][row]
        for i, kind in enumerate(c["layer_types"]):
            x = block(c, t, f"{PREFIX}{i}.", x, kind)
        x = rms(x, t["model.norm.weight"] + 1, eps)
        logits.append(x @ t["lm_head.weight"].T)
        both = np.concatenate([
            rms(t["model.embed_tokens.weight"][row[1:]], t["mtp.pre_fc_norm_embedding.weight"] + 1, eps),
            rms(x[:-1], t["mtp.pre_fc_norm_hidden.weight"] + 1, eps)], axis=1)
        h = block(c, t, "mtp.layers.0.", both @ t["mtp.fc.weight"].T, "full_attention")
        of_head.append(rms(h, t["mtp.norm.weight"] + 1, eps) @ t["lm_head.weight"].T)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(c, indent=2, sort_keys=True) + "\n")
    write(folder / "model.safetensors", tensors)
    write(folder / "expected.safetensors", {"input_ids": ids, "logits": np.array(logits, np.float32),
                                            "head_logits": np.array(of_head, np.float32)})


if __name__ == "__main__":
    main(*sys.argv[1:])
