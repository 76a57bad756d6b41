#include "cli/expert_worth.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "cli/terminal.h"
#include "lens/router_loads.h"
#include "lens/silence.h"

namespace coterie::cli {

namespace {

std::vector<double> losses_of(runtime::Engine& engine, const TextWindows& windows, const layers::RouterHook* routers,
                              const std::function<void()>& before_window) {
  std::vector<double> losses;
  for (int64_t w = 0; w < windows.count(); ++w) {
    before_window();
    const std::vector<int32_t> ids = windows.at(w);
    runtime::KvCache cache = engine.make_cache();
    models::CrossEntropy cross_entropy;
    score(engine, cache, ids, 1, cross_entropy, routers, &losses);
  }
  return losses;
}

}  // namespace

std::vector<ExpertWorth> expert_worths(runtime::Engine& engine, const TextWindows& windows,
                                       const std::function<void(const std::string& text)>& progress) {
  std::vector<ExpertWorth> worths;
  lens::RouterLoads loads(layers::RouterSpec::Score::softmax);
  for (int64_t w = 0; w < windows.count(); ++w) read_window(engine, windows.at(w), &loads);
  for (const auto& [layer, load] : loads.layers())
    for (size_t e = 0; e < load.assignments.size(); ++e)
      worths.push_back({.layer = layer, .expert = static_cast<int64_t>(e), .share = load.assignments[e] / load.tokens});
  const std::vector<double> with = losses_of(engine, windows, nullptr, [&] { progress("with all experts"); });
  int64_t done = 0;
  for (ExpertWorth& worth : worths) {
    const lens::Silence silence(engine.spec(), {{worth.layer, {worth.expert}}});
    const std::vector<double> without = losses_of(engine, windows, &silence, [&] {
      progress(
          fmt::format("without expert {} of layer {}: {} of {}", worth.expert, worth.layer, done + 1, worths.size()));
    });
    ++done;
    base::require(with.size() == without.size(), "eval", "{} and {} predictions", with.size(), without.size());
    double sum = 0, squares = 0;
    for (size_t i = 0; i < with.size(); ++i) {
      const double difference = without[i] - with[i];
      sum += difference, squares += difference * difference;
    }
    const auto n = static_cast<double>(with.size());
    worth.cost = sum / n;
    worth.standard_error = n > 1 ? std::sqrt(std::max(squares - sum * sum / n, 0.0) / (n - 1) / n) : 0;
  }
  return worths;
}

std::string describe_worths(std::span<const ExpertWorth> worths) {
  std::string text;
  for (size_t begin = 0; begin < worths.size();) {
    size_t end = begin;
    while (end < worths.size() && worths[end].layer == worths[begin].layer) ++end;
    std::vector<ExpertWorth> layer(worths.begin() + static_cast<int64_t>(begin),
                                   worths.begin() + static_cast<int64_t>(end));
    std::stable_sort(layer.begin(), layer.end(), [](const auto& a, const auto& b) { return a.cost > b.cost; });
    text += styled(
        fmt::format("layer {}: what the text costs more without an expert, in nats a token", layer.front().layer),
        Style::bold);
    text += "\nexpert  tokens      cost ± error\n";
    for (const ExpertWorth& worth : layer)
      text += fmt::format("{:>6}{:>6.1f} %{:>10.5f} ± {:.5f}\n", worth.expert, 100 * worth.share, worth.cost,
                          worth.standard_error);
    begin = end;
  }
  return text;
}

base::Json worths_as_json(std::span<const ExpertWorth> worths) {
  base::Json list = base::Json::array();
  for (const ExpertWorth& worth : worths)
    list.push_back({{"layer", worth.layer},
                    {"expert", worth.expert},
                    {"share", worth.share},
                    {"cost", worth.cost},
                    {"standard_error", worth.standard_error}});
  return list;
}

}  // namespace coterie::cli
