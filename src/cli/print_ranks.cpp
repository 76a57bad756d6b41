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

namespace {

/// Operations a second of products with weights in the format that most of them are in.
double operations(const runtime::MachineLimits& machine, tensor::DType format) {
  if (!tensor::is_block(format)) return machine.f32_flops;
  return machine.tile_ops > 0 ? machine.tile_ops : machine.int8_ops;
}

/// Of the weights held, those of each layer: parameters at the mean bytes of their place.
std::vector<int64_t> layer_bytes(const runtime::Inspection& model) {
  std::vector<int64_t> bytes;
  for (const models::Account::Layer& layer : model.account.layers) {
    double sum = 0;
    for (size_t place = 0; place < layer.held.size(); ++place)
      if (model.account.held[place] > 0)
        sum += static_cast<double>(layer.held[place]) * static_cast<double>(model.bytes_held[place]) /
               static_cast<double>(model.account.held[place]);
    bytes.push_back(static_cast<int64_t>(sum));
  }
  return bytes;
}

base::Json split_json(const runtime::SplitPlan& plan) {
  return {{"memory_bytes", plan.memory},
          {"decode_tokens_per_second", 1 / plan.decode_seconds},
          {"decode_bytes", plan.decode_bytes},
          {"prompt_tokens_per_second", 1 / plan.prompt_seconds}};
}

}  // namespace

Splits splits_of(const runtime::Inspection& model, const runtime::MachineLimits& machine, int ranks,
                 const runtime::Network& network) {
  const runtime::PlannedModel planned{.spec = model.spec,
                                      .bytes = model.bytes_held,
                                      .touched = model.bytes_touched,
                                      .layer_bytes = layer_bytes(model),
                                      .parameters_touched = model.account.total_active(),
                                      .cache_bytes_per_token = model.account.cache_bytes_per_token,
                                      .context = model.context};
  const runtime::RankSpeeds speeds{machine.read_bytes_per_second, operations(machine, model.format)};
  return {runtime::plan_splits(planned, ranks, network, speeds),
          runtime::plan_splits(planned, 1, network, speeds).front()};
}

std::string splits_table(const Splits& splits) {
  std::string text = fmt::format("  {:<12}{:>14}{:>18}{:>18}{:>22}\n", "split", "memory a rank", "one text decodes",
                                 "prompts at most", "sent and got a token");
  const auto line = [&](std::string_view name, const runtime::SplitPlan& plan) {
    const std::string sent = plan.decode_bytes > 0 ? base::human_bytes(static_cast<int64_t>(plan.decode_bytes)) : "-";
    text += fmt::format("  {:<12}{:>14}{:>14.1f} t/s{:>14.0f} t/s{:>22}\n", name, base::human_bytes(plan.memory),
                        1 / plan.decode_seconds, 1 / plan.prompt_seconds, sent);
  };
  for (const runtime::SplitPlan& plan : splits.plans) line(runtime::name(plan.split), plan);
  line("one machine", splits.alone);
  return text;
}

std::string ranks_words(const runtime::RanksPlan& plan, const Splits& splits, const std::string& net) {
  using base::human_bytes;
  std::string text = styled(
      fmt::format("{} ranks over {}, as predicted from this machine's memory and that network\n", plan.ranks, net),
      Style::bold);
  const auto line = [&](std::string_view what, const std::string& value) {
    text += fmt::format("  {:<36}{}\n", what, value);
  };
  line("memory of a rank, by experts",
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
  return text + splits_table(splits);
}

base::Json ranks_json(const runtime::RanksPlan& plan, const Splits& splits, const std::string& net) {
  base::Json by_split;
  for (const runtime::SplitPlan& each : splits.plans)
    by_split[std::string(runtime::name(each.split))] = split_json(each);
  return {
      {"splits", by_split},
      {"one_machine", split_json(splits.alone)},
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
