#include "models/score.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "ops/log_sum_exp.h"

namespace coterie::models {

using ops::log_sum_exp;

void CrossEntropy::add(tensor::ConstMatrix logits, std::span<const int32_t> ids, std::vector<double>* each) {
  base::require(logits.rows == static_cast<int64_t>(ids.size()), "score", "{} rows of logits for {} ids", logits.rows,
                ids.size());
  for (int64_t t = 0; t + 1 < logits.rows; ++t) {
    const int32_t next = ids[static_cast<size_t>(t + 1)];
    base::require(next >= 0 && next < logits.cols, "score", "id {} of {}", next, logits.cols);
    const double loss = log_sum_exp(logits.row(t), logits.cols) - static_cast<double>(logits.row(t)[next]);
    sum_ += loss, squares_ += loss * loss;
    ++count_;
    if (each) each->push_back(loss);
  }
}

double CrossEntropy::standard_error() const {
  if (count_ < 2) return 0;
  const double n = static_cast<double>(count_);
  return std::sqrt(std::max(squares_ - sum_ * sum_ / n, 0.0) / (n - 1) / n);
}

void LoadBalance::plan(int64_t, const ops::RoutingPlan& plan, tensor::ConstMatrix logits) {
  const auto experts = static_cast<size_t>(logits.cols);
  if (assignments_.empty()) assignments_.resize(experts), probability_.resize(experts);
  base::require(assignments_.size() == experts, "load balance", "routers over {} and {} experts", assignments_.size(),
                experts);
  // The reference counts the best k by their logits, whatever a bias of selection or groups made of the choice.
  const int64_t k = logits.rows > 0 ? (plan.slots() + logits.rows - 1) / logits.rows : 0;
  std::vector<size_t> order(experts);
  for (int64_t t = 0; t < logits.rows; ++t) {
    std::iota(order.begin(), order.end(), size_t{0});
    std::partial_sort(order.begin(), order.begin() + k, order.end(), [&](size_t a, size_t b) {
      return logits.row(t)[a] > logits.row(t)[b] || (logits.row(t)[a] == logits.row(t)[b] && a < b);
    });
    for (int64_t i = 0; i < k; ++i) assignments_[order[static_cast<size_t>(i)]] += 1;
    const double total = log_sum_exp(logits.row(t), logits.cols);
    for (size_t e = 0; e < experts; ++e) probability_[e] += std::exp(static_cast<double>(logits.row(t)[e]) - total);
  }
  rows_ += static_cast<double>(logits.rows);
}

double LoadBalance::loss() const {
  double sum = 0;
  for (size_t e = 0; e < assignments_.size(); ++e) sum += assignments_[e] / rows_ * (probability_[e] / rows_);
  return sum * static_cast<double>(assignments_.size());
}

// f counts choices and has no gradient. dL/dp_te = weight E f_e / rows, and through the softmax
// dL/dlogit_te = p_te (dL/dp_te - Σ_i p_ti dL/dp_ti).
void LoadBalance::add_gradient(const layers::Routed& router, const layers::RoutedGradient& gradient) const {
  const tensor::ConstMatrix logits = router.logits;
  const tensor::Matrix dlogits = gradient.logits;
  const auto experts = static_cast<size_t>(logits.cols);
  base::require(assignments_.size() == experts, "load balance", "a router over {} experts was not observed", experts);
  std::vector<double> by_probability(experts), p(experts);
  for (size_t e = 0; e < experts; ++e)
    by_probability[e] = weight_ * static_cast<double>(experts) * assignments_[e] / rows_ / rows_;
  for (int64_t t = 0; t < logits.rows; ++t) {
    const double total = log_sum_exp(logits.row(t), logits.cols);
    double along = 0;
    for (size_t e = 0; e < experts; ++e) {
      p[e] = std::exp(static_cast<double>(logits.row(t)[e]) - total);
      along += p[e] * by_probability[e];
    }
    for (size_t e = 0; e < experts; ++e) dlogits.row(t)[e] += static_cast<float>(p[e] * (by_probability[e] - along));
  }
}

}  // namespace coterie::models
