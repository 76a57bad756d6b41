#include "runtime/candidates.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"
#include "base/rng.h"

namespace coterie::runtime {

namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

bool better(const Candidate& a, const Candidate& b) {
  return a.probability != b.probability ? a.probability > b.probability : a.id < b.id;
}

bool larger(const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.id < b.id; }

void renormalise(Candidates& candidates) {
  double sum = 0;
  for (const Candidate& candidate : candidates) sum += candidate.probability;
  for (Candidate& candidate : candidates) candidate.probability /= sum;
}

// Keeps the fewest candidates, taken in the order of `before`, whose probabilities sum to at least `mass`. A vocabulary
// has 10^5 tokens and a nucleus often ten: so only as much is sorted as is needed.
template <typename Before>
void keep_mass(Candidates& candidates, double mass, Before before) {
  size_t sorted = 0, wanted = 64;
  double sum = 0;
  while (sorted < candidates.size()) {
    const size_t end = std::min(candidates.size(), wanted);
    std::partial_sort(candidates.begin() + static_cast<std::ptrdiff_t>(sorted),
                      candidates.begin() + static_cast<std::ptrdiff_t>(end), candidates.end(), before);
    for (; sorted < end; ++sorted) {
      sum += candidates[sorted].probability;
      if (sum >= mass) {
        candidates.resize(sorted + 1);
        return renormalise(candidates);
      }
    }
    wanted *= 8;
  }
}

}  // namespace

void allow_only(std::span<float> logits, std::span<const uint32_t> allowed) {
  for (size_t id = 0; id < logits.size(); ++id)
    if (id / 32 >= allowed.size() || !(allowed[id / 32] >> (id % 32) & 1))
      logits[id] = -std::numeric_limits<float>::infinity();
}

TokenId only_allowed(std::span<const uint32_t> allowed, int64_t vocabulary) {
  TokenId only = -1;
  for (size_t word = 0; word < allowed.size(); ++word) {
    if (allowed[word] == 0) continue;
    const auto id = static_cast<TokenId>(32 * word) + std::countr_zero(allowed[word]);
    if (id >= vocabulary) break;
    if (only >= 0 || std::popcount(allowed[word]) > 1) return -1;
    only = id;
  }
  return only;
}

void add_logit_bias(std::span<float> logits, std::span<const std::pair<TokenId, float>> bias) {
  for (const auto& [id, value] : bias) logits[static_cast<size_t>(id)] += value;
}

void penalise_repetition(std::span<float> logits, std::span<const TokenId> recent, double penalty) {
  std::unordered_set<TokenId> seen(recent.begin(), recent.end());
  for (TokenId id : seen) {
    float& logit = logits[static_cast<size_t>(id)];
    logit = static_cast<float>(logit > 0 ? logit / penalty : logit * penalty);
  }
}

void penalise_occurrence(std::span<float> logits, std::span<const TokenId> recent, double presence, double frequency) {
  std::unordered_map<TokenId, int64_t> count;
  for (TokenId id : recent) ++count[id];
  for (const auto& [id, times] : count) {
    float& logit = logits[static_cast<size_t>(id)];
    logit = static_cast<float>(logit - (static_cast<double>(times) * frequency + presence));
  }
}

std::unordered_map<TokenId, int64_t> repeats(std::span<const TokenId> recent, int64_t limit) {
  const int64_t size = std::ssize(recent);
  const auto from_end = [&](int64_t i) { return recent[static_cast<size_t>(size - 1 - i)]; };
  // length[k]: how many tokens that end k before the end are those that end `recent` (the Z function of the reversed
  // sequence: Gusfield 1997, §1.3). [left, right) is the match found so far that reaches furthest back.
  std::vector<int64_t> length(static_cast<size_t>(size));
  std::unordered_map<TokenId, int64_t> longest;
  for (int64_t k = 1, left = 0, right = 0; k < size; ++k) {
    int64_t n = k < right ? std::min(length[static_cast<size_t>(k - left)], right - k) : 0;
    while (k + n < size && from_end(n) == from_end(k + n)) ++n;
    length[static_cast<size_t>(k)] = n;
    if (k + n > right) left = k, right = k + n;
    if (const int64_t found = std::min(n, limit); found > 0) {
      int64_t& most = longest[from_end(k - 1)];
      most = std::max(most, found);
    }
  }
  return longest;
}

void top_n_sigma(std::span<float> logits, double n) {
  double sum = 0, squares = 0, highest = static_cast<double>(kNever);
  int64_t count = 0;
  for (const float logit : logits)
    if (logit != kNever)
      sum += static_cast<double>(logit), highest = std::max(highest, static_cast<double>(logit)), ++count;
  const double mean = sum / static_cast<double>(count);
  for (const float logit : logits)
    if (logit != kNever) squares += (static_cast<double>(logit) - mean) * (static_cast<double>(logit) - mean);
  const double least = highest - n * std::sqrt(squares / static_cast<double>(count));
  for (float& logit : logits)
    if (static_cast<double>(logit) < least) logit = kNever;
}

TokenId greedy(std::span<const float> logits) {
  TokenId best = 0;
  float highest = kNever;
  bool numbers = true;
  for (size_t i = 0; i < logits.size(); ++i) {
    numbers = numbers && !std::isnan(logits[i]);
    if (logits[i] > highest) highest = logits[i], best = static_cast<TokenId>(i);
  }
  // What a model says comes from its files: no promise between rooms is broken.
  if (!numbers || !std::isfinite(highest))
    base::fail(base::ErrorKind::bad_input, "", "the logits of a position are {}",
               numbers ? "all infinite" : "not numbers");
  return best;
}

Candidates top_k(std::span<const float> logits, int64_t k) {
  (void)greedy(logits);  // refuses what no order can be made of
  Candidates kept;
  const auto add = [&](size_t i) { kept.push_back({static_cast<TokenId>(i), logits[i], 0}); };
  if (k == 0 || k >= static_cast<int64_t>(logits.size())) {
    for (size_t i = 0; i < logits.size(); ++i)
      if (logits[i] != kNever) add(i);
    if (k > 0) std::sort(kept.begin(), kept.end(), larger);
    return kept;
  }
  // A heap with the worst of the best on top: most tokens cost one comparison with it.
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] == kNever) continue;
    if (static_cast<int64_t>(kept.size()) == k) {
      if (logits[i] <= kept.front().logit) continue;
      std::pop_heap(kept.begin(), kept.end(), larger);
      kept.pop_back();
    }
    add(i);
    std::push_heap(kept.begin(), kept.end(), larger);
  }
  std::sort_heap(kept.begin(), kept.end(), larger);
  return kept;
}

void softmax(Candidates& candidates, double temperature) {
  float highest = kNever;
  for (const Candidate& candidate : candidates) highest = std::max(highest, candidate.logit);
  for (Candidate& candidate : candidates)
    candidate.probability =
        std::exp((static_cast<double>(candidate.logit) - static_cast<double>(highest)) / temperature);
  renormalise(candidates);
}

double dynamic_temperature(Candidates candidates, double low, double high, double exponent) {
  softmax(candidates, 1);
  double entropy = 0;
  for (const Candidate& candidate : candidates)
    if (candidate.probability > 0) entropy -= candidate.probability * std::log(candidate.probability);
  const double most = std::log(static_cast<double>(candidates.size()));
  const double share = most > 0 ? std::min(entropy / most, 1.0) : 0;
  return std::max(low + (high - low) * std::pow(share, exponent), std::numeric_limits<double>::min());
}

void top_p(Candidates& candidates, double p) { keep_mass(candidates, p, better); }

void min_p(Candidates& candidates, double min_p) {
  double highest = 0;
  for (const Candidate& candidate : candidates) highest = std::max(highest, candidate.probability);
  std::erase_if(candidates, [&](const Candidate& candidate) { return candidate.probability < min_p * highest; });
  renormalise(candidates);
}

void typical(Candidates& candidates, double mass) {
  std::erase_if(candidates, [](const Candidate& candidate) { return candidate.probability == 0; });
  double entropy = 0;
  for (const Candidate& candidate : candidates) entropy -= candidate.probability * std::log(candidate.probability);
  keep_mass(candidates, mass, [entropy](const Candidate& a, const Candidate& b) {
    const double from_a = std::abs(-std::log(a.probability) - entropy);
    const double from_b = std::abs(-std::log(b.probability) - entropy);
    return from_a != from_b ? from_a < from_b : better(a, b);
  });
}

void exclude_top_choices(Candidates& candidates, double threshold) {
  const Candidate* last = nullptr;  // never one whose probability is too small to be a number
  for (const Candidate& candidate : candidates)
    if (candidate.probability >= threshold && candidate.probability > 0 && (!last || better(*last, candidate)))
      last = &candidate;
  if (!last) return;
  const Candidate kept = *last;
  std::erase_if(candidates, [&](const Candidate& candidate) { return better(candidate, kept); });
  renormalise(candidates);
}

void limit_surprise(Candidates& candidates, double mu) {
  const auto best = std::min_element(candidates.begin(), candidates.end(), better);
  const TokenId kept = best->id;
  std::erase_if(candidates, [&](const Candidate& candidate) {
    return candidate.id != kept && -std::log2(candidate.probability) > mu;
  });
  renormalise(candidates);
}

TokenId draw(const Candidates& candidates, uint64_t seed, uint64_t position) {
  constexpr uint64_t kHigh = uint64_t{0x546f6b31} << 32, kLow = uint64_t{0x546f6b32} << 32;  // apart from other draws
  std::array<uint32_t, 4> block = {};
  int64_t of_block = -1;
  TokenId best = candidates.front().id;
  double least = std::numeric_limits<double>::infinity();
  for (const Candidate& candidate : candidates) {
    if (!(candidate.probability > 0)) continue;
    const int64_t number = candidate.id / 4;
    const auto word = static_cast<size_t>(candidate.id % 4);
    if (number != of_block) {
      block = base::Philox::block(seed, kHigh | static_cast<uint64_t>(number), position);
      of_block = number;
    }
    // With v = 1 - u: -log(u) = -log1p(-v) >= v, so that most candidates need no logarithm, and no more digits of v.
    const double coarse = static_cast<double>(block[word]) * 0x1p-32;
    if (coarse >= least * candidate.probability) continue;
    const uint32_t rest = base::Philox::block(seed, kLow | static_cast<uint64_t>(number), position)[word];
    const double v = coarse + (static_cast<double>(rest) + 0.5) * 0x1p-64;
    const double time = -std::log1p(-std::min(v, 1 - 0x1p-53)) / candidate.probability;
    if (time < least || (time == least && candidate.id < best)) best = candidate.id, least = time;
  }
  return best;
}

}  // namespace coterie::runtime
