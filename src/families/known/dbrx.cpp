#include "base/error.h"
#include "families/config/config_reader.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_reader.h"
#include "families/gguf/metadata_writer.h"
#include "families/known/families.h"

// DBRX (Databricks 2024): LayerNorms without biases, queries, keys and values fused and clipped, and in every layer
// fine experts of softmax weights over their sum, whose tensors hold all experts row by row.
namespace coterie::families {

namespace {

using layers::AttentionSpec;
using layers::MoeSpec;

constexpr float kNormEps = 1e-5f;

void layer_norms(ModelSpec& spec) {
  spec.final_norm.kind = layers::NormSpec::Kind::layer;
  spec.final_norm.bias = false;
  spec.final_norm.eps = kNormEps;
  for (BlockSpec& block : spec.blocks) block.mixer_norm = block.ffn_norm = spec.final_norm;
}

const base::Json& part(ConfigReader& config, std::string_view key) {
  static const base::Json kNone = base::Json::object();
  const base::Json* object = config.keys.object(key);
  return object ? *object : kNone;
}

/// What transformers writes into each configuration it nests.
void leave(base::JsonReader& keys, const std::string& where, const ConfigReader& config) {
  keys.inert({"model_type", "transformers_version", "architectures", "dtype", "torch_dtype", "_name_or_path",
              "output_hidden_states", "output_attentions", "return_dict", "chunk_size_feed_forward", "id2label",
              "label2id", "problem_type", "is_encoder_decoder", "_attn_implementation_autoset"});
  for (const std::string& key : keys.unread())
    base::fail(base::ErrorKind::unsupported, config.keys.where(), "{} has a key \"{}\" that is not known", where, key);
}

ModelSpec from_config(ConfigReader& config) {
  base::JsonReader attn(part(config, "attn_config"), config.keys.where() + ": attn_config");
  base::JsonReader ffn(part(config, "ffn_config"), config.keys.where() + ": ffn_config");
  // The common keys under the common names.
  base::Json usual = {{"model_type", config.keys.string("model_type")},
                      {"vocab_size", config.keys.integer("vocab_size", 32000)},
                      {"hidden_size", config.integer_of({"d_model", "hidden_size"}, 2048)},
                      {"num_hidden_layers", config.integer_of({"n_layers", "num_hidden_layers"}, 24)},
                      {"num_attention_heads", config.integer_of({"n_heads", "num_attention_heads"}, 16)},
                      {"num_key_value_heads", attn.integer("kv_n_heads", 1)},
                      {"max_position_embeddings", config.integer_of({"max_seq_len", "max_position_embeddings"}, 2048)},
                      {"intermediate_size", ffn.integer("ffn_hidden_size", 3584)},
                      {"rms_norm_eps", decimal(kNormEps)}};
  config.keys.inert({"num_key_value_heads"});  // attn_config says it
  config.expect("tie_word_embeddings", false);
  const base::Json* activation = ffn.object("ffn_act_fn");
  if (activation && activation->contains("name")) usual["hidden_act"] = (*activation)["name"];
  // Older files have the rotary base beside the heads.
  const double theta = attn.number("rope_theta", 10000.0);
  for (const char* key : {"rope_theta", "rope_scaling", "rope_parameters"})
    if (const base::Json* value = config.keys.value(key)) usual[key] = *value;
  if (!usual.contains("rope_theta") && !usual.contains("rope_parameters")) usual["rope_theta"] = theta;
  ConfigReader reader(usual, config.keys.where());
  ModelSpec spec = reader.decoder({.vocabulary = 0, .width = 0, .layers = 0, .heads = 0, .hidden = 0, .context = 0});
  config.warnings.insert(config.warnings.end(), reader.warnings.begin(), reader.warnings.end());
  layer_norms(spec);

  std::optional<float> clip;
  if (attn.has("clip_qkv")) clip = static_cast<float>(attn.number("clip_qkv"));
  MoeSpec moe;
  moe.router.experts = ffn.integer("moe_num_experts", 4);
  moe.router.experts_per_token = ffn.integer("moe_top_k", 1);
  // The power of the norm that weights are divided by; null: they stay as they are.
  const base::Json& ffn_json = part(config, "ffn_config");
  const auto power = ffn_json.find("moe_normalize_expert_weights");
  moe.router.renormalise = power == ffn_json.end() || !power->is_null();
  if (ffn.number("moe_normalize_expert_weights", 1.0) != 1)
    base::fail(base::ErrorKind::unsupported, ffn.where(), "moe_normalize_expert_weights is {}: expected 1 or null",
               power->dump());
  moe.jitter = static_cast<float>(ffn.number("moe_jitter_eps", 0.0));
  if (config.keys.boolean("output_router_logits", false))
    spec.router_aux_loss = static_cast<float>(ffn.number("moe_loss_weight", 0.01));
  for (BlockSpec& block : spec.blocks) {
    std::get<AttentionSpec>(block.mixer).clip_qkv = clip;
    turn_into_experts(block, moe);
  }
  attn.inert({"attn_pdrop", "clip_qkv"});
  if (ffn.has("hidden_size") && ffn.integer("hidden_size") != spec.width)
    config.warnings.push_back(ffn.where() + ": hidden_size has no effect, as in the reference");
  ffn.inert({"moe_loss_weight", "hidden_size", "uniform_expert_assignment"});
  leave(attn, "attn_config", config), leave(ffn, "ffn_config", config);
  return spec;
}

ModelSpec from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  layer_norms(spec);
  std::optional<float> clip;
  if (const double limit = metadata.number("attention.clamp_kqv", 0.0); limit > 0) clip = static_cast<float>(limit);
  for (BlockSpec& block : spec.blocks) std::get<AttentionSpec>(block.mixer).clip_qkv = clip;
  metadata.set_experts(spec, {.hidden = metadata.integer("feed_forward_length"), .renormalise = true});
  return spec;
}

NameTable names() {
  NameTable table;
  const std::string layer = "transformer.blocks.{layer}.", path = "blocks.{layer}.";
  const std::string attention = layer + "norm_attn_norm.attn.", experts = layer + "ffn.experts.mlp.";
  table.names["embedding"] = {{"transformer.wte.weight"}};
  table.names["final_norm"] = {{"transformer.norm_f.weight"}};
  table.names["head"] = {{"lm_head.weight"}};
  table.names[path + "mixer_norm"] = {{layer + "norm_attn_norm.norm_1.weight"}};
  table.names[path + "ffn_norm"] = {{layer + "norm_attn_norm.norm_2.weight"}};
  for (const auto& [part, piece] :
       {std::pair("q", Piece::front), std::pair("k", Piece::before_back), std::pair("v", Piece::back)})
    table.names[path + "attention." + part] = {{attention + "Wqkv.weight", piece}};
  table.names[path + "attention.o"] = {{attention + "out_proj.weight"}};
  table.names[path + "moe.router"] = {{layer + "ffn.router.layer.weight"}};
  for (const std::string suffix : {"", ".weight"}) {
    table.names[path + "moe.experts.gate"].push_back(
        {experts + "w1" + suffix, Piece::whole, false, Form::rows_together});
    table.names[path + "moe.experts.up"].push_back({experts + "v1" + suffix, Piece::whole, false, Form::rows_together});
    table.names[path + "moe.experts.down"].push_back(
        {experts + "w2" + suffix, Piece::whole, false, Form::columns_together});
  }
  return table;
}

// llama.cpp has queries, keys and values in one tensor, and calls the norm before the experts one after the attention.
void adjust_gguf_names(NameTable& table, Direction direction, const checkpoint::TensorSource*) {
  const std::string path = "blocks.{layer}.";
  table.names[path + "ffn_norm"] = {{"blk.{layer}.attn_output_norm.weight"}};
  if (direction == Direction::reading) return;
  for (const char* part : {"q", "k", "v"}) {
    std::vector<NameInFile>& found = table.names[path + "attention." + part];
    found.erase(found.begin());
  }
}

void to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.decoder();
  const AttentionSpec& attention = config.attention();
  const MoeSpec& moe = *first_moe(spec);
  base::Json& json = config.json;
  for (const char* key : {"rms_norm_eps", "intermediate_size", "head_dim", "hidden_act", "num_key_value_heads"})
    json.erase(key);
  for (const auto& [usual, own] :
       {std::pair("hidden_size", "d_model"), std::pair("num_attention_heads", "n_heads"),
        std::pair("num_hidden_layers", "n_layers"), std::pair("max_position_embeddings", "max_seq_len")}) {
    json[own] = json[usual];
    json.erase(usual);
  }
  json["attn_config"] = {{"kv_n_heads", attention.kv_heads}, {"rope_theta", decimal(attention.rope->theta)}};
  json["attn_config"]["clip_qkv"] = attention.clip_qkv ? base::Json(decimal(*attention.clip_qkv)) : base::Json(nullptr);
  json["ffn_config"] = {{"ffn_hidden_size", moe.hidden},
                        {"moe_num_experts", moe.router.experts},
                        {"moe_top_k", moe.router.experts_per_token},
                        {"ffn_act_fn", {{"name", activation_name(moe.activation)}}}};
  json["ffn_config"]["moe_normalize_expert_weights"] = moe.router.renormalise ? base::Json(1.0) : base::Json(nullptr);
}

void to_gguf(const ModelSpec& spec, MetadataWriter& metadata) {
  metadata.erase("attention.layer_norm_rms_epsilon");
  metadata.put("attention.layer_norm_epsilon", static_cast<double>(spec.final_norm.eps));
}

bool says(const ModelSpec& spec) { return first_moe(spec) != nullptr; }

}  // namespace

const Family kDbrx = {
    .model_type = "dbrx",
    .architecture = "dbrx",
    .class_name = "DbrxForCausalLM",
    .from_config = from_config,
    .from_gguf = from_gguf,
    .hugging_face_names = names,
    .to_config = to_config,
    .to_gguf = to_gguf,
    .adjust_gguf_names = adjust_gguf_names,
    .says = says,
};

}  // namespace coterie::families
