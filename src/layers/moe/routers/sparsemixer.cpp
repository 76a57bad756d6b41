#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "layers/moe/routers/best.h"
#include "layers/moe/routers/kind.h"

// SparseMixer (Liu et al. 2023, arXiv:2310.00811; GRIN, arXiv:2409.12136) as Phi-3.5-MoE has it: K rounds, each a
// softmax over those experts left whose logit is near the best one left. Outside of training a round takes the best; in
// training it draws one by that softmax, and where that is not the best, three times of four counts it by a third.
// Its backward pass in training is an estimator of the gradient of the expected loss (Heun's third-order method), not
// the derivative of what was computed: the third is left out. Distances are compared in f32 as the reference does.
namespace coterie::layers {

namespace {

bool among(std::span<const int32_t> ids, int64_t expert) {
  return std::find(ids.begin(), ids.end(), static_cast<int32_t>(expert)) != ids.end();
}

/// One round, when `gone` have been chosen before.
class Round {
 public:
  Round(const RouterSpec& spec, const float* logits, std::span<const int32_t> gone)
      : spec_(spec), logits_(logits), gone_(gone) {
    for (int64_t e = 0; e < spec.experts; ++e)
      if (!among(gone, e) && (best_ < 0 || before(static_cast<double>(logits[e]), static_cast<double>(logits[best_]))))
        best_ = static_cast<int32_t>(e);
    for (int64_t e = 0; e < spec.experts; ++e) sum_ += exponential(e);
  }
  int32_t best() const { return best_; }
  bool near(int64_t e) const {
    const float top = logits_[best_];
    return !among(gone_, e) && !((top - logits_[e]) / std::max(std::abs(logits_[e]), top) > 2 * spec_.near_best);
  }
  double share(int64_t e) const { return exponential(e) / sum_; }

 private:
  double exponential(int64_t e) const {
    return near(e) ? std::exp(static_cast<double>(logits_[e]) - static_cast<double>(logits_[best_])) : 0;
  }
  const RouterSpec& spec_;
  const float* logits_;
  std::span<const int32_t> gone_;
  int32_t best_ = -1;
  double sum_ = 0;
};

double uniform(const RouterDraw& draw, int64_t round, int64_t index) {
  constexpr uint64_t kPurpose = uint64_t{0x53706d78} << 32;
  const auto bits = base::Philox::block(draw.key, kPurpose | static_cast<uint64_t>(draw.layer),
                                        static_cast<uint64_t>(draw.position) << 24 |
                                            static_cast<uint64_t>(round) << 16 | static_cast<uint64_t>(index / 4));
  return (static_cast<double>(bits[static_cast<size_t>(index % 4)]) + 0.5) * 0x1p-32;
}

void choose_sparsemixer(const TokenChoice& token, int32_t* ids) {
  const RouterSpec& spec = token.spec;
  for (int64_t i = 0; i < spec.experts_per_token; ++i) {
    const Round round(spec, token.logits, {ids, static_cast<size_t>(i)});
    ids[i] = round.best();
    if (!token.training) continue;
    double top = -std::numeric_limits<double>::infinity();
    for (int64_t e = 0; e < spec.experts; ++e) {
      if (!round.near(e)) continue;
      const double key = static_cast<double>(token.logits[e]) - std::log(-std::log(uniform(token.draw, i, e)));
      if (key > top) top = key, ids[i] = static_cast<int32_t>(e);
    }
  }
}

void weigh_sparsemixer(const TokenChoice& token, std::span<const int32_t> ids, float* weights) {
  for (size_t i = 0; i < ids.size(); ++i) {
    const Round round(token.spec, token.logits, ids.first(i));
    weights[i] = static_cast<float>(round.share(ids[i])) * token.spec.scale;
    constexpr float kThird = 0.3333f;  // the reference's digits
    if (token.training && ids[i] != round.best() &&
        !(uniform(token.draw, static_cast<int64_t>(i), token.spec.experts) > 0.75))
      weights[i] *= kThird;
  }
}

// The i-th weight is a softmax over the experts that were left and near the best of them, which count as given.
void weigh_sparsemixer_backward(const RouterSpec& spec, const float* logits, std::span<const int32_t> ids,
                                const double* dweights, float* dlogits) {
  for (size_t i = 0; i < ids.size(); ++i) {
    const Round round(spec, logits, ids.first(i));
    const double d = dweights[i] * static_cast<double>(spec.scale) * round.share(ids[i]);
    for (int64_t e = 0; e < spec.experts; ++e) dlogits[e] -= static_cast<float>(d * round.share(e));
    dlogits[ids[i]] += static_cast<float>(d);
  }
}

void check_sparsemixer(const RouterSpec& spec, std::string_view where) {
  if (spec.score != RouterSpec::Score::softmax || spec.order != RouterSpec::Order::score_then_select ||
      spec.renormalise || spec.selection_bias || spec.groups != 1 || spec.noise ||
      spec.combine != RouterSpec::Combine::weighted)
    base::fail(base::ErrorKind::bad_input, where,
               "SparseMixer has weights of its own: no other score, no renormalisation, no sum, no bias of selection, "
               "no noise, no groups");
  if (spec.capacity && spec.capacity->next_best)
    base::fail(base::ErrorKind::bad_input, where,
               "what overflows an expert cannot go to the next best under SparseMixer, whose weights are those of its "
               "own rounds");
}

std::string describe_sparsemixer(const RouterSpec& spec, const std::string& scale) {
  return fmt::format("{} times the largest h left, with weight = {}its softmax among those left within {:g} of it",
                     spec.experts_per_token, scale, 2 * spec.near_best);
}

}  // namespace

extern const RouterKind kSparseMixer;
const RouterKind kSparseMixer = {.name = "sparsemixer",
                                 .check = check_sparsemixer,
                                 .choose = choose_sparsemixer,
                                 .weigh = weigh_sparsemixer,
                                 .weigh_backward = weigh_sparsemixer_backward,
                                 .formula = describe_sparsemixer};

}  // namespace coterie::layers
