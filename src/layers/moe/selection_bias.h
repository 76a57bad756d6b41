#pragma once

#include <span>

namespace coterie::layers {

/// Balance without a loss (Wang et al. 2024, arXiv:2408.15664, algorithm 1): an expert with less than the mean load
/// becomes easier to choose by `rate`, one with more becomes harder. bias, loads [E]; loads are assignments of a whole
/// batch, in any unit. What is added has mean zero, so that biases do not drift.
void update_selection_bias(std::span<float> bias, std::span<const double> loads, double rate);

}  // namespace coterie::layers
