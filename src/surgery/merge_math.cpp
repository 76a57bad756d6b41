#include "surgery/merge_math.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "base/error.h"
#include "surgery/rows.h"

namespace coterie::surgery {

namespace {

constexpr int64_t kChunk = 4096;  // values of one task; sums are of chunks, in order

template <typename F>
void each_chunk(int64_t count, threads::Pool& pool, F body) {
  const int64_t chunks = (count + kChunk - 1) / kChunk;
  pool.split(chunks, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t c = begin; c < end; ++c) body(c, c * kChunk, std::min(count, (c + 1) * kChunk));
  });
}

struct Products {
  double aa = 0, ab = 0, bb = 0;
};

Products products(std::span<const float> a, std::span<const float> b, threads::Pool& pool) {
  const int64_t count = std::ssize(a);
  std::vector<Products> parts(static_cast<size_t>((count + kChunk - 1) / kChunk));
  each_chunk(count, pool, [&](int64_t chunk, int64_t begin, int64_t end) {
    Products& part = parts[static_cast<size_t>(chunk)];
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      const auto x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
      part.aa += x * x, part.ab += x * y, part.bb += y * y;
    }
  });
  Products sum;
  for (const Products& part : parts) sum.aa += part.aa, sum.ab += part.ab, sum.bb += part.bb;
  return sum;
}

// Sets all but the `kept` values of largest magnitude to zero. Found by the bits of the magnitudes, which are in the
// order of the values: 16 bits and then the other 16.
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

}  // namespace

std::span<const std::string_view> merge_method_names() {
  static constexpr std::array<std::string_view, 6> kNames = {"linear", "slerp",       "task_arithmetic",
                                                             "ties",   "dare_linear", "dare_ties"};
  return kNames;
}

void merge_linear(std::span<const MergeInput> inputs, bool normalize, std::span<float> out, threads::Pool& pool) {
  double total = 0;
  for (const MergeInput& input : inputs) total += input.weight;
  if (normalize && total == 0)
    base::fail(base::ErrorKind::bad_input, "weight", "the weights add up to 0, by which they are to be divided");
  const double divisor = normalize ? total : 1;
  each_chunk(std::ssize(out), pool, [&](int64_t, int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      double sum = 0;
      for (const MergeInput& input : inputs) sum += input.weight * static_cast<double>(input.values[i]);
      out[i] = static_cast<float>(sum / divisor);
    }
  });
}

void merge_slerp(std::span<const float> a, std::span<const float> b, double t, std::span<float> out,
                 threads::Pool& pool) {
  constexpr double kParallel = 0.9995, kShortest = 1e-8;
  const Products p = products(a, b, pool);
  // A vector of no length has no direction and is taken as it is.
  const auto length = [](double squares) { return std::sqrt(squares) > kShortest ? std::sqrt(squares) : 1.0; };
  const double cosine = p.ab / (length(p.aa) * length(p.bb));
  double of_a = 1 - t, of_b = t;
  if (std::abs(cosine) <= kParallel) {
    const double angle = std::acos(cosine);
    of_a = std::sin(angle - angle * t) / std::sin(angle);
    of_b = std::sin(angle * t) / std::sin(angle);
  }
  each_chunk(std::ssize(out), pool, [&](int64_t, int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i)
      out[i] = static_cast<float>(of_a * static_cast<double>(a[i]) + of_b * static_cast<double>(b[i]));
  });
}

void merge_changes(const MergeRule& rule, std::span<const float> base, std::span<const MergeInput> inputs,
                   std::string_view name, std::span<float> out, threads::Pool& pool) {
  const bool elect = rule.method == MergeMethod::ties || rule.method == MergeMethod::dare_ties;
  const bool drop = rule.method == MergeMethod::dare_linear || rule.method == MergeMethod::dare_ties;
  const int64_t count = std::ssize(base);
  double total = 0;
  for (size_t m = 0; m < inputs.size(); ++m) {
    const MergeInput& input = inputs[m];
    const std::span<float> change = input.values;
    total += input.weight;
    each_chunk(count, pool, [&](int64_t chunk, int64_t begin, int64_t end) {
      base::Rng rng = row_rng(rule.seed, name, static_cast<int64_t>(m), chunk);
      const auto scale = rule.rescale ? static_cast<float>(input.density) : 1.0f;
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
        change[i] -= base[i];
        if (!drop || input.density >= 1) continue;
        change[i] = rng.uniform_double() < input.density ? change[i] / scale : 0.0f;
      }
    });
    if (rule.method == MergeMethod::ties && input.density < 1)
      keep_largest(change, std::max<int64_t>(static_cast<int64_t>(input.density * static_cast<double>(count)), 1));
  }
  if (std::abs(total) < 1e-8) total = 1;
  each_chunk(count, pool, [&](int64_t, int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      double sum = 0, agreeing = 0, weights = 0;
      for (size_t m = 0; m < inputs.size(); ++m) sum += inputs[m].weight * static_cast<double>(inputs[m].values[i]);
      double divisor = total;
      if (elect) {
        const double sign = sum >= 0 ? 1 : -1;
        for (size_t m = 0; m < inputs.size(); ++m) {
          const double part = inputs[m].weight * static_cast<double>(inputs[m].values[i]);
          if (part * sign > 0) agreeing += part, weights += inputs[m].weight;
        }
        sum = agreeing, divisor = weights == 0 ? 1 : weights;
      }
      if (rule.normalize) sum /= divisor;
      out[i] = static_cast<float>(static_cast<double>(base[i]) + rule.lambda * sum);
    }
  });
}

}  // namespace coterie::surgery
