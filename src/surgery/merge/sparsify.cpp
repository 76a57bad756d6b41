#include "surgery/merge/sparsify.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "surgery/rows.h"

namespace coterie::surgery {

// Found by the bits of the magnitudes, which are in the order of the values: 16 bits and then the other 16.
void keep_largest(std::span<float> values, int64_t kept) {
  if (kept >= std::ssize(values)) return;
  const auto bits = [](float v) { return std::bit_cast<uint32_t>(v) & 0x7fffffffu; };
  uint32_t limit = 0;  // magnitudes above it are kept
  int64_t above = 0;   // how many those are
  for (const int shift : {16, 0}) {
    std::vector<int64_t> counts(1 << 16);
    const uint32_t prefix = limit >> 16;
    for (const float v : values)
      if (shift == 16 || bits(v) >> 16 == prefix) ++counts[bits(v) >> shift & 0xffffu];
    uint32_t bucket = 0xffff;
    while (above + counts[bucket] < kept) above += counts[bucket--];
    limit |= bucket << shift;
  }
  int64_t equal = kept - above;
  for (float& v : values)
    if (bits(v) < limit || (bits(v) == limit && equal-- <= 0)) v = 0;
}

void keep_below_outliers(std::span<float> values, double density, double gamma) {
  const auto count = static_cast<double>(values.size());
  const auto kept = static_cast<int64_t>(density * count);
  const int64_t outliers = std::min(static_cast<int64_t>(gamma * count), std::ssize(values) - kept);
  std::vector<float> top(values.begin(), values.end());
  keep_largest(top, outliers);
  keep_largest(values, outliers + kept);
  for (size_t i = 0; i < values.size(); ++i)
    if (top[i] != 0) values[i] = 0;
}

std::vector<double> keep_probabilities(std::span<const float> line, double density, double epsilon) {
  std::vector<size_t> order(line.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return std::abs(line[a]) < std::abs(line[b]); });
  std::vector<double> probabilities(line.size(), density);
  const auto last = static_cast<double>(line.size()) - 1;
  for (size_t rank = 0; last > 0 && rank < order.size(); ++rank)
    probabilities[order[rank]] = density - epsilon + 2 * epsilon * static_cast<double>(rank) / last;
  return probabilities;
}

void drop_by_rank(std::span<float> values, const tensor::Shape& shape, const RankedDrop& drop, threads::Pool& pool) {
  const int64_t count = std::ssize(values);
  const int64_t outer = shape.size() > 1 ? shape[0] : 1;
  const int64_t length = shape.size() > 1 ? shape[1] : count;
  if (count == 0) return;
  const int64_t inner = count / (outer * length);
  pool.split(outer * inner, 1, [&](int64_t begin, int64_t end, int) {
    std::vector<float> line(static_cast<size_t>(length));
    for (int64_t l = begin; l < end; ++l) {
      float* const first = values.data() + l / inner * length * inner + l % inner;
      for (int64_t i = 0; i < length; ++i) line[static_cast<size_t>(i)] = first[i * inner];
      const std::vector<double> probabilities = keep_probabilities(line, drop.density, drop.epsilon);
      base::Rng rng = row_rng(drop.seed, drop.name, drop.input, l);
      for (int64_t i = 0; i < length; ++i)
        if (rng.uniform_double() >= probabilities[static_cast<size_t>(i)]) first[i * inner] = 0;
    }
  });
}

double sum_of_magnitudes(std::span<const float> values) {
  double sum = 0;
  for (const float v : values) sum += static_cast<double>(std::abs(v));
  return sum;
}

void restore_magnitude(std::span<float> values, double sum) {
  constexpr double kLeast = 1e-7;
  const double now = sum_of_magnitudes(values);
  if (sum < kLeast || now < kLeast) return;
  for (float& v : values) v = static_cast<float>(static_cast<double>(v) * (sum / now));
}

}  // namespace coterie::surgery
