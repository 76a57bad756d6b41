#include "families/family.h"

// Families that are known and not supported: what they are made of that has no place here yet.
namespace coterie::families {

namespace {

struct Unsupported {
  std::string_view model_type;    // of config.json
  std::string_view architecture;  // of GGUF; empty when there is none
  std::string_view missing;
};

constexpr std::string_view kVision =
    "an image encoder; of models with text_config the text part has a model_type of its own";

constexpr Unsupported kUnsupported[] = {
    {"llama4", "llama4",
     "attention in chunks, layers without positions whose scores have a temperature, and experts "
     "that scale their input"},
    {"llama4_text", "llama4",
     "attention in chunks, layers without positions whose scores have a temperature, and "
     "experts that scale their input"},
    {"dbrx", "dbrx",
     "LayerNorms without biases around fused and clipped projections, and transposed experts in one "
     "tensor"},
    {"grok-1", "grok", "experts with GELU beside attention outputs of a multiplier, and softcaps of the router"},
    {"grok", "grok", "experts with GELU beside attention outputs of a multiplier, and softcaps of the router"},
    {"minimax", "minimax", "lightning attention, a linear attention with decay"},
    {"minimax_m2", "minimax-m2",
     "q/k norms over their whole width beside partial rotary positions and a sigmoid router"},
    {"arctic", "arctic", "a dense FFN that runs beside the experts with a norm of its own"},
    {"snowflake-arctic", "arctic", "a dense FFN that runs beside the experts with a norm of its own"},
    {"jetmoe", "", "mixtures of attention heads"},
    {"falcon_h1", "falcon-h1", "attention and Mamba-2 side by side in one block"},
    {"bamba", "", "Mamba-2 and attention blocks with partial rotary positions"},
    {"ernie4_5_moe", "ernie4_5-moe",
     "a router whose correction bias acts on softmax scores, with a floor under their sum"},
    {"deepseek_v32", "", "sparse attention that an indexer chooses"},
    {"longcat_flash", "", "experts that pass their input on, and two attentions in a block"},
    {"gemma3", "", kVision},
    {"gemma3n", "gemma3n", "alternating updates and embeddings for each layer"},
    {"gemma4", "gemma4", "keys and values shared between layers, and embeddings for each layer"},
    {"mllama", "", kVision},
    {"llava", "", kVision},
    {"qwen2_vl", "qwen2vl", "rotary positions in three dimensions and an image encoder"},
    {"qwen3_vl_moe", "qwen3vlmoe", "rotary positions in three dimensions and an image encoder"},
    {"olmo", "olmo", "LayerNorms without weights"},
    {"olmo3", "", "sliding windows with rotary scaling of the full layers only; OLMo 2 is supported"},
    {"cohere", "command-r", "attention and FFN side by side on one LayerNorm without a bias"},
    {"cohere2", "cohere2", "attention and FFN side by side on one LayerNorm without a bias"},
    {"phi", "phi2", "attention and FFN side by side; Phi-3, Phi-4 and Phi-3.5-MoE are supported"},
    {"gpt2", "gpt2", "a reader of its transposed projections, with query, key and value fused"},
    {"gpt_neox", "gptneox", "attention and FFN side by side, and a fused query, key and value in another order"},
    {"falcon", "falcon", "attention and FFN side by side, and a fused query, key and value in another order"},
    {"mpt", "mpt", "ALiBi positions"},
    {"rwkv", "rwkv6", "a recurrence of its own"},
};

}  // namespace

std::string_view what_is_missing(std::string_view model_type, std::string_view architecture) {
  for (const Unsupported& family : kUnsupported)
    if ((!model_type.empty() && family.model_type == model_type) ||
        (!architecture.empty() && family.architecture == architecture))
      return family.missing;
  return {};
}

}  // namespace coterie::families
