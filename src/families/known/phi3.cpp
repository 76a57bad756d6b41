#include <utility>

#include "base/error.h"
#include "families/config/config_reader.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_reader.h"
#include "families/known/families.h"

// Phi-3, Phi-3.5 and Phi-4 (arXiv:2404.14219, arXiv:2412.08905): llama with q, k and v in one tensor, gate and up in
// another; long contexts by LongRoPE; Phi-4-mini rotates a part of each head.
namespace coterie::families {

namespace {

ModelSpec phi3_from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 32064,
                                   .width = 3072,
                                   .layers = 32,
                                   .heads = 32,
                                   .hidden = 8192,
                                   .context = 4096,
                                   .eps = 1e-5,
                                   .partial_rotary = 1.0,
                                   .original_context = 4096});
  using Scaling = layers::RopeSpec::Scaling;
  const Scaling scaling = std::get<layers::AttentionSpec>(spec.blocks.front().mixer).rope->scaling;
  if (scaling != Scaling::none && scaling != Scaling::longrope)
    base::fail(base::ErrorKind::unsupported, config.keys.where(),
               "the rotary scaling of phi3 is longrope or none; older files call it su or yarn and give short_factor "
               "and long_factor");
  config.set_window(spec, config.sliding_window());
  return spec;
}

// llama.cpp evaluates this architecture without its window, which changes nothing for what fits into it.
ModelSpec phi3_from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  metadata.set_window(spec);
  return spec;
}

NameTable phi3_names() {
  NameTable table = hugging_face_names();
  const std::string layer = "model.layers.{layer}.", path = "blocks.{layer}.";
  const std::string qkv = layer + "self_attn.qkv_proj.weight", gate_up = layer + "mlp.gate_up_proj.weight";
  table.names[path + "attention.q"] = {{qkv, Piece::front}};
  table.names[path + "attention.k"] = {{qkv, Piece::before_back}};
  table.names[path + "attention.v"] = {{qkv, Piece::back}};
  table.names[path + "ffn.gate"] = {{gate_up, Piece::first_half}};
  table.names[path + "ffn.up"] = {{gate_up, Piece::second_half}};
  return table;
}

void phi3_to_config(const ModelSpec&, ConfigWriter& config) {
  config.decoder();
  config.sliding_window();
  config.json["pad_token_id"] = nullptr;  // the reference's own may be outside of the vocabulary
  const layers::AttentionSpec& attention = config.attention();
  if (attention.rope && attention.rope->dims != attention.head_dim)
    config.json["partial_rotary_factor"] =
        static_cast<double>(attention.rope->dims) / static_cast<double>(attention.head_dim);
}

// llama.cpp has q, k and v in one tensor, and gate and up, under the name of up.
void phi3_gguf_names(NameTable& table, Direction direction, const checkpoint::TensorSource* source) {
  const std::string path = "blocks.{layer}.";
  if (direction == Direction::writing)
    for (const std::string part : {"q", "k", "v"}) {
      std::vector<NameInFile>& names = table.names[path + "attention." + part];
      std::swap(names[0], names[1]);
    }
  if (direction == Direction::reading && (!source || source->find("blk.0.ffn_gate.weight"))) return;
  table.names[path + "ffn.gate"] = {{"blk.{layer}.ffn_up.weight", Piece::first_half}};
  table.names[path + "ffn.up"] = {{"blk.{layer}.ffn_up.weight", Piece::second_half}};
}

}  // namespace

const Family kPhi3 = {
    .model_type = "phi3",
    .architecture = "phi3",
    .class_name = "Phi3ForCausalLM",
    .from_config = phi3_from_config,
    .from_gguf = phi3_from_gguf,
    .hugging_face_names = phi3_names,
    .to_config = phi3_to_config,
    .adjust_gguf_names = phi3_gguf_names,
};

}  // namespace coterie::families
