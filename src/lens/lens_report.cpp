#include "lens/lens_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "lens/lens_page.h"
#include "lens/page.h"

namespace coterie::lens {

using base::Json;

std::string lens_report(const Json& study) { return fill_page(lens_page(), study); }

std::string describe(const Json& study) {
  constexpr std::string_view kNames[] = {"token", "part of speech", "position", "genre", "document"};
  const Json& layers = study.at("layers");
  std::string text =
      "what the choice of experts tells of a token, in percent of all there is to know (± standard error)\n";
  text += "layer";
  for (const std::string_view name : kNames)
    if (layers.front().at("information").contains(name)) text += fmt::format("{:>19}", name);
  text += "   entropy  most load  dead\n";
  for (const Json& layer : layers) {
    text += fmt::format("{:>5}", layer.at("layer").get<int64_t>());
    for (const std::string_view name : kNames) {
      const auto found = layer.at("information").find(name);
      if (found == layer.at("information").end()) continue;
      const double error = found->at("standard_error").get<double>();
      text += fmt::format("{:>11.2f} ± {:<5}", 100 * found->at("normalised").get<double>(),
                          std::isnan(error) ? "–" : fmt::format("{:.2f}", 100 * error));
    }
    double most = 0;
    for (const Json& load : layer.at("load")) most = std::max(most, load.get<double>());
    text += fmt::format("{:>10.3f}{:>11.2f}{:>6}\n", layer.at("entropy").get<double>(), most,
                        layer.at("dead").get<int64_t>());
  }
  return text;
}

}  // namespace coterie::lens
