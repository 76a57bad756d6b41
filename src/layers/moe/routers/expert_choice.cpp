#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "base/error.h"
#include "layers/moe/routers/best.h"
#include "layers/moe/routers/kind.h"

// Expert choice (Zhou et al. 2022, arXiv:2202.09368): of each sequence every expert takes the ceil(T K / E) tokens that
// score highest with it, so loads are even by construction, and a token gets any number of experts, none included.
// Whether a token is taken depends on the tokens after it: not causal. Generation one token at a time gives each token
// to every expert, which is what the rule says of a sequence of one.
namespace coterie::layers {

namespace {

void assign_expert_choice(const BatchChoice& batch, int32_t* ids) {
  const RouterSpec& spec = batch.spec;
  const int64_t e = spec.experts;
  std::fill_n(ids, batch.logits.rows * e, -1);
  std::vector<double> scores, of_token(static_cast<size_t>(e));
  std::vector<int64_t> order;
  for (const SequenceRows& s : batch.sequences) {
    if (s.rows == 0) continue;
    scores.resize(static_cast<size_t>(s.rows * e));
    for (int64_t t = 0; t < s.rows; ++t) {
      const float* const row = batch.logits.row(s.first_row + t);
      std::copy(row, row + e, scores.begin() + t * e);
      score_all(spec.score, scores.data() + t * e, e);
    }
    const auto score = [&](int64_t t, int64_t expert) { return scores[static_cast<size_t>(t * e + expert)]; };
    const int64_t taken = std::min(s.rows, (s.rows * spec.experts_per_token + e - 1) / e);
    std::vector<bool> takes(static_cast<size_t>(s.rows * e));
    order.resize(static_cast<size_t>(s.rows));
    for (int64_t expert = 0; expert < e; ++expert) {
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(),
                       [&](int64_t a, int64_t b) { return before(score(a, expert), score(b, expert)); });
      for (int64_t i = 0; i < taken; ++i) takes[static_cast<size_t>(order[static_cast<size_t>(i)] * e + expert)] = true;
    }
    for (int64_t t = 0; t < s.rows; ++t) {
      int32_t* const mine = ids + (s.first_row + t) * e;
      int64_t count = 0;
      for (int64_t expert = 0; expert < e; ++expert)
        if (takes[static_cast<size_t>(t * e + expert)]) mine[count++] = static_cast<int32_t>(expert);
      std::stable_sort(mine, mine + count, [&](int32_t a, int32_t b) { return before(score(t, a), score(t, b)); });
    }
  }
}

void check_expert_choice(const RouterSpec& spec, std::string_view where) {
  if (spec.groups != 1 || spec.selection_bias || spec.capacity || spec.order != RouterSpec::Order::score_then_select)
    base::fail(base::ErrorKind::bad_input, where,
               "under expert choice the experts choose, by their scores: no order but score_then_select, no groups, no "
               "bias of selection, no capacity beside experts_per_token");
}

std::string describe_expert_choice(const RouterSpec& spec, const std::string& value) {
  return fmt::format(
      "those that take the token: each takes the T · {} / {} of a sequence's T tokens with its largest {} (not causal)",
      spec.experts_per_token, spec.experts, value);
}

}  // namespace

extern const RouterKind kExpertChoice;
const RouterKind kExpertChoice = {.name = "expert_choice",
                                  .causal = false,
                                  .even = true,
                                  .check = check_expert_choice,
                                  .assign = assign_expert_choice,
                                  .any_number = true,
                                  .choice = describe_expert_choice};

}  // namespace coterie::layers
