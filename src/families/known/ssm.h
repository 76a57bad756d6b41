#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "families/config/config_reader.h"
#include "families/gguf/metadata_reader.h"
#include "families/names/name_table.h"

// What the families with state-space layers share.
namespace coterie::families::ssm {

/// A context for models without positions, whose configs name none: llama.cpp's converter writes the same number.
inline constexpr int64_t kAnyContext = int64_t{1} << 20;

/// Vocabulary, width, context, tied embeddings, final norm, and layers with that norm before a mixer and no FFN.
struct StackDefaults {
  int64_t vocabulary, width, layers;
  std::string_view eps_key = "layer_norm_epsilon";
  bool tied = false;
};
ModelSpec stack(ConfigReader& config, const StackDefaults& defaults);

/// Keys of the Mamba part, which differ between families, and its defaults.
struct MambaKeys {
  std::string_view states, conv_width, expand, conv_bias, projection_bias, activation;
  std::string_view rank = {};  // Mamba only: an integer, or "auto" for a sixteenth of the width
  int64_t default_states = 16;
};
/// expand * width; refuses a fraction.
int64_t inner_width(ConfigReader& config, const MambaKeys& keys, int64_t width);
layers::MambaSpec mamba(ConfigReader& config, const MambaKeys& keys, int64_t width);
/// All but heads, head_dim and groups, whose keys no two families share.
layers::Mamba2Spec mamba2(ConfigReader& config, const MambaKeys& keys);
/// time_step_limit: two numbers, infinities included.
void read_time_step_limit(ConfigReader& config, layers::Mamba2Spec& mamba);
/// Settings of initialisation, training and other implementations' kernels.
void mark_inert(ConfigReader& config);

/// layers_block_type or layer_types, in new words: "mamba" is linear_attention, "attention" full_attention, "hybrid"
/// itself. Empty when neither is there; refuses two that differ, an unknown word and a wrong number of them.
std::vector<std::string> layer_kinds(ConfigReader& config, size_t layers);

/// Mamba and Mamba-2 from GGUF: ssm.* keys.
layers::MambaSpec mamba(MetadataReader& metadata);
layers::Mamba2Spec mamba2(MetadataReader& metadata);

/// Makes every block this mixer behind its norm, without an FFN.
void mixer_alone(ModelSpec& spec, const decltype(BlockSpec::mixer)& mixer);

/// Adds the names of a Mamba mixer to a table, its tensors below each of `prefixes` ("model.layers.{layer}.mamba.").
void add_mamba_names(NameTable& table, const std::vector<std::string>& prefixes);
void add_mamba2_names(NameTable& table, const std::vector<std::string>& prefixes);

}  // namespace coterie::families::ssm
