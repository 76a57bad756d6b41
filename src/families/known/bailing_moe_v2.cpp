#include <algorithm>

#include "base/error.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_writer.h"
#include "families/known/bailing.h"
#include "families/known/deepseek.h"
#include "families/known/families.h"

// Ling 2.0 (inclusionAI 2025, arXiv:2510.22115), by its published code: DeepSeek-V3's mixture under grouped-query
// attention with norms of queries and keys and rotary positions of half of each head; the projections are fused.
namespace coterie::families {

namespace {

using layers::AttentionSpec;

ModelSpec from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 157184,
                                   .width = 2048,
                                   .layers = 20,
                                   .heads = 16,
                                   .kv_heads = 4,
                                   .head_dim = 128,
                                   .hidden = 5120,
                                   .context = 32768,
                                   .theta = 600000,
                                   .partial_rotary = 1.0});
  const bool bias = config.keys.boolean("use_qkv_bias", false), output_bias = config.keys.boolean("use_bias", false);
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<AttentionSpec>(block.mixer);
    attention.q_bias = attention.k_bias = attention.v_bias = bias, attention.o_bias = output_bias;
    attention.qk_norm = AttentionSpec::QkNorm::per_head;
  }
  layers::MoeSpec moe;
  moe.hidden = config.keys.integer("moe_intermediate_size", 512);
  moe.router = deepseek::sigmoid_router(
      config, {.experts = 256, .experts_per_token = 8, .groups = 8, .groups_kept = 4, .scale = 1});
  // One expert keeps its weight as it is.
  moe.router.renormalise = moe.router.experts_per_token > 1;
  config.expect("norm_topk_prob", true);
  config.expect("score_function", "sigmoid");
  config.expect("use_qk_norm", true);
  config.expect("use_rmsnorm", true);
  config.expect("moe_router_enable_expert_bias", true);
  config.expect("moe_shared_expert_intermediate_size", moe.hidden);
  config.expect("use_sliding_window", false);
  config.expect("norm_head", false);
  config.keys.inert({"embedding_dropout", "output_dropout", "router_dtype", "mtp_loss_scaling_factor", "sliding_window",
                     "max_window_layers", "router_type"});
  deepseek::set_experts(config, spec, moe, {.shared = 1, .dense_layers = 1});
  deepseek::set_prediction_layers(config, spec, 0);
  return spec;
}

/// Published files of both generations have this model_type; the class tells.
ModelSpec from_first_name(ConfigReader& config) {
  const std::vector<std::string> classes = config.keys.strings("architectures");
  if (std::find(classes.begin(), classes.end(), "BailingMoeV2ForCausalLM") == classes.end())
    base::fail(base::ErrorKind::unsupported, config.keys.where(),
               "model_type bailing_moe is supported for Ling 2.0 (architectures BailingMoeV2ForCausalLM), not for "
               "Ling 1, whose routers are others");
  return from_config(config);
}

void to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.decoder();
  deepseek::experts_to_config(spec, config);
  config.json["num_experts"] = config.json["n_routed_experts"];
  config.json["num_shared_experts"] = config.json["n_shared_experts"];
  config.json.erase("n_routed_experts"), config.json.erase("n_shared_experts");
  const AttentionSpec& attention = config.attention();
  config.json["use_qkv_bias"] = attention.q_bias, config.json["use_bias"] = attention.o_bias;
  config.json["norm_topk_prob"] = true;
  config.json["partial_rotary_factor"] =
      static_cast<double>(attention.rope->dims) / static_cast<double>(attention.head_dim);
}

}  // namespace

namespace bailing {

ModelSpec from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  for (BlockSpec& block : spec.blocks) std::get<AttentionSpec>(block.mixer).qk_norm = AttentionSpec::QkNorm::per_head;
  metadata.integer("leading_dense_block_count", 0);  // which layers have a router says it
  const int64_t hidden = metadata.integer("expert_feed_forward_length");
  const int64_t each = metadata.integer("expert_shared_feed_forward_length", hidden);
  metadata.set_experts(spec, {.hidden = hidden,
                              .shared_hidden = each * metadata.integer("expert_shared_count", 0),
                              .renormalise = true,
                              .score = layers::RouterSpec::Score::sigmoid,
                              .selection_bias = deepseek::has_selection_bias(metadata, spec),
                              .groups = true});
  deepseek::drop_prediction_layers(metadata, spec);
  return spec;
}

NameTable names() {
  NameTable table = deepseek::expert_names();
  const std::string layer = "model.layers.{layer}.", path = "blocks.{layer}.", attention = layer + "attention.";
  table.names["embedding"] = {{"model.word_embeddings.weight"}};
  for (const auto& [part, piece] :
       {std::pair("q", Piece::front), std::pair("k", Piece::before_back), std::pair("v", Piece::back)}) {
    table.names[path + "attention." + part] = {{attention + "query_key_value.weight", piece}};
    table.names[path + "attention." + std::string(part) + ".bias"] = {{attention + "query_key_value.bias", piece}};
  }
  for (const char* suffix : {"weight", "bias"})
    table.names[path + "attention.o" + (suffix[0] == 'b' ? ".bias" : "")] = {{attention + "dense." + suffix}};
  table.names[path + "attention.q_norm"] = {{attention + "query_layernorm.weight"}};
  table.names[path + "attention.k_norm"] = {{attention + "key_layernorm.weight"}};
  table.names[path + "moe.router.selection_bias"] = {{layer + "mlp.gate.expert_bias"}};
  return table;
}

// llama.cpp has queries, keys and values in one tensor.
void adjust_gguf_names(NameTable& table, Direction direction, const checkpoint::TensorSource*) {
  if (direction == Direction::reading) return;
  for (const std::string part : {"q", "k", "v"})
    for (const char* suffix : {"", ".bias"}) {
      std::vector<NameInFile>& found = table.names["blocks.{layer}.attention." + part + suffix];
      found.erase(found.begin());
    }
}

void to_gguf(const ModelSpec& spec, MetadataWriter& metadata) {
  deepseek::experts_to_gguf(spec, metadata);
  // llama.cpp multiplies it by expert_shared_count.
  if (const layers::MoeSpec* moe = first_moe(spec))
    metadata.put("expert_shared_feed_forward_length", static_cast<uint64_t>(moe->hidden));
}

}  // namespace bailing

const Family kBailingMoeV2 = {
    .model_type = "bailing_moe_v2",
    .architecture = "bailingmoe2",
    .class_name = "BailingMoeV2ForCausalLM",
    .from_config = from_config,
    .from_gguf = bailing::from_gguf,
    .hugging_face_names = bailing::names,
    .to_config = to_config,
    .to_gguf = bailing::to_gguf,
    .adjust_gguf_names = bailing::adjust_gguf_names,
    .says = deepseek::has_experts,
};
const Family kBailingMoe = {
    .model_type = "bailing_moe",
    .class_name = "BailingMoeV2ForCausalLM",
    .from_config = from_first_name,
    .from_gguf = bailing::from_gguf,
    .hugging_face_names = bailing::names,
};

}  // namespace coterie::families
