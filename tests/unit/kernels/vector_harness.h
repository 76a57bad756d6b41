#pragma once

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/rng.h"
#include "kernels/table.h"

// What kernel tests share: the instruction sets of this CPU, the lengths worth trying, and rows that lie misaligned
// between walls of NaN, so that a kernel that reads or writes beside its row is found out.
namespace coterie::kernels::test {

inline std::vector<const KernelTable*> usable_tables() {
  std::vector<const KernelTable*> tables;
  for (const Candidate& candidate : candidates()) {
    if (candidate.usable) tables.push_back(candidate.table);
  }
  return tables;
}

/// Around every multiple of a vector and of four vectors, for vectors of 4, 8 and 16.
inline std::vector<int64_t> lengths(int64_t from = 0) {
  std::vector<int64_t> list;
  for (int64_t n = from; n <= 70; ++n) list.push_back(n);
  for (const int64_t n : {127, 128, 129, 255, 256, 257, 1000, 1023, 1024, 1025, 2049}) list.push_back(n);
  return list;
}

template <typename T>
class Row {
 public:
  Row(int64_t count, int64_t misalignment)
      : count_(count), memory_(static_cast<size_t>(count + 2 * kWall), poison()), data_(memory_.data() + kWall) {
    // vector<T> is aligned to 16; moving by elements gives every alignment a row of T can have.
    data_ += misalignment % 16;
  }
  Row(Row&&) = default;
  Row(const Row&) = delete;

  T* data() { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }
  int64_t size() const { return count_; }
  /// Whether the walls still hold what they held.
  bool intact() const {
    for (const T& value : memory_) {
      const T* p = &value;
      const T wall = poison();
      if ((p < data_ || p >= data_ + count_) && std::memcmp(p, &wall, sizeof(T)) != 0) return false;
    }
    return true;
  }

 private:
  static constexpr int64_t kWall = 48;
  static T poison() {
    T value;
    std::memset(&value, 0xff, sizeof value);  // NaN in every float format
    return value;
  }
  int64_t count_;
  std::vector<T> memory_;
  T* data_;
};

inline Row<float> normal_row(int64_t count, uint64_t key, float size = 1) {
  Row<float> row(count, static_cast<int64_t>(key));
  base::Rng rng(key);
  for (int64_t i = 0; i < count; ++i) row[i] = size * rng.normal();
  return row;
}

/// Distance in units of the last place of the exact value, as f32 would hold it.
inline double ulps(float value, double exact) {
  if (std::isnan(exact)) return std::isnan(value) ? 0 : INFINITY;
  const float nearest = static_cast<float>(exact);
  if (value == nearest) return 0;
  if (std::isinf(nearest) || !std::isfinite(value)) return INFINITY;
  int exponent;
  std::frexp(exact, &exponent);
  const double unit = std::ldexp(1.0, std::max(exponent - 24, -149));
  return std::fabs(static_cast<double>(value) - exact) / unit;
}

inline constexpr double kUnit = 0x1p-24;

}  // namespace coterie::kernels::test
