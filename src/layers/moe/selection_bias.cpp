#include "layers/moe/selection_bias.h"

#include <numeric>
#include <vector>

#include "base/error.h"

namespace coterie::layers {

void update_selection_bias(std::span<float> bias, std::span<const double> loads, double rate) {
  base::require(bias.size() == loads.size(), "selection bias", "{} biases, {} loads", bias.size(), loads.size());
  if (bias.empty()) return;
  const auto experts = static_cast<double>(bias.size());
  const double mean = std::accumulate(loads.begin(), loads.end(), 0.0) / experts;
  std::vector<double> signs(bias.size());
  for (size_t e = 0; e < bias.size(); ++e) signs[e] = loads[e] < mean ? 1 : loads[e] > mean ? -1 : 0;
  const double drift = std::accumulate(signs.begin(), signs.end(), 0.0) / experts;
  for (size_t e = 0; e < bias.size(); ++e) bias[e] += static_cast<float>(rate * (signs[e] - drift));
}

}  // namespace coterie::layers
