"""Heads for multi-token prediction: the fixtures of some families with a head, and what transformers' MtpModel (the
drafter of generate(use_mtp=True)) makes of a text by it.

usage: prediction.py DATA OUT [NAME...]

DATA holds the families' own fixtures (FAMILY/base), whose config.json is taken. OUT/FAMILY/mtp gets config.json, model.safetensors
(a model of the same sizes and the head, under the names of published files) and expected.safetensors: input_ids [B,T],
logits [B,T,V] of the model, head_logits [B,T-1,V] of the head, whose row j has read the tokens up to j + 1 and says
which comes after.
"""
import json
import pathlib
import sys
import tempfile

import torch
from reference import draw_ids, fresh, scatter
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import MtpCache
from transformers.modeling_layers import MtpModel

FAMILIES = {
    "deepseek-v3": {},
    "glm4-moe": {},
    "mellum": {"num_mtp_layers": 1, "mtp_layer_types": ["sliding_attention"], "mtp_mlp_layer_types": ["sparse"]},
    "bailing-hybrid": {"mtp_layer_types": ["full_attention"], "mtp_mlp_layer_types": ["sparse"]},
}
MTP_FOLDER = {"mellum"}  # whose head lies under mtp.*, not after the last layer


def config_of(text, layers, changes):
    settings = {key: value for key, value in text.items() if value is not None}
    settings.update(num_hidden_layers=layers, **changes)
    model_type = settings.pop("model_type")
    for key in ("layer_types", "mlp_layer_types"):
        own = "mtp_" + key
        if settings.get(key) and layers > text["num_hidden_layers"]:
            settings[key] = settings[key] + (changes.get(own) or settings[key][-1:])
    config = AutoConfig.for_model(model_type, **settings)
    config._attn_implementation = "eager"
    return config


def make(name, data, out):
    text = json.loads((data / name / "base" / "config.json").read_text())
    changes, layers = FAMILIES[name], text["num_hidden_layers"]
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    donor = AutoModelForCausalLM.from_config(config_of(text, layers + 1, changes), dtype=torch.float32).eval()
    scatter(donor, generator)
    model = AutoModelForCausalLM.from_config(config_of(text, layers, changes), dtype=torch.float32).eval()
    whole = donor.state_dict()
    model.load_state_dict({key: whole[key] for key in model.state_dict()})
    head = MtpModel(model, 1).eval()
    scatter(head.layers, generator)
    block = f"model.layers.{layers}."
    head.layers[0].mtp_block.load_state_dict(
        {key[len(block):]: value for key, value in whole.items() if key.startswith(block)})

    folder = fresh(out / name / "mtp")
    with tempfile.TemporaryDirectory() as saved:
        donor.save_pretrained(saved)
        tensors = load_file(pathlib.Path(saved) / "model.safetensors")
    in_mtp = name in MTP_FOLDER
    after = "mtp.layers.0." if in_mtp else block
    tensors = {after + key[len(block):] if key.startswith(block) else key: value for key, value in tensors.items()}
    own = head.layers[0].state_dict()
    names = {"enorm.weight": "mtp.pre_fc_norm_embedding.weight", "hnorm.weight": "mtp.pre_fc_norm_hidden.weight",
             "eh_proj.weight": "mtp.fc.weight", "post_norm.weight": "mtp.norm.weight"} if in_mtp else \
            {"enorm.weight": block + "enorm.weight", "hnorm.weight": block + "hnorm.weight",
             "eh_proj.weight": block + "eh_proj.weight", "post_norm.weight": block + "shared_head.norm.weight"}
    for key, in_file in names.items():
        tensors[in_file] = own[key]
    model.config.save_pretrained(folder)
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "model.safetensors",
              metadata={"format": "pt"})

    ids = draw_ids(text["vocab_size"], 2, 40, 5)
    with torch.no_grad():
        result = model(ids, use_cache=False, output_hidden_states=True)
        rows = []
        for b in range(len(ids)):
            cache = MtpCache(config=model.config.get_mtp_config())
            positions = torch.arange(1, ids.shape[1])[None]
            hidden = head.forward_layer(0, result.hidden_states[-1][b:b + 1, :-1], positions, cache,
                                        input_ids=ids[b:b + 1, 1:])
            rows.append(head._project_to_logits(hidden))
    save_file({"input_ids": ids.contiguous(), "logits": result.logits.contiguous(),
               "head_logits": torch.cat(rows).contiguous()}, folder / "expected.safetensors")
    for file in folder.iterdir():
        file.chmod(0o644)
    print(name, sum(file.stat().st_size for file in folder.iterdir()), "bytes")


if __name__ == "__main__":
    for each in sys.argv[3:] or FAMILIES:
        make(each, pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
