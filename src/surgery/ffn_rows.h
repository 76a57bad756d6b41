#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "surgery/rows.h"

namespace coterie::surgery {

/// Which of an FFN's matrices.
enum class Part { gate, up, down };
/// "gate", "up", "down"
Part part_by_name(std::string_view name);

/// A dense FFN's matrices as those of experts that are pieces of it, with what is changed in them.
struct ExpertCut {
  int64_t experts = 1;          // how many are made
  int64_t granularity = 1;      // G; expert e is piece e mod G of the hidden units
  double scale[3] = {1, 1, 1};  // of gate, up, down
  double bias_scale[3] = {1, 1, 1};
  double noise = 0;       // N(0, noise² × the variance of the parent's matrix) is added, before the scale
  double noise_size = 0;  // N(0, noise_size²) is added, likewise
  double reinit = 0;      // share of the hidden units of each expert that are drawn anew
  uint64_t seed = 0;
  int64_t first_expert = 0;  // of the stack it will be part of, for what is drawn
};

/// The stack of experts' matrices ([E, F/G, D] gate and up, [E, D, F/G] down) made of layer `layer`'s FFN in `weights`,
/// which must outlive it. A unit that is drawn anew has its row of gate and up and its column of down from a normal
/// distribution with the mean and deviation that the units replaced have in that matrix (Drop-Upcycling,
/// arXiv:2502.19261 §3.2).
Rows expert_rows(const Weights& weights, int64_t layer, Part part, const ExpertCut& cut,
                 std::optional<tensor::DType> dtype);
/// The same of the biases: [1, E, F/G] or [1, E, D].
Rows expert_biases(const Weights& weights, int64_t layer, Part part, const ExpertCut& cut);

}  // namespace coterie::surgery
