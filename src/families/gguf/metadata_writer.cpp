#include "families/gguf/metadata_writer.h"

#include <algorithm>
#include <cmath>

#include "layers/attention/rope.h"

namespace coterie::families {

namespace {

uint64_t unsigned_of(int64_t value) { return static_cast<uint64_t>(value); }

}  // namespace

void MetadataWriter::rope(const layers::RopeSpec& rope) {
  using Scaling = layers::RopeSpec::Scaling;
  put("rope.dimension_count", unsigned_of(rope.dims));
  put("rope.freq_base", rope.theta);
  if (rope.scaling == Scaling::linear || rope.scaling == Scaling::yarn) {
    put("rope.scaling.type", std::string(rope.scaling == Scaling::linear ? "linear" : "yarn"));
    put("rope.scaling.factor", rope.factor);
  }
  if (rope.scaling == Scaling::longrope) put("rope.scaling.attn_factor", static_cast<double>(rope.long_magnitude));
  if (rope.scaling == Scaling::yarn || rope.scaling == Scaling::longrope)
    put("rope.scaling.original_context_length", unsigned_of(rope.original_context));
  if (rope.scaling != Scaling::yarn) return;
  if (rope.beta_fast != 32) put("rope.scaling.yarn_beta_fast", rope.beta_fast);
  if (rope.beta_slow != 1) put("rope.scaling.yarn_beta_slow", rope.beta_slow);
  // A factor of YaRN's own magnitude, 0.1 ln(factor) + 1.
  const double own = rope.factor <= 1 ? 1 : 0.1 * std::log(rope.factor) + 1;
  const double magnitude = static_cast<double>(layers::rope_table(rope).magnitude);
  if (std::abs(magnitude / own - 1) > 1e-6) put("rope.scaling.attn_factor", magnitude / own);
}

void MetadataWriter::attention(const layers::AttentionSpec& attention) {
  put("attention.head_count", unsigned_of(attention.heads));
  put("attention.head_count_kv", unsigned_of(attention.kv_heads));
  put("attention.key_length", unsigned_of(attention.head_dim));
  put("attention.value_length", unsigned_of(attention.value_dim));
  if (attention.window) put("attention.sliding_window", unsigned_of(attention.window));
  if (attention.clip_qkv) put("attention.clamp_kqv", static_cast<double>(*attention.clip_qkv));
  if (attention.softcap > 0) put("attn_logit_softcapping", static_cast<double>(attention.softcap));
  if (attention.rope) rope(*attention.rope);
}

// What the cache holds as one head, and the heads themselves below *_mla, as llama.cpp's converter writes it.
void MetadataWriter::latent(const layers::LatentAttentionSpec& mla) {
  put("attention.head_count", unsigned_of(mla.heads));
  put("attention.head_count_kv", uint64_t{1});
  put("attention.key_length", unsigned_of(mla.kv_rank + mla.rope_dim));
  put("attention.value_length", unsigned_of(mla.kv_rank));
  put("attention.key_length_mla", unsigned_of(mla.head_dim()));
  put("attention.value_length_mla", unsigned_of(mla.value_dim));
  put("attention.kv_lora_rank", unsigned_of(mla.kv_rank));
  if (mla.q_rank > 0) put("attention.q_lora_rank", unsigned_of(mla.q_rank));
  rope(mla.rope);
  if (mla.rope.scaling != layers::RopeSpec::Scaling::yarn || mla.rope.mscale_all_dim.value_or(0) == 0) return;
  put("rope.scaling.yarn_log_multiplier", 0.1 * *mla.rope.mscale_all_dim);
  // Beside that key the magnitude is one where attn_factor is not there, and attn_factor where it is.
  erase("rope.scaling.attn_factor");
  const auto magnitude = static_cast<double>(layers::rope_table(mla.rope).magnitude);
  if (magnitude != 1) put("rope.scaling.attn_factor", magnitude);
}

void MetadataWriter::mamba(const layers::MambaSpec& mamba) {
  put("ssm.inner_size", unsigned_of(mamba.inner));
  put("ssm.state_size", unsigned_of(mamba.states));
  put("ssm.conv_kernel", unsigned_of(mamba.conv_width));
  put("ssm.time_step_rank", unsigned_of(mamba.dt_rank));
  if (mamba.inner_norm == layers::MambaSpec::InnerNorm::plain) put("ssm.dt_b_c_rms", true);
}

void MetadataWriter::mamba(const layers::Mamba2Spec& mamba) {
  put("ssm.inner_size", unsigned_of(mamba.inner()));
  put("ssm.state_size", unsigned_of(mamba.states));
  put("ssm.conv_kernel", unsigned_of(mamba.conv_width));
  put("ssm.time_step_rank", unsigned_of(mamba.heads));
  put("ssm.group_count", unsigned_of(mamba.groups));
}

void MetadataWriter::window_pattern(const models::ModelSpec& spec) {
  std::vector<bool> slides;
  for (const models::BlockSpec& block : spec.blocks) {
    const auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    slides.push_back(attention.window > 0);
    if (attention.window > 0) put("attention.sliding_window", unsigned_of(attention.window));
  }
  put("attention.sliding_window_pattern", slides);
}

// Hybrids say by 0 key-value heads which layers have no attention.
void MetadataWriter::mixers(const models::ModelSpec& spec) {
  std::vector<uint64_t> kv_heads;
  const layers::AttentionSpec* first = nullptr;
  for (const models::BlockSpec& block : spec.blocks) {
    const auto* one = std::get_if<layers::AttentionSpec>(&block.mixer);
    kv_heads.push_back(one ? unsigned_of(one->kv_heads) : 0);
    if (const auto* mla = std::get_if<layers::LatentAttentionSpec>(&block.mixer)) return latent(*mla);
    if (one && !first) attention(*(first = one));
    if (const auto* v1 = std::get_if<layers::MambaSpec>(&block.mixer)) mamba(*v1);
    if (const auto* v2 = std::get_if<layers::Mamba2Spec>(&block.mixer)) mamba(*v2);
  }
  if (!first) return put("attention.head_count", uint64_t{0});
  if (std::find(kv_heads.begin(), kv_heads.end(), 0) == kv_heads.end()) return;
  put("attention.head_count_kv", kv_heads);
  if (first->scale != 1 / std::sqrt(static_cast<float>(first->head_dim)))
    put("attention.scale", static_cast<double>(first->scale));
  if (!first->rope) put("rope.scaling.finetuned", false);
}

void MetadataWriter::multipliers(const models::ModelSpec& spec) {
  const float residual = spec.blocks.front().residual_multiplier;
  if (spec.embedding_multiplier != 1) put("embedding_scale", static_cast<double>(spec.embedding_multiplier));
  if (residual != 1) put("residual_scale", static_cast<double>(residual));
  if (spec.logits_scaling != 1) put("logit_scale", static_cast<double>(spec.logits_scaling));
  if (spec.logits_softcap) put("final_logit_softcapping", static_cast<double>(*spec.logits_softcap));
}

void MetadataWriter::router(const layers::RouterSpec& router) {
  using Score = layers::RouterSpec::Score;
  if (router.score != Score::softmax) put("expert_gating_func", uint64_t{router.score == Score::sigmoid ? 2u : 4u});
  if (router.scale != 1) put("expert_weights_scale", static_cast<double>(router.scale));
  if (router.groups == 1) return;
  put("expert_group_count", unsigned_of(router.groups));
  put("expert_group_used_count", unsigned_of(router.groups_kept));
}

void MetadataWriter::ffns(const models::ModelSpec& spec) {
  for (const models::BlockSpec& block : spec.blocks) {
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn)) {
      put("expert_count", unsigned_of(moe->router.experts));
      put("expert_used_count", unsigned_of(moe->router.experts_per_token));
      put("expert_weights_norm", moe->router.renormalise);
      router(moe->router);
      put("expert_feed_forward_length", unsigned_of(moe->hidden));
      if (moe->shared_hidden) put("expert_shared_feed_forward_length", unsigned_of(moe->shared_hidden));
      if (!has("feed_forward_length")) put("feed_forward_length", unsigned_of(moe->hidden));
    }
    if (const auto* dense = std::get_if<layers::DenseFfnSpec>(&block.ffn))
      put("feed_forward_length", unsigned_of(dense->hidden));
  }
  if (!has("feed_forward_length")) put("feed_forward_length", uint64_t{0});  // llama.cpp asks for it even without one
}

void MetadataWriter::describe(const models::ModelSpec& spec) {
  put("vocab_size", unsigned_of(spec.vocabulary));
  put("block_count", static_cast<uint64_t>(spec.blocks.size()));
  put("context_length", unsigned_of(spec.context));
  put("embedding_length", unsigned_of(spec.width));
  put("attention.layer_norm_rms_epsilon", static_cast<double>(spec.final_norm.eps));
  mixers(spec);
  multipliers(spec);
  ffns(spec);
}

}  // namespace coterie::families
