#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "layers/block.h"
#include "layers/specs.h"

namespace coterie::models {

using layers::BlockSpec;

/// What a model's files call its family: a model_type or an architecture, whichever they have; the other is empty.
struct FamilyName {
  std::string model_type;    // of config.json: "mixtral"
  std::string architecture;  // general.architecture of GGUF: "qwen3moe"

  /// The one that there is, for people to read.
  const std::string& shown() const { return model_type.empty() ? architecture : model_type; }
  bool operator==(const FamilyName&) const = default;
};

/// What a model is, as plain data; the room families reads it from config.json or from GGUF metadata.
struct ModelSpec {
  FamilyName family;
  int64_t vocabulary = 0;         // V
  int64_t width = 0;              // D
  int64_t context = 0;            // positions it was made for (max_position_embeddings)
  int64_t learned_positions = 0;  // rows of a table that is added to the embedded tokens by position; 0 = none
  bool tied_embeddings = false;
  bool head_bias = false;
  // What a head for multi-token prediction reads of the model, and of itself for further tokens, is the state before
  // the final norm (MiMo); else what that norm makes of it.
  bool prediction_before_norm = false;
  float embedding_multiplier = 1;  // of the embedded tokens (Granite, Gemma)
  layers::NormSpec final_norm;
  float logits_scaling = 1;             // the logits are divided by it (Granite)
  std::optional<float> logits_softcap;  // then squeezed: cap * tanh(logits / cap) (Gemma 2)
  std::vector<BlockSpec> blocks;
  std::vector<layers::SharedBlockSpec> shared;  // that blocks use by number (Zamba)
  // Layers that the files may hold after the last and that take no part (DeepSeek-V3's multi-token prediction).
  int64_t prediction_layers = 0;
  // A head for multi-token prediction as a model of its own (layers/prediction.h): the norms before its projection.
  std::optional<layers::NormSpec> prediction = {};
  // The training-time balance loss that the family's reference adds to its reported loss (with output_router_logits):
  // this times load_balancing_loss of models/score.h; 0 = none.
  float router_aux_loss = 0;
  std::vector<std::string> warnings;  // config keys that nothing knows
};

/// Throws bad_input, naming what is wrong, for a spec no model can have: sizes that are not positive, query heads that
/// KV heads do not divide, an odd rotary dimension, more experts per token than experts. Every reader ends with it.
void check(const ModelSpec& spec, std::string_view where);

/// Bytes of one cache block (ops::kCacheBlock positions) of each layer, for sequence states.
std::vector<int64_t> cache_block_bytes(const ModelSpec& spec, tensor::DType cache_dtype);
/// Floats of each layer's recurrent state, 0 for a layer without one.
std::vector<int64_t> state_floats(const ModelSpec& spec);

/// The attention of a block, be it its mixer or that of the shared block it uses; nullptr when it has none.
const layers::AttentionSpec* attention_of(const ModelSpec& spec, const BlockSpec& block);
/// The rotary embedding of a block's attention, of whichever kind; nullptr when it has none.
const layers::RopeSpec* rope_of(const ModelSpec& spec, const BlockSpec& block);

}  // namespace coterie::models
