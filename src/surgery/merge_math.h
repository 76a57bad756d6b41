#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "threads/pool.h"

// The arithmetic of merging one tensor of several models: values in f32, what is added up in f64. No result depends on
// the number of threads.
namespace coterie::surgery {

enum class MergeMethod { linear, slerp, task_arithmetic, ties, dare_linear, dare_ties };

/// "linear, slerp, …" in this order.
std::span<const std::string_view> merge_method_names();

/// What a tensor of one model brings.
struct MergeInput {
  std::span<float> values;
  double weight = 1;
  double density = 1;  // ties: the share of largest changes that is kept; dare: the probability that one is
};

struct MergeRule {
  MergeMethod method = MergeMethod::linear;
  bool normalize = true;  // divide by the sum of the weights (ties: of those that agree)
  bool rescale = true;    // dare: divide what is kept by the density, so that its expectation is the change
  double lambda = 1;      // of the sum of changes
  double t = 0;           // slerp: 0 is the base model, 1 the other
  uint64_t seed = 0;      // dare: what is dropped is a function of it, the name, the input's number and the position
};

/// Σ w x / Σ w, or Σ w x (model soups: Wortsman et al. 2022, arXiv:2203.05482).
void merge_linear(std::span<const MergeInput> inputs, bool normalize, std::span<float> out, threads::Pool& pool);

/// Along the great circle between the tensors as vectors, by their angle (Shoemake 1985); straight where they are
/// nearly parallel, |cos| > 0.9995. t = 0 and t = 1 give the ends to the bit.
void merge_slerp(std::span<const float> a, std::span<const float> b, double t, std::span<float> out,
                 threads::Pool& pool);

/// base + lambda × what the changes (input − base) come to:
///   task_arithmetic  Σ w Δ (Ilharco et al. 2023, arXiv:2212.04089)
///   ties             each Δ keeps its largest floor(density n) values (at least one; of equal ones the earlier); the
///                    sign of Σ w Δ is elected, those that have it are summed (Yadav et al. 2023, arXiv:2306.01708)
///   dare_linear      each value of Δ is kept with probability `density` (Yu et al. 2024, arXiv:2311.03099), then Σ w Δ
///   dare_ties        so, with the election of ties
/// The inputs' values are used up: they become the changes.
void merge_changes(const MergeRule& rule, std::span<const float> base, std::span<const MergeInput> inputs,
                   std::string_view name, std::span<float> out, threads::Pool& pool);

}  // namespace coterie::surgery
