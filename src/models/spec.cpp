#include "models/spec.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace coterie::models {

namespace {

// Far above any model and far below what would exhaust memory or overflow a product: a file that says more lies.
constexpr int64_t kSaneSize = int64_t{1} << 28, kSaneLayers = 1 << 16, kSaneExperts = 1 << 20;

void check_size(std::string_view where, std::string_view what, int64_t value, int64_t most = kSaneSize) {
  if (value < 1 || value > most)
    base::fail(base::ErrorKind::bad_input, where, "{} is {}: expected 1 to {}", what, value, most);
}

void check_attention(std::string_view where, const layers::AttentionSpec& a) {
  check_size(where, "the number of attention heads", a.heads, 1 << 20);
  check_size(where, "the number of key-value heads", a.kv_heads, 1 << 20);
  check_size(where, "the head dimension", a.head_dim, 1 << 20);
  check_size(where, "the value dimension of a head", a.value_dim, 1 << 20);
  check_size(where, "the width of all heads", a.heads * std::max(a.head_dim, a.value_dim));
  if (a.heads % a.kv_heads != 0)
    base::fail(base::ErrorKind::bad_input, where, "{} attention heads are no multiple of {} key-value heads", a.heads,
               a.kv_heads);
  if (a.window < 0) base::fail(base::ErrorKind::bad_input, where, "a sliding window of {} positions", a.window);
  if (!a.rope) return;
  if (a.rope->dims < 2 || a.rope->dims % 2 != 0 || a.rope->dims > a.head_dim)
    base::fail(base::ErrorKind::bad_input, where, "{} rotary dimensions in a head of {}: expected an even number",
               a.rope->dims, a.head_dim);
  if (!(a.rope->theta > 0) || !(a.rope->factor > 0))
    base::fail(base::ErrorKind::bad_input, where, "a rotary base of {} and scaling factor of {}: expected both above 0",
               a.rope->theta, a.rope->factor);
  if (a.rope->scaling == layers::RopeSpec::Scaling::dynamic && a.rope->dims == 2)
    base::fail(base::ErrorKind::bad_input, where, "dynamic rotary scaling of 2 dimensions is undefined");
}

}  // namespace

void check(const ModelSpec& spec, std::string_view where) {
  if (!(spec.final_norm.eps >= 0) || !std::isfinite(spec.final_norm.eps))
    base::fail(base::ErrorKind::bad_input, where, "a norm with epsilon {}: expected 0 or more", spec.final_norm.eps);
  check_size(where, "the vocabulary", spec.vocabulary);
  check_size(where, "the model width", spec.width);
  check_size(where, "the number of layers", static_cast<int64_t>(spec.blocks.size()), kSaneLayers);
  double parameters = 0;  // roughly
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    const std::string place = fmt::format("{}: layer {}", where, i);
    check_attention(place, std::get<layers::AttentionSpec>(spec.blocks[i].mixer));
    if (const auto* moe = std::get_if<layers::MoeSpec>(&spec.blocks[i].ffn)) {
      check_size(place, "the number of experts", moe->router.experts, kSaneExperts);
      check_size(place, "the width of an expert", moe->hidden);
      layers::check(moe->router, place);
      parameters +=
          static_cast<double>(moe->router.experts) * static_cast<double>(moe->hidden) * static_cast<double>(spec.width);
    } else {
      const int64_t hidden = std::get<layers::DenseFfnSpec>(spec.blocks[i].ffn).hidden;
      check_size(place, "the width of the FFN", hidden);
      parameters += static_cast<double>(hidden) * static_cast<double>(spec.width);
    }
    parameters += static_cast<double>(spec.width) * static_cast<double>(spec.width);
  }
  if (parameters > 0x1p56)
    base::fail(base::ErrorKind::bad_input, where, "more than {:.0g} parameters: the sizes cannot be right", parameters);
}

std::vector<int64_t> cache_block_bytes(const ModelSpec& spec, tensor::DType cache_dtype) {
  std::vector<int64_t> bytes;
  for (const BlockSpec& block : spec.blocks)
    bytes.push_back(layers::cache_layout(std::get<layers::AttentionSpec>(block.mixer), cache_dtype).block_bytes());
  return bytes;
}

}  // namespace coterie::models
