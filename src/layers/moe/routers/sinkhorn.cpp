#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "layers/moe/routers/best.h"
#include "layers/moe/routers/kind.h"
#include "layers/moe/routers/top_k.h"

// S-BASE (Clark et al. 2022, arXiv:2202.01169, appendix B.2): in training the tokens of a step choose the best k after
// exp(h) has been scaled by Sinkhorn's iteration until all tokens and all experts weigh the same; outside of it the k
// largest logits. The weights are scores of the logits, without what the scaling made of them. Stops as Megatron's
// does: when the experts' factors move by less than 1e-4 on average.
namespace coterie::layers {

namespace {

void assign_sinkhorn(const BatchChoice& batch, int32_t* ids) {
  const int64_t n = batch.logits.rows, e = batch.spec.experts;
  std::vector<double> cost(static_cast<size_t>(n * e)), by_token(static_cast<size_t>(n), 1.0);
  std::vector<double> by_expert(static_cast<size_t>(e), 1.0), sums(static_cast<size_t>(e));
  for (int64_t t = 0; t < n; ++t) {
    double* const row = cost.data() + t * e;
    std::copy_n(batch.logits.row(t), e, row);
    const double top = largest(row, e);
    for (int64_t i = 0; i < e; ++i) row[i] = std::exp(row[i] - top);  // a token's own factor takes e^top up
  }
  constexpr double kTolerance = 1e-4, kEpsilon = 1e-8;
  constexpr int kMostRounds = 1000;
  double change = 1;
  for (int round = 0; round < kMostRounds && change > kTolerance; ++round) {
    std::fill(sums.begin(), sums.end(), 0.0);
    for (int64_t t = 0; t < n; ++t) {
      const double* const row = cost.data() + t * e;
      double sum = 0;
      for (int64_t i = 0; i < e; ++i) sum += row[i] * by_expert[static_cast<size_t>(i)];
      const double factor = by_token[static_cast<size_t>(t)] = 1 / (static_cast<double>(n) * (sum + kEpsilon));
      for (int64_t i = 0; i < e; ++i) sums[static_cast<size_t>(i)] += row[i] * factor;
    }
    change = 0;
    for (size_t i = 0; i < sums.size(); ++i) {
      const double next = 1 / (static_cast<double>(e) * (sums[i] + kEpsilon));
      change += std::abs(next - by_expert[i]) / static_cast<double>(e);
      by_expert[i] = next;
    }
  }
  for (int64_t t = 0; t < n; ++t) {  // the token's own factor does not change its order
    double* const row = cost.data() + t * e;
    for (int64_t i = 0; i < e; ++i) row[i] *= by_expert[static_cast<size_t>(i)];
    Best(row, batch.spec.experts_per_token, ids + t * batch.spec.experts_per_token).offer(0, e);
  }
}

void check_sinkhorn(const RouterSpec& spec, std::string_view where) {
  if (spec.groups != 1 || spec.selection_bias || spec.capacity)
    base::fail(base::ErrorKind::bad_input, where,
               "Sinkhorn's assignment is even by itself: no groups, no bias of selection, no capacity");
}

}  // namespace

extern const RouterKind kSinkhorn;
const RouterKind kSinkhorn = {.name = "sinkhorn",
                              .even = true,
                              .check = check_sinkhorn,
                              .choose = choose_top_k,
                              .assign = assign_sinkhorn,
                              .choice = describe_evened};

}  // namespace coterie::layers
