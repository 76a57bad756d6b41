#pragma once

#include <algorithm>
#include <cmath>

// What routers score logits with, in f64: the forward pass, the backward pass and the losses use the same.
namespace coterie::layers {

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
/// log(1 + exp x), for large x without overflow and for small x without losing it beside the 1.
inline double softplus(double x) { return std::log1p(std::exp(-std::abs(x))) + std::max(x, 0.0); }

}  // namespace coterie::layers
