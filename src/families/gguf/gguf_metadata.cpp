#include "families/gguf/gguf_metadata.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/error.h"
#include "families/family.h"
#include "layers/attention/rope.h"

namespace coterie::families {

namespace {

using checkpoint::Metadata;

void describe_rope(const layers::RopeSpec& rope, const std::string& prefix, Metadata& metadata) {
  using Scaling = layers::RopeSpec::Scaling;
  const auto put = [&](const std::string& key, auto value) { metadata[prefix + key] = value; };
  put("rope.dimension_count", static_cast<uint64_t>(rope.dims));
  put("rope.freq_base", rope.theta);
  if (rope.scaling == Scaling::linear || rope.scaling == Scaling::yarn) {
    put("rope.scaling.type", std::string(rope.scaling == Scaling::linear ? "linear" : "yarn"));
    put("rope.scaling.factor", rope.factor);
  }
  if (rope.scaling == Scaling::longrope) put("rope.scaling.attn_factor", static_cast<double>(rope.long_magnitude));
  if (rope.scaling == Scaling::yarn || rope.scaling == Scaling::longrope)
    put("rope.scaling.original_context_length", static_cast<uint64_t>(rope.original_context));
  if (rope.scaling != Scaling::yarn) return;
  if (rope.beta_fast != 32) put("rope.scaling.yarn_beta_fast", rope.beta_fast);
  if (rope.beta_slow != 1) put("rope.scaling.yarn_beta_slow", rope.beta_slow);
  // A factor of YaRN's own magnitude, 0.1 ln(factor) + 1.
  const double own = rope.factor <= 1 ? 1 : 0.1 * std::log(rope.factor) + 1;
  const double magnitude = static_cast<double>(layers::rope_table(rope).magnitude);
  if (std::abs(magnitude / own - 1) > 1e-6) put("rope.scaling.attn_factor", magnitude / own);
}

void describe_attention(const layers::AttentionSpec& attention, const std::string& prefix, Metadata& metadata) {
  const auto put = [&](const std::string& key, auto value) { metadata[prefix + key] = value; };
  put("attention.head_count", static_cast<uint64_t>(attention.heads));
  put("attention.head_count_kv", static_cast<uint64_t>(attention.kv_heads));
  put("attention.key_length", static_cast<uint64_t>(attention.head_dim));
  put("attention.value_length", static_cast<uint64_t>(attention.value_dim));
  if (attention.window) put("attention.sliding_window", static_cast<uint64_t>(attention.window));
  if (attention.clip_qkv) put("attention.clamp_kqv", static_cast<double>(*attention.clip_qkv));
  if (attention.softcap > 0) put("attn_logit_softcapping", static_cast<double>(attention.softcap));
  if (attention.rope) describe_rope(*attention.rope, prefix, metadata);
}

// What the cache holds as one head, and the heads themselves below *_mla, as llama.cpp's converter writes it.
void describe_latent(const layers::LatentAttentionSpec& mla, const std::string& prefix, Metadata& metadata) {
  const auto put = [&](const std::string& key, int64_t value) {
    metadata[prefix + key] = static_cast<uint64_t>(value);
  };
  put("attention.head_count", mla.heads);
  put("attention.head_count_kv", 1);
  put("attention.key_length", mla.kv_rank + mla.rope_dim);
  put("attention.value_length", mla.kv_rank);
  put("attention.key_length_mla", mla.head_dim());
  put("attention.value_length_mla", mla.value_dim);
  put("attention.kv_lora_rank", mla.kv_rank);
  if (mla.q_rank > 0) put("attention.q_lora_rank", mla.q_rank);
  describe_rope(mla.rope, prefix, metadata);
  if (mla.rope.scaling != layers::RopeSpec::Scaling::yarn || mla.rope.mscale_all_dim.value_or(0) == 0) return;
  metadata[prefix + "rope.scaling.yarn_log_multiplier"] = 0.1 * *mla.rope.mscale_all_dim;
  // Beside that key the magnitude is one where attn_factor is not there, and attn_factor where it is.
  metadata.erase(prefix + "rope.scaling.attn_factor");
  const auto magnitude = static_cast<double>(layers::rope_table(mla.rope).magnitude);
  if (magnitude != 1) metadata[prefix + "rope.scaling.attn_factor"] = magnitude;
}

void describe_mamba(const layers::MambaSpec& mamba, const std::string& prefix, Metadata& metadata) {
  metadata[prefix + "ssm.inner_size"] = static_cast<uint64_t>(mamba.inner);
  metadata[prefix + "ssm.state_size"] = static_cast<uint64_t>(mamba.states);
  metadata[prefix + "ssm.conv_kernel"] = static_cast<uint64_t>(mamba.conv_width);
  metadata[prefix + "ssm.time_step_rank"] = static_cast<uint64_t>(mamba.dt_rank);
  if (mamba.inner_norm == layers::MambaSpec::InnerNorm::plain) metadata[prefix + "ssm.dt_b_c_rms"] = true;
}

void describe_mamba(const layers::Mamba2Spec& mamba, const std::string& prefix, Metadata& metadata) {
  metadata[prefix + "ssm.inner_size"] = static_cast<uint64_t>(mamba.inner());
  metadata[prefix + "ssm.state_size"] = static_cast<uint64_t>(mamba.states);
  metadata[prefix + "ssm.conv_kernel"] = static_cast<uint64_t>(mamba.conv_width);
  metadata[prefix + "ssm.time_step_rank"] = static_cast<uint64_t>(mamba.heads);
  metadata[prefix + "ssm.group_count"] = static_cast<uint64_t>(mamba.groups);
}

// Of architectures whose layers take turns: which slide, and by which base those turn.
void describe_layer_kinds(const models::ModelSpec& spec, const std::string& prefix, Metadata& metadata) {
  if (prefix != "gemma2." && prefix != "gemma3." && prefix != "gpt-oss.") return;
  std::vector<bool> slides;
  for (const models::BlockSpec& block : spec.blocks) {
    const auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    slides.push_back(attention.window > 0);
    if (attention.window > 0) metadata[prefix + "attention.sliding_window"] = static_cast<uint64_t>(attention.window);
    if (prefix == "gemma3." && attention.rope && attention.window == 0)
      describe_rope(*attention.rope, prefix, metadata);
    if (prefix == "gemma3." && attention.rope)
      metadata[prefix + (slides.back() ? "rope.freq_base_swa" : "rope.freq_base")] = attention.rope->theta;
  }
  metadata[prefix + "attention.sliding_window_pattern"] = slides;
}

// Hybrids say by 0 key-value heads which layers have no attention.
void describe_mixers(const models::ModelSpec& spec, const std::string& prefix, Metadata& metadata) {
  std::vector<uint64_t> kv_heads;
  const layers::AttentionSpec* attention = nullptr;
  for (const models::BlockSpec& block : spec.blocks) {
    const auto* one = std::get_if<layers::AttentionSpec>(&block.mixer);
    kv_heads.push_back(one ? static_cast<uint64_t>(one->kv_heads) : 0);
    if (const auto* latent = std::get_if<layers::LatentAttentionSpec>(&block.mixer))
      return describe_latent(*latent, prefix, metadata);
    if (one && !attention) describe_attention(*(attention = one), prefix, metadata);
    if (const auto* mamba = std::get_if<layers::MambaSpec>(&block.mixer)) describe_mamba(*mamba, prefix, metadata);
    if (const auto* mamba = std::get_if<layers::Mamba2Spec>(&block.mixer)) describe_mamba(*mamba, prefix, metadata);
  }
  if (!attention) {
    metadata[prefix + "attention.head_count"] = uint64_t{0};
    return;
  }
  describe_layer_kinds(spec, prefix, metadata);
  if (std::find(kv_heads.begin(), kv_heads.end(), 0) == kv_heads.end()) return;
  metadata[prefix + "attention.head_count_kv"] = kv_heads;
  if (attention->scale != 1 / std::sqrt(static_cast<float>(attention->head_dim)))
    metadata[prefix + "attention.scale"] = static_cast<double>(attention->scale);
  if (!attention->rope) metadata[prefix + "rope.scaling.finetuned"] = false;
}

void describe_multipliers(const models::ModelSpec& spec, const std::string& prefix, Metadata& metadata) {
  const float residual = spec.blocks.front().residual_multiplier;
  if (spec.embedding_multiplier != 1 && !prefix.starts_with("gemma"))
    metadata[prefix + "embedding_scale"] = static_cast<double>(spec.embedding_multiplier);
  if (residual != 1) metadata[prefix + "residual_scale"] = static_cast<double>(residual);
  if (spec.logits_scaling != 1) metadata[prefix + "logit_scale"] = static_cast<double>(spec.logits_scaling);
  if (prefix == "granite." || prefix == "granitemoe.")
    metadata[prefix + "attention.scale"] =
        static_cast<double>(std::get<layers::AttentionSpec>(spec.blocks.front().mixer).scale);
  if (spec.logits_softcap) metadata[prefix + "final_logit_softcapping"] = static_cast<double>(*spec.logits_softcap);
}

void describe_router(const layers::RouterSpec& router, const std::string& prefix, Metadata& metadata) {
  using Score = layers::RouterSpec::Score;
  if (router.score != Score::softmax)
    metadata[prefix + "expert_gating_func"] = uint64_t{router.score == Score::sigmoid ? 2u : 4u};
  if (router.scale != 1) metadata[prefix + "expert_weights_scale"] = static_cast<double>(router.scale);
  if (router.groups == 1) return;
  metadata[prefix + "expert_group_count"] = static_cast<uint64_t>(router.groups);
  metadata[prefix + "expert_group_used_count"] = static_cast<uint64_t>(router.groups_kept);
}

void describe_ffn(const models::ModelSpec& spec, const std::string& prefix, Metadata& metadata) {
  for (const models::BlockSpec& block : spec.blocks) {
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn)) {
      metadata[prefix + "expert_count"] = static_cast<uint64_t>(moe->router.experts);
      metadata[prefix + "expert_used_count"] = static_cast<uint64_t>(moe->router.experts_per_token);
      metadata[prefix + "expert_weights_norm"] = moe->router.renormalise;
      describe_router(moe->router, prefix, metadata);
      metadata[prefix + "expert_feed_forward_length"] = static_cast<uint64_t>(moe->hidden);
      if (moe->shared_hidden && family_of_model_type(spec.family, "GGUF").counts_shared_experts)
        metadata[prefix + "expert_shared_count"] = static_cast<uint64_t>(moe->shared_hidden / moe->hidden);
      else if (moe->shared_hidden)
        metadata[prefix + "expert_shared_feed_forward_length"] = static_cast<uint64_t>(moe->shared_hidden);
      metadata.try_emplace(prefix + "feed_forward_length", static_cast<uint64_t>(moe->hidden));
    }
    if (const auto* dense = std::get_if<layers::DenseFfnSpec>(&block.ffn))
      metadata[prefix + "feed_forward_length"] = static_cast<uint64_t>(dense->hidden);
  }
  const auto first = std::find_if(spec.blocks.begin(), spec.blocks.end(), [](const models::BlockSpec& block) {
    return std::holds_alternative<layers::MoeSpec>(block.ffn);
  });
  if ((prefix == "deepseek2." || prefix == "glm4moe." || prefix == "dots1.") && first != spec.blocks.end())
    metadata[prefix + "leading_dense_block_count"] = static_cast<uint64_t>(first - spec.blocks.begin());
  metadata.try_emplace(prefix + "feed_forward_length", uint64_t{0});  // llama.cpp asks for it even where there is none
}

}  // namespace

std::string gguf_architecture(const models::ModelSpec& spec) {
  const std::string architecture(family_of_model_type(spec.family, "GGUF").architecture);
  if (architecture.empty())
    base::fail(base::ErrorKind::unsupported, "GGUF", "there is no architecture for {}", spec.family);
  return architecture;
}

Metadata gguf_metadata(const models::ModelSpec& spec, const std::string& name) {
  const std::string architecture = gguf_architecture(spec), prefix = architecture + ".";
  Metadata metadata;
  metadata["general.architecture"] = architecture;
  metadata["general.name"] = name;
  metadata["general.quantization_version"] = uint64_t{2};
  metadata[prefix + "vocab_size"] = static_cast<uint64_t>(spec.vocabulary);
  metadata[prefix + "block_count"] = static_cast<uint64_t>(spec.blocks.size());
  metadata[prefix + "context_length"] = static_cast<uint64_t>(spec.context);
  metadata[prefix + "embedding_length"] = static_cast<uint64_t>(spec.width);
  metadata[prefix + "attention.layer_norm_rms_epsilon"] = static_cast<double>(spec.final_norm.eps);
  describe_mixers(spec, prefix, metadata);
  describe_multipliers(spec, prefix, metadata);
  describe_ffn(spec, prefix, metadata);
  return metadata;
}

tensor::DType fitting_format(tensor::DType dtype, int64_t cols) {
  using tensor::DType;
  while (cols % tensor::info(dtype).block_values != 0) {
    switch (dtype) {
      case DType::q4_k: dtype = DType::q5_0; break;
      case DType::q5_k: dtype = DType::q5_1; break;
      case DType::q6_k: dtype = DType::q8_0; break;
      case DType::q2_k:
      case DType::q3_k:
      case DType::tq1_0:
      case DType::tq2_0: dtype = DType::q4_0; break;
      case DType::iq1_s:
      case DType::iq1_m:
      case DType::iq2_xxs:
      case DType::iq2_xs:
      case DType::iq2_s:
      case DType::iq3_xxs:
      case DType::iq3_s:
      case DType::iq4_xs: dtype = DType::iq4_nl; break;
      default: dtype = DType::f16;
    }
  }
  return dtype;
}

}  // namespace coterie::families
