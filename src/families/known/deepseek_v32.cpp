#include <algorithm>

#include "base/error.h"
#include "families/config/config_reader.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_reader.h"
#include "families/gguf/metadata_writer.h"
#include "families/known/deepseek.h"
#include "families/known/families.h"

// DeepSeek-V3.2 (arXiv:2512.02556) and GLM-5 (Zhipu 2026): DeepSeek-V3's layers, of which each has an indexer that
// chooses the positions its attention sees; in GLM-5.2 some layers see what the one before chose.
namespace coterie::families {

namespace {

using base::ErrorKind;
using base::fail;
using Style = ops::RopeTable::Style;

struct IndexDefaults {
  int64_t heads;
  Style style;
};

void set_indexers(ConfigReader& config, ModelSpec& spec, const IndexDefaults& defaults, const std::vector<bool>& own) {
  layers::IndexerSpec indexer;
  indexer.heads = config.keys.integer("index_n_heads", defaults.heads);
  indexer.head_dim = config.keys.integer("index_head_dim", 128);
  indexer.top_k = config.keys.integer("index_topk", 2048);
  indexer.style = defaults.style;
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    indexer.own = own.empty() || own[i];
    if (i == 0 && !indexer.own)
      fail(ErrorKind::bad_input, config.keys.where(), "layer 0 has no indexer, and none is before it");
    std::get<layers::LatentAttentionSpec>(spec.blocks[i].mixer).indexer = indexer;
  }
  for (const std::string& type : config.keys.strings("layer_types"))
    if (type != "indexed_attention" && type != "deepseek_sparse_attention")
      fail(ErrorKind::unsupported, config.keys.where(), "layer_types has \"{}\": expected indexed_attention", type);
  config.keys.inert({"indexer_rope_interleave", "index_share_for_mtp_iteration"});
}

struct Defaults {
  deepseek::LatentDefaults latent;
  deepseek::RouterDefaults router;
};

/// What both share: the config class of the second is made of the first's.
ModelSpec read(ConfigReader& config, const ConfigDefaults& sizes, const Defaults& defaults) {
  ModelSpec spec = config.decoder(sizes);
  deepseek::set_attention(config, spec, config.keys.boolean("rope_interleave", true), defaults.latent);
  if (std::get<layers::LatentAttentionSpec>(spec.blocks.front().mixer).q_rank == 0)
    fail(ErrorKind::unsupported, config.keys.where(), "q_lora_rank is null: an indexer reads the queries' latent");
  layers::MoeSpec moe;
  moe.router = deepseek::sigmoid_router(config, defaults.router);
  moe.hidden = config.keys.integer("moe_intermediate_size", 2048);
  deepseek::set_experts(config, spec, moe, {.shared = 1, .dense_layers = 3, .by_list = true});
  config.expect("mlp_bias", false);
  deepseek::set_prediction_layers(config, spec, 1);
  return spec;
}

ModelSpec v32_from_config(ConfigReader& config) {
  ModelSpec spec = read(config,
                        {.vocabulary = 129280,
                         .width = 7168,
                         .layers = 61,
                         .heads = 128,
                         .kv_heads = 128,
                         .head_dim = config.keys.integer("qk_rope_head_dim", 64),
                         .hidden = 18432,
                         .context = 163840},
                        {{1536, 512, 128, 64, 128}, {256, 8, 8, 4, 2.5}});
  set_indexers(config, spec, {64, Style::half}, {});
  return spec;
}

/// indexer_types; or by a pattern of F and S; or by how many layers share one, from an offset on.
std::vector<bool> own_indexers(ConfigReader& config, size_t layers) {
  std::vector<std::string> types = config.keys.strings("indexer_types");
  const base::Json* const pattern = config.keys.value("index_topk_pattern");
  if (types.empty() && pattern && pattern->is_string())
    for (const char c : pattern->get<std::string>()) types.emplace_back(c == 'F' ? "full" : c == 'S' ? "shared" : "?");
  const int64_t step = std::max<int64_t>(config.keys.integer("index_topk_freq", 1), 1);
  const int64_t offset = config.keys.integer("index_skip_topk_offset", 2);
  std::vector<bool> own;
  for (size_t i = 0; i < layers; ++i) {
    if (types.empty()) own.push_back(std::max<int64_t>(static_cast<int64_t>(i) - offset + 1, 0) % step == 0);
    if (types.empty()) continue;
    if (types.size() != layers || (types[i] != "full" && types[i] != "shared"))
      fail(ErrorKind::bad_input, config.keys.where(),
           "indexer_types has {} entries for {} layers: expected full or shared for each", types.size(), layers);
    own.push_back(types[i] == "full");
  }
  return own;
}

ModelSpec glm_from_config(ConfigReader& config) {
  ModelSpec spec = read(config,
                        {.vocabulary = 154880,
                         .width = 6144,
                         .layers = 78,
                         .heads = 64,
                         .kv_heads = 64,
                         .head_dim = config.keys.integer("qk_rope_head_dim", 64),
                         .hidden = 12288,
                         .context = 202752,
                         .eps = 1e-5},
                        {{2048, 512, 192, 64, 256}, {256, 8, 1, 1, 2.5}});
  set_indexers(config, spec, {32, Style::interleaved}, own_indexers(config, spec.blocks.size()));
  return spec;
}

ModelSpec from_gguf(MetadataReader& metadata, Style style) {
  ModelSpec spec = deepseek::latent_from_gguf(metadata);
  layers::IndexerSpec indexer;
  indexer.heads = metadata.integer("attention.indexer.head_count");
  indexer.head_dim = metadata.integer("attention.indexer.key_length");
  indexer.top_k = metadata.integer("attention.indexer.top_k");
  indexer.style = style;
  metadata.inert({"attention.indexer.types"});  // the tensors say it
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    indexer.own = metadata.has_tensor("blk." + std::to_string(i) + ".indexer.attn_k.weight");
    std::get<layers::LatentAttentionSpec>(spec.blocks[i].mixer).indexer = indexer;
  }
  return spec;
}

ModelSpec v32_from_gguf(MetadataReader& metadata) { return from_gguf(metadata, Style::half); }
ModelSpec glm_from_gguf(MetadataReader& metadata) { return from_gguf(metadata, Style::interleaved); }

void to_gguf(const ModelSpec& spec, MetadataWriter& metadata) {
  deepseek::experts_to_gguf(spec, metadata);
  std::vector<uint64_t> own;
  for (const BlockSpec& block : spec.blocks) {
    const layers::IndexerSpec& indexer = *std::get<layers::LatentAttentionSpec>(block.mixer).indexer;
    own.push_back(indexer.own ? 1 : 0);
    metadata.put("attention.indexer.head_count", static_cast<uint64_t>(indexer.heads));
    metadata.put("attention.indexer.key_length", static_cast<uint64_t>(indexer.head_dim));
    metadata.put("attention.indexer.top_k", static_cast<uint64_t>(indexer.top_k));
  }
  if (std::find(own.begin(), own.end(), 0) != own.end()) metadata.put("attention.indexer.types", own);
}

void adjust_gguf_names(NameTable& table, Direction, const checkpoint::TensorSource*) {
  const std::string layer = "blk.{layer}.indexer.", path = "blocks.{layer}.latent.indexer.";
  const std::pair<const char*, const char*> parts[] = {{"q", "attn_q_b.weight"},
                                                       {"k", "attn_k.weight"},
                                                       {"k_norm", "k_norm.weight"},
                                                       {"k_norm.bias", "k_norm.bias"},
                                                       {"weights", "proj.weight"}};
  for (const auto& [ours, theirs] : parts) table.names[path + ours] = {{layer + theirs}};
}

NameTable names() {
  NameTable table = deepseek::latent_names();
  const std::string layer = "model.layers.{layer}.self_attn.indexer.", path = "blocks.{layer}.latent.indexer.";
  const std::pair<const char*, const char*> parts[] = {{"q", "wq_b.weight"},
                                                       {"k", "wk.weight"},
                                                       {"k_norm", "k_norm.weight"},
                                                       {"k_norm.bias", "k_norm.bias"},
                                                       {"weights", "weights_proj.weight"}};
  for (const auto& [ours, theirs] : parts) table.names[path + ours] = {{layer + theirs}};
  return table;
}

void to_config(const ModelSpec& spec, ConfigWriter& config) {
  deepseek::v3_to_config(spec, config);
  std::vector<std::string> types;
  bool shared = false;
  for (const BlockSpec& block : spec.blocks) {
    const layers::IndexerSpec& indexer = *std::get<layers::LatentAttentionSpec>(block.mixer).indexer;
    config.json["index_n_heads"] = indexer.heads, config.json["index_head_dim"] = indexer.head_dim;
    config.json["index_topk"] = indexer.top_k;
    types.emplace_back(indexer.own ? "full" : "shared");
    shared |= !indexer.own;
  }
  if (shared) config.json["indexer_types"] = types;
}

}  // namespace

const Family kDeepseekV32 = {
    .model_type = "deepseek_v32",
    .architecture = "deepseek32",
    .class_name = "DeepseekV32ForCausalLM",
    .from_config = v32_from_config,
    .from_gguf = v32_from_gguf,
    .hugging_face_names = names,
    .to_config = to_config,
    .to_gguf = to_gguf,
    .adjust_gguf_names = adjust_gguf_names,
    .fit_to_tensors = deepseek::find_sparse_layers,
};
const Family kGlmMoeDsa = {
    .model_type = "glm_moe_dsa",
    .architecture = "glm-dsa",
    .class_name = "GlmMoeDsaForCausalLM",
    .from_config = glm_from_config,
    .from_gguf = glm_from_gguf,
    .hugging_face_names = names,
    .to_config = to_config,
    .to_gguf = to_gguf,
    .adjust_gguf_names = adjust_gguf_names,
    .fit_to_tensors = deepseek::find_sparse_layers,
};

}  // namespace coterie::families
