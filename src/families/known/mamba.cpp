#include "base/error.h"
#include "families/known/families.h"
#include "families/known/ssm.h"

// Mamba (Gu & Dao 2023, arXiv:2312.00752): blocks that are one norm and one mixer, no attention and no positions.
// FalconMamba (Zuo et al. 2024, arXiv:2410.05355) norms dt, B and C, without weights.
namespace coterie::families {

namespace {

constexpr ssm::MambaKeys kKeys = {.states = "state_size",
                                  .conv_width = "conv_kernel",
                                  .expand = "expand",
                                  .conv_bias = "use_conv_bias",
                                  .projection_bias = "use_bias",
                                  .activation = "hidden_act",
                                  .rank = "time_step_rank"};

ModelSpec read(ConfigReader& config, layers::MambaSpec::InnerNorm inner_norm, float inner_norm_eps) {
  ModelSpec spec = ssm::stack(config, {.vocabulary = 50280, .width = 768, .layers = 32, .tied = true});
  layers::MambaSpec mamba = ssm::mamba(config, kKeys, spec.width);
  // In the reference's config a written width overrides expand * hidden_size.
  mamba.inner = config.integer_of({"intermediate_size", "d_inner"}, mamba.inner);
  mamba.inner_norm = inner_norm, mamba.inner_norm_eps = inner_norm_eps;
  for (BlockSpec& block : spec.blocks) block.mixer = mamba;
  ssm::mark_inert(config);
  return spec;
}

ModelSpec mamba_from_config(ConfigReader& config) { return read(config, layers::MambaSpec::InnerNorm::none, 1e-6f); }

ModelSpec falcon_mamba_from_config(ConfigReader& config) {
  const auto eps = static_cast<float>(config.keys.number("mixer_rms_eps", 1e-6));
  return read(config, layers::MambaSpec::InnerNorm::plain, eps);
}

// Both are "mamba" there; ssm.dt_b_c_rms tells them apart. The files do not say mixer_rms_eps; every published
// FalconMamba has 1e-6.
ModelSpec mamba_from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.stack();
  layers::MambaSpec mamba = ssm::mamba(metadata);
  if (metadata.boolean("ssm.dt_b_c_rms", false)) mamba.inner_norm = layers::MambaSpec::InnerNorm::plain;
  ssm::mixer_alone(spec, mamba);
  return spec;
}

NameTable mamba_names() {
  NameTable table;
  const std::string layer = "backbone.layers.{layer}.";
  table.names["embedding"] = {{"backbone.embeddings.weight"}, {"backbone.embedding.weight"}};
  table.names["final_norm"] = {{"backbone.norm_f.weight"}};
  table.names["head"] = {{"lm_head.weight"}};
  table.names["blocks.{layer}.mixer_norm"] = {{layer + "norm.weight"}};
  ssm::add_mamba_names(table, {layer + "mixer."});
  return table;
}

}  // namespace

const Family kMamba = {
    .model_type = "mamba",
    .architecture = "mamba",
    .class_name = "MambaForCausalLM",
    .from_config = mamba_from_config,
    .from_gguf = mamba_from_gguf,
    .hugging_face_names = mamba_names,
};
const Family kFalconMamba = {
    .model_type = "falcon_mamba",
    .architecture = "mamba",
    .class_name = "FalconMambaForCausalLM",
    .from_config = falcon_mamba_from_config,
    .from_gguf = mamba_from_gguf,
    .hugging_face_names = mamba_names,
};

}  // namespace coterie::families
