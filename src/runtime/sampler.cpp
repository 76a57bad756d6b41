#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace coterie::runtime {

namespace {

void check(bool good, std::string_view option, double value, std::string_view expected) {
  if (!good) base::fail(base::ErrorKind::bad_input, option, "is {}, expected {}", value, expected);
}

void check(const SamplerOptions& options, int64_t vocabulary) {
  check(options.temperature >= 0 && std::isfinite(options.temperature), "--temperature", options.temperature,
        "a number of at least 0");
  check(options.top_k >= 0, "--top-k", static_cast<double>(options.top_k), "at least 0 (0 = off)");
  check(options.top_p > 0 && options.top_p <= 1, "--top-p", options.top_p, "more than 0 and at most 1 (1 = off)");
  check(options.min_p >= 0 && options.min_p <= 1, "--min-p", options.min_p, "0 to 1 (0 = off)");
  check(options.typical > 0 && options.typical <= 1, "--typical", options.typical,
        "more than 0 and at most 1 (1 = off)");
  check(options.repeat_penalty > 0 && std::isfinite(options.repeat_penalty), "--repeat-penalty", options.repeat_penalty,
        "a number above 0 (1 = off)");
  check(options.repeat_last_n >= -1, "--repeat-last-n", static_cast<double>(options.repeat_last_n),
        "at least -1 (-1 = all, 0 = none)");
  check(std::isfinite(options.presence_penalty), "--presence-penalty", options.presence_penalty, "a number");
  check(std::isfinite(options.frequency_penalty), "--frequency-penalty", options.frequency_penalty, "a number");
  for (const auto& [id, bias] : options.logit_bias) {
    if (id < 0 || id >= vocabulary)
      base::fail(base::ErrorKind::bad_input, "--logit-bias", "token {} is outside of the vocabulary of {}", id,
                 vocabulary);
    if (std::isnan(bias) || bias == std::numeric_limits<float>::infinity())
      base::fail(base::ErrorKind::bad_input, "--logit-bias", "the bias {} of token {} is not a number below infinity",
                 bias, id);
  }
}

}  // namespace

Sampler::Sampler(SamplerOptions options, int64_t vocabulary) : options_(std::move(options)), rng_(options_.seed) {
  check(options_, vocabulary);
}

std::span<const float> Sampler::adjusted(std::span<const float> logits, std::span<const TokenId> tokens) {
  if (options_.repeat_last_n >= 0)
    tokens = tokens.last(std::min(tokens.size(), static_cast<size_t>(options_.repeat_last_n)));
  const bool repetition = options_.repeat_penalty != 1 && !tokens.empty();
  const bool occurrence = (options_.presence_penalty != 0 || options_.frequency_penalty != 0) && !tokens.empty();
  if (options_.logit_bias.empty() && !repetition && !occurrence) return logits;
  scratch_.assign(logits.begin(), logits.end());
  add_logit_bias(scratch_, options_.logit_bias);
  if (repetition) penalise_repetition(scratch_, tokens, options_.repeat_penalty);
  if (occurrence) penalise_occurrence(scratch_, tokens, options_.presence_penalty, options_.frequency_penalty);
  return scratch_;
}

Candidates Sampler::distribution(std::span<const float> logits, std::span<const TokenId> tokens) {
  logits = adjusted(logits, tokens);
  if (options_.temperature == 0) {
    const TokenId best = greedy(logits);
    return {{best, logits[static_cast<size_t>(best)], 1.0}};
  }
  Candidates candidates = top_k(logits, options_.top_k);
  softmax(candidates, options_.temperature);
  if (options_.top_p < 1) top_p(candidates, options_.top_p);
  if (options_.min_p > 0) min_p(candidates, options_.min_p);
  if (options_.typical < 1) typical(candidates, options_.typical);
  return candidates;
}

TokenId Sampler::sample(std::span<const float> logits, std::span<const TokenId> tokens) {
  if (options_.temperature == 0) return greedy(adjusted(logits, tokens));
  return draw(distribution(logits, tokens), rng_);
}

}  // namespace coterie::runtime
