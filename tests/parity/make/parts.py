#!/usr/bin/env python3
"""Makes fixtures of families that have parts of their own (Gemma 4's block, heads by kind of layer, experts without
weights, lightning attention, indexers), and of dense kin of linear families; and, as `FAMILY/long`, 320 tokens of every
family whose attention has windows, chunks or an indexer, or whose mixers have states. All is computed in float64 and
rounded: a delta rule in float32 is 1e-4 off.

usage: parts.py OUT [FAMILY/CASE...]           (needs torch, transformers 5.24, safetensors; see README.md for the versions)
       parts.py DATA --exact FAMILY/CASE...   exact.safetensors of fixtures of the table that float32 reference made
"""
import contextlib
import pathlib
import sys
import zlib

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

import reference
from extra import both, drop, old_rope, rope

FULL, SLIDE, LINEAR = "full_attention", "sliding_attention", "linear_attention"
SMALL = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=640, bos_token_id=1, eos_token_id=2, pad_token_id=0)
MOE = dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=16)
LOCAL = dict(num_local_experts=6, num_experts_per_tok=2, intermediate_size=20)
ROUTED = dict(n_routed_experts=8, num_experts_per_tok=3, moe_intermediate_size=16)
DEEPSEEK = dict(ROUTED, n_shared_experts=1, n_group=1, topk_group=1)
MLA = dict(kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=12, num_key_value_heads=4,
           q_lora_rank=20)
GEMMA4 = dict(head_dim=8, global_head_dim=16, num_global_key_value_heads=1, hidden_size_per_layer_input=0,
              vocab_size_per_layer_input=0, sliding_window=6, layer_types=[SLIDE, FULL, SLIDE, FULL])
GEMMA4_MOE = dict(GEMMA4, attention_k_eq_v=True, enable_moe_block=True, num_experts=6, top_k_experts=2,
                  moe_intermediate_size=16, final_logit_softcapping=20.0)
MIMO = dict(ROUTED, head_dim=12, v_head_dim=8, sliding_window=5, num_key_value_heads=1)
LONGCAT = dict(MLA, num_hidden_layers=None, intermediate_size=None, num_layers=2, ffn_hidden_size=40, moe_topk=3,
               n_routed_experts=6, zero_expert_num=3, expert_ffn_hidden_size=16, head_dim=4)
MINIMAX = dict(LOCAL, head_dim=8)
INDEX = dict(MLA, **DEEPSEEK, index_topk=8, index_head_dim=8, index_n_heads=12, first_k_dense_replace=1)
GDN = dict(linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8,
           head_dim=8)
STEP = dict(SMALL, n_routed_experts=6, num_experts_per_tok=2, moe_intermediate_size=16, share_expert_dim=16,
            head_dim=8, sliding_window=6, num_sliding_attention_heads=6, layer_types=[FULL, SLIDE, SLIDE, FULL],
            mlp_layer_types=["dense", "sparse", "sparse", "dense"], swiglu_limits=[0.0, 1.0, 0.0, 0.0],
            swiglu_limits_shared=[1.0, 0.0, 1.2, 0.0], moe_router_scaling_factor=1.7)
STEP_VISION = dict(width=16, layers=1, heads=2, image_size=28, patch_size=14, max_position_embeddings=4)


def put(**keys):
    return lambda config: config.update(keys)


def published_gemma4(config):
    config.pop("per_layer_config")
    config.update(global_head_dim=16, num_global_key_value_heads=1)


def published_step(config):
    text = config["text_config"]
    config.clear()
    config.update(text)
    scaling = config.pop("rope_parameters")
    kinds = config["layer_types"]
    config.pop("per_layer_config"), config.pop("num_sliding_attention_heads"), config.pop("mlp_layer_types")
    config.update(model_type="step3p5", architectures=["Step3p5ForCausalLM"], moe_layers_enum="1,2",
                  rope_theta=[scaling[kind]["rope_theta"] for kind in kinds],
                  partial_rotary_factors=[scaling[kind].get("partial_rotary_factor", 1.0) for kind in kinds],
                  attention_other_setting=dict(attention_type=SLIDE, num_attention_heads=6, num_attention_groups=2,
                                               head_dim=8),
                  num_attention_groups=config.pop("num_key_value_heads"), moe_num_experts=config.pop("n_routed_experts"),
                  moe_top_k=config.pop("num_experts_per_tok"), num_nextn_predict_layers=0, use_head_wise_attn_gate=True,
                  moe_router_activation="sigmoid", use_moe_router_bias=True, norm_expert_weight=True)


STEP_ROPE = {FULL: dict(rope_type="default", rope_theta=5e6, partial_rotary_factor=0.5),
             SLIDE: dict(rope_type="default", rope_theta=1e4)}
# name: (model_type or class, settings, how: length, config: a change to config.json, gradients)
TABLE = {
    "gemma4/moe": ("gemma4_text", GEMMA4_MOE, dict(gradients=True, config=published_gemma4)),
    "gemma4/published": ("gemma4_text", GEMMA4_MOE, dict(config=put(global_head_dim=16, num_global_key_value_heads=1))),
    "gemma4/dense": ("gemma4_text", dict(GEMMA4, attention_bias=True, tie_word_embeddings=False, hidden_activation="gelu", num_global_key_value_heads=None), dict(length=33)),
    "gemma4/every-layer-full": ("gemma4_text", dict(GEMMA4_MOE, attention_k_eq_v=False, layer_types=[FULL] * 3, num_hidden_layers=3, final_logit_softcapping=None, rope_parameters={FULL: dict(rope_type="proportional", rope_theta=500.0, partial_rotary_factor=0.6)}), {}),
    "mimo-v2-flash/biases": ("mimo_v2_flash", dict(MIMO, attention_bias=True, n_group=4, topk_group=2, norm_topk_prob=False, routed_scaling_factor=1.6, layer_types=[SLIDE, FULL, FULL, SLIDE], mlp_layer_types=["sparse", "dense", "sparse", "sparse"], attention_value_scale=None), dict(length=30, gradients=True)),
    "mimo-v2-flash/defaults": ("mimo_v2_flash", dict(MIMO, num_hidden_layers=7, tie_word_embeddings=True), dict(config=drop("layer_types", "mlp_layer_types", "rope_parameters", "attention_value_scale"))),
    "mimo-v2-flash/plain": ("mimo_v2_flash", dict(MIMO, num_hidden_layers=6, head_dim=24), {}),
    "longcat-flash/yarn": ("longcat_flash", dict(LONGCAT, attention_bias=True, routed_scaling_factor=2.5, tie_word_embeddings=True, **rope("yarn", theta=1e4, factor=4.0, original_max_position_embeddings=16, mscale=1.0, mscale_all_dim=1.0)), dict(length=40, gradients=True)),
    "longcat-flash/no-identity": ("longcat_flash", dict(LONGCAT, zero_expert_num=0, num_layers=1), {}),
    "minimax/factors": ("minimax", dict(MINIMAX, full_attn_alpha_factor=1.4, full_attn_beta_factor=0.7, linear_attn_alpha_factor=1.2, linear_attn_beta_factor=0.9, mlp_alpha_factor=0.8, mlp_beta_factor=1.3, layer_types=[LINEAR, LINEAR, FULL, LINEAR], tie_word_embeddings=True, block_size=16), dict(length=40, gradients=True)),
    "minimax/window": ("minimax", dict(MINIMAX, num_hidden_layers=3, sliding_window=5, hidden_act="relu", block_size=8), dict(config=drop("layer_types"))),
    "step3p5/step3p7": ("Step3p7ForConditionalGeneration", dict(text_config=dict(STEP, rope_parameters=STEP_ROPE), vision_config=STEP_VISION), dict(gradients=True)),
    "step3p5/published": ("Step3p7ForConditionalGeneration", dict(text_config=dict(STEP, rope_parameters=STEP_ROPE), vision_config=STEP_VISION), dict(config=published_step, text=True, length=33)),
    "deepseek-v32/plain": ("deepseek_v32", dict(INDEX, num_hidden_layers=3, index_topk=5, n_group=4, topk_group=2, **rope("yarn", factor=4.0, original_max_position_embeddings=16, mscale=1.0, mscale_all_dim=1.0)), dict(length=40, gradients=True)),
    "glm-moe-dsa/base": ("glm_moe_dsa", dict(INDEX, num_hidden_layers=5, indexer_types=["full", "full", "shared", "full", "shared"]), dict(length=30, gradients=True)),
    "glm-moe-dsa/wide": ("glm_moe_dsa", dict(INDEX, index_topk=64, attention_bias=True, tie_word_embeddings=True, n_shared_experts=2), dict(config=drop("indexer_types", "layer_types"))),
    "qwen3_5/base": ("qwen3_5_text", dict(GDN), dict(gradients=True)),
    "lfm2/base": ("lfm2", dict(layer_types=["conv", FULL, "conv", FULL], block_auto_adjust_ff_dim=False), dict(gradients=True)),
    # windows, chunks, indexers and states over 320 tokens
    "gemma4/long": ("gemma4_text", GEMMA4_MOE, dict(length=320)),
    "mimo-v2-flash/long": ("mimo_v2_flash", dict(MIMO, sliding_window=129), dict(length=320)),
    "minimax/long": ("minimax", dict(MINIMAX, block_size=64), dict(length=320)),
    "step3p5/long": ("Step3p7ForConditionalGeneration", dict(text_config=dict(STEP, sliding_window=50, rope_parameters=STEP_ROPE), vision_config=STEP_VISION), dict(length=320)),
    "deepseek-v32/long": ("deepseek_v32", dict(INDEX, index_topk=100), dict(length=320)),
    "glm-moe-dsa/long": ("glm_moe_dsa", dict(INDEX, index_topk=40, indexer_types=["full", "shared", "full", "shared"]), dict(length=320)),
    "qwen3-next/long": ("qwen3_next", dict(GDN, **MOE, shared_expert_intermediate_size=16), dict(length=320)),
    "qwen3_5-moe/long": ("qwen3_5_moe_text", dict(GDN, **MOE, shared_expert_intermediate_size=16), dict(length=320)),
    "kimi-linear/long": ("kimi_linear", dict(MLA, **{k: v for k, v in DEEPSEEK.items() if k != "n_routed_experts"}, num_experts=8, linear_head_dim=8, linear_num_heads=4, q_lora_rank=None, layer_types=[LINEAR, FULL, LINEAR, FULL]), dict(length=320)),
    "bailing-hybrid/long": ("bailing_hybrid", dict(MLA, **{k: v for k, v in DEEPSEEK.items() if k != "n_routed_experts"}, num_experts=8, head_dim=8, layer_group_size=2, first_k_dense_replace=1), dict(length=320)),
    "lfm2-moe/long": ("lfm2_moe", dict(MOE, num_dense_layers=1, layer_types=["conv", FULL, "conv", FULL]), dict(length=320)),
    "nemotron-h/latent-bias": ("nemotron_h", dict(num_hidden_layers=None, layers_block_type=[LINEAR, "moe", FULL, "mlp"], head_dim=8, mamba_num_heads=4, mamba_head_dim=8, n_groups=2, ssm_state_size=8, n_routed_experts=6, num_experts_per_tok=2, moe_intermediate_size=16, moe_shared_expert_intermediate_size=16, moe_latent_size=24, mlp_bias=True), dict(gradients=True)),
    "nemotron-h/long": ("nemotron_h", dict(num_hidden_layers=None, layers_block_type=[LINEAR, "moe", FULL, "moe"], head_dim=8, mamba_num_heads=4, mamba_head_dim=8, n_groups=2, ssm_state_size=8, n_routed_experts=6, num_experts_per_tok=2, moe_intermediate_size=16, moe_shared_expert_intermediate_size=16), dict(length=320)),
    "afmoe/long": ("afmoe", dict(MOE, head_dim=8, num_dense_layers=1, num_shared_experts=1, global_attn_every_n_layers=2, sliding_window=50), dict(length=320)),
    "laguna/softcap": ("laguna", dict(MOE, head_dim=8, shared_expert_intermediate_size=16, layer_types=[FULL, SLIDE] * 2, num_attention_heads_per_layer=[4, 6, 4, 6], sliding_window=5, moe_router_logit_softcapping=0.7), dict(gradients=True)),
    "laguna/long": ("laguna", dict(MOE, head_dim=8, shared_expert_intermediate_size=16, layer_types=[FULL, SLIDE] * 2, num_attention_heads_per_layer=[4, 6, 4, 6], sliding_window=50), dict(length=320)),
    "mellum/long": ("mellum", dict(MOE, head_dim=8, layer_types=[FULL, SLIDE] * 2, sliding_window=50), dict(length=320)),
    "exaone-moe/long": ("exaone_moe", dict(MOE, sliding_window=50), dict(length=320)),
    "granitemoe-swa/long": ("granitemoe_swa", dict(LOCAL, sliding_window=50, layer_rope_theta=[0, 1e4, 1e4, 1e4]), dict(length=320)),
    "llama4/long": ("llama4_text", dict(LOCAL, num_experts_per_tok=1, head_dim=8, intermediate_size_mlp=40, attention_chunk_size=64), dict(length=320)),
}


@contextlib.contextmanager
def doubles():
    """Keeps what is in float64 in float64: transformers goes to float32 in norms, softmax, routers and delta rules
    whatever the model is in, and linear attention amplifies what that rounds."""
    kept = torch.Tensor.float, torch.Tensor.to, torch.nn.functional.softmax, torch.softmax, torch.Tensor.softmax, \
        torch.Tensor.type

    def as_float(tensor, *rest, **more):
        return tensor if tensor.dtype == torch.float64 else kept[0](tensor, *rest, **more)

    def to(tensor, *rest, **more):
        if tensor.dtype == torch.float64:
            rest = tuple(torch.float64 if one is torch.float32 else one for one in rest)
            if more.get("dtype") is torch.float32:
                more["dtype"] = torch.float64
        return kept[1](tensor, *rest, **more)

    def wide(softmax):
        def run(tensor, *rest, **more):
            if tensor.dtype == torch.float64 and more.get("dtype") is torch.float32:
                more["dtype"] = torch.float64
            return softmax(tensor, *rest, **more)
        return run

    torch.Tensor.float, torch.Tensor.to = as_float, to
    torch.nn.functional.softmax, torch.softmax, torch.Tensor.softmax = map(wide, kept[2:5])
    torch.Tensor.type = lambda tensor, *rest, **more: kept[5](tensor, *[
        torch.float64 if one is torch.float32 and tensor.dtype == torch.float64 else one for one in rest], **more)
    try:
        yield
    finally:
        torch.Tensor.float, torch.Tensor.to, torch.nn.functional.softmax, torch.softmax, torch.Tensor.softmax = kept[:5]
        torch.Tensor.type = kept[5]


def scatter(model, generator):
    """As reference.scatter; the constants of states move around what models start with, and scales near 1."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if any(part in name for part in ("A_log", ".D", "dt_bias")):
            parameter.data = parameter.data + 0.3 * noise
        elif ("norm" in name and parameter.dim() == 1 and "bias" not in name) or "scale" in name:
            parameter.data = 1 + 0.2 * noise
        elif parameter.dim() == 1:
            parameter.data = 0.2 * noise
        else:
            parameter.data = noise * parameter.shape[-1] ** -0.5 * (4.0 if "embed" in name else 1.0)
    for name, buffer in model.named_buffers():
        if "e_score_correction_bias" in name or "expert_bias" in name:
            buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
        if "layer_scalar" in name:
            buffer.copy_(1 + 0.2 * torch.randn(buffer.shape, generator=generator))


def gradients(model, loss):
    """Of the loss, named as save_pretrained names the weights."""
    import tempfile
    from safetensors.torch import load_file
    loss.backward()
    for parameter in model.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        saved = load_file(scratch + "/model.safetensors")
    kept = {name: value for name, value in saved.items() if value.is_floating_point()}
    # Nor of what has none: buffers, which may be saved under another name, and weights of experts that have none.
    kept = {name: value for name, value in kept.items() if value.any()}
    buffers = [name.rsplit(".", 1)[-1] for name, _ in model.named_buffers()] + ["router_bias"]
    return {"grad." + name: value for name, value in kept.items() if name.rsplit(".", 1)[-1] not in buffers}


def make(out, name, kind, settings, how, seed):
    folder = reference.fresh(out / name)
    torch.manual_seed(seed)
    if "text_config" in settings:
        owner = getattr(transformers, kind)
        config, vocabulary = owner.config_class(**settings), settings["text_config"]["vocab_size"]
        config._attn_implementation = "eager"
        model = owner(config).eval()
    else:
        owner, vocabulary = AutoModelForCausalLM, SMALL["vocab_size"]
        merged = {key: value for key, value in {**SMALL, **settings}.items() if value is not None or key == "q_lora_rank" or key.startswith("final") or key.startswith("attention_value")}
        config = AutoConfig.for_model(kind, **merged)
        config._attn_implementation = "eager"
        model = owner.from_config(config, dtype=torch.float32).eval()
    scatter(model, torch.Generator().manual_seed(seed))
    constants = {name: buffer for name, buffer in model.named_buffers() if "decay" in name or "slope" in name}
    model.to(torch.bfloat16)
    for path, buffer in constants.items():  # of lightning attention: what the config says, not rounded
        setattr(model.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2], buffer)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    exact = reference.load(folder, torch.float64, owner).double()  # what transformers keeps in float32 too
    length = how.get("length", 24)
    ids = reference.draw_ids(vocabulary, 1 if length > 100 else 2, length, seed)
    with torch.no_grad():
        rounded = reference.load(folder, torch.float32, owner)(ids, use_cache=False).logits
    with doubles():
        result = exact(ids, labels=ids, use_cache=False)
        if (rounded - result.logits).abs().max() > 2e-3 * max(1.0, float(result.logits.std())):
            raise reference.Indecisive("float32 chooses others than float64")
        with torch.no_grad():
            greedy = reference.greedy(exact, ids[:, :8], 12)
        slopes = gradients(exact, result.loss) if how.get("gradients") else {}
    expected = {"input_ids": ids, "logits": result.logits.detach().float(),
                "loss": result.loss.detach().reshape(1).float(), "greedy": greedy}
    expected.update({name: value.float() for name, value in slopes.items()})
    if how.get("text"):
        only_text(folder)
    save_file({key: value.contiguous().clone() for key, value in expected.items()}, folder / "expected.safetensors")
    if "config" in how:
        reference.edit_config(folder, how["config"])
    for file in folder.iterdir():
        file.chmod(0o644)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1024
    print(f"{name:34s} {size:6.0f} kB  loss {result.loss.item():8.4f}  logit std {result.logits.std():.3f}", flush=True)


def exact(folder):
    """exact.safetensors beside a fixture of someone else's: the logits and gradients that float64 throughout gives."""
    from safetensors.torch import load_file
    expected = load_file(folder / "expected.safetensors")
    model = reference.load(folder, torch.float64).double()
    with doubles():
        result = model(expected["input_ids"], labels=expected["input_ids"], use_cache=False)
        slopes = gradients(model, result.loss) if any(name.startswith("grad.") for name in expected) else {}
    found = {"logits": result.logits.detach().float(), **{name: value.float() for name, value in slopes.items()}}
    save_file({name: value.contiguous().clone() for name, value in found.items()}, folder / "exact.safetensors")
    print(f"{folder.name}: the reference's logits are up to {(found['logits'] - expected['logits']).abs().max():.1e} off")
    for name in slopes:
        if name in expected:
            error = (found[name] - expected[name]).abs().max() / found[name].abs().max()
            if error > 1e-4:
                print(f"  {name}: {error:.1e} of its largest value")


def only_text(folder):
    """The text model's tensors under the names that it has alone."""
    from safetensors.torch import load_file
    file = folder / "model.safetensors"
    tensors = {name.replace("model.language_model.", "model."): value for name, value in load_file(file).items()
               if "vision" not in name and "projector" not in name and "vit_" not in name}
    save_file(tensors, file, {"format": "pt"})


def main():
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    out, names = pathlib.Path(sys.argv[1]), sys.argv[2:]
    if names[:1] == ["--exact"]:
        for name in names[1:]:
            exact(out / name)
        return
    if unknown := set(names) - set(TABLE):
        raise SystemExit(f"no entry called {', '.join(sorted(unknown))}")
    for name, entry in TABLE.items():
        if not names or name in names:
            first = zlib.crc32(name.encode()) % 100000
            reference.until_decisive(lambda seed: make(out, name, *entry, seed), first)


if __name__ == "__main__":
    main()
