#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "tensor/view.h"
#include "threads/pool.h"

// Which values of a change stay when models are merged. No result depends on the number of threads.
namespace coterie::surgery {

/// Sets all but the `kept` values of largest magnitude to zero; of equal ones the earlier are kept.
void keep_largest(std::span<float> values, int64_t kept);

/// Model Breadcrumbs (Davari & Belilovsky 2023, arXiv:2312.06795) as mergekit has it: of n values the floor(gamma n) of
/// largest magnitude are outliers and become zero, fewer where floor(density n) would not remain; of the rest the
/// floor(density n) largest stay.
void keep_below_outliers(std::span<float> values, double density, double gamma);

/// With which probability DELLA keeps each value of a line: density - epsilon for the smallest magnitude to
/// density + epsilon for the largest, evenly by rank; of equal ones the earlier counts as smaller. A lone value:
/// density. (Deep et al. 2024, arXiv:2406.11617)
std::vector<double> keep_probabilities(std::span<const float> line, double density, double epsilon);
/// Keeps each value with its probability. Lines run along the second dimension of a tensor, those of a vector along the
/// only one, as in mergekit. What is kept is a function of the seed, the name, the input's number and the line.
struct RankedDrop {
  double density, epsilon;
  uint64_t seed;
  std::string_view name;
  int64_t input;
};
void drop_by_rank(std::span<float> values, const tensor::Shape& shape, const RankedDrop& drop, threads::Pool& pool);

/// Σ |x|, summed in one order.
double sum_of_magnitudes(std::span<const float> values);
/// Multiplies all values so that the sum of their magnitudes is `sum`; left as they are where either sum is below 1e-7.
void restore_magnitude(std::span<float> values, double sum);

}  // namespace coterie::surgery
