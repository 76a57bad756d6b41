#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/rng.h"
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

/// logit[id] += bias.
void add_logit_bias(std::span<float> logits, std::span<const std::pair<TokenId, float>> bias);
/// For each token that occurs in `recent`: logit = logit > 0 ? logit / penalty : logit * penalty.
/// (Keskar et al. 2019, CTRL, §4.1)
void penalise_repetition(std::span<float> logits, std::span<const TokenId> recent, double penalty);
/// For each token that occurs c > 0 times in `recent`: logit -= c * frequency + presence. (OpenAI's API reference)
void penalise_occurrence(std::span<float> logits, std::span<const TokenId> recent, double presence, double frequency);

/// The largest logit; of equal ones the lowest id. Throws internal when a logit is NaN or none is above -inf.
TokenId greedy(std::span<const float> logits);

// --- From logits to candidates ---------------------------------------------------------------------------------------

/// All tokens whose logit is above -inf, with p = softmax(logit / temperature); temperature > 0. In the order of ids.
/// Throws as greedy() does.
Candidates softmax(std::span<const float> logits, double temperature);

// --- Filters: each keeps at least one candidate and divides what is left by its sum ----------------------------------
// "Best first" orders by probability, equal ones by the lower id.

/// The k best. (Fan et al. 2018)
void top_k(Candidates& candidates, int64_t k);
/// The fewest of the best whose probabilities sum to at least p. (Holtzman et al. 2020, nucleus sampling)
void top_p(Candidates& candidates, double p);
/// Those with at least min_p times the probability of the best. (Nguyen et al. 2024)
void min_p(Candidates& candidates, double min_p);
/// With H = -Σ p log p: the fewest, by ascending |-log p - H|, whose probabilities sum to at least `mass`.
/// (Meister et al. 2023, locally typical sampling)
void typical(Candidates& candidates, double mass);

/// One of the candidates, in proportion to their probabilities.
TokenId draw(const Candidates& candidates, base::Rng& rng);

}  // namespace coterie::runtime
