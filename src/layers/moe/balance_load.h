#pragma once

#include <cstdint>
#include <vector>

#include "layers/moe/router_loss.h"

// The pieces of Shazeer et al.'s losses (2017, arXiv:1701.06538, section 4 and appendix A), over tokens begin … end of
// a router. Vectors are [E].
namespace coterie::layers {

/// variance / (mean² + 1e-10).
double squared_variation(const std::vector<double>& values);
/// `factor` times its derivative by each value.
std::vector<double> squared_variation_slope(const std::vector<double>& values, double factor);

/// importance[e] += Σ_t weight[t, e], of the plan.
void add_importance(const Routed& router, int64_t begin, int64_t end, std::vector<double>& importance);
void importance_back(const Routed& router, int64_t begin, int64_t end, const std::vector<double>& by_importance,
                     const RoutedGradient& gradient);

/// load[e] += Σ_t Φ((h[t, e] - threshold) / softplus(noise[t, e])), where the threshold is the K-th largest of the
/// other experts' noisy logits. 1 where K = E. Refuses a router without noise.
void add_load(const Routed& router, int64_t begin, int64_t end, std::vector<double>& load);
void load_back(const Routed& router, int64_t begin, int64_t end, const std::vector<double>& by_load,
               const RoutedGradient& gradient);

}  // namespace coterie::layers
