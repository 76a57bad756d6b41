#include "base/error.h"
#include "families/known/families.h"
#include "families/known/ssm.h"

// Mamba-2 (Dao & Gu 2024, arXiv:2405.21060): blocks that are one norm and one Mamba-2 mixer.
namespace coterie::families {

namespace {

constexpr ssm::MambaKeys kKeys = {.states = "state_size",
                                  .conv_width = "conv_kernel",
                                  .expand = "expand",
                                  .conv_bias = "use_conv_bias",
                                  .projection_bias = "use_bias",
                                  .activation = "hidden_act",
                                  .default_states = 128};

ModelSpec mamba2_from_config(ConfigReader& config) {
  ModelSpec spec = ssm::stack(config, {.vocabulary = 32768, .width = 4096, .layers = 64});
  layers::Mamba2Spec mamba = ssm::mamba2(config, kKeys);
  mamba.heads = config.keys.integer("num_heads", 128);
  mamba.head_dim = config.keys.integer("head_dim", 64);
  mamba.groups = config.keys.integer("n_groups", 8);
  mamba.norm_eps = spec.final_norm.eps;
  const int64_t inner = ssm::inner_width(config, kKeys, spec.width);
  if (mamba.inner() != inner || config.keys.integer("d_inner", inner) != inner)
    base::fail(
        base::ErrorKind::bad_input, config.keys.where(),
        "expand * hidden_size is {}, num_heads * head_dim is {}: expected the same (and the same d_inner, if any)",
        inner, mamba.inner());
  config.keys.inert({"intermediate_size"});  // the reference's mixer computes its own
  ssm::read_time_step_limit(config, mamba);
  for (BlockSpec& block : spec.blocks) block.mixer = mamba;
  ssm::mark_inert(config);
  return spec;
}

ModelSpec mamba2_from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.stack();
  layers::Mamba2Spec mamba = ssm::mamba2(metadata);
  mamba.norm_eps = spec.final_norm.eps;
  ssm::mixer_alone(spec, mamba);
  return spec;
}

NameTable mamba2_names() {
  NameTable table;
  const std::string layer = "backbone.layers.{layer}.";
  table.names["embedding"] = {{"backbone.embeddings.weight"}, {"model.backbone.embeddings.weight"}};
  table.names["final_norm"] = {{"backbone.norm_f.weight"}, {"model.backbone.norm_f.weight"}};
  table.names["head"] = {{"lm_head.weight"}, {"model.lm_head.weight"}};
  table.names["blocks.{layer}.mixer_norm"] = {{layer + "norm.weight"}, {"model." + layer + "norm.weight"}};
  ssm::add_mamba2_names(table, {layer + "mixer.", "model." + layer + "mixer."});
  return table;
}

}  // namespace

const Family kMamba2 = {
    .model_type = "mamba2",
    .architecture = "mamba2",
    .class_name = "Mamba2ForCausalLM",
    .from_config = mamba2_from_config,
    .from_gguf = mamba2_from_gguf,
    .hugging_face_names = mamba2_names,
};

}  // namespace coterie::families
