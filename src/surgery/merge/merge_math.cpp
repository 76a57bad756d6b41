#include "surgery/merge/merge_math.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "surgery/merge/sparsify.h"
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

void add_product(Products& sum, float a, float b) {
  const auto x = static_cast<double>(a), y = static_cast<double>(b);
  sum.aa += x * x, sum.ab += x * y, sum.bb += y * y;
}

Products products(std::span<const float> a, std::span<const float> b) {
  Products sum;
  for (size_t i = 0; i < a.size(); ++i) add_product(sum, a[i], b[i]);
  return sum;
}

Products products(std::span<const float> a, std::span<const float> b, threads::Pool& pool) {
  const int64_t count = std::ssize(a);
  std::vector<Products> parts(static_cast<size_t>((count + kChunk - 1) / kChunk));
  each_chunk(count, pool, [&](int64_t chunk, int64_t begin, int64_t end) {
    const auto first = static_cast<size_t>(begin), size = static_cast<size_t>(end - begin);
    parts[static_cast<size_t>(chunk)] = products(a.subspan(first, size), b.subspan(first, size));
  });
  Products sum;
  for (const Products& part : parts) sum.aa += part.aa, sum.ab += part.ab, sum.bb += part.bb;
  return sum;
}

void take_from(std::span<float> values, std::span<const float> base, threads::Pool& pool) {
  each_chunk(std::ssize(values), pool, [&](int64_t, int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) values[i] -= base[i];
  });
}

using Drop = MergeTraits::Drop;

constexpr std::array<MergeTraits, 13> kTraits = {{
    {.name = "linear", .needs_base = false, .weights = true, .normalizes = true},
    {.name = "slerp"},
    {.name = "task_arithmetic", .weights = true, .changes = true},
    {.name = "ties", .weights = true, .changes = true, .drop = Drop::smallest, .elects = true, .normalizes = true},
    {.name = "dare_linear", .weights = true, .changes = true, .drop = Drop::by_chance, .rescales = true},
    {.name = "dare_ties", .weights = true, .changes = true, .drop = Drop::by_chance, .elects = true, .rescales = true},
    {.name = "breadcrumbs", .weights = true, .changes = true, .drop = Drop::outliers},
    {.name = "breadcrumbs_ties", .weights = true, .changes = true, .drop = Drop::outliers, .elects = true},
    {.name = "della",
     .weights = true,
     .changes = true,
     .drop = Drop::by_rank,
     .elects = true,
     .normalizes = true,
     .rescales = true},
    {.name = "della_linear", .weights = true, .changes = true, .drop = Drop::by_rank, .rescales = true},
    {.name = "model_stock"},
    {.name = "nearswap"},
    {.name = "passthrough", .needs_base = false},
}};

// What is left of a change.
void drop_values(const MergeRule& rule, const MergeInput& input, std::string_view name, int64_t number,
                 threads::Pool& pool) {
  const MergeTraits& traits = traits_of(rule.method);
  const std::span<float> change = input.values;
  const bool rescale = rule.rescale.value_or(traits.rescales);
  if (traits.drop == Drop::none || input.density >= 1) return;
  if (traits.drop == Drop::by_chance) {
    each_chunk(std::ssize(change), pool, [&](int64_t chunk, int64_t begin, int64_t end) {
      base::Rng rng = row_rng(rule.seed, name, number, chunk);
      const auto scale = rescale ? static_cast<float>(input.density) : 1.0f;
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i)
        change[i] = rng.uniform_double() < input.density ? change[i] / scale : 0.0f;
    });
    return;
  }
  const double before = rescale ? sum_of_magnitudes(change) : 0;
  const auto count = static_cast<double>(change.size());
  switch (traits.drop) {
    case Drop::smallest: keep_largest(change, std::max<int64_t>(static_cast<int64_t>(input.density * count), 1)); break;
    case Drop::outliers: keep_below_outliers(change, input.density, input.gamma); break;
    default: drop_by_rank(change, rule.shape, {input.density, input.epsilon, rule.seed, name, number}, pool); break;
  }
  if (rescale) restore_magnitude(change, before);
}

}  // namespace

const MergeTraits& traits_of(MergeMethod method) { return kTraits.at(static_cast<size_t>(method)); }

std::span<const std::string_view> merge_method_names() {
  static constexpr auto kNames = [] {
    std::array<std::string_view, kTraits.size()> names;
    for (size_t i = 0; i < names.size(); ++i) names[i] = kTraits[i].name;
    return names;
  }();
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
  const bool elect = traits_of(rule.method).elects;
  const int64_t count = std::ssize(base);
  double total = 0;
  for (size_t m = 0; m < inputs.size(); ++m) {
    const MergeInput& input = inputs[m];
    total += input.weight;
    take_from(input.values, base, pool);
    drop_values(rule, input, name, static_cast<int64_t>(m), pool);
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

namespace {

// How much of the mean change is taken, by the products of each pair of changes.
double stock_share(const std::vector<std::span<const float>>& changes, threads::Pool* pool) {
  constexpr double kShortest = 1e-6;
  double cosines = 0;
  int64_t pairs = 0;
  for (size_t a = 0; a < changes.size(); ++a)
    for (size_t b = a + 1; b < changes.size(); ++b, ++pairs) {
      const Products p = pool ? products(changes[a], changes[b], *pool) : products(changes[a], changes[b]);
      cosines += std::clamp(p.ab / std::max(std::sqrt(p.aa) * std::sqrt(p.bb), kShortest), -1.0, 1.0);
    }
  const auto count = static_cast<double>(changes.size());
  const double cosine = cosines / static_cast<double>(pairs), divisor = 1 + (count - 1) * cosine;
  return std::abs(divisor) < kShortest ? 0 : count * cosine / divisor;
}

}  // namespace

void merge_stock(const MergeRule& rule, std::span<const float> base, std::span<const MergeInput> inputs,
                 std::span<float> out, threads::Pool& pool) {
  for (const MergeInput& input : inputs) take_from(input.values, base, pool);
  const auto write = [&](double share, int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      double sum = 0;
      for (const MergeInput& input : inputs) sum += static_cast<double>(input.values[i]);
      out[i] = static_cast<float>(static_cast<double>(base[i]) + share * sum / static_cast<double>(inputs.size()));
    }
  };
  const auto changes = [&](int64_t begin, int64_t end) {
    std::vector<std::span<const float>> parts;
    for (const MergeInput& input : inputs)
      parts.push_back(input.values.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)));
    return parts;
  };
  const int64_t count = std::ssize(base);
  if (!rule.filter_wise) {
    const double share = stock_share(changes(0, count), &pool);
    return each_chunk(count, pool, [&](int64_t, int64_t begin, int64_t end) { write(share, begin, end); });
  }
  const int64_t row = rule.shape.empty() ? count : rule.shape.back();
  pool.split(row > 0 ? count / row : 0, 1, [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r)
      write(stock_share(changes(r * row, (r + 1) * row), nullptr), r * row, (r + 1) * row);
  });
}

void merge_nearswap(std::span<const float> a, std::span<const float> b, double t, std::span<float> out,
                    threads::Pool& pool) {
  constexpr double kLeast = 1e-6;
  each_chunk(std::ssize(out), pool, [&](int64_t, int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      const auto x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
      const double weight = std::clamp(t / std::max(std::abs(x - y), kLeast), 0.0, 1.0);
      out[i] = static_cast<float>(weight * y + (1 - weight) * x);
    }
  });
}

}  // namespace coterie::surgery
