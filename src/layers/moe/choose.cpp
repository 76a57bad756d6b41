#include "layers/moe/choose.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"
#include "layers/moe/scores.h"

namespace coterie::layers {

namespace {

void check_numbers(const RouterSpec& spec, std::string_view where) {
  using base::ErrorKind;
  if (!(spec.temperature > 0) || !std::isfinite(spec.temperature))
    base::fail(ErrorKind::bad_input, where, "a router temperature of {}: expected a number above 0", spec.temperature);
  if (!std::isfinite(spec.scale)) base::fail(ErrorKind::bad_input, where, "a router scale of {}", spec.scale);
  if (!(spec.renormalise_epsilon >= 0) || !std::isfinite(spec.renormalise_epsilon))
    base::fail(ErrorKind::bad_input, where, "an epsilon of {} beside the sum of a router's weights",
               spec.renormalise_epsilon);
  if (!(spec.near_best >= 0) || !std::isfinite(spec.near_best))
    base::fail(ErrorKind::bad_input, where, "a jitter of {} in SparseMixer", spec.near_best);
}

void check_groups(const RouterSpec& spec, std::string_view where) {
  using base::ErrorKind;
  if (spec.groups < 1 || spec.experts % spec.groups != 0)
    base::fail(ErrorKind::bad_input, where, "{} experts in {} equal groups", spec.experts, spec.groups);
  if (spec.groups_kept < 1 || spec.groups_kept > spec.groups)
    base::fail(ErrorKind::bad_input, where, "{} groups of experts kept of {}: expected 1 to {}", spec.groups_kept,
               spec.groups, spec.groups);
  if (spec.groups_kept * spec.group_size() < spec.experts_per_token)
    base::fail(ErrorKind::bad_input, where, "{} experts per token from {} groups of {}", spec.experts_per_token,
               spec.groups_kept, spec.group_size());
  if (spec.groups > 1 && spec.group_score == RouterSpec::GroupScore::best_two && spec.group_size() < 2)
    base::fail(ErrorKind::bad_input, where, "groups of one expert scored by their two best");
}

void check_sparsemixer(const RouterSpec& spec, std::string_view where) {
  if (spec.selection != RouterSpec::Selection::sparsemixer) return;
  if (spec.score != RouterSpec::Score::softmax || spec.order != RouterSpec::Order::score_then_select ||
      spec.renormalise || spec.selection_bias || spec.groups != 1)
    base::fail(
        base::ErrorKind::bad_input, where,
        "SparseMixer has weights of its own: no other score, no renormalisation, no bias of selection, no groups");
}

}  // namespace

void check(const RouterSpec& spec, std::string_view where) {
  using base::ErrorKind;
  if (spec.experts < 1) base::fail(ErrorKind::bad_input, where, "a router over {} experts", spec.experts);
  if (spec.experts_per_token < 1 || spec.experts_per_token > spec.experts)
    base::fail(ErrorKind::bad_input, where, "{} experts per token of {}: expected 1 to {}", spec.experts_per_token,
               spec.experts, spec.experts);
  check_numbers(spec, where);
  check_groups(spec, where);
  check_sparsemixer(spec, where);
}

namespace {

// Whether key a goes before key b where a has the higher index: NaN loses against everything, equals stay in order.
bool before(double a, double b) { return a > b || (std::isnan(b) && !std::isnan(a)); }

/// The k best of keys, best first, the lower index first among equals: one insertion sort of the k best so far. Keys
/// are offered in ascending order of index.
class Best {
 public:
  Best(const double* keys, int64_t k, int32_t* ids) : keys_(keys), k_(k), ids_(ids) {}
  void offer(int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (filled_ == k_ && !before(keys_[i], keys_[ids_[k_ - 1]])) continue;
      int64_t at = filled_ < k_ ? filled_++ : k_ - 1;
      for (; at > 0 && before(keys_[i], keys_[ids_[at - 1]]); --at) ids_[at] = ids_[at - 1];
      ids_[at] = static_cast<int32_t>(i);
    }
  }

 private:
  const double* keys_;
  int64_t k_, filled_ = 0;
  int32_t* ids_;
};

// The largest of keys[0, n), NaN aside; -inf when there is none.
double largest(const double* keys, int64_t n) {
  double top = -std::numeric_limits<double>::infinity();
  for (int64_t i = 0; i < n; ++i) top = keys[i] > top ? keys[i] : top;
  return top;
}

// The sum of the two largest, NaN aside; -inf when there are no two.
double two_largest(const double* keys, int64_t n) {
  const double none = -std::numeric_limits<double>::infinity();
  double first = none, second = none;
  for (int64_t i = 0; i < n; ++i) {
    if (!(keys[i] > second)) continue;
    second = std::min(first, keys[i]), first = std::max(first, keys[i]);
  }
  return second == none ? none : first + second;
}

/// In place. softmax from the maximum; the others by element.
void score_all(RouterSpec::Score score, double* x, int64_t n) {
  switch (score) {
    case RouterSpec::Score::softmax: {
      const double top = largest(x, n);
      double sum = 0;
      for (int64_t i = 0; i < n; ++i) sum += x[i] = std::exp(x[i] - top);
      for (int64_t i = 0; i < n; ++i) x[i] /= sum;
      return;
    }
    case RouterSpec::Score::sigmoid:
      for (int64_t i = 0; i < n; ++i) x[i] = sigmoid(x[i]);
      return;
    case RouterSpec::Score::sqrt_softplus:
      for (int64_t i = 0; i < n; ++i) x[i] = std::sqrt(softplus(x[i]));
      return;
  }
}

// keys / temperature plus Gumbel noise: the k largest are k draws without replacement in proportion to
// exp(keys / temperature) (Kool et al. 2019, "Stochastic beams and where to find them").
void add_gumbel_noise(const RouterSpec& spec, const RouterDraw& draw, double* keys) {
  constexpr uint64_t kPurpose = uint64_t{0x526f7574} << 32;  // apart from the sampler's draws under the same key
  const uint64_t high = kPurpose | static_cast<uint64_t>(draw.layer);
  for (int64_t e = 0; e < spec.experts; e += 4) {
    const auto bits =
        base::Philox::block(draw.key, high, static_cast<uint64_t>(draw.position) << 24 | static_cast<uint64_t>(e / 4));
    for (int64_t i = e; i < std::min(e + 4, spec.experts); ++i) {
      const double uniform = (static_cast<double>(bits[static_cast<size_t>(i - e)]) + 0.5) * 0x1p-32;  // in (0, 1)
      keys[i] = keys[i] / static_cast<double>(spec.temperature) - std::log(-std::log(uniform));
    }
  }
}

/// `group_keys` [groups] is scratch. Called when there are more groups than are kept.
void choose_from_groups(const RouterSpec& spec, const double* values, const double* keys, double* group_keys,
                        int32_t* ids) {
  const int64_t size = spec.group_size();
  for (int64_t g = 0; g < spec.groups; ++g)
    group_keys[g] = spec.group_score == RouterSpec::GroupScore::best ? largest(values + g * size, size)
                                                                     : two_largest(values + g * size, size);
  Best best(keys, spec.experts_per_token, ids);
  for (int64_t g = 0; g < spec.groups; ++g) {
    int64_t ahead = 0;  // groups that come before this one
    for (int64_t other = 0; other < spec.groups; ++other)
      ahead += group_keys[other] > group_keys[g] || (other < g && group_keys[other] == group_keys[g]);
    if (ahead < spec.groups_kept) best.offer(g * size, (g + 1) * size);
  }
}

/// In f32 like the reference, since a distance is compared with a threshold.
void sparsemixer(const RouterSpec& spec, const float* logits, double* left, int32_t* ids, float* weights) {
  for (int64_t e = 0; e < spec.experts; ++e) left[e] = static_cast<double>(logits[e]);
  const auto gone = -std::numeric_limits<double>::infinity();
  for (int64_t i = 0; i < spec.experts_per_token; ++i) {
    Best(left, 1, ids + i).offer(0, spec.experts);
    // Where all that is left is -inf or NaN, what was chosen before could win again.
    for (int64_t e = 0; std::find(ids, ids + i, ids[i]) != ids + i; ++e) ids[i] = static_cast<int32_t>(e);
    const float top = logits[ids[i]];
    double sum = 0;
    for (int64_t e = 0; e < spec.experts; ++e) {
      if (std::find(ids, ids + i, static_cast<int32_t>(e)) != ids + i) continue;
      const float distance = (top - logits[e]) / std::max(std::abs(logits[e]), top);
      if (!(distance > 2 * spec.near_best)) sum += std::exp(static_cast<double>(logits[e]) - static_cast<double>(top));
    }
    weights[i] = static_cast<float>(1 / sum) * spec.scale;
    left[ids[i]] = gone;
  }
}

}  // namespace

int64_t choose_scratch(const RouterSpec& spec) { return 2 * spec.experts + spec.groups; }

void choose(const RouterSpec& spec, const float* logits, const float* selection_bias, const RouterDraw& draw,
            std::span<double> scratch, int32_t* ids, float* weights) {
  const int64_t e = spec.experts, k = spec.experts_per_token;
  double* const values = scratch.data();  // [E], what decides
  double* const other = values + e;       // [E]
  double* const group_keys = other + e;   // [groups]
  if (spec.selection == RouterSpec::Selection::sparsemixer) return sparsemixer(spec, logits, values, ids, weights);

  // All scores grow with the logit, so the best k scores are the best k logits unless something is added to them;
  // choosing by logits also tells apart what rounds to the same score.
  std::copy(logits, logits + e, values);
  const bool score_first = spec.order == RouterSpec::Order::score_then_select;
  const bool sums = spec.groups > 1 && spec.group_score == RouterSpec::GroupScore::best_two;
  if (score_first && (spec.selection_bias || sums)) score_all(spec.score, values, e);
  if (spec.selection_bias)
    for (int64_t i = 0; i < e; ++i) values[i] += static_cast<double>(selection_bias[i]);
  const double* keys = values;
  if (spec.selection == RouterSpec::Selection::sample) {
    std::copy(values, values + e, other);
    add_gumbel_noise(spec, draw, other);
    keys = other;
  }
  if (spec.groups_kept < spec.groups)
    choose_from_groups(spec, values, keys, group_keys, ids);
  else
    Best(keys, k, ids).offer(0, e);

  // Scores of what was chosen: of all logits, or of the chosen ones.
  double* const chosen = values;
  if (score_first) {
    std::copy(logits, logits + e, other);
    score_all(spec.score, other, e);
    for (int64_t i = 0; i < k; ++i) chosen[i] = other[ids[i]];
  } else {
    for (int64_t i = 0; i < k; ++i) chosen[i] = static_cast<double>(logits[ids[i]]);
    score_all(spec.score, chosen, k);
  }
  const double sum = spec.renormalise ? std::accumulate(chosen, chosen + k, spec.renormalise_epsilon) : 1;
  for (int64_t i = 0; i < k; ++i) weights[i] = static_cast<float>(chosen[i] / sum * static_cast<double>(spec.scale));
}

}  // namespace coterie::layers
