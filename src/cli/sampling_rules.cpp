#include "cli/sampling_rules.h"

namespace coterie::cli {

void SamplingRules::add(CLI::App& app) {
  app_ = &app;
  const auto number = [&](const char* name, auto& value, const char* what) {
    return app.add_option(name, value, what)->capture_default_str();
  };
  CLI::Option* dry = number("--dry-multiplier", values_.dry_multiplier,
                            "DRY: what continues a repetition of n tokens loses MULTIPLIER * BASE^(n - LENGTH); 0 = "
                            "off");
  number("--dry-base", values_.dry_base, "DRY: its BASE")->needs(dry);
  number("--dry-allowed-length", values_.dry_allowed_length, "DRY: its LENGTH, the shortest repetition that counts")
      ->needs(dry);
  number("--dry-penalty-last-n", values_.dry_penalty_last_n,
         "DRY: how many tokens are searched for repetitions; -1 = all, 0 = none")
      ->needs(dry);
  app.add_option("--dry-sequence-breaker", breakers_,
                 "DRY: no repetition reaches across this text; repeatable; replaces \\n : \" *; none = no such text")
      ->type_name("TEXT")
      ->allow_extra_args(false)
      ->needs(dry);
  CLI::Option* xtc =
      number("--xtc-probability", values_.xtc_probability, "XTC: how often the top choices are left out; 0 = off");
  number("--xtc-threshold", values_.xtc_threshold,
         "XTC: tokens from this probability on are top choices; the least of them is kept")
      ->needs(xtc);
  number("--top-nsigma,--top-n-sigma", values_.top_n_sigma,
         "Only tokens at most N standard deviations of the logits below the best; -1 = off");
  CLI::Option* dynamic = number("--dynatemp-range", values_.dynatemp_range,
                                "The temperature is chosen by the entropy, at most this much from --temperature; 0 = "
                                "off");
  number("--dynatemp-exp", values_.dynatemp_exp, "The exponent by which the entropy chooses it")->needs(dynamic);
  CLI::Option* mirostat =
      number("--mirostat", values_.mirostat,
             "2: Mirostat 2.0, which holds the surprise of the text, instead of all filters; 0 = off");
  number("--mirostat-lr", values_.mirostat_lr, "Mirostat: how fast it adapts (eta)")->needs(mirostat);
  number("--mirostat-ent", values_.mirostat_ent, "Mirostat: the surprise that it holds, in bits a token (tau)")
      ->needs(mirostat);
}

void SamplingRules::set(runtime::SamplerOptions& sampler) const {
  sampler.dry_multiplier = values_.dry_multiplier, sampler.dry_base = values_.dry_base;
  sampler.dry_allowed_length = values_.dry_allowed_length, sampler.dry_penalty_last_n = values_.dry_penalty_last_n;
  if (!breakers_.empty()) sampler.dry_sequence_breakers.clear();
  for (const std::string& text : breakers_) {
    if (text == "none")
      sampler.dry_sequence_breakers.clear();
    else
      sampler.dry_sequence_breakers.push_back(text);
  }
  sampler.xtc_probability = values_.xtc_probability, sampler.xtc_threshold = values_.xtc_threshold;
  sampler.top_n_sigma = values_.top_n_sigma;
  sampler.dynatemp_range = values_.dynatemp_range, sampler.dynatemp_exp = values_.dynatemp_exp;
  sampler.mirostat = values_.mirostat;
  sampler.mirostat_lr = values_.mirostat_lr, sampler.mirostat_ent = values_.mirostat_ent;
  if (sampler.mirostat != 2) return;
  const auto asked_for = [this](const char* name) { return app_ && app_->get_option(name)->count() > 0; };
  if (!asked_for("--top-k")) sampler.top_k = 0;
  if (!asked_for("--top-p")) sampler.top_p = 1;
  if (!asked_for("--min-p")) sampler.min_p = 0;
}

}  // namespace coterie::cli
