#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/rng.h"

namespace coterie::runtime {

namespace {

using base::ErrorKind;

void check(bool good, std::string_view field, double value, std::string_view expected) {
  if (!good) base::fail(ErrorKind::bad_input, field, "is {}, expected {}", value, expected);
}

void check_dry(const SamplerOptions& options) {
  check(options.dry_multiplier >= 0 && std::isfinite(options.dry_multiplier), "dry_multiplier", options.dry_multiplier,
        "a number of at least 0 (0 = off)");
  check(options.dry_base >= 1 && std::isfinite(options.dry_base), "dry_base", options.dry_base,
        "a number of at least 1");
  check(options.dry_allowed_length >= 1, "dry_allowed_length", static_cast<double>(options.dry_allowed_length),
        "at least 1");
  check(options.dry_penalty_last_n >= -1, "dry_penalty_last_n", static_cast<double>(options.dry_penalty_last_n),
        "at least -1 (-1 = all, 0 = none)");
  for (const std::string& text : options.dry_sequence_breakers)
    if (text.empty()) base::fail(ErrorKind::bad_input, "dry_sequence_breakers", "one is empty, expected some text");
}

void check_bias(const SamplerOptions& options, int64_t vocabulary) {
  for (const auto& [id, bias] : options.logit_bias) {
    if (id < 0 || id >= vocabulary)
      base::fail(ErrorKind::bad_input, "logit_bias", "token {} is outside of the vocabulary of {}", id, vocabulary);
    if (std::isnan(bias) || bias == std::numeric_limits<float>::infinity())
      base::fail(ErrorKind::bad_input, "logit_bias", "the bias {} of token {} is not a number below infinity", bias,
                 id);
  }
}

void check_ranges(const SamplerOptions& options) {
  check(options.temperature >= 0 && std::isfinite(options.temperature), "temperature", options.temperature,
        "a number of at least 0");
  check(options.top_k >= 0, "top_k", static_cast<double>(options.top_k), "at least 0 (0 = off)");
  check(options.top_p > 0 && options.top_p <= 1, "top_p", options.top_p, "more than 0 and at most 1 (1 = off)");
  check(options.min_p >= 0 && options.min_p <= 1, "min_p", options.min_p, "0 to 1 (0 = off)");
  check(options.typical > 0 && options.typical <= 1, "typical", options.typical, "more than 0 and at most 1 (1 = off)");
  check(options.repeat_penalty > 0 && std::isfinite(options.repeat_penalty), "repeat_penalty", options.repeat_penalty,
        "a number above 0 (1 = off)");
  check(options.repeat_last_n >= -1, "repeat_last_n", static_cast<double>(options.repeat_last_n),
        "at least -1 (-1 = all, 0 = none)");
  check(std::isfinite(options.presence_penalty), "presence_penalty", options.presence_penalty, "a number");
  check(std::isfinite(options.frequency_penalty), "frequency_penalty", options.frequency_penalty, "a number");
  check(options.xtc_probability >= 0 && options.xtc_probability <= 1, "xtc_probability", options.xtc_probability,
        "0 to 1 (0 = off)");
  check(options.xtc_threshold >= 0 && options.xtc_threshold <= 1, "xtc_threshold", options.xtc_threshold, "0 to 0.5");
  check((options.top_n_sigma >= 0 || options.top_n_sigma == -1) && std::isfinite(options.top_n_sigma), "top_n_sigma",
        options.top_n_sigma, "a number above 0 (-1 or 0 = off)");
  check(options.dynatemp_range >= 0 && std::isfinite(options.dynatemp_range), "dynatemp_range", options.dynatemp_range,
        "a number of at least 0 (0 = off)");
  check(options.dynatemp_exp > 0 && std::isfinite(options.dynatemp_exp), "dynatemp_exp", options.dynatemp_exp,
        "a number above 0");
  check(options.mirostat == 0 || options.mirostat == 2, "mirostat", static_cast<double>(options.mirostat),
        "2 (Mirostat 2.0) or 0 (off)");
  check(options.mirostat_lr >= 0 && std::isfinite(options.mirostat_lr), "mirostat_lr", options.mirostat_lr,
        "a number of at least 0");
  check(options.mirostat_ent > 0 && std::isfinite(options.mirostat_ent), "mirostat_ent", options.mirostat_ent,
        "a number of bits above 0");
}

/// Fields that undo each other: one of them would be accepted and ignored.
void check_together(const SamplerOptions& options) {
  struct Field {
    std::string_view name;
    double value;
    bool on;
  };
  const Field xtc{"xtc_probability", options.xtc_probability, options.xtc_probability > 0};
  const Field dynamic{"dynatemp_range", options.dynatemp_range, options.dynatemp_range > 0};
  if (options.temperature == 0) {
    for (const Field& field : {xtc, dynamic, Field{"mirostat", 2, options.mirostat == 2}})
      if (field.on)
        throw base::Error(
            ErrorKind::bad_input, std::string(field.name),
            fmt::format("is {} with a temperature of 0, which always takes the most probable token", field.value),
            "set a temperature above 0, or leave this off");
  }
  if (options.mirostat == 2) {
    for (const Field& field :
         {Field{"top_k", static_cast<double>(options.top_k), options.top_k > 0},
          Field{"top_p", options.top_p, options.top_p < 1}, Field{"min_p", options.min_p, options.min_p > 0},
          Field{"typical", options.typical, options.typical < 1},
          Field{"top_n_sigma", options.top_n_sigma, options.top_n_sigma > 0}, xtc, dynamic})
      if (field.on)
        throw base::Error(
            ErrorKind::bad_input, std::string(field.name),
            fmt::format("is {} beside Mirostat, which alone decides how many tokens are left to choose from",
                        field.value),
            "leave one of them off");
  }
  if (xtc.on && options.xtc_threshold > 0.5)
    base::fail(ErrorKind::bad_input, "xtc_threshold",
               "is {}: two tokens cannot both have more than half of the probability, so nothing would be excluded; "
               "expected 0 to 0.5",
               options.xtc_threshold);
}

constexpr float kNever = -std::numeric_limits<float>::infinity();

std::span<const TokenId> last(std::span<const TokenId> tokens, int64_t n) {
  return n < 0 ? tokens : tokens.last(std::min(tokens.size(), static_cast<size_t>(n)));
}

}  // namespace

Sampler::Sampler(SamplerOptions options, int64_t vocabulary, const text::Tokenizer* tokenizer)
    : options_(std::move(options)), mirostat_mu_(2 * options_.mirostat_ent) {
  check_ranges(options_);
  check_dry(options_);
  check_bias(options_, vocabulary);
  check_together(options_);
  if (options_.dry_multiplier == 0 || options_.dry_sequence_breakers.empty()) return;
  if (!tokenizer)
    throw base::Error(ErrorKind::unsupported, "dry_sequence_breakers",
                      "are found in text, and the model came without a tokenizer", "set none of them");
  breakers_.emplace(options_.dry_sequence_breakers, *tokenizer);
}

void Sampler::penalise_repeats(std::span<const TokenId> tokens) {
  constexpr double kMost = 1e30;  // so that no logit becomes infinite
  const std::span<const TokenId> recent = last(tokens, options_.dry_penalty_last_n);
  const int64_t limit = breakers_ ? breakers_->tokens_since(tokens) : std::ssize(tokens);
  if (limit < options_.dry_allowed_length) return;
  for (const auto& [id, length] : repeats(recent, limit)) {
    if (length < options_.dry_allowed_length || (breakers_ && breakers_->contains(id))) continue;
    const auto beyond = static_cast<double>(length - options_.dry_allowed_length);
    float& logit = scratch_[static_cast<size_t>(id)];
    logit = static_cast<float>(static_cast<double>(logit) -
                               std::min(options_.dry_multiplier * std::pow(options_.dry_base, beyond), kMost));
  }
}

std::span<const float> Sampler::adjusted(std::span<const float> logits, std::span<const TokenId> tokens,
                                         std::span<const uint32_t> allowed) {
  const std::span<const TokenId> recent = last(tokens, options_.repeat_last_n);
  const bool repetition = options_.repeat_penalty != 1 && !recent.empty();
  const bool occurrence = (options_.presence_penalty != 0 || options_.frequency_penalty != 0) && !recent.empty();
  const bool dry = options_.dry_multiplier > 0 && options_.dry_penalty_last_n != 0;
  const bool sigma = options_.top_n_sigma > 0;
  if (options_.logit_bias.empty() && !repetition && !occurrence && !dry && !sigma && allowed.empty()) return logits;
  scratch_.assign(logits.begin(), logits.end());
  if (!allowed.empty()) allow_only(scratch_, allowed);
  add_logit_bias(scratch_, options_.logit_bias);
  if (!allowed.empty() && *std::max_element(scratch_.begin(), scratch_.end()) == kNever)
    throw base::Error(ErrorKind::unsupported, "constraint", "every token that it allows here is excluded by logit_bias",
                      "allow one of them");
  if (repetition) penalise_repetition(scratch_, recent, options_.repeat_penalty);
  if (occurrence) penalise_occurrence(scratch_, recent, options_.presence_penalty, options_.frequency_penalty);
  if (dry) penalise_repeats(tokens);
  if (sigma) top_n_sigma(scratch_, options_.top_n_sigma);
  return scratch_;
}

Candidates Sampler::distribution(std::span<const float> logits, std::span<const TokenId> tokens,
                                 std::span<const uint32_t> allowed) {
  logits = adjusted(logits, tokens, allowed);
  if (options_.temperature == 0) {
    const TokenId best = greedy(logits);
    return {{best, logits[static_cast<size_t>(best)], 1.0}};
  }
  Candidates candidates = top_k(logits, options_.top_k);
  double temperature = options_.temperature;
  if (const double range = options_.dynatemp_range; range > 0)
    temperature =
        dynamic_temperature(candidates, std::max(temperature - range, 0.0), temperature + range, options_.dynatemp_exp);
  softmax(candidates, temperature);
  if (options_.mirostat == 2) {
    limit_surprise(candidates, mirostat_mu_);
    return candidates;
  }
  if (options_.top_p < 1) top_p(candidates, options_.top_p);
  if (options_.min_p > 0) min_p(candidates, options_.min_p);
  if (options_.typical < 1) typical(candidates, options_.typical);
  if (options_.xtc_probability > 0) {
    constexpr uint64_t kPurpose = uint64_t{0x587463} << 40;  // apart from other draws by the same seed
    base::Rng chance(options_.seed, kPurpose | tokens.size());
    if (chance.uniform_double() < options_.xtc_probability) exclude_top_choices(candidates, options_.xtc_threshold);
  }
  return candidates;
}

TokenId Sampler::sample(std::span<const float> logits, std::span<const TokenId> tokens,
                        std::span<const uint32_t> allowed) {
  // So that a text does not depend on whether what must come is drawn or put there.
  if (!allowed.empty())
    if (const TokenId only = only_allowed(allowed, std::ssize(logits)); only >= 0) return only;
  if (options_.temperature == 0) return greedy(adjusted(logits, tokens, allowed));
  const Candidates candidates = distribution(logits, tokens, allowed);
  const TokenId id = draw(candidates, options_.seed, tokens.size());
  if (options_.mirostat == 2) {
    const auto drawn =
        std::find_if(candidates.begin(), candidates.end(), [id](const Candidate& c) { return c.id == id; });
    // As the authors' own code does: the surprise of the token among those that were left.
    mirostat_mu_ -= options_.mirostat_lr * (-std::log2(drawn->probability) - options_.mirostat_ent);
  }
  return id;
}

}  // namespace coterie::runtime
