"""What the fixture makers share: drawing decisive weights, and asking the reference for what it computes.

The reference is Hugging Face transformers in float32 with eager attention. A drawing is only accepted when rounding
cannot change its meaning: float64 must agree with float32, and no greedy choice may be a near tie.
"""
import json
import pathlib
import shutil

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

transformers.logging.disable_progress_bar()


class Indecisive(Exception):
    """The drawing is too close to a tie: try the next seed."""


def scatter(model, generator):
    """Matrices N(0, 1/fan_in), norms near 1, small biases, wide embeddings: routing becomes decisive."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name and parameter.dim() == 1:
            parameter.data = 1 + 0.2 * noise
        elif parameter.dim() == 1:
            parameter.data = 0.2 * noise
        else:
            parameter.data = noise * parameter.shape[-1] ** -0.5 * (4.0 if "embed" in name else 1.0)


    for name, buffer in model.named_buffers():
        if "e_score_correction_bias" in name or "expert_bias" in name:
            buffer.copy_(0.2 * torch.randn(buffer.shape, generator=generator))


def build(model_type, settings, seed):
    """A model of the family with drawn weights, in float32."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **settings)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    scatter(model, torch.Generator().manual_seed(seed))
    return model


def load(folder, dtype=torch.float32, owner=AutoModelForCausalLM):
    """The model as its files say it, with every tensor used and none made up."""
    model, info = owner.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager", output_loading_info=True)
    leftovers = {key: value for key, value in info.items() if value}
    assert not leftovers, leftovers
    return model.eval()


def greedy(model, ids, count):
    """`count` tokens after ids, each from a pass over the whole sequence; near ties are refused."""
    start = ids.shape[1]
    for _ in range(count):
        last = model(ids, use_cache=False).logits[:, -1]
        best = last.topk(2).values
        if (best[:, 0] - best[:, 1]).min() < 5e-3 * last.std():
            raise Indecisive("greedy tie")
        ids = torch.cat([ids, last.argmax(-1, keepdim=True)], 1)
    return ids[:, start:]


def expect(folder, ids, prefix=8, count=12, owner=AutoModelForCausalLM):
    """Writes expected.safetensors: input_ids [B,T], logits [B,T,V], loss [1], greedy [B,count]."""
    model = load(folder, owner=owner)
    with torch.no_grad():
        result = model(ids, labels=ids, use_cache=False)
        exact = load(folder, torch.float64, owner)(ids, use_cache=False).logits
        spread = max(1.0, float(exact.std()))
        if (result.logits - exact).abs().max() > 2e-5 * spread:
            raise Indecisive(f"float32 is {(result.logits - exact).abs().max():.1e} from float64")
        tokens = greedy(model, ids[:, :prefix], count)
    save_file({"input_ids": ids.contiguous(), "logits": result.logits.float().contiguous(),
               "loss": result.loss.reshape(1).float().contiguous(), "greedy": tokens.contiguous()},
              folder / "expected.safetensors")
    for file in folder.iterdir():
        file.chmod(0o644)
    return result


def draw_ids(vocabulary, batch, length, seed):
    return torch.randint(3, vocabulary, (batch, length), generator=torch.Generator().manual_seed(seed + 1))


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def edit_config(folder, change):
    path = pathlib.Path(folder) / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def until_decisive(make, first_seed, attempts=20):
    """Runs make(seed) with the first seed whose drawing is decisive."""
    for seed in range(first_seed, first_seed + attempts):
        try:
            return make(seed)
        except Indecisive as reason:
            print(f"  seed {seed}: {reason}")
    raise SystemExit("no decisive drawing")
