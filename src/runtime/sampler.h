#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "runtime/candidates.h"

namespace coterie::runtime {

/// What is done between logits and the next token; each default leaves the model's own distribution alone.
struct SamplerOptions {
  std::vector<std::pair<TokenId, float>> logit_bias;
  double repeat_penalty = 1;     // > 0
  double presence_penalty = 0;   // -2 … 2 by custom
  double frequency_penalty = 0;  // -2 … 2 by custom
  int64_t repeat_last_n = 64;    // the penalties look at the last n tokens, prompt included; -1 = all, 0 = none
  double temperature = 1;        // >= 0; 0 = greedy
  int64_t top_k = 0;             // >= 0; 0 = off
  double top_p = 1;              // in (0, 1]; 1 = off
  double min_p = 0;              // in [0, 1]; 0 = off
  double typical = 1;            // in (0, 1]; 1 = off
  uint64_t seed = 0;
};

/// The chain, in this order (Hugging Face's): logit bias → repetition → presence and frequency → top-k and temperature
/// → top-p → min-p → typical → draw. With temperature 0 the token is chosen greedily after the penalties.
class Sampler {
 public:
  /// Throws bad_input, naming the option, for a value outside its range or a bias on an id outside the vocabulary.
  Sampler(SamplerOptions options, int64_t vocabulary);

  /// The next token, given the logits [V] of the last position and all tokens so far.
  TokenId sample(std::span<const float> logits, std::span<const TokenId> tokens);
  /// What sample() draws from.
  Candidates distribution(std::span<const float> logits, std::span<const TokenId> tokens);

  const SamplerOptions& options() const { return options_; }

 private:
  std::span<const float> adjusted(std::span<const float> logits, std::span<const TokenId> tokens);

  SamplerOptions options_;
  base::Rng rng_;
  std::vector<float> scratch_;
};

}  // namespace coterie::runtime
