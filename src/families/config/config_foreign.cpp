#include <algorithm>
#include <utility>
#include <vector>

#include "base/error.h"
#include "families/config/config_reader.h"

// Keys that do not concern the family at hand.
namespace coterie::families {

namespace {

using base::Json;

// Keys that change the result where some family honours them, and the values that mean "without" (null always does).
// A family that honours one has read it before this table is consulted.
const std::vector<std::pair<std::string_view, std::vector<Json>>>& foreign_keys() {
  static const std::vector<std::pair<std::string_view, std::vector<Json>>> keys = {
      {"quantization_config", {}},
      {"compression_config", {}},
      {"attention_bias", {false}},
      {"mlp_bias", {false}},
      {"qkv_bias", {false}},
      {"use_bias", {false}},
      {"lm_head_bias", {false}},
      {"clip_qkv", {}},
      {"sliding_window", {}},
      {"use_sliding_window", {false}},
      {"layer_types", {}},
      {"partial_rotary_factor", {1, 1.0}},
      {"rotary_pct", {1, 1.0}},
      {"rope_interleaved", {false}},
      {"rope_interleave", {false}},
      {"rope_local_base_freq", {}},
      {"no_rope_layers", {Json::array()}},
      {"use_qk_norm", {false}},
      {"qk_norm", {false}},
      {"qk_layernorm", {false}},
      {"use_mrope", {false}},
      {"alibi", {false}},
      {"position_embedding_type", {"rope", "rotary", "absolute"}},
      {"attention_multiplier", {}},
      {"embedding_multiplier", {1, 1.0}},
      {"residual_multiplier", {1, 1.0}},
      {"logits_scaling", {1, 1.0}},
      {"logit_scale", {1, 1.0}},
      {"scale_emb", {1, 1.0}},
      {"scale_depth", {}},
      {"dim_model_base", {}},
      {"query_pre_attn_scalar", {}},
      {"attn_logit_softcapping", {}},
      {"final_logit_softcapping", {}},
      {"attn_temperature_tuning", {false, 0}},
      {"attention_chunk_size", {}},
      {"attention_sinks", {false}},
      {"num_experts", {0}},
      {"num_local_experts", {0}},
      {"n_routed_experts", {0}},
      {"moe_num_experts", {0}},
      {"num_experts_per_tok", {0}},
      {"moe_intermediate_size", {}},
      {"shared_expert_intermediate_size", {0}},
      {"shared_intermediate_size", {0}},
      {"n_shared_experts", {0}},
      {"num_shared_experts", {0}},
      {"first_k_dense_replace", {0}},
      {"moe_layer_freq", {1}},
      {"decoder_sparse_step", {1}},
      {"mlp_only_layers", {Json::array()}},
      {"norm_topk_prob", {}},
      {"routed_scaling_factor", {1, 1.0}},
      {"scoring_func", {"softmax"}},
      {"topk_method", {"greedy"}},
      {"n_group", {0, 1}},
      {"topk_group", {0, 1}},
      {"kv_lora_rank", {}},
      {"q_lora_rank", {}},
      {"num_nextn_predict_layers", {0}},
      {"is_encoder_decoder", {false}},
      {"add_cross_attention", {false}},
      {"parallel_attn", {false}},
      {"use_parallel_residual", {false}},
      {"text_config", {}},
      {"vision_config", {}},
      {"audio_config", {}},
      {"hidden_activation", {}},
      {"norm_type", {"rmsnorm", "rms_norm"}},
      {"use_bidirectional_attention", {false}},
  };
  return keys;
}

/// Training, generation, bookkeeping: nothing of it enters a forward pass. pretraining_tp > 1 sums the same products in
/// slices.
constexpr std::string_view kBookkeepingKeys[] = {
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "emb_pdrop",
    "embd_pdrop",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "label2id",
    "length_penalty",
    "max_length",
    "max_window_layers",
    "min_length",
    "model_type",
    "name_or_path",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
};

}  // namespace

void ConfigReader::refuse_foreign_keys() {
  const std::vector<std::string> unread = keys.unread();
  for (const auto& [key, neutral] : foreign_keys()) {
    if (std::find(unread.begin(), unread.end(), key) == unread.end()) continue;
    const Json* value = keys.value(key);
    if (!value || std::find(neutral.begin(), neutral.end(), *value) != neutral.end()) continue;
    std::string text = value->dump();
    if (text.size() > 60) text = text.substr(0, 57) + "...";
    base::fail(base::ErrorKind::unsupported, keys.where(), "key \"{}\" is {}, which is not supported for model_type {}",
               key, text, keys.string("model_type"));
  }
  for (const std::string_view key : kBookkeepingKeys) keys.inert({key});
}

}  // namespace coterie::families
