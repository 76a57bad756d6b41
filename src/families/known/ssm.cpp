#include "families/known/ssm.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace coterie::families::ssm {

using base::ErrorKind;
using base::fail;

ModelSpec stack(ConfigReader& config, const StackDefaults& defaults) {
  ModelSpec spec;
  spec.family.model_type = config.keys.string("model_type");
  spec.vocabulary = config.keys.integer("vocab_size", defaults.vocabulary);
  spec.width = config.integer_of({"hidden_size", "d_model"}, defaults.width);
  if (spec.width < 1) fail(ErrorKind::bad_input, config.keys.where(), "hidden_size is {}", spec.width);
  spec.context = config.keys.integer("max_position_embeddings", kAnyContext);
  spec.tied_embeddings = config.keys.boolean("tie_word_embeddings", defaults.tied);
  spec.final_norm.eps = static_cast<float>(config.keys.number(defaults.eps_key, 1e-5));
  const int64_t layers = config.integer_of({"num_hidden_layers", "n_layer"}, defaults.layers);
  if (layers < 1 || layers > 65536)
    fail(ErrorKind::bad_input, config.keys.where(), "num_hidden_layers is {}: expected 1 to 65536", layers);
  BlockSpec block;
  block.mixer_norm = spec.final_norm;
  block.ffn = layers::NoFfnSpec{};
  spec.blocks.assign(static_cast<size_t>(layers), block);
  return spec;
}

int64_t inner_width(ConfigReader& config, const MambaKeys& keys, int64_t width) {
  const double inner = config.keys.number(keys.expand, 2) * static_cast<double>(width);
  if (!(inner >= 1) || inner > 0x1p40 || inner != std::floor(inner))
    fail(ErrorKind::bad_input, config.keys.where(), "{} times the width {} is {}: expected a positive integer",
         keys.expand, width, inner);
  return static_cast<int64_t>(inner);
}

namespace {

int64_t time_step_rank(ConfigReader& config, std::string_view key, int64_t width) {
  const base::Json* value = config.keys.value(key);
  if (!value || (value->is_string() && value->get<std::string>() == "auto")) return (width + 15) / 16;
  return config.keys.integer(key);
}

}  // namespace

layers::MambaSpec mamba(ConfigReader& config, const MambaKeys& keys, int64_t width) {
  layers::MambaSpec mamba;
  mamba.inner = inner_width(config, keys, width);
  mamba.states = config.keys.integer(keys.states, keys.default_states);
  mamba.conv_width = config.keys.integer(keys.conv_width, 4);
  mamba.dt_rank = time_step_rank(config, keys.rank, width);
  mamba.conv_bias = config.keys.boolean(keys.conv_bias, true);
  mamba.projection_bias = config.keys.boolean(keys.projection_bias, false);
  mamba.activation = config.activation(keys.activation);
  return mamba;
}

layers::Mamba2Spec mamba2(ConfigReader& config, const MambaKeys& keys) {
  layers::Mamba2Spec mamba;
  mamba.states = config.keys.integer(keys.states, keys.default_states);
  mamba.conv_width = config.keys.integer(keys.conv_width, 4);
  mamba.conv_bias = config.keys.boolean(keys.conv_bias, true);
  mamba.projection_bias = config.keys.boolean(keys.projection_bias, false);
  if (!keys.activation.empty()) mamba.activation = config.activation(keys.activation);
  return mamba;
}

void read_time_step_limit(ConfigReader& config, layers::Mamba2Spec& mamba) {
  const std::vector<double> limits = config.keys.numbers("time_step_limit");
  if (limits.empty()) return;
  if (limits.size() != 2 || std::isnan(limits[0]) || std::isnan(limits[1]) || limits[0] > limits[1])
    fail(ErrorKind::bad_input, config.keys.where(), "time_step_limit: expected two ascending numbers");
  mamba.dt_min = static_cast<float>(limits[0]), mamba.dt_max = static_cast<float>(limits[1]);
}

void mark_inert(ConfigReader& config) {
  if (!config.keys.boolean("rms_norm", true))
    fail(ErrorKind::unsupported, config.keys.where(), "rms_norm is false: LayerNorm is not supported here");
  // The gated norm of the reference norms after the gate whatever norm_before_gate says; published files say both.
  config.keys.inert({"time_step_min",
                     "time_step_max",
                     "time_step_floor",
                     "time_step_scale",
                     "time_step_init_scheme",
                     "time_step_rank",
                     "rescale_prenorm_residual",
                     "residual_in_fp32",
                     "use_mamba_kernels",
                     "use_mambapy",
                     "use_falcon_mambapy",
                     "use_associative_scan",
                     "use_mem_eff_path",
                     "chunk_size",
                     "mamba_chunk_size",
                     "num_logits_to_keep",
                     "norm_before_gate",
                     "fused_add_norm",
                     "pad_vocab_size_multiple",
                     "ssm_cfg",
                     "calc_logits_for_entire_prompt"});
}

std::vector<std::string> layer_kinds(ConfigReader& config, size_t layers) {
  std::vector<std::string> kinds;
  for (const std::string_view key : {"layers_block_type", "layer_types"}) {
    std::vector<std::string> found = config.keys.strings(key);
    if (found.empty()) continue;
    if (found.size() != layers)
      fail(ErrorKind::bad_input, config.keys.where(), "{} has {} entries for {} layers", key, found.size(), layers);
    for (size_t i = 0; i < layers; ++i) {
      if (found[i] == "mamba" || found[i] == "mamba2") found[i] = "linear_attention";
      if (found[i] == "attention") found[i] = "full_attention";
      if (found[i] != "linear_attention" && found[i] != "full_attention" && found[i] != "hybrid")
        fail(ErrorKind::unsupported, config.keys.where(), "{}[{}] is \"{}\"", key, i, found[i]);
    }
    if (!kinds.empty() && kinds != found)
      fail(ErrorKind::bad_input, config.keys.where(), "layers_block_type and layer_types differ");
    kinds = std::move(found);
  }
  return kinds;
}

layers::MambaSpec mamba(MetadataReader& metadata) {
  layers::MambaSpec mamba;
  mamba.inner = metadata.integer("ssm.inner_size");
  mamba.states = metadata.integer("ssm.state_size");
  mamba.conv_width = metadata.integer("ssm.conv_kernel");
  mamba.dt_rank = metadata.integer("ssm.time_step_rank");
  return mamba;
}

layers::Mamba2Spec mamba2(MetadataReader& metadata) {
  layers::Mamba2Spec mamba;
  const int64_t inner = metadata.integer("ssm.inner_size");
  mamba.heads = metadata.integer("ssm.time_step_rank");
  if (mamba.heads < 1 || inner % mamba.heads != 0)
    fail(ErrorKind::bad_input, "ssm.time_step_rank", "{} heads for an inner size of {}", mamba.heads, inner);
  mamba.head_dim = inner / mamba.heads;
  mamba.states = metadata.integer("ssm.state_size");
  mamba.groups = metadata.integer("ssm.group_count", 1);
  mamba.conv_width = metadata.integer("ssm.conv_kernel");
  return mamba;
}

namespace {

class Namer {
 public:
  Namer(NameTable& table, const std::string& mixer, const std::vector<std::string>& prefixes)
      : table_(table), path_("blocks.{layer}." + mixer + "."), prefixes_(prefixes) {}
  void operator()(const std::string& ours, std::initializer_list<std::pair<const char*, Piece>> theirs) {
    std::vector<NameInFile>& names = table_.names[path_ + ours];
    for (const std::string& prefix : prefixes_)
      for (const auto& [name, piece] : theirs) names.push_back({prefix + name, piece});
  }
  void operator()(const std::string& ours, const char* theirs) { (*this)(ours, {{theirs, Piece::whole}}); }
  void set_form(const std::string& ours, Form form) {
    for (NameInFile& name : table_.names.at(path_ + ours)) name.form = form;
  }

 private:
  NameTable& table_;
  std::string path_;
  const std::vector<std::string>& prefixes_;
};

}  // namespace

void mixer_alone(ModelSpec& spec, const decltype(BlockSpec::mixer)& mixer) {
  for (BlockSpec& block : spec.blocks) {
    block.mixer = mixer;
    block.ffn = layers::NoFfnSpec{}, block.ffn_norm.reset();
  }
}

void add_mamba_names(NameTable& table, const std::vector<std::string>& prefixes) {
  Namer name(table, "mamba", prefixes);
  for (const std::string kind : {"weight", "bias"}) {
    const std::string suffix = kind == "bias" ? ".bias" : "", in_proj = "in_proj." + kind;
    name("in" + suffix, {{in_proj.c_str(), Piece::first_half}});
    name("gate" + suffix, {{in_proj.c_str(), Piece::second_half}});
    name("out" + suffix, ("out_proj." + kind).c_str());
    name("conv" + suffix, ("conv1d." + kind).c_str());
    name("dt" + suffix, ("dt_proj." + kind).c_str());
  }
  name("select", "x_proj.weight");
  for (const std::string part : {"dt", "b", "c"}) name(part + "_norm", (part + "_layernorm.weight").c_str());
  name("a_log", "A_log");
  name("d", "D");
  name.set_form("conv", Form::filters);
}

void add_mamba2_names(NameTable& table, const std::vector<std::string>& prefixes) {
  Namer name(table, "mamba2", prefixes);
  for (const std::string kind : {"weight", "bias"}) {
    const std::string suffix = kind == "bias" ? ".bias" : "";
    name("in" + suffix, ("in_proj." + kind).c_str());
    name("out" + suffix, ("out_proj." + kind).c_str());
    name("conv" + suffix, ("conv1d." + kind).c_str());
  }
  name("dt.bias", "dt_bias");
  name("norm", "norm.weight");
  name("a_log", "A_log");
  name("d", "D");
  name.set_form("conv", Form::filters);
}

}  // namespace coterie::families::ssm
