#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "tensor/view.h"
#include "threads/pool.h"

// The arithmetic of merging one tensor of several models: values in f32, what is added up in f64. No result depends on
// the number of threads.
namespace coterie::surgery {

enum class MergeMethod {
  linear,
  slerp,
  task_arithmetic,
  ties,
  dare_linear,
  dare_ties,
  breadcrumbs,
  breadcrumbs_ties,
  della,
  della_linear,
  model_stock,
  nearswap,
  passthrough,
};

/// What a method is made of; mergekit's names and defaults.
struct MergeTraits {
  std::string_view name;
  bool needs_base = true, weights = false;
  bool changes = false;  // base + lambda × what the changes come to
  enum class Drop { none, smallest, by_chance, outliers, by_rank } drop = Drop::none;
  bool elects = false;      // the sign of the weighted sum, as TIES
  bool normalizes = false;  // where the recipe does not say
  bool rescales = false;    // likewise
};
const MergeTraits& traits_of(MergeMethod method);
/// "linear, slerp, …" in this order.
std::span<const std::string_view> merge_method_names();

/// What a tensor of one model brings.
struct MergeInput {
  std::span<float> values;
  double weight = 1;
  double density = 1;     // the share of values that is kept; dare: the probability that one is
  double gamma = 0.01;    // breadcrumbs: the share of largest changes that is dropped
  double epsilon = 0.15;  // della: how far the probability is from the density at the ends
};

struct MergeRule {
  MergeMethod method = MergeMethod::linear;
  bool normalize = true;  // divide by the sum of the weights (elected: of those that agree)
  // What is left of a change is made larger: dare divides it by the density, so that its expectation is the change;
  // the others restore the sum of its magnitudes. None: as the method does by itself.
  std::optional<bool> rescale = {};
  double lambda = 1;         // of the sum of changes
  double t = 0;              // slerp: 0 is the base model, 1 the other; nearswap: how far values are taken over
  bool filter_wise = false;  // model_stock: row by row
  tensor::Shape shape = {};  // of the tensor: della, and model_stock by rows
  uint64_t seed = 0;  // of dare and della: what is dropped is a function of it, the name, the input and the place
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
///   breadcrumbs      of each Δ the largest and the smallest are dropped (sparsify.h), then Σ w Δ
///   della_linear     each value of Δ is kept with a probability that grows with its rank (sparsify.h), then Σ w Δ
///   dare_ties, breadcrumbs_ties, della      so, with the election of ties
/// The inputs' values are used up: they become the changes.
void merge_changes(const MergeRule& rule, std::span<const float> base, std::span<const MergeInput> inputs,
                   std::string_view name, std::span<float> out, threads::Pool& pool);

/// Model Stock (Jang et al. 2024, arXiv:2403.19522): base + t × the mean of the k changes, t = k cos / (1 + (k - 1)
/// cos), cos the mean cosine between two changes; t = 0 where the denominator is nearly 0. Over the whole tensor, or
/// over each row of its last dimension. The inputs' values are used up.
void merge_stock(const MergeRule& rule, std::span<const float> base, std::span<const MergeInput> inputs,
                 std::span<float> out, threads::Pool& pool);

/// NearSwap (alchemonaut 2024): the base where the other is far from it, the other where it is near:
/// w b + (1 - w) a, w = t / |a - b| within [0, 1].
void merge_nearswap(std::span<const float> a, std::span<const float> b, double t, std::span<float> out,
                    threads::Pool& pool);

}  // namespace coterie::surgery
