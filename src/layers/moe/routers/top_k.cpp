#include "layers/moe/routers/top_k.h"

#include <fmt/format.h>

#include <algorithm>

#include "layers/moe/routers/best.h"
#include "layers/moe/routers/kind.h"

namespace coterie::layers {

namespace {

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

}  // namespace

void what_decides(const TokenChoice& token, double* values) {
  const RouterSpec& spec = token.spec;
  std::copy(token.logits, token.logits + spec.experts, values);
  const bool sums = spec.groups > 1 && spec.group_score == RouterSpec::GroupScore::best_two;
  if (spec.order == RouterSpec::Order::score_then_select && (spec.selection_bias || sums))
    score_all(spec.score, values, spec.experts);
  if (spec.selection_bias)
    for (int64_t i = 0; i < spec.experts; ++i) values[i] += static_cast<double>(token.selection_bias[i]);
  // A score of 0 and a bias do not bring back who is not to be chosen (RouterHook).
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < spec.experts; ++i)
    if (token.logits[i] == kNever) values[i] = static_cast<double>(kNever);
}

void best_experts(const RouterSpec& spec, const double* values, const double* keys, double* group_keys, int32_t* ids) {
  Best best(keys, spec.experts_per_token, ids);
  if (spec.groups_kept == spec.groups) return best.offer(0, spec.experts);
  const int64_t size = spec.group_size();
  for (int64_t g = 0; g < spec.groups; ++g)
    group_keys[g] = spec.group_score == RouterSpec::GroupScore::best ? largest(values + g * size, size)
                                                                     : two_largest(values + g * size, size);
  for (int64_t g = 0; g < spec.groups; ++g) {
    int64_t ahead = 0;  // groups that come before this one
    for (int64_t other = 0; other < spec.groups; ++other)
      ahead += group_keys[other] > group_keys[g] || (other < g && group_keys[other] == group_keys[g]);
    if (ahead < spec.groups_kept) best.offer(g * size, (g + 1) * size);
  }
}

void choose_top_k(const TokenChoice& token, int32_t* ids) {
  double* const values = token.scratch.data();  // [E], then [E] unused, then [groups]
  what_decides(token, values);
  best_experts(token.spec, values, values, values + 2 * token.spec.experts, ids);
}

std::string describe_largest(const RouterSpec& spec, const std::string& value) {
  return spec.experts_per_token == 1 ? "the largest " + value
                                     : fmt::format("the {} largest {}", spec.experts_per_token, value);
}

std::string describe_evened(const RouterSpec& spec, const std::string& value) {
  return describe_largest(spec, value) + ", in training evened over a step";
}

extern const RouterKind kTopK;
const RouterKind kTopK = {.name = "top_k", .choose = choose_top_k};

}  // namespace coterie::layers
