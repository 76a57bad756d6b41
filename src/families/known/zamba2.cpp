#include <limits>

#include "base/error.h"
#include "families/known/families.h"
#include "families/known/zamba_shared.h"

// Zamba2 (Glorioso et al. 2024, arXiv:2411.15242): Mamba-2 layers and a few shared transformer blocks that take turns,
// with rotary positions and low-rank adapters for each use.
namespace coterie::families {

namespace {

constexpr ssm::MambaKeys kKeys = {.states = "mamba_d_state",
                                  .conv_width = "mamba_d_conv",
                                  .expand = "mamba_expand",
                                  .conv_bias = "use_conv_bias",
                                  .projection_bias = "add_bias_linear",
                                  .activation = "",  // SiLU, whatever hidden_act says
                                  .default_states = 64};

std::vector<std::string> kinds_of(ConfigReader& config, size_t layers) {
  std::vector<std::string> kinds = ssm::layer_kinds(config, layers);
  const std::vector<int64_t> ids = config.keys.integers("hybrid_layer_ids");
  std::vector<std::string> by_ids(layers, "linear_attention");
  for (const int64_t id : ids) {
    if (id < 0 || id >= static_cast<int64_t>(layers))
      base::fail(base::ErrorKind::bad_input, config.keys.where(), "hybrid_layer_ids names layer {} of {}", id, layers);
    by_ids[static_cast<size_t>(id)] = "hybrid";
  }
  if (!kinds.empty() && !ids.empty() && kinds != by_ids)
    base::fail(base::ErrorKind::bad_input, config.keys.where(), "hybrid_layer_ids and layers_block_type differ");
  if (!kinds.empty()) return kinds;
  if (!ids.empty()) return by_ids;
  // The reference's pattern, which is of 54 layers.
  if (layers != 54)
    base::fail(base::ErrorKind::bad_input, config.keys.where(),
               "layers_block_type is missing, and its default is for 54 layers, not {}", layers);
  for (const int64_t id : {6, 12, 18, 24, 30, 36, 42, 47, 51}) by_ids[static_cast<size_t>(id)] = "hybrid";
  return by_ids;
}

ModelSpec zamba2_from_config(ConfigReader& config) {
  ModelSpec spec =
      ssm::stack(config, {.vocabulary = 32000, .width = 2560, .layers = 54, .eps_key = "rms_norm_eps", .tied = true});
  if (!config.keys.has("max_position_embeddings")) spec.context = 4096;
  if (config.keys.boolean("use_long_context", false)) spec.context = 16384;
  layers::Mamba2Spec mamba = ssm::mamba2(config, kKeys);
  const int64_t inner = ssm::inner_width(config, kKeys, spec.width);
  mamba.heads = config.keys.integer("n_mamba_heads", 8);
  if (mamba.heads < 1 || inner % mamba.heads != 0)
    base::fail(base::ErrorKind::bad_input, config.keys.where(), "n_mamba_heads is {} for an inner width of {}",
               mamba.heads, inner);
  mamba.head_dim = inner / mamba.heads;
  if (config.keys.integer("mamba_headdim", mamba.head_dim) != mamba.head_dim)
    base::fail(base::ErrorKind::bad_input, config.keys.where(), "mamba_headdim is not {} / {}", inner, mamba.heads);
  mamba.groups = config.keys.integer("mamba_ngroups", 1);
  mamba.conv_bias = true;  // the reference has one, whatever use_conv_bias says
  mamba.norm_eps = 1e-5f;
  // time_step_min, elsewhere a setting of initialisation, is a limit here.
  mamba.dt_min = static_cast<float>(config.keys.number("time_step_min", 0.001));
  for (BlockSpec& block : spec.blocks) block.mixer = mamba;

  layers::SharedBlockSpec shared;
  shared.norm = shared.ffn_norm = spec.final_norm;
  shared.attention = zamba::attention(config, spec.width, 32);
  if (config.keys.boolean("use_mem_rope", false))
    shared.attention.rope = config.rope(shared.attention.head_dim, spec.context, {.theta = 10000});
  else
    config.keys.inert({"rope_theta", "rope_scaling", "rope_parameters"});
  shared.ffn.hidden = config.keys.integer("intermediate_size", 4 * spec.width);
  shared.ffn.activation = config.activation("hidden_act", "gelu");
  shared.ffn.bias = mamba.projection_bias;
  shared.ffn_adapter_rank = config.keys.integer("adapter_rank", 128);
  if (config.keys.boolean("use_shared_attention_adapter", false))
    shared.attention_adapter_rank = shared.ffn_adapter_rank;
  const int64_t blocks = config.keys.integer("num_mem_blocks", 1);
  if (blocks < 1 || blocks > static_cast<int64_t>(spec.blocks.size()))
    base::fail(base::ErrorKind::bad_input, config.keys.where(), "num_mem_blocks is {}", blocks);
  zamba::share(spec, shared, blocks, kinds_of(config, spec.blocks.size()));
  ssm::mark_inert(config);
  config.keys.inert({"kv_channels", "num_query_groups", "ffn_hidden_size", "use_shared_mlp_adapter"});
  return spec;
}

ModelSpec no_gguf(MetadataReader&) {
  base::fail(base::ErrorKind::unsupported, "zamba2", "GGUF has no architecture of this name");
}

NameTable zamba2_names() {
  NameTable table = zamba::names("shared_transformer");
  const std::string layer = "model.layers.{layer}.", path = "blocks.{layer}.shared.";
  const std::string attention = layer + "shared_transformer.self_attn.",
                    ffn = layer + "shared_transformer.feed_forward.";
  for (const std::string kind : {"weight", "bias"}) {
    const std::string suffix = kind == "bias" ? ".bias" : "";
    table.names[path + "ffn.gate" + suffix] = {{ffn + "gate_up_proj." + kind, Piece::first_half}};
    table.names[path + "ffn.up" + suffix] = {{ffn + "gate_up_proj." + kind, Piece::second_half}};
    table.names[path + "ffn.down" + suffix] = {{ffn + "down_proj." + kind}};
  }
  for (const auto& [half, number] : {std::pair("down", "0"), std::pair("up", "1")}) {
    const std::string adapters = path + "adapters.{item}.", end = std::string(".{item}.") + number + ".weight";
    for (const std::string part : {"q", "k", "v"})
      table.names[adapters + part + "." + half] = {{attention + "linear_" + part + "_adapter_list" + end}};
    table.names[adapters + "gate_up." + half] = {{ffn + "gate_up_proj_adapter_list" + end}};
  }
  ssm::add_mamba2_names(table, {layer + "mamba.", layer + "mamba_decoder.mamba."});
  return table;
}

}  // namespace

const Family kZamba2 = {
    .model_type = "zamba2",
    .class_name = "Zamba2ForCausalLM",
    .from_config = zamba2_from_config,
    .from_gguf = no_gguf,
    .hugging_face_names = zamba2_names,
};

}  // namespace coterie::families
