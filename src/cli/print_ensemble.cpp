#include "cli/print_ensemble.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/print_numbers.h"

namespace coterie::cli {

namespace {

using runtime::GateReport;

size_t most(const std::vector<double>& weights) {
  return static_cast<size_t>(std::max_element(weights.begin(), weights.end()) - weights.begin());
}

std::string list(const GateReport& report, const auto& value) {
  std::string text;
  for (size_t i = 0; i < report.models.size(); ++i)
    text += (i ? ", " : "") + fmt::format("{} {}", report.models[i], value(i));
  return text;
}

}  // namespace

std::string describe_last(const std::optional<GateReport>& report) {
  if (!report || report->positions == 0) return "";
  const std::string weights = list(*report, [&](size_t i) { return fmt::format("{:.3f}", report->weights[i]); });
  if (report->kind != families::Gate::Kind::prompt)
    return fmt::format("gate: mean weights over {} tokens: {}", grouped(report->positions), weights);
  return fmt::format("gate: {} · weights {}", report->models[most(report->weights)], weights);
}

std::string describe_all(const std::optional<GateReport>& report) {
  if (!report || report->kind != families::Gate::Kind::prompt) return describe_last(report);
  return fmt::format("gate: of {} prompts: {}", grouped(report->positions),
                     list(*report, [&](size_t i) { return grouped(report->answered[i]); }));
}

void add_gate_report(const std::optional<GateReport>& report, base::Json& json) {
  if (!report) return;
  base::Json models = base::Json::array();
  for (size_t i = 0; i < report->models.size(); ++i)
    models.push_back({{"model", report->models[i]}, {"weight", report->weights[i]}, {"answered", report->answered[i]}});
  const bool prompts = report->kind == families::Gate::Kind::prompt;
  json["gate"] = {
      {"kind", name(report->kind)}, {prompts ? "prompts" : "tokens", report->positions}, {"models", models}};
}

}  // namespace coterie::cli
