#include "families/config/config_reader.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_reader.h"
#include "families/known/families.h"

// OLMo 2 (arXiv:2501.00656): norms after attention and FFN instead of before them, and RMSNorm over the whole query and
// key projections.
namespace coterie::families {

namespace {

void olmo2_blocks(ModelSpec& spec) {
  for (BlockSpec& block : spec.blocks) {
    block.mixer_norm.reset(), block.ffn_norm.reset();
    block.mixer_post_norm = block.ffn_post_norm = spec.final_norm;
    std::get<layers::AttentionSpec>(block.mixer).qk_norm = layers::AttentionSpec::QkNorm::full_width;
  }
}

ModelSpec olmo2_from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder(
      {.vocabulary = 50304, .width = 4096, .layers = 32, .heads = 32, .hidden = 11008, .context = 2048, .eps = 1e-5});
  olmo2_blocks(spec);
  config.set_attention_biases(spec);
  return spec;
}

// The architecture is that of OLMo 3, too, which has sliding windows: refused where the file has one.
ModelSpec olmo2_from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  olmo2_blocks(spec);
  return spec;
}

NameTable olmo2_names() {
  NameTable table = hugging_face_names();
  const std::string layer = "model.layers.{layer}.", path = "blocks.{layer}.";
  table.names[path + "mixer_post_norm"] = {{layer + "post_attention_layernorm.weight"}};
  table.names[path + "ffn_post_norm"] = {{layer + "post_feedforward_layernorm.weight"}};
  table.names.erase(path + "ffn_norm");
  return table;
}

void olmo2_to_config(const ModelSpec&, ConfigWriter& config) {
  config.decoder();
  config.attention_bias();
}

}  // namespace

const Family kOlmo2 = {
    .model_type = "olmo2",
    .architecture = "olmo2",
    .class_name = "Olmo2ForCausalLM",
    .from_config = olmo2_from_config,
    .from_gguf = olmo2_from_gguf,
    .hugging_face_names = olmo2_names,
    .to_config = olmo2_to_config,
};

}  // namespace coterie::families
