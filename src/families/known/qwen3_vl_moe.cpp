#include "base/error.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_writer.h"
#include "families/known/families.h"
#include "families/known/qwen_moe.h"

// Qwen3-VL-MoE and Qwen3-Omni-MoE (arXiv:2511.21631, arXiv:2509.17765): their text models are Qwen3-MoE's. The rotary
// positions have three dimensions, of which text has one in three places; what deeper layers of the image encoder add
// to the first ones concerns images alone.
namespace coterie::families {

namespace {

layers::RopeSpec rotary(ConfigReader& config, int64_t head_dim, int64_t context, double theta) {
  const base::Json *scaling = config.keys.object("rope_scaling"), *parameters = config.keys.object("rope_parameters");
  const base::Json* chosen = scaling && !scaling->empty() ? scaling : parameters;
  base::Json plain = chosen ? *chosen : base::Json::object();
  for (const char* key : {"mrope_section", "mrope_interleaved", "interleaved"}) plain.erase(key);
  if (plain.value("type", "") == "mrope") plain.erase("type");
  return config.rope_of(plain, "the rotary parameters", head_dim, context,
                        {.theta = config.keys.number("rope_theta", theta)});
}

struct Defaults {
  int64_t vocabulary, layers, heads, kv_heads, hidden, context, experts, chosen, expert_hidden;
  double theta;
  bool tied;
};

ModelSpec text_model(ConfigReader& config, const Defaults& defaults, bool may_keep_weights) {
  ModelSpec spec = config.decoder({.vocabulary = defaults.vocabulary,
                                   .width = 2048,
                                   .layers = defaults.layers,
                                   .heads = defaults.heads,
                                   .kv_heads = defaults.kv_heads,
                                   .hidden = defaults.hidden,
                                   .context = defaults.context,
                                   .tied = defaults.tied,
                                   .rope_by_layer = true});
  config.set_attention_biases(spec);
  const layers::RopeSpec rope =
      rotary(config, std::get<layers::AttentionSpec>(spec.blocks.front().mixer).head_dim, spec.context, defaults.theta);
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    attention.qk_norm = layers::AttentionSpec::QkNorm::per_head;
    attention.rope = rope;
  }
  layers::MoeSpec moe;
  moe.router.experts = config.experts(defaults.experts);
  moe.router.experts_per_token = config.experts_per_token(defaults.chosen);
  moe.router.renormalise = true;
  if (may_keep_weights)
    moe.router.renormalise = config.keys.boolean("norm_topk_prob", true);
  else
    config.expect("norm_topk_prob", true);
  moe.hidden = config.keys.integer("moe_intermediate_size", defaults.expert_hidden);
  qwen::set_experts(config, spec, moe);
  config.expect("use_sliding_window", false);
  config.keys.inert({"sliding_window"});
  return spec;
}

ModelSpec vl_from_config(ConfigReader& config) {
  return text_model(config,
                    {.vocabulary = 151936,
                     .layers = 24,
                     .heads = 16,
                     .kv_heads = 16,
                     .hidden = 5632,
                     .context = 128000,
                     .experts = 60,
                     .chosen = 4,
                     .expert_hidden = 1408,
                     .theta = 500000,
                     .tied = true},
                    false);
}

ModelSpec omni_from_config(ConfigReader& config) {
  return text_model(config,
                    {.vocabulary = 3584,
                     .layers = 28,
                     .heads = 28,
                     .kv_heads = 4,
                     .hidden = 18944,
                     .context = 32768,
                     .experts = 128,
                     .chosen = 8,
                     .expert_hidden = 768,
                     .theta = 1e6,
                     .tied = false},
                    true);
}

ModelSpec from_gguf(MetadataReader& metadata) {
  ModelSpec spec = qwen::moe_from_gguf(metadata);
  metadata.per_layer("rope.dimension_sections", 4, 0);  // text has one position in all of them
  metadata.integer("n_deepstack_layers", 0);
  return spec;
}

NameTable names() { return hugging_face_moe_names("mlp", "gate_proj", "up_proj", "down_proj"); }

// Qwen3-VL's stacks of experts are transposed, [E, D, 2F] and [E, F, D], unless transformers wrote them as it holds
// them: the router's width D tells. Where F is D too, gate and up differ.
bool transposed(const checkpoint::TensorInfo& both, const checkpoint::TensorInfo& down, int64_t width) {
  if (both.shape.size() != 3 || down.shape.size() != 3) return false;
  return down.shape[1] != down.shape[2] ? down.shape[2] == width : both.shape[1] == width;
}

void adjust_names(NameTable& table, const checkpoint::TensorSource& source) {
  for (const std::string prefix : {"model.language_model.", "model.", "thinker.model."})
    for (int64_t layer = 0; source.find(expand(prefix + "layers.{layer}.input_layernorm.weight", layer)); ++layer) {
      const std::string mlp = expand(prefix + "layers.{layer}.mlp.", layer);
      const checkpoint::TensorInfo* both = source.find(mlp + "experts.gate_up_proj");
      const checkpoint::TensorInfo* down = source.find(mlp + "experts.down_proj");
      const checkpoint::TensorInfo* router = source.find(mlp + "gate.weight");
      if (!both || !down || !router || router->shape.empty()) continue;
      if (!transposed(*both, *down, router->shape.back())) return;
      for (const char* part : {"gate", "up", "down"})
        for (NameInFile& name : table.names["blocks.{layer}.moe.experts." + std::string(part)])
          if (!name.pattern.ends_with(".weight")) name.form = Form::transposed;
      return;
    }
}

void to_config(const ModelSpec& spec, ConfigWriter& config) {
  qwen::moe_to_config(spec, config);
  config.attention_bias();
}

// llama.cpp asks for the sections; of text they are all one.
void to_gguf(const ModelSpec& spec, MetadataWriter& metadata) {
  const auto& attention = std::get<layers::AttentionSpec>(spec.blocks.front().mixer);
  const auto pairs = static_cast<uint64_t>(attention.rope->dims / 2), other = pairs / 3;
  metadata.put("rope.dimension_sections", std::vector<uint64_t>{pairs - 2 * other, other, other, 0});
  metadata.put("n_deepstack_layers", uint64_t{0});
}

constexpr Multimodal kVl[] = {{.model_type = "qwen3_vl_moe"}};
constexpr Multimodal kOmni[] = {{.model_type = "qwen3_omni_moe", .text = "thinker_config.text_config"},
                                {.model_type = "qwen3_omni_moe_thinker"}};

}  // namespace

const Family kQwen3VlMoe = {
    .model_type = "qwen3_vl_moe_text",
    .architecture = "qwen3vlmoe",
    .class_name = "Qwen3VLMoeTextModel",
    .from_config = vl_from_config,
    .from_gguf = from_gguf,
    .hugging_face_names = names,
    .to_config = to_config,
    .to_gguf = to_gguf,
    .multimodal = kVl,
    .adjust_names = adjust_names,
};
const Family kQwen3OmniMoe = {
    .model_type = "qwen3_omni_moe_text",
    .architecture = "qwen3vlmoe",
    .class_name = "Qwen3OmniMoeThinkerTextModel",
    .from_config = omni_from_config,
    .from_gguf = from_gguf,
    .hugging_face_names = names,
    .to_gguf = to_gguf,
    .multimodal = kOmni,
};

}  // namespace coterie::families
