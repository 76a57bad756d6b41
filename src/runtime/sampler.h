#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "runtime/candidates.h"
#include "runtime/sequence_breakers.h"

namespace coterie::runtime {

/// What is done between logits and the next token; each default leaves the model's own distribution alone. The names
/// are those of the command line's options, and of llama.cpp's where it has the same.
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
  // DRY: a token that would continue a repetition of n >= dry_allowed_length tokens loses
  // dry_multiplier * dry_base^(n - dry_allowed_length).
  double dry_multiplier = 0;        // >= 0; 0 = off
  double dry_base = 1.75;           // >= 1
  int64_t dry_allowed_length = 2;   // >= 1
  int64_t dry_penalty_last_n = 64;  // repetitions are looked for in so many tokens, prompt included; -1 = all, 0 = none
  std::vector<std::string> dry_sequence_breakers = {"\n", ":", "\"", "*"};  // no repetition reaches across one
  double xtc_probability = 0;  // in [0, 1]: how often the top choices are excluded; 0 = off
  double xtc_threshold = 0.1;  // in [0, 0.5]: the probability from which a token is a top choice
  double top_n_sigma = -1;     // > 0: standard deviations below the best logit; -1 or 0 = off
  double dynatemp_range = 0;   // >= 0: temperatures from temperature - range to temperature + range; 0 = off
  double dynatemp_exp = 1;     // > 0
  int64_t mirostat = 0;        // 0 = off, 2 = Mirostat 2.0
  double mirostat_lr = 0.1;    // >= 0: eta, how fast it adapts
  double mirostat_ent = 5;     // > 0: tau, the surprise in bits that a text is held at
  uint64_t seed = 0;
};

/// The chain, in this order (Hugging Face's, with what it has not where llama.cpp has it): logit bias → repetition →
/// presence and frequency → DRY → top-n-sigma → top-k → temperature, fixed or dynamic → top-p → min-p → typical → XTC →
/// draw. With temperature 0 the token is chosen greedily after the penalties and DRY. Mirostat takes the place of all
/// filters: logit bias → penalties → DRY → temperature → Mirostat's cut → draw. Where a constraint says which tokens
/// are `allowed` (bit id % 32 of word id / 32; empty: all are), the others are out before all of this.
class Sampler {
 public:
  /// Throws bad_input, naming the field, for a value outside its range, a bias on an id outside the vocabulary and
  /// fields that contradict each other: filters, dynamic temperature or XTC beside Mirostat, and whatever chance
  /// decides beside temperature 0. Throws unsupported where DRY has sequence breakers and there is no `tokenizer` to
  /// find them.
  Sampler(SamplerOptions options, int64_t vocabulary, const text::Tokenizer* tokenizer = nullptr);

  /// The next token, given the logits [V] of the last position and all tokens so far. What chance decides is keyed by
  /// the seed and the token's position, tokens.size(), so that it does not matter what was drawn before, or whether.
  /// Throws unsupported where no allowed token is left (logit_bias of -inf).
  TokenId sample(std::span<const float> logits, std::span<const TokenId> tokens,
                 std::span<const uint32_t> allowed = {});
  /// What sample() draws from. With XTC this is a matter of chance itself.
  Candidates distribution(std::span<const float> logits, std::span<const TokenId> tokens,
                          std::span<const uint32_t> allowed = {});

  const SamplerOptions& options() const { return options_; }

 private:
  std::span<const float> adjusted(std::span<const float> logits, std::span<const TokenId> tokens,
                                  std::span<const uint32_t> allowed);

  void penalise_repeats(std::span<const TokenId> tokens);

  SamplerOptions options_;
  std::vector<float> scratch_;
  std::optional<SequenceBreakers> breakers_;  // where DRY is on and there are some
  double mirostat_mu_;                        // the largest surprise, in bits, that Mirostat lets pass now
};

}  // namespace coterie::runtime
