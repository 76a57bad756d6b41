#include "cli/rope_options.h"

#include <array>
#include <utility>

#include "base/error.h"

namespace coterie::cli {

namespace {

using Scaling = layers::RopeSpec::Scaling;
constexpr std::array<std::pair<const char*, Scaling>, 6> kScalings = {{{"none", Scaling::none},
                                                                       {"linear", Scaling::linear},
                                                                       {"dynamic", Scaling::dynamic},
                                                                       {"yarn", Scaling::yarn},
                                                                       {"llama3", Scaling::llama3},
                                                                       {"longrope", Scaling::longrope}}};

}  // namespace

void RopeArguments::add(CLI::App& app) {
  app.add_option("--rope-scaling", scaling_,
                 "How positions beyond the trained ones are scaled: none, linear (f / N), dynamic (NTK: the base grows "
                 "with\nthe length), yarn, llama3, longrope (only where the model has it); docs/guides/long-context.md "
                 "has the formulas")
      ->type_name("TYPE")
      ->check(CLI::IsMember({"none", "linear", "dynamic", "yarn", "llama3", "longrope"}));
  CLI::Option* scale = app.add_option("--rope-scale", scale_,
                                      "N of --rope-scaling: the context is N times the original one (default: as "
                                      "--context needs)")
                           ->type_name("N");
  app.add_option("--rope-freq-scale", freq_scale_, "The same as --rope-scale, as 1 / N")
      ->type_name("S")
      ->excludes(scale);
  app.add_option("--rope-freq-base", values_.base, "The base of the rotary frequencies, instead of the model's")
      ->type_name("B");
  app.add_option("--yarn-orig-ctx,--rope-orig-ctx", values_.original_context,
                 "Positions that the model was trained on before any scaling (default: as the model says)")
      ->type_name("N");
  app.add_option("--yarn-attn-factor", values_.attention_factor,
                 "yarn: the factor of the magnitude 0.1 ln N + 1 (default: 1)")
      ->type_name("A");
  app.add_option("--yarn-beta-fast", values_.beta_fast,
                 "yarn: a dimension that rotates at least so often in the original context is kept (default: 32)")
      ->type_name("B");
  app.add_option("--yarn-beta-slow", values_.beta_slow,
                 "yarn: a dimension that rotates at most so often is interpolated (default: 1)")
      ->type_name("B");
  app.add_option("--rope-low-freq-factor", values_.low_freq_factor, "llama3: the low frequency factor (default: 1)")
      ->type_name("F");
  app.add_option("--rope-high-freq-factor", values_.high_freq_factor, "llama3: the high frequency factor (default: 4)")
      ->type_name("F");
}

models::RopeOptions RopeArguments::options(int64_t context) const {
  models::RopeOptions options = values_;
  options.context = context;
  for (const auto& [name, scaling] : kScalings)
    if (scaling_ == name) options.scaling = scaling;
  options.factor = scale_;
  if (freq_scale_) {
    if (!(*freq_scale_ > 0 && *freq_scale_ <= 1))
      base::fail(base::ErrorKind::bad_input, "--rope-freq-scale", "is {}, expected more than 0 and at most 1",
                 *freq_scale_);
    options.factor = 1 / *freq_scale_;
  }
  return options;
}

}  // namespace coterie::cli
