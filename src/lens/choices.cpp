#include "lens/choices.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

#include "base/error.h"
#include "layers/moe/routers/kind.h"

namespace coterie::lens {

using layers::RouterSpec;

RouterShape router_shape(const models::ModelSpec& spec) {
  RouterShape shape;
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    const auto* moe = std::get_if<layers::MoeSpec>(&spec.blocks[i].ffn);
    if (!moe) continue;
    if (moe->router.selection == RouterSpec::Selection::soft)
      base::fail(base::ErrorKind::unsupported, "routers",
                 "are a Soft MoE's: every expert gets a share of every token, so "
                 "there is no choice to look at");
    if (moe->router.experts > std::numeric_limits<int16_t>::max())
      base::fail(base::ErrorKind::unsupported, "routers", "choose among {} experts, at most {} can be counted",
                 moe->router.experts, std::numeric_limits<int16_t>::max());
    shape.layers.push_back(static_cast<int32_t>(i));
    shape.experts.push_back(static_cast<int32_t>(moe->router.experts));
    shape.scores.push_back(moe->router.score);
    shape.choices = std::max(shape.choices, layers::choices_per_token(moe->router));
  }
  if (shape.layers.empty())
    base::fail(base::ErrorKind::unsupported, "routers",
               "this {} model has none: it is dense, and every token goes through all of its weights; expected a "
               "mixture of experts",
               spec.family.shown());
  return shape;
}

namespace {

// What follows has no branch and no comparison of floats, so that the compiler makes SIMD of loops of it.

// exp(-x) for x >= 0, to 2e-7 of it, as 2^n times a polynomial; x beyond 87 becomes 87.
inline float exp_of_minus(float& x) {
  // Of floats that are not negative the bits are in order.
  x = std::bit_cast<float>(std::min(std::bit_cast<int32_t>(x), std::bit_cast<int32_t>(87.0f)));
  const float t = x * -1.44269504f;
  const float n = static_cast<float>(static_cast<int32_t>(t - 0.5f));
  const float f = (t - n) * 0.693147181f;
  const float p =
      1 + f * (1 + f * (0.5f + f * (0.166666667f + f * (0.0416666667f + f * (0.00833333333f + f * 0.00138888889f)))));
  return p * std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
}

// ln x of a normal x > 0, to 1e-7: x = 2^k m with √½ <= m < √2, and ln m = 2 artanh((m - 1) / (m + 1)) as a series.
inline float log_of(float x) {
  constexpr int32_t kRootHalf = 0x3f3504f3;  // √½
  const int32_t bits = std::bit_cast<int32_t>(x), k = (bits - kRootHalf) >> 23;
  const float m = std::bit_cast<float>(bits - (k << 23)), s = (m - 1) / (m + 1), z = s * s;
  return 2 * s * (1 + z * (0.333333333f + z * (0.2f + z * (0.142857143f + z * 0.111111111f)))) +
         static_cast<float>(k) * 0.693147181f;
}

/// The entropy of shares v / Σ v: ln Σ v - Σ v ln v / Σ v. `value_and_log(x, v, ln v)` says what a score's v are.
/// Values first and sums behind them, some at a time: the compiler makes SIMD of the one, and may not of the other.
float entropy_of(std::span<const float> x, const auto& value_and_log) {
  constexpr size_t kBlock = 64;
  float values[kBlock + 1], terms[kBlock + 1];
  float sum[2] = {}, along[2] = {};
  for (size_t begin = 0; begin < x.size(); begin += kBlock) {
    const size_t n = std::min(kBlock, x.size() - begin);
    const float* const part = x.data() + begin;
    for (size_t i = 0; i < n; ++i) {
      float log_v;
      value_and_log(part[i], values[i], log_v);
      terms[i] = values[i] * log_v;
    }
    values[n] = terms[n] = 0;
    for (size_t i = 0; i < n; i += 2) {
      sum[0] += values[i], along[0] += terms[i];
      sum[1] += values[i + 1], along[1] += terms[i + 1];
    }
  }
  return std::log(sum[0] + sum[1]) - (along[0] + along[1]) / (sum[0] + sum[1]);
}

float largest(std::span<const float> x) {
  float most[4] = {x[0], x[0], x[0], x[0]};
  for (size_t e = 1; e < x.size(); ++e) most[e % 4] = most[e % 4] < x[e] ? x[e] : most[e % 4];
  return *std::max_element(most, most + 4);
}

}  // namespace

float score_entropy(RouterSpec::Score score, std::span<const float> logits) {
  if (score == RouterSpec::Score::softmax) {
    const float top = largest(logits);
    if (!std::isfinite(top)) return std::numeric_limits<float>::quiet_NaN();
    return entropy_of(logits, [top](float x, float& v, float& log_v) {
      float below = top - x;
      v = exp_of_minus(below);
      log_v = -below;
    });
  }
  if (score == RouterSpec::Score::sigmoid)
    return entropy_of(logits, [](float x, float& v, float& log_v) {
      // Of two equal forms that which cannot overflow: 1 / (1 + e^-x), and e^x / (1 + e^x) where x < 0.
      const int32_t bits = std::bit_cast<int32_t>(x), negative = bits >> 31;
      float size = std::bit_cast<float>(bits & 0x7fffffff);
      const float t = exp_of_minus(size);
      const int32_t above = (std::bit_cast<int32_t>(t) & negative) | (std::bit_cast<int32_t>(1.0f) & ~negative);
      v = std::bit_cast<float>(above) / (1 + t);
      log_v = log_of(v);
    });
  double sum = 0, along = 0;
  for (const float x : logits) {
    const double value = std::sqrt(std::log1p(std::exp(static_cast<double>(x))));
    if (value > 0) sum += value, along += value * std::log(value);
  }
  return static_cast<float>(std::log(sum) - along / sum);
}

ChoiceRecorder::ChoiceRecorder(RouterShape shape) : shape_(std::move(shape)) {
  index_.assign(static_cast<size_t>(shape_.layers.back()) + 1, -1);
  for (size_t i = 0; i < shape_.layers.size(); ++i)
    index_[static_cast<size_t>(shape_.layers[i])] = static_cast<int64_t>(i);
}

void ChoiceRecorder::clear() {
  tokens_ = begun_ = 0;
  choices_.experts.clear(), choices_.weights.clear(), choices_.entropy.clear();
}

void ChoiceRecorder::routed(const layers::Routed& router) {
  const auto at = router.layer < std::ssize(index_) ? index_[static_cast<size_t>(router.layer)] : -1;
  base::require(at >= 0, "choices", "layer {} has no router in this shape", router.layer);
  const ops::RoutingPlan& plan = router.plan;
  const int64_t count = shape_.count(), k = shape_.choices, n = plan.tokens;
  if (at == 0) {
    begun_ = tokens_ + n;
    choices_.experts.resize(static_cast<size_t>(begun_ * count * k), -1);
    choices_.weights.resize(static_cast<size_t>(begun_ * count * k), 0.0f);
    choices_.entropy.resize(static_cast<size_t>(begun_ * count));
  }
  // A sequence that left the step takes its rows along: there is no saying whose are missing.
  base::require(tokens_ + n == begun_, "choices", "layer {} routes {} tokens, the first routed {}", router.layer, n,
                begun_ - tokens_);
  expert_of_slot_.resize(static_cast<size_t>(plan.slots()));
  for (int64_t e = 0; e < plan.experts(); ++e)
    std::fill(expert_of_slot_.begin() + plan.expert_offset[static_cast<size_t>(e)],
              expert_of_slot_.begin() + plan.expert_offset[static_cast<size_t>(e) + 1], static_cast<int16_t>(e));
  for (int64_t t = 0; t < n; ++t) {
    const int64_t row = (tokens_ + t) * count + at;
    int16_t* experts = choices_.experts.data() + row * k;
    float* weights = choices_.weights.data() + row * k;
    const int32_t begin = plan.token_offset[static_cast<size_t>(t)],
                  end = plan.token_offset[static_cast<size_t>(t) + 1];
    base::require(end - begin <= k, "choices", "{} experts of a token, at most {} were expected", end - begin, k);
    for (int32_t c = begin; c < end; ++c) {
      const auto slot = static_cast<size_t>(plan.token_slot[static_cast<size_t>(c)]);
      *experts++ = expert_of_slot_[slot], *weights++ = plan.slot_weight[slot];
    }
    choices_.entropy[static_cast<size_t>(row)] = score_entropy(
        shape_.scores[static_cast<size_t>(at)], {router.logits.row(t), static_cast<size_t>(router.logits.cols)});
  }
  if (at + 1 == count) tokens_ = begun_;
}

}  // namespace coterie::lens
