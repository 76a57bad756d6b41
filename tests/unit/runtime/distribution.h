#pragma once

#include <cmath>
#include <map>
#include <span>
#include <vector>

#include "runtime/candidates.h"

// What the sampler tests share: exact distributions and the chi-square test against them.
namespace coterie::runtime::test {

using Distribution = std::map<TokenId, double>;

inline Distribution as_map(const Candidates& candidates) {
  Distribution map;
  for (const Candidate& candidate : candidates) map[candidate.id] = candidate.probability;
  return map;
}

inline Distribution softmax_of(std::span<const float> logits, double temperature = 1) {
  Distribution map;
  double sum = 0;
  for (size_t i = 0; i < logits.size(); ++i) sum += std::exp(static_cast<double>(logits[i]) / temperature);
  for (size_t i = 0; i < logits.size(); ++i)
    map[static_cast<TokenId>(i)] = std::exp(static_cast<double>(logits[i]) / temperature) / sum;
  return map;
}

/// The kept ids of a distribution, divided by their sum.
inline Distribution only(const Distribution& all, const std::vector<TokenId>& kept) {
  Distribution map;
  double sum = 0;
  for (const TokenId id : kept) sum += all.at(id);
  for (const TokenId id : kept) map[id] = all.at(id) / sum;
  return map;
}

/// Σ (observed - expected)² / expected; infinite when something was drawn that has no probability.
inline double chi_square(const std::map<TokenId, int64_t>& drawn, const Distribution& expected, int64_t draws) {
  double statistic = 0;
  for (const auto& [id, count] : drawn)
    if (!expected.contains(id)) return INFINITY;
  for (const auto& [id, p] : expected) {
    const auto found = drawn.find(id);
    const double observed = found == drawn.end() ? 0 : static_cast<double>(found->second);
    const double mean = p * static_cast<double>(draws);
    statistic += (observed - mean) * (observed - mean) / mean;
  }
  return statistic;
}

/// The value that chi-square with `freedom` degrees exceeds once in 10,000 times (Wilson and Hilferty 1931).
inline double chi_square_limit(double freedom) {
  const double z = 3.719, a = 2 / (9 * freedom);
  return freedom * std::pow(1 - a + z * std::sqrt(a), 3);
}

}  // namespace coterie::runtime::test
