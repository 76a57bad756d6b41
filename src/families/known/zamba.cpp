#include "base/error.h"
#include "families/known/families.h"
#include "families/known/zamba_shared.h"

// Zamba (Glorioso et al. 2024, arXiv:2405.16712): Mamba layers with heads, and one shared transformer block.
namespace coterie::families {

namespace {

constexpr ssm::MambaKeys kKeys = {.states = "mamba_d_state",
                                  .conv_width = "mamba_d_conv",
                                  .expand = "mamba_expand",
                                  .conv_bias = "mamba_conv_bias",
                                  .projection_bias = "mamba_proj_bias",
                                  .activation = "hidden_mamba_act",
                                  .rank = "mamba_dt_rank"};

std::vector<std::string> kinds_of(ConfigReader& config, size_t layers) {
  const int64_t period = config.keys.integer("attn_layer_period", 6),
                offset = config.keys.integer("attn_layer_offset", 4);
  std::vector<std::string> kinds = ssm::layer_kinds(config, layers);
  if (!kinds.empty()) return kinds;
  if (period < 1)
    base::fail(base::ErrorKind::bad_input, config.keys.where(), "attn_layer_period is {}: expected at least 1", period);
  // The reference's pattern: the third layer, and then by period and offset counted from the fourth.
  for (size_t i = 0; i < layers; ++i) {
    const bool hybrid = i == 2 || (i > 2 && static_cast<int64_t>(i - 3) % period == offset);
    kinds.emplace_back(hybrid ? "hybrid" : "linear_attention");
  }
  return kinds;
}

ModelSpec zamba_from_config(ConfigReader& config) {
  ModelSpec spec =
      ssm::stack(config, {.vocabulary = 32000, .width = 3712, .layers = 76, .eps_key = "rms_norm_eps", .tied = true});
  if (!config.keys.has("max_position_embeddings")) spec.context = 4096;
  layers::MambaSpec mamba = ssm::mamba(config, kKeys, spec.width);
  mamba.heads = config.keys.integer("n_mamba_heads", 2);
  for (BlockSpec& block : spec.blocks) block.mixer = mamba;

  layers::SharedBlockSpec shared;
  shared.norm = shared.ffn_norm = spec.final_norm;
  shared.attention = zamba::attention(config, spec.width, 16);
  shared.ffn.hidden = config.keys.integer("intermediate_size", 14848);
  shared.ffn.activation = config.activation("hidden_act", "gelu");
  zamba::share(spec, shared, 1, kinds_of(config, spec.blocks.size()));
  ssm::mark_inert(config);
  return spec;
}

ModelSpec no_gguf(MetadataReader&) {
  base::fail(base::ErrorKind::unsupported, "zamba", "GGUF has no architecture of this name");
}

NameTable zamba_names() {
  NameTable table = zamba::names("shared_transf");
  const std::string layer = "model.layers.{layer}.", path = "blocks.{layer}.mamba.";
  const std::vector<std::string> prefixes = {layer + "mamba.", layer + "mamba_decoder.mamba."};
  ssm::add_mamba_names(table, prefixes);
  // x and gate alternate in the rows of in_proj, and the projections of the heads are parameters, not modules.
  for (NameInFile& name : table.names[path + "in"]) name.piece = Piece::even_rows;
  for (NameInFile& name : table.names[path + "gate"]) name.piece = Piece::odd_rows;
  for (NameInFile& name : table.names[path + "in.bias"]) name.piece = Piece::even_rows;
  for (NameInFile& name : table.names[path + "gate.bias"]) name.piece = Piece::odd_rows;
  for (const char* part : {"a_log", "d"})
    for (NameInFile& name : table.names[path + part]) name.form = Form::in_parts;
  const std::pair<const char*, const char*> by_head[] = {
      {"select", "x_proj_weight"}, {"dt", "dt_proj_weight"}, {"dt.bias", "dt_proj_bias"}};
  for (const auto& [ours, theirs] : by_head) {
    std::vector<NameInFile>& names = table.names[path + ours] = {{prefixes[0] + theirs}, {prefixes[1] + theirs}};
    for (NameInFile& name : names) name.form = Form::in_parts;
  }
  return table;
}

}  // namespace

const Family kZamba = {
    .model_type = "zamba",
    .class_name = "ZambaForCausalLM",
    .from_config = zamba_from_config,
    .from_gguf = no_gguf,
    .hugging_face_names = zamba_names,
};

}  // namespace coterie::families
