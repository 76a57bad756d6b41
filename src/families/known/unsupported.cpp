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
    {"grok-1", "grok", "experts with GELU beside attention outputs of a multiplier, and softcaps of the router"},
    {"grok", "grok", "experts with GELU beside attention outputs of a multiplier, and softcaps of the router"},
    {"arctic", "arctic", "a dense FFN that runs beside the experts with a norm of its own"},
    {"snowflake-arctic", "arctic", "a dense FFN that runs beside the experts with a norm of its own"},
    {"falcon_h1", "falcon-h1", "attention and Mamba-2 side by side in one block"},
    {"bamba", "", "Mamba-2 and attention blocks with partial rotary positions"},
    {"deepseek_v4", "deepseek4", "compressed keys and values, several residual streams, and experts by a table of ids"},
    {"glm5_next", "glm5-next", "a delta rule beside latent attention with an indexer, and several residual streams"},
    {"glm5_next_text", "glm5-next",
     "a delta rule beside latent attention with an indexer, and several residual streams"},
    {"qwen4_exp", "qwen4exp", "several residual streams, an indexer of blocks, and a hashed table of n-grams"},
    {"qwen4_exp_text", "qwen4exp", "several residual streams, an indexer of blocks, and a hashed table of n-grams"},
    {"hy_v4", "hy_v4", "sparse attention that an indexer chooses, and several residual streams"},
    {"hy_v4_vl", "", "sparse attention that an indexer chooses, and several residual streams"},
    {"hy_v4_vl_text", "", "sparse attention that an indexer chooses, and several residual streams"},
    {"mistral4", "mistral4",
     "latent attention whose queries grow with the position, under a softmax router with groups"},
    {"mistral_large4", "", "sparse attention that an indexer chooses"},
    {"cohere2_moe", "cohere2moe", "attention and experts side by side on one LayerNorm"},
    {"minimax_m3_vl", "minimax-m3", "block-sparse attention that an indexer chooses"},
    {"minimax_m3_vl_text", "minimax-m3", "block-sparse attention that an indexer chooses"},
    {"zaya", "", "attention by convolutions, and routers with a state that goes from layer to layer"},
    {"inkling", "", "short convolutions beside attention with relative logits"},
    {"inkling2", "", "short convolutions beside attention with relative logits"},
    {"inkling2_loop", "", "blocks that run several times, and attention over what earlier blocks gave"},
    {"inkling2_loop_text", "", "blocks that run several times, and attention over what earlier blocks gave"},
    {"kimi_k3", "kimi-k3",
     "attention over what earlier layers gave, and experts in a latent with an activation of theirs"},
    {"kolibri1", "", "routers that choose by the logit and a bias, under norms before and after each sublayer"},
    {"flint", "", "attention sinks beside q/k norms, and a sigmoid router without a selection bias"},
    {"lara_mini", "", "a delta rule beside sliding windows in one model, with its projections in one tensor"},
    {"muse_spark", "", "gates of the residual stream, normed embeddings, and encoders of images and sound"},
    {"muse_spark_text", "", "gates of the residual stream, and normed embeddings"},
    {"olmo_hybrid", "",
     "a delta rule that may write with a strength of up to 2, beside attention under OLMo 2's norms"},
    {"lfm3", "", "short convolutions beside sliding windows, norms after sublayers and gates of heads"},
    {"diffusion_gemma", "", "text by diffusion of whole blocks, whose tokens see one another in both directions"},
    {"diffusion_gemma_text", "", "text by diffusion of whole blocks, whose tokens see one another in both directions"},
    {"openai_privacy_filter", "", "attention in both directions, and labels of tokens in place of a vocabulary"},
    {"aria", "", kVision},
    {"aria_text", "", "a reader of its stacks of experts, which lie [E, D, 2 F] and [E, F, D]"},
    {"granite_docling", "", kVision},
    {"unlimited_ocr", "", kVision},
    {"axk1", "", "DeepSeek-V3's layers with one more norm after the experts"},
    {"axk2", "", "sparse attention that an indexer chooses, and norms behind gates"},
    {"dots3_note", "dots3note", "sparse attention that an indexer chooses, and encoders of images and sound"},
    {"dots3_note_text", "dots3note", "sparse attention that an indexer chooses"},
    {"doge", "", "attention by a dynamic mask, and experts that are single values"},
    {"smallthinker", "smallthinker", "routers that read a block's input before the attention"},
    {"grovemoe", "grovemoe", "experts that share adjunct experts in groups"},
    {"ernie4_5_vl_moe", "", "experts of text and of images in one layer"},
    {"glm4v_moe", "", kVision},
    {"gemma3", "", kVision},
    {"gemma3n", "gemma3n", "alternating updates and embeddings for each layer"},
    {"mllama", "", kVision},
    {"llava", "", kVision},
    {"qwen2_vl", "qwen2vl", "rotary positions in three dimensions and an image encoder"},
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
