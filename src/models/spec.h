#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "layers/specs.h"

namespace coterie::models {

/// One decoder block: norm → mixer → residual → norm → FFN → residual.
struct BlockSpec {
  layers::NormSpec mixer_norm;
  std::variant<layers::AttentionSpec> mixer;
  layers::NormSpec ffn_norm;
  std::variant<layers::DenseFfnSpec, layers::MoeSpec> ffn;
};

/// What a model is, as plain data; families/ reads it from config.json or from GGUF metadata.
struct ModelSpec {
  std::string family;      // "mixtral": the model_type or general.architecture it was read as
  int64_t vocabulary = 0;  // V
  int64_t width = 0;       // D
  int64_t context = 0;     // positions it was made for (max_position_embeddings)
  bool tied_embeddings = false;
  layers::NormSpec final_norm;
  std::vector<BlockSpec> blocks;
  // The training-time balance loss that the family's reference adds to its reported loss (Mixtral, with
  // output_router_logits); 0 = none.
  float router_aux_loss = 0;
  std::vector<std::string> warnings;  // config keys that nothing knows
};

}  // namespace coterie::models
