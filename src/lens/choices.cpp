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

// exp x for x <= 0, to 2e-7 of it: 2^n times a polynomial, without a branch, so that the compiler makes SIMD of it.
inline float exp_below_zero(float x) {
  const float t = std::max(x, -87.0f) * 1.44269504f;
  const float n = static_cast<float>(static_cast<int32_t>(t - 0.5f));
  const float f = (t - n) * 0.693147181f;
  const float p =
      1 + f * (1 + f * (0.5f + f * (0.166666667f + f * (0.0416666667f + f * (0.00833333333f + f * 0.00138888889f)))));
  return p * std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
}

}  // namespace

float score_entropy(RouterSpec::Score score, std::span<const float> logits, std::vector<float>& scratch) {
  const size_t n = logits.size();
  if (scratch.size() < n) scratch.resize(n);
  float* const p = scratch.data();
  if (score == RouterSpec::Score::softmax) {
    const float top = *std::max_element(logits.begin(), logits.end());
    if (!std::isfinite(top)) return std::numeric_limits<float>::quiet_NaN();
    float sum = 0, along = 0;
    for (size_t e = 0; e < n; ++e) p[e] = logits[e] - top;
    for (size_t e = 0; e < n; ++e) {
      const float share = exp_below_zero(p[e]);
      sum += share, along += share * std::max(p[e], -87.0f);
    }
    return std::log(sum) - along / sum;
  }
  double sum = 0, entropy = 0;
  for (size_t e = 0; e < n; ++e) {
    const auto x = static_cast<double>(logits[e]);
    const double value =
        score == RouterSpec::Score::sigmoid ? 1 / (1 + std::exp(-x)) : std::sqrt(std::log1p(std::exp(x)));
    p[e] = static_cast<float>(value), sum += value;
  }
  for (size_t e = 0; e < n; ++e)
    if (const double share = static_cast<double>(p[e]) / sum; share > 0) entropy -= share * std::log(share);
  return static_cast<float>(entropy);
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
    choices_.entropy[static_cast<size_t>(row)] =
        score_entropy(shape_.scores[static_cast<size_t>(at)],
                      {router.logits.row(t), static_cast<size_t>(router.logits.cols)}, shares_);
  }
  if (at + 1 == count) tokens_ = begun_;
}

}  // namespace coterie::lens
