#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace coterie::ops {

/// log Σ exp(x[i]) over n >= 1 values, in f64: for losses, which add up many of them.
inline double log_sum_exp(const float* x, int64_t n) {
  const double top = *std::max_element(x, x + n);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(x[i]) - top);
  return top + std::log(sum);
}

}  // namespace coterie::ops
