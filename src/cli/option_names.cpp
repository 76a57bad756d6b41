#include "cli/option_names.h"

#include <array>
#include <string_view>
#include <utility>

namespace coterie::cli {

std::string option_of(const std::string& where) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 32> kOptions = {{
      {"logit_bias", "--logit-bias"},
      {"repeat_penalty", "--repeat-penalty"},
      {"presence_penalty", "--presence-penalty"},
      {"frequency_penalty", "--frequency-penalty"},
      {"repeat_last_n", "--repeat-last-n"},
      {"temperature", "--temperature"},
      {"top_k", "--top-k"},
      {"top_p", "--top-p"},
      {"min_p", "--min-p"},
      {"typical", "--typical"},
      {"dry_multiplier", "--dry-multiplier"},
      {"dry_base", "--dry-base"},
      {"dry_allowed_length", "--dry-allowed-length"},
      {"dry_penalty_last_n", "--dry-penalty-last-n"},
      {"dry_sequence_breakers", "--dry-sequence-breaker"},
      {"xtc_probability", "--xtc-probability"},
      {"xtc_threshold", "--xtc-threshold"},
      {"top_n_sigma", "--top-nsigma"},
      {"dynatemp_range", "--dynatemp-range"},
      {"dynatemp_exp", "--dynatemp-exp"},
      {"mirostat", "--mirostat"},
      {"mirostat_lr", "--mirostat-lr"},
      {"mirostat_ent", "--mirostat-ent"},
      {"rope.scaling", "--rope-scaling"},
      {"rope.factor", "--rope-scale"},
      {"rope.base", "--rope-freq-base"},
      {"rope.original_context", "--yarn-orig-ctx"},
      {"rope.attention_factor", "--yarn-attn-factor"},
      {"rope.beta_fast", "--yarn-beta-fast"},
      {"rope.beta_slow", "--yarn-beta-slow"},
      {"rope.low_freq_factor", "--rope-low-freq-factor"},
      {"rope.high_freq_factor", "--rope-high-freq-factor"},
  }};
  for (const auto& [field, option] : kOptions)
    if (where == field) return std::string(option);
  return where;
}

}  // namespace coterie::cli
