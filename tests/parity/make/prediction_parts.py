#!/usr/bin/env python3
"""The fixtures of MiMo-V2-Flash and Nemotron 3 with their heads for multi-token prediction, which transformers leaves
out: what stands around the head's layers is written here after the publishers' own code (SGLang's
mimo_v2_flash_nextn.py, TensorRT-LLM's modeling_nemotron_h.py), the layers are transformers', as a model of these layers
alone that reads what the head's projection made.

usage: prediction_parts.py DATA OUT

DATA holds the families' own fixtures (FAMILY/base), whose config.json is taken; OUT/FAMILY/mtp gets the files that
prediction.py describes.
"""
import json
import pathlib
import sys
import tempfile

import torch
from reference import draw_ids, fresh, scatter
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

EPS = {"mimo-v2-flash": "rms_norm_eps", "nemotron-h": "layer_norm_epsilon"}
# Of the head's layers: what differs from the model's config, and how a folder calls them.
HEADS = {
    "mimo-v2-flash": (dict(num_hidden_layers=1, layer_types=["sliding_attention"], mlp_layer_types=["dense"]),
                      {"model.layers.0.post_attention_layernorm.": "model.mtp.layers.0.pre_mlp_layernorm.",
                       "model.layers.0.": "model.mtp.layers.0.", "model.norm.": "model.mtp.layers.0.final_layernorm."},
                      "model.mtp.layers.0."),
    "nemotron-h": (dict(layers_block_type=["full_attention", "moe"]),
                   {"backbone.layers.": "mtp.layers.", "model.layers.": "mtp.layers.",
                    "backbone.norm_f.": "mtp.layers.1.final_layernorm.",
                    "model.norm_f.": "mtp.layers.1.final_layernorm."},
                   "mtp.layers.0."),
}


def build(text, **changes):
    settings = {key: value for key, value in text.items() if key not in ("architectures", "time_step_limit")}
    settings.update(changes)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    config._attn_implementation = "eager"
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def saved(model):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(pathlib.Path(folder) / "model.safetensors")


def rms(x, weight, eps):
    return weight * x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)


def make(name, data, out):
    text = json.loads((data / name / "base" / "config.json").read_text())
    changes, names, first = HEADS[name]
    if name == "nemotron-h":
        text["num_nextn_predict_layers"] = 1
    eps, width = text[EPS[name]], text["hidden_size"]
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    model, head = build(text), build(text, **changes)
    scatter(model, generator), scatter(head, generator)
    # The embedding and the output embeddings are the model's.
    head.get_output_embeddings().weight = model.get_output_embeddings().weight
    own = {"enorm": 1 + 0.2 * torch.randn(width, generator=generator),
           "hnorm": 1 + 0.2 * torch.randn(width, generator=generator),
           "eh_proj": torch.randn(width, 2 * width, generator=generator) * (2 * width) ** -0.5}
    tensors = saved(model)
    of_model = set(tensors)
    for key, value in saved(head).items():
        for ours, theirs in names.items():
            if key.startswith(ours):
                tensors[theirs + key[len(ours):]] = value
                break
        else:
            assert key in of_model, key
    tensors.update({f"{first}{key}.weight": value for key, value in own.items()})
    folder = fresh(out / name / "mtp")
    model.config.save_pretrained(folder)
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "model.safetensors",
              metadata={"format": "pt"})

    ids = draw_ids(text["vocab_size"], 2, 40, 5)
    before = []
    base = model.base_model
    norm = base.norm if hasattr(base, "norm") else base.norm_f
    norm.register_forward_pre_hook(lambda _, inputs: before.append(inputs[0]))
    with torch.no_grad():
        result = model(ids, use_cache=False, output_hidden_states=True)
        state = before[0] if name == "mimo-v2-flash" else result.hidden_states[-1]
        embedded = model.get_input_embeddings()(ids)
        both = torch.cat([rms(embedded[:, 1:], own["enorm"], eps), rms(state[:, :-1], own["hnorm"], eps)], -1)
        of_head = head(inputs_embeds=both @ own["eh_proj"].T, use_cache=False).logits
    save_file({"input_ids": ids.contiguous(), "logits": result.logits.contiguous(),
               "head_logits": of_head.contiguous()}, folder / "expected.safetensors")
    for file in folder.iterdir():
        file.chmod(0o644)
    print(name, sorted(set(tensors) - of_model), sum(file.stat().st_size for file in folder.iterdir()), "bytes")


if __name__ == "__main__":
    for each in HEADS:
        make(each, pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
