#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

namespace coterie::layers {

/// Whether key a goes before key b where a has the higher index: NaN loses against everything, equals stay in order.
inline bool before(double a, double b) { return a > b || (std::isnan(b) && !std::isnan(a)); }

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

/// The largest of keys[0, n), NaN aside; -inf when there is none.
inline double largest(const double* keys, int64_t n) {
  double top = -std::numeric_limits<double>::infinity();
  for (int64_t i = 0; i < n; ++i) top = keys[i] > top ? keys[i] : top;
  return top;
}

}  // namespace coterie::layers
