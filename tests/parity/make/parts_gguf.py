#!/usr/bin/env python3
"""Makes tests/parity/data/FAMILY/gguf of families of parts.py: what llama.cpp's converter writes for one of their
fixtures, with what is expected of that.

usage: parts_gguf.py DATA CONVERTER [FAMILY...]     (CONVERTER as for converted.py, and the same needs)
"""
import json
import pathlib
import runpy
import shutil
import sys
import tempfile

from safetensors.torch import load_file, save_file

import converted
import reference

FULL, SLIDE = "full_attention", "sliding_attention"


def published_mimo(config):
    slides = [int(kind == SLIDE) for kind in config["layer_types"]]
    config.pop("rope_parameters")
    config.update(hybrid_layer_pattern=slides, swa_num_key_value_heads=2 * config["num_key_value_heads"],
                  swa_head_dim=config["head_dim"], swa_v_head_dim=config["v_head_dim"],
                  swa_num_attention_heads=config["num_attention_heads"], rope_theta=5e6, swa_rope_theta=1e4,
                  partial_rotary_factor=0.334, layernorm_epsilon=1e-5, topk_method="noaux_tc", scoring_func="sigmoid")


def with_scoring(config):
    config["scoring_func"] = "sigmoid"


# family: (the case it is made of, a change to its config.json, arguments of the converter)
TABLE = {
    "gemma4": ("published", None, []),
    "mimo-v2-flash": ("plain", published_mimo, ["--no-mtp"]),
    "step3p5": ("published", None, []),
    "deepseek-v32": ("plain", with_scoring, []),
    "glm-moe-dsa": ("base", with_scoring, []),
}


def main():
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    data, converter, names = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve(), sys.argv[3:]
    sys.path.insert(0, str(converter))
    from conversion import ModelBase, TextModel
    from conversion.deepseek import DeepseekV32Model
    from conversion.gemma import Gemma4Model
    for owner in (ModelBase, TextModel):
        if "get_vocab_base_pre" in vars(owner):
            owner.get_vocab_base_pre = lambda self, tokenizer: "qwen2"
    for owner in (DeepseekV32Model, Gemma4Model):  # which ask for tokenizers of their own
        owner.set_vocab = lambda self: self._set_vocab_gpt2()
    # As the file has it: transformers would rename published keys.
    ModelBase.load_hparams = staticmethod(lambda folder, *_, **__: json.loads((folder / "config.json").read_text()))
    converted.VOCABULARY, converted.TEXT = 68, "the quick brown fox. jumps over the lazy dog."
    for family, (case, change, arguments) in TABLE.items():
        if names and family not in names:
            continue
        folder = reference.fresh(data / family / "gguf")
        with tempfile.TemporaryDirectory() as scratch:
            scratch = pathlib.Path(scratch) / "tiny"  # the converter writes the folder's name into the file
            shutil.copytree(data / family / case, scratch)
            expected = load_file(scratch / "expected.safetensors")
            (scratch / "expected.safetensors").unlink()
            save_file({name: value for name, value in expected.items() if not name.startswith("grad.")},
                      folder / "expected.safetensors")
            converted.write_byte_bpe(scratch, converted.SPECIAL + converted.GLM_SPECIAL)
            if change:
                reference.edit_config(scratch, change)
            kept = sys.argv
            sys.argv = ["convert_hf_to_gguf.py", str(scratch), "--outfile", str(folder / "model.gguf"), "--outtype",
                        "bf16", *arguments]
            try:
                runpy.run_path(str(converter / "convert_hf_to_gguf.py"), run_name="__main__")
            finally:
                sys.argv = kept
        print(f"{family}/gguf {sum(file.stat().st_size for file in folder.iterdir()) / 1024:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
