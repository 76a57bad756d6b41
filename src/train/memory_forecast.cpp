#include "train/memory_forecast.h"

#include <algorithm>
#include <variant>

namespace coterie::train {

namespace {

constexpr int64_t kFloat = sizeof(float);

// Floats of one token that the backward pass reads again.
int64_t mixer_floats(const layers::AttentionSpec& spec) {
  return spec.heads * (spec.head_dim + spec.value_dim) + spec.kv_heads * (spec.head_dim + spec.value_dim);
}
int64_t mixer_floats(const layers::LatentAttentionSpec& spec) {
  return spec.heads * (spec.head_dim() + spec.value_dim) + spec.kv_rank + spec.rope_dim;
}
int64_t mixer_floats(const layers::MambaSpec& spec) { return 4 * spec.inner; }
int64_t mixer_floats(const layers::Mamba2Spec& spec) { return 2 * spec.inner() + spec.conv_channels(); }
int64_t mixer_floats(const layers::DeltaRuleSpec& spec) {
  return 2 * spec.conv_channels() + 3 * spec.value_width() + 2 * spec.decay_width() + 2 * spec.value_heads;
}
int64_t mixer_floats(const layers::ShortConvSpec&) { return 0; }  // of the model's width, which is counted beside it
int64_t mixer_floats(const layers::LightningSpec& spec) { return 7 * spec.width() + spec.heads; }
int64_t mixer_floats(const layers::NoMixerSpec&) { return 0; }

int64_t ffn_floats(const layers::DenseFfnSpec& spec) { return (spec.gated ? 2 : 1) * spec.hidden; }
int64_t ffn_floats(const layers::NoFfnSpec&) { return 0; }
int64_t ffn_floats(const layers::MoeSpec& spec) {
  const int64_t each = spec.gated ? 2 : 1;
  return spec.router.experts + each * (spec.router.experts_per_token * spec.hidden + spec.shared_hidden);
}

}  // namespace

int64_t parameter_bytes(int64_t trained) { return 4 * kFloat * trained; }

MemoryForecast forecast_memory(const models::ModelSpec& spec, int64_t trained, int64_t tokens, bool recompute) {
  int64_t all = 0, largest = 0;
  for (const models::BlockSpec& block : spec.blocks) {
    // The block's input, and what both norms give.
    const int64_t floats = 3 * spec.width +
                           std::visit([](const auto& mixer) { return mixer_floats(mixer); }, block.mixer) +
                           std::visit([](const auto& ffn) { return ffn_floats(ffn); }, block.ffn);
    all += recompute ? spec.width : floats;
    largest = std::max(largest, floats);
  }
  return {parameter_bytes(trained), (all + (recompute ? largest : 0)) * tokens * kFloat};
}

}  // namespace coterie::train
