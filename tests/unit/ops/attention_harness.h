#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "base/rng.h"
#include "kernels/table.h"
#include "ops/attention.h"
#include "tensor/half.h"

// Attention with its cache, set up for tests. Caches start as NaN everywhere: what leaks shows.
namespace coterie::ops::test {

using tensor::DType;

struct Engine {
  threads::Pool pool;
  tensor::Arena arena;
  Context context;
  explicit Engine(const kernels::KernelTable& table, int threads = 1)
      : pool(threads), context{pool, table, arena, Precision::f32} {}
};

inline std::vector<const kernels::KernelTable*> usable_tables() {
  std::vector<const kernels::KernelTable*> tables;
  for (const kernels::Candidate& candidate : kernels::candidates()) {
    if (candidate.usable) tables.push_back(candidate.table);
  }
  return tables;
}

inline std::vector<float> normal_values(int64_t count, uint64_t key, float size = 1) {
  base::Rng rng(key);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = size * rng.normal();
  return values;
}

struct Cache {
  std::vector<std::vector<std::byte>> memory;
  std::vector<std::byte*> blocks;
  Cache(const CacheLayout& layout, int64_t positions) {
    for (int64_t b = 0; b * kCacheBlock < positions; ++b) {
      memory.emplace_back(static_cast<size_t>(layout.block_bytes()), std::byte{0xff});
    }
    for (std::vector<std::byte>& block : memory) blocks.push_back(block.data());
  }
};

/// A sequence's queries, keys and values for one layer, and where its tokens go.
struct Sequence {
  AttentionShape shape;
  int64_t length;
  std::vector<float> q, k, v, sinks;

  Sequence(AttentionShape shape_, int64_t length_, uint64_t key, bool with_sinks = false)
      : shape(shape_), length(length_) {
    const CacheLayout& layout = shape.layout;
    if (shape.scale == 0) shape.scale = 1 / std::sqrt(static_cast<float>(layout.key_dim));
    q = normal_values(length * shape.heads * layout.key_dim, key, 2);
    k = normal_values(length * layout.kv_heads * layout.key_dim, key + 1);
    v = normal_values(length * layout.kv_heads * layout.value_dim, key + 2);
    if (with_sinks) sinks = normal_values(shape.heads, key + 3);
  }
  AttentionShape bound() const {
    AttentionShape bound = shape;
    bound.sinks = sinks.empty() ? nullptr : sinks.data();
    return bound;
  }
  int64_t q_cols() const { return shape.heads * shape.layout.key_dim; }
  int64_t k_cols() const { return shape.layout.kv_heads * shape.layout.key_dim; }
  int64_t v_cols() const { return shape.layout.kv_heads * shape.layout.value_dim; }
  int64_t out_cols() const { return shape.heads * shape.layout.value_dim; }
};

/// All of a sequence in steps of the given numbers of tokens.
inline std::vector<float> run_in_steps(Context& context, const Sequence& s, const std::vector<int64_t>& steps) {
  Cache cache(s.shape.layout, s.length);
  std::vector<float> out(static_cast<size_t>(s.length * s.out_cols()), std::numeric_limits<float>::quiet_NaN());
  int64_t at = 0;
  for (const int64_t rows : steps) {
    const Segment segment{0, rows, at, cache.blocks};
    append_cache(context, s.shape.layout, {s.k.data() + at * s.k_cols(), rows, s.k_cols()},
                 {s.v.data() + at * s.v_cols(), rows, s.v_cols()}, {&segment, 1});
    attention(context, s.bound(), {s.q.data() + at * s.q_cols(), rows, s.q_cols()}, {&segment, 1},
              {out.data() + at * s.out_cols(), rows, s.out_cols()});
    at += rows;
  }
  return out;
}

/// Values as a cache of that type holds them; `dims` of them are a position's of one head.
inline std::vector<float> as_cached(DType dtype, std::vector<float> values, int64_t dims) {
  if (dtype == DType::f16)
    for (float& value : values) value = tensor::f16_to_f32(tensor::f32_to_f16(value));
  if (dtype == DType::bf16)
    for (float& value : values) value = tensor::bf16_to_f32(tensor::f32_to_bf16(value));
  if (dtype != DType::q8_0) return values;
  for (size_t head = 0; head < values.size(); head += static_cast<size_t>(dims)) {
    for (int64_t d = 0; d < dims; d += 32) {
      const std::span group(values.data() + head + d, static_cast<size_t>(std::min<int64_t>(32, dims - d)));
      float most = 0;
      for (const float value : group) most = std::max(most, std::fabs(value));
      const float scale = most / 127;
      for (float& value : group) value = scale == 0 ? 0 : scale * std::nearbyint(value * (1 / scale));
    }
  }
  return values;
}

struct Expected {
  std::vector<double> value, tolerance;  // [length, heads * value_dim]
};

/// The definition, in double. The tolerance is what f32 may lose, to first order: a score's chain of key_dim
/// multiply-adds errs by key_dim u Σ|q k|, which moves its weight by as much relatively, in numerator and denominator;
/// the sum over positions is chains of at most 256 and then one step a chunk.
inline Expected reference_attention(const Sequence& s) {
  const CacheLayout& layout = s.shape.layout;
  const int64_t group = s.shape.heads / layout.kv_heads;
  constexpr double kUnit = 0x1p-24;
  const std::vector<float> keys = as_cached(layout.dtype, s.k, layout.key_dim);
  const std::vector<float> values = as_cached(layout.dtype, s.v, layout.value_dim);
  Expected expected;
  for (int64_t n = 0; n < s.length; ++n) {
    for (int64_t h = 0; h < s.shape.heads; ++h) {
      const int64_t first = s.shape.window > 0 ? std::max<int64_t>(0, n - s.shape.window + 1) : 0;
      std::vector<double> scores;
      double slack = 0;
      for (int64_t j = first; j <= n; ++j) {
        double dot = 0, size = 0;
        for (int64_t d = 0; d < layout.key_dim; ++d) {
          const double q = s.q[static_cast<size_t>(n * s.q_cols() + h * layout.key_dim + d)];
          const double k = keys[static_cast<size_t>(j * s.k_cols() + h / group * layout.key_dim + d)];
          dot += q * k, size += std::fabs(q * k);
        }
        double score = dot * s.shape.scale;
        if (s.shape.softcap != 0) score = s.shape.softcap * std::tanh(score / s.shape.softcap);
        scores.push_back(score);
        slack = std::max(slack, kUnit * (static_cast<double>(layout.key_dim) * size * s.shape.scale +
                                         4 * std::fabs(score) + 4 * s.shape.softcap));
      }
      const double largest = *std::max_element(scores.begin(), scores.end());
      double sum = s.sinks.empty() ? 0 : std::exp(s.sinks[static_cast<size_t>(h)] - largest);
      for (double& score : scores) sum += score = std::exp(score - largest);
      const double steps =
          std::min<double>(static_cast<double>(scores.size()), 256) + 2 * static_cast<double>(scores.size()) / 256 + 16;
      for (int64_t d = 0; d < layout.value_dim; ++d) {
        double value = 0, size = 0;
        for (int64_t j = first; j <= n; ++j) {
          const double v = values[static_cast<size_t>(j * s.v_cols() + h / group * layout.value_dim + d)];
          value += scores[static_cast<size_t>(j - first)] * v,
              size += scores[static_cast<size_t>(j - first)] * std::fabs(v);
        }
        expected.value.push_back(value / sum);
        expected.tolerance.push_back((2 * slack + steps * kUnit) * size / sum);
      }
    }
  }
  return expected;
}

}  // namespace coterie::ops::test
