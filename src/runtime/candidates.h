#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "text/tokenizer.h"

// The links of the sampler chain, each a function of its arguments alone. Logits are those of one position, [V].
namespace coterie::runtime {

using text::TokenId;

struct Candidate {
  TokenId id;
  float logit;
  double probability;  // among the candidates that are left
};
using Candidates = std::vector<Candidate>;

// --- On logits -------------------------------------------------------------------------------------------------------

/// logit[id] = -inf where bit id % 32 of allowed[id / 32] is not set.
void allow_only(std::span<float> logits, std::span<const uint32_t> allowed);
/// The token that alone is allowed, among the first `vocabulary`; -1 where there are none or several.
TokenId only_allowed(std::span<const uint32_t> allowed, int64_t vocabulary);
/// logit[id] += bias.
void add_logit_bias(std::span<float> logits, std::span<const std::pair<TokenId, float>> bias);
/// For each token that occurs in `recent`: logit = logit > 0 ? logit / penalty : logit * penalty.
/// (Keskar et al. 2019, CTRL, §4.1)
void penalise_repetition(std::span<float> logits, std::span<const TokenId> recent, double penalty);
/// For each token that occurs c > 0 times in `recent`: logit -= c * frequency + presence. (OpenAI's API reference)
void penalise_occurrence(std::span<float> logits, std::span<const TokenId> recent, double presence, double frequency);

/// DRY's search, "Don't Repeat Yourself" (p-e-w 2024): where the last n tokens of `recent` stand earlier in it too, the
/// token that followed them there would make the repetition one longer. For each such token the largest n, which is at
/// least 1 and at most `limit` (tokens since the last sequence breaker). Linear in the length of `recent`.
std::unordered_map<TokenId, int64_t> repeats(std::span<const TokenId> recent, int64_t limit);
/// Top-nσ: every logit below max - n · σ becomes -inf; σ is the standard deviation of all logits above -inf (divided by
/// their number). (Tang et al. 2024, arXiv:2411.07641)
void top_n_sigma(std::span<float> logits, double n);

/// The largest logit; of equal ones the lowest id. Throws internal when a logit is NaN or none is above -inf.
TokenId greedy(std::span<const float> logits);

// --- From logits to candidates ---------------------------------------------------------------------------------------

/// The k tokens with the largest logits, of equal ones the lower ids, best first (Fan et al. 2018); k = 0: all tokens,
/// in the order of ids. Never one whose logit is -inf. Throws as greedy() does.
///
/// Top-k stands here and not among the filters because it needs no probabilities: of 10^5 tokens it leaves 40 to take
/// the exponential of. A temperature does not change the order, so before or after it is the same.
Candidates top_k(std::span<const float> logits, int64_t k);
/// p = softmax(logit / temperature) over the candidates; temperature > 0.
void softmax(Candidates& candidates, double temperature);
/// low + (high - low) · (H / ln n)^exponent, where H is the entropy of softmax(logit) over the n candidates: low where
/// the model is certain, high where all are alike. At least the smallest number above 0. (Entropy-based dynamic
/// temperature: kalomaze 2023, as in llama.cpp)
double dynamic_temperature(Candidates candidates, double low, double high, double exponent);

// --- Filters: each keeps at least one candidate and divides what is left by its sum ----------------------------------
// "Best first" orders by probability, equal ones by the lower id.

/// The fewest of the best whose probabilities sum to at least p. (Holtzman et al. 2020, nucleus sampling)
void top_p(Candidates& candidates, double p);
/// Those with at least min_p times the probability of the best. (Nguyen et al. 2024)
void min_p(Candidates& candidates, double min_p);
/// With H = -Σ p log p: the fewest, by ascending |-log p - H|, whose probabilities sum to at least `mass`.
/// (Meister et al. 2023, locally typical sampling)
void typical(Candidates& candidates, double mass);
/// XTC, "Exclude Top Choices" (p-e-w 2024): where two or more have at least the probability `threshold`, all of them
/// but the last, best first, are removed. Whether this is done at all is for the caller to draw.
void exclude_top_choices(Candidates& candidates, double threshold);
/// Those whose surprise -log2 p is at most mu bits, or the best alone. (Mirostat 2.0: Basu et al. 2021,
/// arXiv:2007.14966, algorithm 2)
void limit_surprise(Candidates& candidates, double mu);

/// One of the candidates, in proportion to their probabilities: the one with the least -log(u) / p, where u in (0, 1)
/// is a random number of (seed, position, id) alone. So two distributions that are alike give the same token mostly,
/// whatever the order of their candidates (the Gumbel-max trick: Maddison et al. 2014, arXiv:1411.0030).
TokenId draw(const Candidates& candidates, uint64_t seed, uint64_t position);

}  // namespace coterie::runtime
