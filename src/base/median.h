#pragma once

#include <algorithm>
#include <iterator>
#include <vector>

namespace coterie::base {

/// The upper median of some values, at least one.
inline double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + std::ssize(values) / 2, values.end());
  return values[values.size() / 2];
}

}  // namespace coterie::base
