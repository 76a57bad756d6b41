#include "models/decoder.h"

#include <algorithm>

#include "base/error.h"
#include "layers/attention/rope.h"

namespace coterie::models {

namespace {

template <typename F>
bool any_rope(const ModelSpec& spec, F of) {
  return std::any_of(spec.blocks.begin(), spec.blocks.end(), [&](const BlockSpec& block) {
    const layers::AttentionSpec* attention = attention_of(spec, block);
    return attention && attention->rope && of(*attention->rope);
  });
}

}  // namespace

void Decoder::expert_outputs(ops::Context&, int64_t, const ops::FormedRows&, const ops::RoutingPlan&,
                             std::span<const int32_t>, tensor::Matrix) const {
  base::fail(base::ErrorKind::unsupported, "ranks", "the models of an ensemble are not divided over ranks");
}

bool grows_with_length(const Decoder& decoder) {
  return any_rope(decoder.spec(),
                  [](const layers::RopeSpec& rope) { return rope.scaling == layers::RopeSpec::Scaling::dynamic; });
}

bool starts_anew(const Decoder& decoder, int64_t before, int64_t after) {
  return any_rope(decoder.spec(), [&](const layers::RopeSpec& rope) {
    return rope.scaling == layers::RopeSpec::Scaling::longrope && layers::Rope::frequencies_change(rope, before, after);
  });
}

}  // namespace coterie::models
