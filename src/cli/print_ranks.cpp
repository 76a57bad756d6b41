#include "cli/print_ranks.h"

#include <fmt/format.h>

#include "base/memory.h"
#include "cli/terminal.h"

namespace coterie::cli {

runtime::RanksPlan plan_of(const runtime::Inspection& model, const runtime::MachineLimits& machine, int ranks,
                           const runtime::Network& network) {
  return runtime::plan_ranks(model.spec, model.bytes_held, model.bytes_touched, model.account.cache_bytes_per_token,
                             model.context, ranks, network, machine.read_bytes_per_second);
}

std::string ranks_words(const runtime::RanksPlan& plan, const std::string& net) {
  using base::human_bytes;
  std::string text = styled(
      fmt::format("{} ranks over {}, as predicted from this machine's memory and that network\n", plan.ranks, net),
      Style::bold);
  const auto line = [&](std::string_view what, const std::string& value) {
    text += fmt::format("  {:<36}{}\n", what, value);
  };
  line("memory of a rank",
       fmt::format("{}: dense weights {}, its experts {}, cache {}",
                   human_bytes(plan.dense_bytes + plan.experts_bytes + plan.cache_bytes), human_bytes(plan.dense_bytes),
                   human_bytes(plan.experts_bytes), human_bytes(plan.cache_bytes)));
  line(
      "sent for a decoded token",
      fmt::format("{} in {:.0f} messages", human_bytes(static_cast<int64_t>(plan.decode_bytes)), plan.decode_messages));
  line("one text decodes at most", fmt::format("{:.1f} tokens a second ({:.1f} on one machine that holds it all)",
                                               1 / plan.decode_seconds, 1 / plan.decode_alone));
  line("sent for a token of a prompt", human_bytes(static_cast<int64_t>(plan.prompt_bytes)));
  if (plan.prompt_limit > 0)
    line("the network carries prompts of", fmt::format("{:.0f} tokens a second at most", plan.prompt_limit));
  return text;
}

base::Json ranks_json(const runtime::RanksPlan& plan, const std::string& net) {
  return {
      {"ranks", plan.ranks},
      {"net", net},
      {"dense_bytes", plan.dense_bytes},
      {"experts_bytes", plan.experts_bytes},
      {"cache_bytes", plan.cache_bytes},
      {"decode_bytes", plan.decode_bytes},
      {"decode_messages", plan.decode_messages},
      {"decode_tokens_per_second", 1 / plan.decode_seconds},
      {"decode_tokens_per_second_alone", 1 / plan.decode_alone},
      {"prompt_bytes", plan.prompt_bytes},
      {"prompt_tokens_per_second_limit", plan.prompt_limit > 0 ? base::Json(plan.prompt_limit) : base::Json(nullptr)}};
}

}  // namespace coterie::cli
