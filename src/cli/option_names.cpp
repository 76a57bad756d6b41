#include "cli/option_names.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

namespace coterie::cli {

namespace {

// Sorted by field.
constexpr std::array<std::pair<std::string_view, std::string_view>, 98> kOptions = {{
    {"adapter", "--adapter"},
    {"bench.acceptance", "--acceptance"},
    {"bench.batch", "--batch"},
    {"bench.depth", "--depth"},
    {"bench.drafted", "--draft-tokens"},
    {"bench.generate", "--generate"},
    {"bench.prompt", "--prompt"},
    {"bench.repeat", "--repeat"},
    {"cache_type", "--cache-type"},
    {"compare.text", "--text"},
    {"context", "--context"},
    {"convert.places", "--at"},
    {"convert.requantize", "--requantize"},
    {"convert.to", "--to"},
    {"convert.tokenizer", "--no-tokenizer"},
    {"dry_allowed_length", "--dry-allowed-length"},
    {"dry_base", "--dry-base"},
    {"dry_multiplier", "--dry-multiplier"},
    {"dry_penalty_last_n", "--dry-penalty-last-n"},
    {"dry_sequence_breakers", "--dry-sequence-breaker"},
    {"dtype", "--dtype"},
    {"dynatemp_exp", "--dynatemp-exp"},
    {"dynatemp_range", "--dynatemp-range"},
    {"experts_per_token", "--experts-per-token"},
    {"extend", "--extend"},
    {"frequency_penalty", "--frequency-penalty"},
    {"from", "--from"},
    {"logit_bias", "--logit-bias"},
    {"max_tokens", "-n"},
    {"memory", "--memory"},
    {"min_p", "--min-p"},
    {"mirostat", "--mirostat"},
    {"mirostat_ent", "--mirostat-ent"},
    {"mirostat_lr", "--mirostat-lr"},
    {"model_type", "--as"},
    {"network", "--net"},
    {"precision", "--precision"},
    {"presence_penalty", "--presence-penalty"},
    {"prune.keep", "--keep"},
    {"prune.uneven", "--uneven"},
    {"repeat_last_n", "--repeat-last-n"},
    {"repeat_penalty", "--repeat-penalty"},
    {"resume", "--resume"},
    {"rope.attention_factor", "--yarn-attn-factor"},
    {"rope.base", "--rope-freq-base"},
    {"rope.beta_fast", "--yarn-beta-fast"},
    {"rope.beta_slow", "--yarn-beta-slow"},
    {"rope.factor", "--rope-scale"},
    {"rope.high_freq_factor", "--rope-high-freq-factor"},
    {"rope.low_freq_factor", "--rope-low-freq-factor"},
    {"rope.original_context", "--yarn-orig-ctx"},
    {"rope.scaling", "--rope-scaling"},
    {"router", "--router"},
    {"routes", "--routes"},
    {"run", "-o"},
    {"serve.adapters", "--adapters"},
    {"serve.allow_host", "--allow-host"},
    {"serve.allow_origin", "--allow-origin"},
    {"serve.cache_memory", "--cache-memory"},
    {"serve.chat_template", "--chat-template"},
    {"serve.context", "--context"},
    {"serve.host", "--host"},
    {"serve.listen", "--listen"},
    {"serve.max_queue", "--max-queue"},
    {"serve.max_wait", "--max-wait"},
    {"serve.model", "--model"},
    {"serve.models_memory", "--models-memory"},
    {"serve.no_metrics", "--no-metrics"},
    {"serve.no_slots", "--no-slots"},
    {"serve.parallel", "--parallel"},
    {"serve.port", "--port"},
    {"serve.stall", "--stall"},
    {"settings", "--set"},
    {"shape", "--shape"},
    {"shape.layers", "--layers"},
    {"shape.quant", "--quant"},
    {"shape.write", "--write"},
    {"silence", "--silence"},
    {"speculate", "--speculate"},
    {"stop", "--stop"},
    {"strict", "--strict"},
    {"temperature", "--temperature"},
    {"top_k", "--top-k"},
    {"top_n_sigma", "--top-nsigma"},
    {"top_p", "--top-p"},
    {"typical", "--typical"},
    {"upcycle.experts", "--experts"},
    {"upcycle.experts_per_token", "--top-k"},
    {"upcycle.granularity", "--granularity"},
    {"upcycle.layers", "--layers"},
    {"upcycle.noise", "--noise"},
    {"upcycle.reinit", "--reinit"},
    {"upcycle.router", "--router"},
    {"upcycle.router_std", "--router-std"},
    {"upcycle.shared", "--shared"},
    {"upcycle.tokens", "--tokens"},
    {"xtc_probability", "--xtc-probability"},
    {"xtc_threshold", "--xtc-threshold"},
}};

std::string_view option(std::string_view field) {
  for (const auto& [name, option] : kOptions)
    if (field == name) return option;
  return {};
}

std::string replaced(const std::string& text, std::string_view prefix) {
  std::string result;
  for (size_t at = 0; at < text.size();) {
    const size_t open = text.find('`', at), close = open == text.npos ? open : text.find('`', open + 1);
    if (close == text.npos) return result + text.substr(at);
    const std::string_view field = std::string_view(text).substr(open + 1, close - open - 1);
    const std::string_view found = field.starts_with(prefix) ? option(field) : std::string_view();
    result += text.substr(at, open - at);
    result += found.empty() ? text.substr(open, close + 1 - open) : std::string(found);
    at = close + 1;
  }
  return result;
}

}  // namespace

std::string with_options(const std::string& text) { return replaced(text, ""); }
std::string with_server_options(const std::string& text) { return replaced(text, "serve."); }

std::string option_of(const std::string& where) {
  const size_t end = std::min(where.find(": "), where.size());
  const std::string_view found = option(std::string_view(where).substr(0, end));
  return found.empty() ? where : std::string(found) + where.substr(end);
}

std::string text_of(const base::Error& error) {
  return (error.where().empty() ? "" : option_of(error.where()) + ": ") + with_options(error.message());
}

}  // namespace coterie::cli
