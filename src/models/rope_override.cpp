#include "models/rope_override.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/error.h"

namespace coterie::models {

using base::ErrorKind;
using base::fail;
using layers::RopeSpec;
using Scaling = RopeSpec::Scaling;

bool RopeOptions::any() const {
  return scaling || factor || original_context || base || low_freq_factor || high_freq_factor || beta_fast ||
         beta_slow || attention_factor;
}

namespace {

std::string_view name(Scaling scaling) {
  switch (scaling) {
    case Scaling::none: return "none";
    case Scaling::linear: return "linear";
    case Scaling::dynamic: return "dynamic";
    case Scaling::llama3: return "llama3";
    case Scaling::yarn: return "yarn";
    case Scaling::longrope: return "longrope";
  }
  return "unknown";
}

double yarn_magnitude(double factor, double mscale) { return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1; }

void check(const RopeOptions& options) {
  const auto number = [](std::string_view field, std::optional<double> value, double above, std::string_view expected) {
    if (value && !(*value > above && std::isfinite(*value)))
      fail(ErrorKind::bad_input, field, "is {}, expected {}", *value, expected);
  };
  if (options.factor && !(*options.factor >= 1 && std::isfinite(*options.factor)))
    fail(ErrorKind::bad_input, "rope.factor", "is {}, expected a number of at least 1", *options.factor);
  if (options.original_context && *options.original_context < 1)
    fail(ErrorKind::bad_input, "rope.original_context", "is {}, expected at least 1", *options.original_context);
  number("rope.base", options.base, 1, "a number above 1");
  number("rope.low_freq_factor", options.low_freq_factor, 0, "a number above 0");
  number("rope.high_freq_factor", options.high_freq_factor, 0, "a number above 0");
  number("rope.beta_fast", options.beta_fast, 0, "a number above 0");
  number("rope.beta_slow", options.beta_slow, 0, "a number above 0");
  number("rope.attention_factor", options.attention_factor, 0, "a number above 0");
}

// Fields of another kind of scaling would be accepted and ignored.
void check_kind(const RopeOptions& options, Scaling scaling) {
  const auto only = [&](std::string_view field, bool given, std::initializer_list<Scaling> kinds) {
    if (given && std::find(kinds.begin(), kinds.end(), scaling) == kinds.end())
      fail(ErrorKind::bad_input, field, "belongs to another kind of scaling than {}", name(scaling));
  };
  using enum layers::RopeSpec::Scaling;
  only("rope.factor", options.factor.has_value(), {linear, dynamic, llama3, yarn});
  // With a base alone it says from where on that reaches further.
  only("rope.original_context", options.original_context && !(options.base && scaling == none),
       {linear, dynamic, llama3, yarn});
  only("rope.low_freq_factor", options.low_freq_factor.has_value(), {llama3});
  only("rope.high_freq_factor", options.high_freq_factor.has_value(), {llama3});
  only("rope.beta_fast", options.beta_fast.has_value(), {yarn});
  only("rope.beta_slow", options.beta_slow.has_value(), {yarn});
  only("rope.attention_factor", options.attention_factor.has_value(), {yarn});
}

bool scaled_by_divisors(const RopeSpec& rope) {
  return std::any_of(rope.divisors.begin(), rope.divisors.end(), [](float divisor) { return divisor != 1; });
}

Scaling scaling_of(const RopeOptions& options, const RopeSpec& rope) {
  if (options.scaling) return *options.scaling;
  if (rope.scaling != Scaling::none) return rope.scaling;
  const bool scales = options.factor || options.original_context;
  return scales && !(options.base && !options.factor) ? Scaling::linear : Scaling::none;
}

double factor_of(const RopeOptions& options, const RopeSpec& was, Scaling scaling, int64_t original) {
  if (options.factor) return *options.factor;
  if (options.context > original) return static_cast<double>(options.context) / static_cast<double>(original);
  if (was.scaling == scaling && !options.original_context) return was.factor;
  throw base::Error(ErrorKind::bad_input, "rope.factor",
                    fmt::format("is not given, and {} scaling needs one: times how many of its {} positions the model "
                                "is to reach",
                                name(scaling), original),
                    "for 4 times as many: `rope.factor` 4, or `context` with how many there are to be");
}

RopeSpec changed(const RopeOptions& options, const RopeSpec& was) {
  const Scaling scaling = scaling_of(options, was);
  check_kind(options, scaling);
  RopeSpec rope = was;
  if (options.base) rope.theta = *options.base;
  const bool rescaled = options.scaling || options.factor || options.original_context;
  if (scaled_by_divisors(was) && rescaled) {
    if (!options.original_context)
      throw base::Error(
          ErrorKind::unsupported, "rope.original_context",
          "is not given, and the file's frequencies are scaled already (rope_freqs.weight), from a context "
          "that it does not name",
          "say it: `rope.original_context` 8192 for Llama 3.1 and its kin");
    rope.divisors.clear();
  }
  if (scaling == Scaling::longrope) {
    if (was.scaling != Scaling::longrope)
      throw base::Error(ErrorKind::unsupported, "rope.scaling",
                        "longrope's factors are found by search when a model is made, and this model has none",
                        "yarn, dynamic and linear need nothing of the model");
    return rope;
  }
  rope.scaling = scaling;
  if (options.original_context) rope.original_context = *options.original_context;
  if (scaling == Scaling::none) {
    rope.factor = 1;
    return rope;
  }
  if (rope.original_context < 1)
    fail(ErrorKind::bad_input, "rope.original_context", "is not given, and the model does not tell its length");
  rope.factor = factor_of(options, was, scaling, rope.original_context);
  const RopeSpec defaults;
  if (was.scaling != scaling) {
    rope.low_freq_factor = defaults.low_freq_factor, rope.high_freq_factor = defaults.high_freq_factor;
    rope.beta_fast = defaults.beta_fast, rope.beta_slow = defaults.beta_slow, rope.truncate = defaults.truncate;
    rope.attention_factor.reset(), rope.mscale.reset(), rope.mscale_all_dim.reset();
  }
  rope.low_freq_factor = options.low_freq_factor.value_or(rope.low_freq_factor);
  rope.high_freq_factor = options.high_freq_factor.value_or(rope.high_freq_factor);
  if (scaling == Scaling::llama3 && rope.low_freq_factor == rope.high_freq_factor)
    fail(ErrorKind::bad_input, "rope.high_freq_factor", "equals low_freq_factor ({})", rope.low_freq_factor);
  rope.beta_fast = options.beta_fast.value_or(rope.beta_fast);
  rope.beta_slow = options.beta_slow.value_or(rope.beta_slow);
  // GGUF files say it for their own factor.
  if (rope.attention_factor && std::abs(*rope.attention_factor - yarn_magnitude(was.factor, 1)) < 1e-6)
    rope.attention_factor.reset();
  if (options.attention_factor) rope.attention_factor = *options.attention_factor * yarn_magnitude(rope.factor, 1);
  return rope;
}

/// YaRN's second correction, of the scores of latent attention (DeepSeek's mscale_all_dim): out of the old scaling's
/// scale, into the new one's.
float rescored(const layers::LatentAttentionSpec& mla, const RopeSpec& rope) {
  const double plain = 1 / std::sqrt(static_cast<double>(mla.head_dim()));
  if (mla.rope.scaling != Scaling::yarn || mla.rope.factor <= 1) return mla.scale;
  if (rope.scaling != Scaling::yarn) return static_cast<float>(plain);
  const double magnitude = std::sqrt(static_cast<double>(mla.scale) / plain);
  const double mscale = mla.rope.mscale_all_dim.value_or((magnitude - 1) / (0.1 * std::log(mla.rope.factor)));
  const double now = yarn_magnitude(rope.factor, mscale);
  return static_cast<float>(plain * now * now);
}

bool same_rotation(const RopeSpec& a, const RopeSpec& b) {
  return a.theta == b.theta && a.scaling == b.scaling && a.factor == b.factor;
}

int64_t reach(const RopeOptions& options, const RopeSpec& was, const RopeSpec& now, int64_t context) {
  if (now.scaling == Scaling::longrope) return context;
  const auto original = static_cast<double>(now.original_context);
  const bool rescaled = options.scaling || options.factor || options.original_context;
  double positions = now.scaling == Scaling::none ? original : now.factor * original;
  if (!rescaled) positions = static_cast<double>(context);
  // Llama 3.1's own reach further than factor × original_context says.
  else if (now.scaling == Scaling::llama3 && was.scaling == Scaling::llama3 && !options.original_context)
    positions = static_cast<double>(context) * now.factor / was.factor;
  if (options.base && now.dims > 2 && now.theta > was.theta) {
    const auto dims = static_cast<double>(now.dims);
    positions = std::max(positions, original * std::pow(now.theta / was.theta, (dims - 2) / dims));
  }
  return positions < 0x1p31 ? static_cast<int64_t>(positions) : int64_t{1} << 31;
}

// The rotary embedding of a layer that sees the whole text, or of any layer where all slide; nullptr where no layer has
// one.
const RopeSpec* whole_text_rope(const ModelSpec& spec) {
  const RopeSpec* any = nullptr;
  for (const BlockSpec& block : spec.blocks) {
    const RopeSpec* const rope = rope_of(spec, block);
    const layers::AttentionSpec* const attention = attention_of(spec, block);
    if (rope && (!attention || attention->window == 0)) return rope;
    if (rope) any = rope;
  }
  return any;
}

}  // namespace

void apply(const RopeOptions& options, ModelSpec& spec) {
  if (!options.any()) return;
  check(options);
  const RopeSpec* const full = whole_text_rope(spec);
  if (!full) fail(ErrorKind::bad_input, "rope.scaling", "a {} model has no rotary positions", spec.family.shown());
  const RopeSpec was = *full;
  const RopeSpec now = changed(options, was);
  const auto change = [&](layers::AttentionSpec& attention) {
    if (attention.rope && same_rotation(*attention.rope, was)) attention.rope = changed(options, *attention.rope);
  };
  for (BlockSpec& block : spec.blocks) {
    if (auto* attention = std::get_if<layers::AttentionSpec>(&block.mixer)) change(*attention);
    if (auto* latent = std::get_if<layers::LatentAttentionSpec>(&block.mixer)) {
      const RopeSpec rope = changed(options, latent->rope);
      latent->scale = rescored(*latent, rope);
      latent->rope = rope;
    }
  }
  for (layers::SharedBlockSpec& shared : spec.shared) change(shared.attention);
  spec.context = reach(options, was, now, spec.context);
}

}  // namespace coterie::models
