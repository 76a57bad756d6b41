#include "layers/moe/router.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "ops/matmul.h"

namespace coterie::layers {

void check(const RouterSpec& spec, std::string_view where) {
  using base::ErrorKind;
  if (spec.experts < 1) base::fail(ErrorKind::bad_input, where, "a router over {} experts", spec.experts);
  if (spec.experts_per_token < 1 || spec.experts_per_token > spec.experts)
    base::fail(ErrorKind::bad_input, where, "{} experts per token of {}: expected 1 to {}", spec.experts_per_token,
               spec.experts, spec.experts);
  if (!(spec.temperature > 0) || !std::isfinite(spec.temperature))
    base::fail(ErrorKind::bad_input, where, "a router temperature of {}: expected a number above 0", spec.temperature);
  if (!std::isfinite(spec.scale)) base::fail(ErrorKind::bad_input, where, "a router scale of {}", spec.scale);
}

namespace {

// softmax in place, in f32 from the maximum, as torch computes it; the sum in f64, since one over hundreds of experts
// in one f32 chain is off by more than 1e-6.
void softmax(float* x, int64_t n) {
  const float top = *std::max_element(x, x + n);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) x[i] = std::exp(x[i] - top), sum += static_cast<double>(x[i]);
  for (int64_t i = 0; i < n; ++i) x[i] = static_cast<float>(static_cast<double>(x[i]) / sum);
}

// The k best of keys[0, n), best first, the lower index first among equals: one insertion sort of the k best so far.
// NaN keys lose against everything.
void top_k(const float* keys, int64_t n, int64_t k, int32_t* ids) {
  const auto better = [&](int64_t a, int32_t b) {
    return keys[a] > keys[b] || (std::isnan(keys[b]) && !std::isnan(keys[a]));
  };
  int64_t filled = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (filled == k && !better(i, ids[k - 1])) continue;
    int64_t at = filled < k ? filled++ : k - 1;
    for (; at > 0 && better(i, ids[at - 1]); --at) ids[at] = ids[at - 1];
    ids[at] = static_cast<int32_t>(i);
  }
}

// logits / temperature plus Gumbel noise: the k largest are k draws without replacement in proportion to
// softmax(logits / temperature) (Kool et al. 2019, "Stochastic beams and where to find them").
void gumbel_keys(const RouterSpec& spec, const float* logits, uint64_t key, int64_t layer, int64_t position,
                 float* keys) {
  constexpr uint64_t kPurpose = uint64_t{0x526f7574} << 32;  // apart from the sampler's draws under the same key
  const uint64_t high = kPurpose | static_cast<uint64_t>(layer);
  for (int64_t e = 0; e < spec.experts; e += 4) {
    const auto bits =
        base::Philox::block(key, high, static_cast<uint64_t>(position) << 24 | static_cast<uint64_t>(e / 4));
    for (int64_t i = e; i < std::min(e + 4, spec.experts); ++i) {
      const double uniform = (static_cast<double>(bits[static_cast<size_t>(i - e)]) + 0.5) * 0x1p-32;  // in (0, 1)
      keys[i] = logits[i] / spec.temperature - static_cast<float>(std::log(-std::log(uniform)));
    }
  }
}

void score_all(RouterSpec::Score score, float* x, int64_t n) {
  switch (score) {
    case RouterSpec::Score::softmax: return softmax(x, n);
    case RouterSpec::Score::sigmoid:
      for (int64_t i = 0; i < n; ++i) x[i] = 1 / (1 + std::exp(-x[i]));
      return;
  }
}

}  // namespace

void choose(const RouterSpec& spec, const float* logits, uint64_t key, int64_t layer, int64_t position, float* scores,
            int32_t* ids, float* weights) {
  const int64_t e = spec.experts, k = spec.experts_per_token;
  // Both scores grow with the logit, so the best k scores are the best k logits; choosing by logits also tells apart
  // what rounds to the same score.
  const float* keys = logits;
  if (spec.selection == RouterSpec::Selection::sample) {
    gumbel_keys(spec, logits, key, layer, position, scores);
    keys = scores;
  }
  top_k(keys, e, k, ids);
  switch (spec.order) {
    case RouterSpec::Order::score_then_select:
      std::copy(logits, logits + e, scores);
      score_all(spec.score, scores, e);
      for (int64_t i = 0; i < k; ++i) weights[i] = scores[ids[i]];
      break;
    case RouterSpec::Order::select_then_score:
      for (int64_t i = 0; i < k; ++i) weights[i] = logits[ids[i]];
      score_all(spec.score, weights, k);
      break;
  }
  if (spec.renormalise) {
    // 1e-20 as in DeepSeek-V3's: sigmoids may all be zero. It vanishes in any other sum.
    const double sum = std::accumulate(weights, weights + k, 1e-20);
    for (int64_t i = 0; i < k; ++i) weights[i] = static_cast<float>(static_cast<double>(weights[i]) / sum);
  }
  if (spec.scale != 1)
    for (int64_t i = 0; i < k; ++i) weights[i] *= spec.scale;
}

void Router::visit(TensorVisitor& visitor, const std::string& path) {
  visitor.matrix({path, Place::router, true}, spec_.experts, width_, weight_);
}

ops::RoutingPlan Router::forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x) const {
  ops::Context context{batch.context.pool, batch.context.kernels, batch.context.arena, ops::Precision::f32};
  const tensor::ArenaScope scratch(context.arena);
  const int64_t n = x.rows, e = spec_.experts, k = spec_.experts_per_token;
  const tensor::Matrix logits = context.arena.matrix(n, e);
  ops::matmul(context, x, weight_, nullptr, logits);

  auto* ids = context.arena.take<int32_t>(n * k);
  auto* weights = context.arena.take<float>(n * k);
  const tensor::Matrix scores = context.arena.matrix(context.pool.threads(), e);
  const auto choose_rows = [&](const SequenceRows& s, int64_t begin, int64_t end, int worker) {
    for (int64_t row = begin; row < end; ++row)
      choose(spec_, logits.row(row), s.random_key, layer, batch.positions[static_cast<size_t>(row)], scores.row(worker),
             ids + row * k, weights + row * k);
  };
  for (const SequenceRows& s : batch.sequences) {
    constexpr int64_t kWorthWaking = 16;  // rows; fewer cost less than starting the other threads
    if (s.rows < kWorthWaking)
      choose_rows(s, s.first_row, s.first_row + s.rows, 0);
    else
      context.pool.split(s.rows, 1, [&](int64_t begin, int64_t end, int worker) {
        choose_rows(s, s.first_row + begin, s.first_row + end, worker);
      });
  }
  ops::RoutingPlan plan =
      ops::make_plan({ids, static_cast<size_t>(n * k)}, {weights, static_cast<size_t>(n * k)}, n, k, e);
  if (batch.tap) batch.tap->plan(layer, plan, logits);
  return plan;
}

}  // namespace coterie::layers
