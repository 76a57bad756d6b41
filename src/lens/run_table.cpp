#include "lens/run_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace coterie::lens {

using base::Json;

namespace {

constexpr const char* kNone = "-";

double sum(const Json& list) {
  double total = 0;
  for (const Json& value : list) total += value.get<double>();
  return total;
}

std::string abbreviated(int64_t tokens) {
  if (tokens < 1000) return fmt::format("{}", tokens);
  const double count = static_cast<double>(tokens);
  return tokens < 1'000'000 ? fmt::format("{:.1f} k", count / 1e3) : fmt::format("{:.2f} M", count / 1e6);
}

std::string mean(const Json& event, const char* key, const char* format, double factor = 1) {
  const Json list = event.value(key, Json::array());
  if (list.empty()) return kNone;
  return fmt::format(fmt::runtime(format), factor * sum(list) / static_cast<double>(list.size()));
}

std::string loss(const Json& event, const char* key) {
  return event.contains(key) ? fmt::format("{:.3f}", event[key].get<double>()) : kNone;
}

std::vector<std::string> line(const RunLog& run) {
  const Json none = Json::object();
  const Json& evaluation = run.evaluations.empty() ? none : run.evaluations.back();
  const Json& routers = run.routers.empty() ? none : run.routers.back();
  // How far the run is; the losses are of the evaluation before, if it was stopped between two.
  const bool steps_end = !run.steps.empty() && run.steps.back()["step"] > evaluation.value("step", int64_t{0});
  const Json& last = steps_end ? run.steps.back() : evaluation;
  return {run.name,
          fmt::format("{}", last.value("step", int64_t{0})),
          abbreviated(last.value("tokens", int64_t{0})),
          loss(evaluation, "train"),
          loss(evaluation, "validation"),
          mean(routers, "max_load", "{:.2f}"),
          mean(routers, "load_cv", "{:.2f}"),
          routers.contains("dead") ? fmt::format("{:.0f}", sum(routers["dead"])) : kNone,
          mean(routers, "entropy", "{:.2f}"),
          mean(routers, "dropped", "{:.1f} %", 100),
          mean(routers, "overflow", "{:.1f} %", 100),
          run.ended ? "yes" : "no"};
}

}  // namespace

std::string run_table(std::span<const RunLog> runs) {
  std::vector<std::vector<std::string>> lines = {{"run", "steps", "tokens", "train", "validation", "max load",
                                                  "load CV", "dead", "entropy", "dropped", "overflow", "ended"}};
  for (const RunLog& run : runs) lines.push_back(line(run));
  std::vector<size_t> widths(lines[0].size());
  for (const auto& cells : lines)
    for (size_t c = 0; c < cells.size(); ++c) widths[c] = std::max(widths[c], cells[c].size());
  std::string text;
  for (const auto& cells : lines) {
    text += fmt::format("{:<{}}", cells[0], widths[0]);
    for (size_t c = 1; c < cells.size(); ++c) text += fmt::format("  {:>{}}", cells[c], widths[c]);
    text += '\n';
  }
  return text;
}

}  // namespace coterie::lens
